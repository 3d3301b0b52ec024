"""``imadarem infill``: fill the holes of prompts; what is given stays."""

from __future__ import annotations

import time

from imadarem.cli.console import progress_bar
from imadarem.cli.models import SAMPLING, Count, SamplingFlags, load_model
from imadarem.cli.results import OUTPUT, OutputFlags, deliver, judge
from imadarem.errors import ConfigError

__all__ = ["infill"]


def infill(
    *prompts: str,
    count: Count = 1,
    sampling: SamplingFlags = SAMPLING,
    output: OutputFlags = OUTPUT,
) -> None:
    """Fill the holes of prompts; a token that is given never changes.

    **Examples**

    ```
    imadarem infill "[C][C]<mask><mask><mask>[O]"
    imadarem infill "[C]<mask><mask>[N]" "[O]<mask>[C]" -n 8 --json
    imadarem infill --model runs/text/model "a <mask><mask><mask> day"
    ```

    Args:
        prompts: One `<mask>` for each blank token; molecules in the model's notation,
            such as SELFIES.
        count: Fillings of each prompt.
    """
    if count < 1:
        raise ConfigError(f"--count is {count}; ask for at least 1.")
    model = load_model(sampling.model, sampling.device)
    output.check(model.tokenizer)
    repeated = [prompt for prompt in prompts for _ in range(count)]
    with progress_bar("filling", len(repeated)) as advance:
        start = time.perf_counter()
        drawn = model.infill(repeated, on_rows=advance, **sampling.settings())
        seconds = time.perf_counter() - start
    deliver(judge(drawn, model.tokenizer, seconds), output)
