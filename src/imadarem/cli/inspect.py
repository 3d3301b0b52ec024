"""``imadarem data inspect``: look at a file of molecules before training on it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from imadarem.cli.console import err, grid, heading, json_line, note, out, stages
from imadarem.cli.models import Switch
from imadarem.cli.numbers import Processes
from imadarem.cli.results import share
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.data.inspection import CanvasFit, Notated
    from imadarem.data.molecule_files import MoleculeFile

#: Rejected lines and refused molecules that are listed; --json has all.
LISTED = 20
#: Molecules below which worker processes take longer to start than they save.
FEW = 2_000


def inspect(
    file: Path,
    /,
    *,
    column: str | None = None,
    standardize: Switch = False,
    tautomer: Switch = False,
    processes: Processes | None = None,
    json: Switch = False,
) -> None:
    """Show which lines of a file of molecules training would read, and which it would reject.

    **Examples**

    ```
    imadarem data inspect molecules.csv --column SMILES
    imadarem data inspect molecules.sdf.gz --standardize
    imadarem data inspect molecules.smi.gz --json
    ```

    Args:
        file: SMILES as .smi, .csv, .tsv or .txt, or .sdf, each also with .gz, or .parquet.
        column: Name or number of the column with SMILES; default: a column with a usual name.
        standardize: Inspect the largest fragment of each molecule, neutralised, each once.
        tautomer: With --standardize: its canonical tautomer.
        processes: Worker processes; default: one for each core.
        json: Print every rejected line, every molecule that a notation refuses, and the
            figures as JSON Lines.
    """
    from imadarem.data.inspection import canvas_fits, inspect_notations
    from imadarem.data.molecule_files import feature_counts, read_smiles
    from imadarem.data.molecules import canonical
    from imadarem.data.standardize import standardize_all
    from imadarem.workers import Workers

    if tautomer and not standardize:
        raise ConfigError("--tautomer is part of --standardize; give both.")
    with err().status(f"reading {file}"):
        found = read_smiles(file, column=column)
    smiles, changes, cores = found.smiles, dict[str, int](), 1
    if len(smiles) >= FEW:
        note(f"{len(smiles):,} molecules; writing them in every notation")
        cores = os.cpu_count() or 1
    with stages() as progress, Workers(processes or cores, progress) as workers:
        if standardize:
            smiles, changes = standardize_all(smiles, workers, tautomer=tautomer)
            found = replace(found, notes=dict(feature_counts(smiles)))
        distinct = len(set(workers.map("canonical forms", canonical, smiles)))
        notated = inspect_notations(smiles, workers)
    counts = {"accepted": len(found.smiles), "rejected": len(found.rejected), **changes}
    counts["distinct"] = distinct
    if json:
        _print_json(found, counts, notated, canvas_fits(notated))
    else:
        _print(found, counts, notated, canvas_fits(notated))


def _print_json(
    found: MoleculeFile,
    counts: dict[str, int],
    notated: dict[str, Notated],
    fits: list[CanvasFit],
) -> None:
    for line in found.rejected:
        row = {"line": line.line, "text": line.text, "reason": line.reason}
        json_line({"kind": "rejected", **row})
    for name, notation in notated.items():
        for text, reason in notation.refused:
            json_line({"kind": "refused", "notation": name, "text": text, "reason": reason})
    models = {
        fit.model: {"canvas": fit.canvas, "too_long": fit.too_long, "of": fit.of} for fit in fits
    }
    tokens = {name: notation.figures() for name, notation in notated.items()}
    json_line(
        {"kind": "summary", **counts, "notes": found.notes, "tokens": tokens, "models": models}
    )


def _print(
    found: MoleculeFile,
    counts: dict[str, int],
    notated: dict[str, Notated],
    fits: list[CanvasFit],
) -> None:
    console = out()
    rows = [(name.replace("_", " "), f"{count:,}") for name, count in counts.items()]
    console.print(grid(("molecules", "count"), rows))
    if found.notes:
        heading("features of these molecules (kept as written)")
        notes = [(name.replace("_", " "), f"{count:,}") for name, count in found.notes.items()]
        console.print(grid(("note", "count"), notes))
    heading("tokens per molecule")
    figures = {name: notation.figures() for name, notation in notated.items()}
    columns = max((list(row) for row in figures.values()), key=len)
    cells = [
        (name, *(f"{row[c]:,}" if c in row else "" for c in columns))
        for name, row in figures.items()
    ]
    console.print(grid(("notation", *columns), cells))
    heading("too long for a model of the package")
    console.print(
        grid(
            ("model", "notation", "canvas", "too long"),
            [(f.model, f.notation, f"{f.canvas} tokens", _too_long(f)) for f in fits],
            left=2,
        )
    )
    _print_refusals(found, notated)


def _too_long(fit: CanvasFit) -> Text | str:
    text = f"{fit.too_long:,} ({share(fit.too_long / fit.of if fit.of else 0.0)})"
    return Text(text, "yellow") if fit.too_long else text


def _print_refusals(found: MoleculeFile, notated: dict[str, Notated]) -> None:
    for name, notation in notated.items():
        if notation.refused:
            heading(f"refused by {name} (first {LISTED} of {len(notation.refused):,})")
            shown = [(text[:60], reason) for text, reason in notation.refused[:LISTED]]
            out().print(grid(("molecule", "reason"), shown, left=2))
    if found.rejected:
        heading(f"rejected lines (first {LISTED} of {len(found.rejected):,})")
        lines = [(row.line, row.text[:60], row.reason) for row in found.rejected[:LISTED]]
        out().print(grid(("line", "text", "reason"), lines, left=3))
