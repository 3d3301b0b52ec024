"""``imadarem sample``: draw samples from blank canvases."""

from __future__ import annotations

import time

from imadarem.cli.console import progress_bar
from imadarem.cli.models import SAMPLING, Backend, Count, SamplingFlags, Switch, load_model
from imadarem.cli.results import OUTPUT, OutputFlags, deliver, judge
from imadarem.cli.streaming import STREAMED, stream
from imadarem.errors import ConfigError

__all__ = ["sample"]


def sample(
    *,
    count: Count = 16,
    length: int | None = None,
    resume: Switch = False,
    backend: Backend = "torch",
    sampling: SamplingFlags = SAMPLING,
    output: OutputFlags = OUTPUT,
) -> None:
    """Draw samples from blank canvases.

    More than 10,000 samples for --out go to the file as they are drawn, in the order of their
    numbers, with a record of how far it is in FILE.json. A run that was interrupted, by
    whatever, goes on with the same command and --resume.

    **Examples**

    ```
    imadarem sample
    imadarem sample -n 1000 --steps 6 --seed 1 --out molecules.smi
    imadarem sample -n 1000000 --out molecules.smi --resume
    imadarem sample --model runs/mine/model --grid molecules.svg
    imadarem sample -n 100 --json > samples.jsonl
    ```

    Args:
        count: How many.
        length: Tokens per canvas; default is drawn from the training lengths.
        resume: Go on with the file of --out where it ends, or begin it.
        backend: What runs the network: torch, or the files of `imadarem export`: onnx or
            onnx-int8.
    """
    if resume and output.out is None:
        raise ConfigError("--resume goes on with a file; name it with --out.")
    model = load_model(sampling.model, sampling.device, backend)
    output.check(model.tokenizer)
    if output.out is not None and (resume or count > STREAMED):
        stream(model, count, length, sampling, output, backend=backend, resume=resume)
        return
    with progress_bar("sampling", count) as advance:
        start = time.perf_counter()
        drawn = model.sample(count, length=length, on_rows=advance, **sampling.settings())
        seconds = time.perf_counter() - start
    deliver(judge(drawn, model.tokenizer, seconds), output)
