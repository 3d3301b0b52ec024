"""``imadarem trace``: what was written, judged and taken back in every step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from imadarem.cli.console import json_line, note, out
from imadarem.cli.models import SAMPLING, Count, SamplingFlags, Switch, load_model
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.sampling.trajectory import RowTrajectory

__all__ = ["painted", "trace"]


def trace(
    *prompts: str,
    count: Count = 1,
    length: int | None = None,
    out: Path | None = None,
    json: Switch = False,
    sampling: SamplingFlags = SAMPLING,
) -> None:
    """Show every step: an arrow under each token written, the gate's opinion below it.

    **Examples**

    ```
    imadarem trace --length 12
    imadarem trace "[C]<mask><mask><mask>[O]" --seed 3
    imadarem trace -n 4 --json > trajectories.json
    ```

    Args:
        prompts: Texts with `<mask>` for each blank; without one, blank canvases.
        count: Samples, or fillings of each prompt.
        length: Tokens per blank canvas; default is drawn from the training lengths.
        out: Also write it to a file: .json, or .txt for the picture.
        json: Print the records (schema imadarem.trajectory/1) instead of the picture.
    """
    _check(prompts, count, length, out)
    model = load_model(sampling.model, sampling.device)
    if prompts:
        repeated = [prompt for prompt in prompts for _ in range(count)]
        trajectory = model.analyze_refinement_trajectory(repeated, **sampling.settings())
    else:
        trajectory = model.analyze_refinement_trajectory(
            n=count, length=length, **sampling.settings()
        )
    if out is not None:
        from imadarem.checkpoint import save_json, write_text

        if out.suffix == ".json":
            save_json(trajectory.to_dict(), out)
        else:
            write_text(trajectory.to_text() + "\n", out)
        note(f"wrote {len(trajectory)} trajectories to {out}")
    if json:
        json_line(trajectory.to_dict())
    else:
        _show(list(trajectory))


def painted(row: RowTrajectory, width: int) -> Text:
    """A trajectory as it is printed; the colours repeat what the signs already say."""
    picture = Text()
    for line in row.to_text(width).splitlines(keepends=True):
        if line.startswith("final: "):
            picture.append(line, "bold")
        elif line.startswith("stopped: ") or re.match(r" *(gate|entropy) ", line):
            picture.append(line, "dim")
        elif "↑" in line:
            picture.append(line, "green")
        else:
            text = Text(line)
            text.highlight_words(["[MASK]"], "dim")
            picture.append_text(text)
    return picture


def _show(rows: list[RowTrajectory]) -> None:
    console = out()
    for number, row in enumerate(rows):
        console.print(Text("\n") if number else Text(), painted(row, console.width), sep="", end="")
        console.print()


def _check(prompts: tuple[str, ...], count: int, length: int | None, target: Path | None) -> None:
    if count < 1:
        raise ConfigError(f"--count is {count}; ask for at least 1.")
    if prompts and length is not None:
        raise ConfigError("--length is of blank canvases; a prompt has its own length.")
    if target is not None and target.suffix not in (".json", ".txt"):
        raise ConfigError(f"--out {target} must end in .json or .txt.")
