"""Samples that go to a file as they are drawn: as many as the disk holds, in little memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.text import Text

from imadarem.cli.console import json_line, note, out, progress_bar
from imadarem.cli.models import SamplingFlags
from imadarem.cli.results import PICTURED, OutputFlags, judge_by, parser, share, write_grid
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.refiner import ImplicitRefinementModel
    from imadarem.sampling.growing import GrowingFile

__all__ = ["STREAMED", "stream"]

#: Samples above which they are streamed; up to it they are shown and judged as a whole.
STREAMED = 10_000
#: Samples drawn between two writes to the disk: what a kill can cost.
BLOCK = 512


def stream(
    model: ImplicitRefinementModel,
    count: int,
    length: int | None,
    sampling: SamplingFlags,
    output: OutputFlags,
    *,
    resume: bool,
) -> None:
    """Draw samples into ``output.out`` block by block, then say what they are.

    Raises:
        ConfigError: The file cannot be gone on with, or less than one sample is wanted.
        CheckpointError: The file cannot be written.
    """
    from imadarem.sampling.growing import GrowingFile

    path, given = output.out, sampling.settings()
    assert path is not None
    if count < 1:
        raise ConfigError(f"--count is {count}; ask for at least 1.")
    parse = parser(model.tokenizer)
    made_with = _made_with(model, length, given, parsed=parse is not None)
    pictured: list[str] = []
    with GrowingFile(path, made_with, count, resume=resume) as file:
        before = file.samples
        if before:
            note(f"{path} holds {before:,} of {count:,} samples; going on there")
        start = time.perf_counter()
        with progress_bar("sampling", count) as advance:
            advance(before)
            while file.samples < count:
                n = min(max(BLOCK, sampling.batch_size), count - file.samples)
                drawn = model.sample(n, first=file.samples, length=length, on_rows=advance, **given)
                outcome = judge_by(parse, drawn, model.tokenizer, 0.0)
                text = outcome.to_text(path.suffix, begins=file.samples == 0)
                tallies = {"valid": len(outcome.valid), "passes": sum(drawn.forward_passes)}
                file.append(text, n, tallies)
                pictured += outcome.valid[: PICTURED - len(pictured)]
        seconds = time.perf_counter() - start
        _tell(file, count - before, seconds, parse is not None, output.json)
    if output.grid is not None:
        write_grid(pictured, output.grid)


def _made_with(
    model: ImplicitRefinementModel,
    length: int | None,
    given: dict[str, Any],
    *,
    parsed: bool,
) -> dict[str, Any]:
    """What the samples depend on, as JSON values; the batch size is nothing of that kind."""
    from imadarem.checkpoint import digest

    return {
        "weights": digest(model.state_dict()),
        **{name: value for name, value in given.items() if name != "batch_size"},
        "length": length,
        # Two kinds of device round differently.
        "device": next(model.parameters()).device.type,
        "canonical": parsed,
    }


def _tell(file: GrowingFile, drawn: int, seconds: float, judged: bool, json: bool) -> None:
    valid, passes = (file.tallies[name] / file.samples for name in ("valid", "passes"))
    rate = drawn / seconds
    if json:
        figures = {"samples": file.samples, "valid": valid if judged else None, "unique": None}
        spent = {"forward_passes": passes, "seconds": seconds, "samples_per_second": rate}
        json_line({"kind": "summary", **figures, **spent})
        return
    parts = [f"{file.samples:,} samples in {file.path}"]
    if judged:
        parts.append(f"{share(valid)} valid")
    parts.append(f"{passes:.1f} forward passes each")
    if drawn:
        parts.append(f"{rate:,.1f} samples/s")
    out().print(Text(", ".join(parts), style="bold"))
