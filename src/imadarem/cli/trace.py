"""``imadarem trace``: what every step of a refinement writes, judges and re-masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from imadarem.cli.console import json_line, note, out
from imadarem.cli.models import (
    SAMPLING,
    SamplingFlags,
    Switch,
    is_molecular,
    load_model,
)
from imadarem.cli.numbers import Count, Positive
from imadarem.errors import ConfigError
from imadarem.viz.text import coloured_text

if TYPE_CHECKING:
    from imadarem.model import ImplicitRefinementModel
    from imadarem.sampling.trajectory import RowTrajectory, Trajectory


def trace(
    *prompts: str,
    count: Count = 1,
    length: Positive | None = None,
    out: Path | None = None,
    html: Path | None = None,
    svg: Path | None = None,
    json: Switch = False,
    sampling: SamplingFlags = SAMPLING,
) -> None:
    """Show every step: an arrow under each token written, the gate's probability below it.

    **Examples**

    ```
    imadarem trace --length 12
    imadarem trace "C<mask><mask><mask>O" --seed 3
    imadarem trace -n 4 --json > trajectories.json
    imadarem trace --seed 7 --html trajectory.html
    ```

    Args:
        prompts: Texts with `<mask>` (or the tokenizer's own mask, such as `[MASK]`) for each
            blank token; default: a blank canvas.
        count: Number of samples, or of fillings of each prompt.
        length: Tokens per blank canvas; default: drawn from the lengths of the training data.
        out: Also write the records to a .json file, or the text to a .txt file.
        html: Also write the steps as an interactive .html page that needs no network.
        svg: Also draw the steps in this .svg file.
        json: Print the records as JSON (schema imadarem.trajectory/1) instead of the text.
    """
    _check(prompts, length, {"out": out, "html": html, "svg": svg})
    model = load_model(sampling.model, sampling.device)
    if prompts:
        repeated = [prompt for prompt in prompts for _ in range(count)]
        trajectory = model.analyze_refinement_trajectory(repeated, **sampling.settings())
    else:
        trajectory = model.analyze_refinement_trajectory(
            n=count, length=length, **sampling.settings()
        )
    for path in (out, html, svg):
        if path is not None:
            _write(trajectory, model, path, sampling)
    if json:
        json_line(trajectory.to_dict())
    else:
        _show(list(trajectory))


def _show(rows: list[RowTrajectory]) -> None:
    console = out()
    for number, row in enumerate(rows):
        console.print(
            Text("\n") if number else Text(), coloured_text(row, console.width), sep="", end=""
        )
        console.print()


def _write(
    trajectory: Trajectory, model: ImplicitRefinementModel, path: Path, sampling: SamplingFlags
) -> None:
    """Write the form that the file's ending names, whole or not at all."""
    from imadarem.files import save_json, write_text

    if path.suffix == ".json":
        save_json(trajectory.to_dict(), path)
    elif path.suffix == ".html":
        write_text(_page(trajectory, model, sampling), path)
    elif path.suffix == ".svg":
        write_text(_figure(trajectory, model), path)
    else:
        write_text(trajectory.to_text() + "\n", path)
    rows = "trajectory" if len(trajectory) == 1 else "trajectories"
    note(f"wrote {len(trajectory)} {rows} to {path}")


def _page(trajectory: Trajectory, model: ImplicitRefinementModel, sampling: SamplingFlags) -> str:
    from imadarem.viz.html import trajectory_page

    policy = sampling.policy or ("gate" if model.config.use_refine_gate else "entropy")
    return trajectory_page(trajectory, model.tokenizer, policy=policy)


def _figure(trajectory: Trajectory, model: ImplicitRefinementModel) -> str:
    from imadarem.viz.html import drawings_of
    from imadarem.viz.svg import trajectory_svg

    texts = [row.text for row in trajectory] if is_molecular(model.tokenizer) else []
    return trajectory_svg(trajectory.rows, drawings_of(texts))


def _check(prompts: tuple[str, ...], length: int | None, targets: dict[str, Path | None]) -> None:
    if prompts and length is not None:
        raise ConfigError("--length has no effect on prompts: a prompt has its own length.")
    legal = {"out": (".json", ".txt"), "html": (".html",), "svg": (".svg",)}
    for flag, path in targets.items():
        if path is not None and path.suffix not in legal[flag]:
            raise ConfigError(f"--{flag} {path} must end in {' or '.join(legal[flag])}.")
