"""What fine-tuning changed: samples of the model before and after, beside held-out molecules."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from imadarem.cli.console import grid, heading, json_line, out, progress_bar, stages
from imadarem.cli.evaluate import FIGURES, SHARES, cell
from imadarem.cli.models import is_molecular
from imadarem.cli.results import share
from imadarem.data.molecules import canonical

if TYPE_CHECKING:
    from imadarem.data.prepare import PreparedData

#: Samples of each model by default.
COMPARED = 500
#: Training rows above which nothing is compared unless requested: the run is no fine-tuning.
MOST_ROWS = 50_000
#: Held-out rows below which there is nothing to compare with.
LEAST_HELD_OUT = 4
#: What a SMILES has of it.
MARKS = {"with charges, nitro aside": r"\[[^]]*[+-]", "with stereo marks": r"[@/\\]"}
#: Too much for a first look.
LEFT_OUT = ("unique_1k", "unique_10k", "int_div2", "diversity")


def _marked(samples: Sequence[str | None], pattern: str) -> str:
    """The share of the valid samples that a pattern is found in, nitro groups left out."""
    forms = [form for text in samples if (form := canonical(text or "")) is not None]
    plain = (form.replace("[N+](=O)[O-]", "").replace("O=[N+]([O-])", "") for form in forms)
    found = sum(re.search(pattern, form) is not None for form in plain)
    return share(found / len(forms)) if forms else "none"


def samples_to_compare(requested: int | None, data: PreparedData) -> int:
    """How many samples to score: as many as requested, or 500 for a small file of molecules."""
    if not is_molecular(data.tokenizer) or len(data.valid) < LEAST_HELD_OUT:
        return 0
    if requested is not None:
        return requested
    return COMPARED if len(data.train) <= MOST_ROWS else 0


def compare_before_after(
    init: str, after: Path, data: PreparedData, count: int, seed: int, json: bool
) -> None:
    """Print, and write beside the run, what samples are worth before and after it.

    Args:
        init: The model that the run started from.
        after: The folder of the trained model.
        data: Its training rows decide novelty. One half of its held-out rows is the
            reference, the other, at most ``count`` of them, has a column of its own.
        count: Samples of each model.
        seed: Of the sampling.
        json: Print JSON Lines instead of a table.
    """
    from imadarem.evaluation.molecules import Reference, evaluate_molecules
    from imadarem.files import save_json
    from imadarem.model import ImplicitRefinementModel

    train, held_out = (
        [str(data.tokenizer.decode(row)) for row in part] for part in (data.train, data.valid)
    )
    fcd = importlib.util.find_spec("fcd_torch") is not None
    columns: dict[str, list[str | None]] = {}
    with progress_bar("sampling", 2 * count) as advance:
        for name, folder in (("before", init), ("after", str(after))):
            model = ImplicitRefinementModel.from_pretrained(folder)
            columns[name] = list(model.sample(count, seed=seed, on_rows=advance).texts)
    columns["held out"] = list(held_out[::2][:count])
    with stages() as progress:
        shared: dict[str, Any] = {"fcd": fcd, "processes": os.cpu_count(), "progress": progress}
        reference = Reference.from_smiles(held_out[1::2], name="held-out molecules", **shared)
        reports = {
            name: evaluate_molecules(samples, train=train, reference=reference, **shared)
            for name, samples in columns.items()
        }
    found = {name: report.to_dict() for name, report in reports.items()}
    save_json(found, after.parent / "before_after.json")
    if json:
        json_line({"kind": "before_after", **found})
        return
    heading("samples before and after, beside held-out molecules")
    rows: list[tuple[object, ...]] = []
    for field, title in {**SHARES, **FIGURES}.items():
        values = [getattr(report, field) for report in reports.values()]
        if field not in LEFT_OUT and any(value is not None for value in values):
            rows.append((title, *(cell(field, value) for value in values)))
    for title, pattern in MARKS.items():
        rows.insert(1, (title, *(_marked(column, pattern) for column in columns.values())))
    rows.insert(0, ("molecules", *(f"{report.samples:,}" for report in reports.values())))
    out().print(grid(("", *reports), rows))
    against = (
        f"SNN, Frag, Scaf, the distances and FCD are to {len(held_out) // 2:,} other held-out "
    )
    out().print(Text(against + "molecules: the last column is what the file itself reaches", "dim"))
