"""``imadarem sample``: draw samples from blank canvases."""

from __future__ import annotations

import time
from typing import Annotated

from imadarem.cli.console import progress_bar
from imadarem.cli.models import SAMPLING, SamplingFlags, Switch, load_model
from imadarem.cli.numbers import Positive, whole
from imadarem.cli.results import OUTPUT, OutputFlags, deliver, judge, redrawing
from imadarem.cli.streaming import STREAMED, stream
from imadarem.errors import ConfigError

__all__ = ["sample"]

#: Most samples that are held in memory; a file may hold more.
MOST_IN_MEMORY = 1_000_000
ManyRows = Annotated[int, whole(1, 10**12, name=("--count", "-n"))]


def sample(
    *,
    count: ManyRows = 16,
    length: Positive | None = None,
    resume: Switch = False,
    keep_invalid: Switch = False,
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
    imadarem sample --model smiles --keep-invalid -n 1000 --out molecules.csv
    imadarem sample -n 100 --json > samples.jsonl
    ```

    A row that is no molecule is drawn again, up to 20 times, on a canvas of the same length.

    Args:
        count: Number of samples.
        length: Tokens per canvas; default: drawn from the lengths of the training data.
        resume: Continue the file of --out where it ends, or start it.
        keep_invalid: Draw every row once, molecule or not.
    """
    _check(count, resume, output)
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    settings = {"length": length, **sampling.settings(), **redrawing(model, keep_invalid)}
    if output.out is not None and (resume or count > STREAMED):
        stream(model, count, settings, output, resume=resume)
        return
    with output.locked():
        start = time.perf_counter()
        with progress_bar("sampling", count) as advance:
            drawn = model.sample(count, on_rows=advance, **settings)
        deliver(judge(drawn, model.tokenizer, time.perf_counter() - start), output)


def _check(count: int, resume: bool, output: OutputFlags) -> None:
    """Refuse what could not be done, before the model is loaded."""
    if output.out is None and count > MOST_IN_MEMORY:
        raise ConfigError(
            f"--count is {count:,}: at most {MOST_IN_MEMORY:,} samples are held in memory. Add "
            "--out FILE, which is written as they are drawn."
        )
    if resume and output.out is None:
        raise ConfigError("--resume continues a file; name it with --out.")
