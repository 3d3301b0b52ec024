"""``imadarem sample``: draw samples from blank canvases."""

from __future__ import annotations

import time

from imadarem.cli.console import progress_bar
from imadarem.cli.models import SAMPLING, Count, SamplingFlags, load_model
from imadarem.cli.results import OUTPUT, OutputFlags, deliver, judge

__all__ = ["sample"]


def sample(
    *,
    count: Count = 16,
    length: int | None = None,
    sampling: SamplingFlags = SAMPLING,
    output: OutputFlags = OUTPUT,
) -> None:
    """Draw samples from blank canvases.

    **Examples**

    ```
    imadarem sample
    imadarem sample -n 1000 --steps 6 --seed 1 --out molecules.smi
    imadarem sample --model runs/mine/model --grid molecules.svg
    imadarem sample -n 100 --json > samples.jsonl
    ```

    Args:
        count: How many.
        length: Tokens per canvas; default is drawn from the training lengths.
    """
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    with progress_bar("sampling", count) as advance:
        start = time.perf_counter()
        drawn = model.sample(count, length=length, on_rows=advance, **sampling.settings())
        seconds = time.perf_counter() - start
    deliver(judge(drawn, model.tokenizer, seconds), output)
