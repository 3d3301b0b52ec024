"""Samples that go to a file as they are drawn: as many as the disk holds, in little memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from imadarem.cli.console import json_line, note, out, progress_bar
from imadarem.cli.results import ENDINGS, OutputFlags, judge_by, parser, share, write_file
from imadarem.data.molecule_rows import PICTURED
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.model import ImplicitRefinementModel

#: Samples above which they are streamed; up to it they are shown and judged as a whole.
STREAMED = 10_000
#: Samples drawn between two writes to the disk: what a kill can cost.
BLOCK = 512


def stream(
    model: ImplicitRefinementModel,
    count: int,
    settings: dict[str, Any],
    output: OutputFlags,
    *,
    resume: bool,
) -> None:
    """Draw samples into ``output.out`` block by block, then say what they are.

    Args:
        settings: Of ``model.sample``.
    """
    from imadarem.cli.sample_file import sample_file

    path = output.out
    assert path is not None
    if path.suffix not in ENDINGS:
        raise ConfigError(f"--out {path}: a file that is continued ends in {', '.join(ENDINGS)}.")
    parse = parser(model.tokenizer)
    made_with = _made_with(model, settings, parsed=parse is not None)
    pictured: list[str] = []
    valid, rows, passes, start = 0, 0, 0, time.perf_counter()
    with sample_file(path, made_with, count, resume=resume) as file:
        before = file.rows
        if before:
            note(f"{path} holds {before:,} of {count:,} samples; continuing behind them")
        with progress_bar("sampling", count) as advance:
            advance(before)
            while file.rows < count:
                n = min(max(BLOCK, settings["batch_size"]), count - file.rows)
                drawn = model.sample(n, first=file.rows, on_rows=advance, **settings)
                outcome = judge_by(parse, drawn, model.tokenizer, 0.0)
                file.append(outcome.to_text(path.suffix, begins=file.rows == 0), n)
                valid += len(outcome.valid)
                rows += outcome.drawn
                passes += sum(drawn.forward_passes)
                pictured += outcome.valid[: PICTURED - len(pictured)]
        file.check()
    spent = _Spent(count - before, valid, rows, passes, time.perf_counter() - start)
    _show(path, count, spent, parse is not None, output.json)
    if output.grid is not None:
        write_file([{"smiles": smiles} for smiles in pictured], output.grid)


@dataclass(frozen=True)
class _Spent:
    """What this run added to the file.

    Attributes:
        drawn: Samples.
        valid: How many of them are molecules.
        rows: How many rows were drawn for them.
        passes: Forward passes that they cost.
        seconds: Time that they took.
    """

    drawn: int
    valid: int
    rows: int
    passes: int
    seconds: float


def _made_with(
    model: ImplicitRefinementModel, settings: dict[str, Any], *, parsed: bool
) -> dict[str, Any]:
    """What the samples depend on, as JSON values; the batch size is not among it."""
    from imadarem.checkpoint import digest

    return {
        "weights": digest(model.state_dict()),
        **{k: v for k, v in settings.items() if k not in ("batch_size", "verifier")},
        # Two kinds of device round differently.
        "device": next(model.parameters()).device.type,
        "canonical": parsed,
    }


def _show(path: Path, count: int, run: _Spent, judged: bool, json: bool) -> None:
    """Say how many samples the file holds, and the figures of those drawn by this run."""
    share_valid = run.valid / run.drawn if judged and run.drawn else None
    passes = run.passes / run.drawn if run.drawn else None
    rate = run.drawn / run.seconds
    if json:
        figures = {"samples": count, "drawn": run.rows, "valid": share_valid, "unique": None}
        spent = {"forward_passes": passes, "seconds": run.seconds, "samples_per_second": rate}
        json_line({"kind": "summary", **figures, **spent})
        return
    parts = [f"{count:,} samples in {path}"]
    if run.drawn:
        drawn = "" if run.drawn == count else f"{run.drawn:,} of them now: "
        parts += [f"{run.rows:,} rows drawn"] if run.rows > run.drawn else []
        parts += [f"{drawn}{share(share_valid)} valid"] if share_valid is not None else []
        parts += [f"{passes:.1f} forward passes each", f"{rate:,.1f} samples/s"]
    out().print(Text(", ".join(parts), style="bold"))
