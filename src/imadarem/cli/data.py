"""``imadarem data moses`` and ``antiberty``: fetch a benchmark, or a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.text import Text

from imadarem.cli.console import err, grid, json_line, note, out, stages
from imadarem.cli.models import Switch
from imadarem.cli.numbers import Processes
from imadarem.errors import ConfigError, nearest

TOKENS = ("selfies", "smiles", "safe", "none")


def moses(
    *,
    wheel: Path | None = None,
    tokens: str = "selfies",
    processes: Processes | None = None,
    json: Switch = False,
) -> None:
    """Fetch the MOSES benchmark (52 MB), verify it, and prepare it for training.

    **Examples**

    ```
    imadarem data moses
    imadarem data moses --wheel molsets-0.3.1-py3-none-any.whl --tokens none
    ```

    Args:
        wheel: Read this file of molsets 0.3.1 instead of downloading it.
        tokens: Notation in which to encode the training set, once for all runs: selfies or
            safe (takes minutes), smiles, or none.
        processes: Worker processes; default: one for each core.
        json: Print one JSON object instead of a table.
    """
    if tokens not in TOKENS:
        raise ConfigError(
            f"--tokens {tokens}{nearest(tokens, TOKENS)} is not one of {', '.join(TOKENS)}."
        )
    from imadarem.data.moses import SPLITS, fetch_moses, load_split

    with err().status("fetching MOSES, if it is not cached"):
        paths = fetch_moses(wheel=wheel)
        sizes = {split: len(load_split(paths, split)) for split in SPLITS}
    note(f"verified {paths.wheel}")
    prepared = None if tokens == "none" else _prepared(tokens, processes)
    if json:
        json_line({"wheel": str(paths.wheel), "splits": sizes, "tokens": prepared})
        return
    out().print(grid(("split", "molecules"), [(k, f"{n:,}") for k, n in sizes.items()]))
    if prepared is not None:
        out().print(
            Text(
                f"\n{tokens}: {prepared['train']:,} rows to train on, "
                f"{prepared['valid']:,} held out, longest {prepared['longest']} tokens, "
                f"{prepared['vocabulary']} tokens in the vocabulary"
            )
        )
        out().print(Text("next: imadarem train --data moses --out runs/moses", "bold"))


def antiberty(*, wheel: Path | None = None, json: Switch = False) -> None:
    """Fetch AntiBERTy (97 MB), a masked language model of antibody sequences, and verify it.

    **Examples**

    ```
    imadarem data antiberty
    imadarem infill --model antiberty "EVQLVESGGGLVQPGG<mask><mask><mask>LSCAAS" -n 4
    ```

    Args:
        wheel: Read this file of antiberty 0.1.3 instead of downloading it.
        json: Print one JSON object.
    """
    from imadarem.backbones.antiberty import WHEEL

    with err().status("fetching AntiBERTy, if it is not cached"):
        path = WHEEL.fetch(given=wheel)
    note(f"verified {path}")
    if json:
        json_line({"wheel": str(path)})
        return
    out().print(Text("next: imadarem sample --model antiberty --length 120", "bold"))


def _prepared(tokens: str, processes: int | None) -> dict[str, Any]:
    import os

    from imadarem.data.prepare import prepare

    with stages() as progress:
        made = prepare(
            "moses", tokenizer=tokens, processes=processes or os.cpu_count(), progress=progress
        )
    return {
        "notation": tokens,
        "train": len(made.train),
        "valid": len(made.valid),
        "longest": int(made.train.lengths.max()),
        "vocabulary": len(made.tokenizer),
        "rejected": len(made.rejected),
    }
