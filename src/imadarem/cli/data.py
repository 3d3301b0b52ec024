"""``imadarem data``: fetch the MOSES benchmark, look at a file of molecules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.text import Text

from imadarem.cli.console import err, grid, heading, json_line, note, out, stages
from imadarem.cli.models import Switch
from imadarem.cli.numbers import Processes
from imadarem.errors import ConfigError, nearest

__all__ = ["inspect", "moses"]

TOKENS = ("selfies", "smiles", "safe", "none")
LISTED = 20


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


def inspect(file: Path, /, *, column: str | None = None, json: Switch = False) -> None:
    """Show which lines of a file of molecules training would read, and which it would reject.

    **Examples**

    ```
    imadarem data inspect molecules.csv --column SMILES
    imadarem data inspect molecules.smi.gz --json
    ```

    Args:
        file: SMILES as .smi, .csv, .tsv or .txt, or .sdf, each also with .gz, or .parquet.
        column: Name or number of the column with SMILES; default is one with a usual name.
        json: Print every rejected line and the figures as JSON Lines.
    """
    from imadarem.data.molecule_files import read_smiles
    from imadarem.data.molecules import canonical

    with err().status(f"reading {file}"):
        found = read_smiles(file, column=column)
        distinct = len({canonical(text) for text in found.smiles})
        lengths = {name: _token_lengths(name, found.smiles) for name in TOKENS[:-1]}
    figures = {"accepted": len(found.smiles), "distinct": distinct, "rejected": len(found.rejected)}
    if json:
        for line in found.rejected:
            json_line(
                {"kind": "rejected", "line": line.line, "text": line.text, "reason": line.reason}
            )
        json_line({"kind": "summary", **figures, "notes": found.notes, "tokens": lengths})
        return
    console = out()
    console.print(grid(("lines", "count"), [(k, f"{v:,}") for k, v in figures.items()]))
    if found.notes:
        heading("features of the accepted molecules (kept as written)")
        console.print(grid(("note", "count"), [(k, f"{v:,}") for k, v in found.notes.items()]))
    heading("tokens per molecule")
    console.print(
        grid(("notation", *_FIGURES), [(k, *v.values()) for k, v in lengths.items() if v])
    )
    if found.rejected:
        heading(f"rejected lines (first {LISTED} of {len(found.rejected):,})")
        shown = [(r.line, r.text[:60], r.reason) for r in found.rejected[:LISTED]]
        console.print(grid(("line", "text", "reason"), shown, left=3))


_FIGURES = ("encoded", "shortest", "median", "longest", "vocabulary")


def _token_lengths(notation: str, smiles: list[str]) -> dict[str, int] | None:
    """Tokens per molecule in a notation; None if not one can be written in it."""
    from imadarem.errors import DataError
    from imadarem.tokenizers import tokenizer_class

    kind = tokenizer_class(notation)
    lengths, vocabulary = [], set()
    for text in smiles:
        try:
            tokens = kind.split(kind.to_notation(text))
        except DataError:
            continue
        lengths.append(len(tokens))
        vocabulary.update(tokens)
    if not lengths:
        return None
    ordered = sorted(lengths)
    values = (len(ordered), ordered[0], ordered[len(ordered) // 2], ordered[-1], len(vocabulary))
    return dict(zip(_FIGURES, values, strict=True))


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
