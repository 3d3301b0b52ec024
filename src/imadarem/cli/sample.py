"""``imadarem sample``: draw samples from blank canvases."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from imadarem.cli.console import note, progress_bar
from imadarem.cli.models import (
    SAMPLING,
    SamplingFlags,
    Switch,
    is_molecular,
    load_model,
)
from imadarem.cli.numbers import Positive, whole
from imadarem.cli.results import (
    OUTPUT,
    Outcome,
    OutputFlags,
    SampleRow,
    deliver,
    judge,
    judge_by,
)
from imadarem.cli.streaming import STREAMED, stream
from imadarem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from imadarem.model import ImplicitRefinementModel

__all__ = ["sample"]

#: Most rows drawn at a time for --only-valid, and rows for each molecule after which it gives up.
BLOCK, MOST_ROWS = 256, 20

#: Most samples that are held in memory; a file may hold more.
MOST_IN_MEMORY = 1_000_000
ManyRows = Annotated[int, whole(1, 10**12, name=("--count", "-n"))]


def sample(
    *,
    count: ManyRows = 16,
    length: Positive | None = None,
    resume: Switch = False,
    only_valid: Switch = False,
    sampling: SamplingFlags = SAMPLING,
    output: OutputFlags = OUTPUT,
) -> None:
    """Draw samples from blank canvases.

    With --out, more than 10,000 samples are written as they are drawn, and the settings go to
    FILE.json. An interrupted run continues with the same command and --resume.

    **Examples**

    ```
    imadarem sample
    imadarem sample -n 1000 --steps 6 --seed 1 --out molecules.smi
    imadarem sample -n 1000000 --out molecules.smi --resume
    imadarem sample --model runs/mine/model --grid molecules.svg
    imadarem sample --model smiles --only-valid -n 1000 --out molecules.smi
    imadarem sample -n 100 --json > samples.jsonl
    ```

    Args:
        count: Number of samples.
        length: Tokens per canvas; default: drawn from the lengths of the training data.
        resume: Continue the file of --out where it ends, or start it.
        only_valid: Draw until --count different valid molecules are found (at most 10,000),
            and report how many rows were drawn.
    """
    _check(count, only_valid, resume, output)
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    if only_valid and not is_molecular(model.tokenizer):
        raise ConfigError("--only-valid is for molecules; this model writes texts.")
    if output.out is not None and (resume or count > STREAMED):
        stream(model, count, length, sampling, output, resume=resume)
        return
    settings = {"length": length, **sampling.settings()}
    with output.locked():
        start = time.perf_counter()
        with progress_bar("sampling", count) as advance:
            if only_valid:
                outcome = _only_valid(model, count, settings, advance)
            else:
                drawn = model.sample(count, on_rows=advance, **settings)
                outcome = judge(drawn, model.tokenizer, time.perf_counter() - start)
        deliver(outcome, output)


def _check(count: int, only_valid: bool, resume: bool, output: OutputFlags) -> None:
    """Refuse what could not be done, before the model is loaded."""
    if output.out is None and count > MOST_IN_MEMORY:
        raise ConfigError(
            f"--count is {count:,}: at most {MOST_IN_MEMORY:,} samples are held in memory. Add "
            "--out FILE, which is written as they are drawn."
        )
    if resume and output.out is None:
        raise ConfigError("--resume continues a file; name it with --out.")
    if only_valid and (resume or count > STREAMED):
        raise ConfigError(
            f"--only-valid holds its molecules in memory: it takes -n up to {STREAMED:,} and no "
            "--resume. For more, write all rows and remove the invalid ones afterwards."
        )


def _only_valid(
    model: ImplicitRefinementModel,
    count: int,
    settings: dict[str, Any],
    advance: Callable[[int], None],
) -> Outcome:
    """The first ``count`` different molecules among the rows 0, 1, … of a seed."""
    from imadarem.data.molecules import canonical

    found: dict[str, SampleRow] = {}
    drawn, start = 0, time.perf_counter()
    while len(found) < count and drawn < MOST_ROWS * count + BLOCK:
        # A row does not depend on how many are drawn with it.
        before, missing = len(found), count - len(found)
        samples = model.sample(min(BLOCK, missing + missing // 2 + 8), first=drawn, **settings)
        for row in judge_by(canonical, samples, model.tokenizer, 0.0).rows:
            drawn += 1
            if row.canonical is not None:
                found.setdefault(row.canonical, row)
            if len(found) == count:
                break
        advance(len(found) - before)
    if not found:
        raise DataError(
            f"none of {drawn:,} rows is a valid molecule. Train the model for longer, or lower "
            "--temperature."
        )
    if len(found) < count:
        note(f"only {len(found):,} different molecules in {drawn:,} rows", style="yellow")
    seconds = time.perf_counter() - start
    return Outcome(rows=list(found.values()), seconds=seconds, drawn=drawn)
