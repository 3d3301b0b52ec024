"""Repair of molecules with known errors: what is restored, and what is left alone.

    python benchmarks/repair.py --model smiles --rows 1000
    python benchmarks/repair.py --file broken.smi

Held-out molecules of MOSES' test split with 1, 2 or 3 local edits (a token replaced, inserted,
doubled, deleted, or two swapped; an edit that changes nothing does not count), repaired by the
model's judge alone and with RDKit as a checker. Exact: the original molecule came back token by
token. Beside them clean rows, of which none should change, and every change of one token, the
most likely first, until RDKit takes one (``search``), by the same model without its judge.
An edit often leaves a molecule, which no checker finds: ``of rejected`` is the share of exact
ones among the rows that RDKit does not read. With ``--file`` the rows are those of a file whose
truth nobody knows, such as another generator's: how many are valid afterwards, by how many edits.
Prints a table; ``--json FILE`` keeps the rows.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import is_molecule
from imadarem.data.moses import fetch_moses, load_split
from imadarem.errors import DataError
from imadarem.training.judging import local_edits


@dataclass(frozen=True)
class Line:
    """One row of the table; shares of the rows."""

    edits: int
    method: str
    exact: float
    of_rejected: float | None
    valid: float
    changed: float
    gave_up: float
    checks: float
    ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="smiles")
    parser.add_argument("--rows", type=int, default=1000, help="of each number of edits")
    parser.add_argument("--budget", type=int, default=60, help="calls of RDKit for each row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--file", type=Path, help="broken rows, one per line")
    options = parser.parse_args()

    model = ImplicitRefinementModel.from_pretrained(options.model)
    if options.file is not None:
        show_file(model, options.file.read_text().split()[: options.rows], options.budget)
        return
    molecules = load_split(fetch_moses(), "test")
    rng = np.random.default_rng(options.seed)
    chosen = [molecules[i] for i in rng.permutation(len(molecules))[: options.rows]]
    rows = [model.tokenizer.encode(smiles) for smiles in chosen]
    lines = []
    print("| edits | method | exact | of rejected | valid | changed | gave up | checks | CPU ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for edits in (0, 1, 2, 3):
        broken = [edited(model, row, edits, rng) for row in rows]
        for line in measured(model, rows, broken, edits, options.budget):
            lines.append(line)
            print(shown(line), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


def show_file(model: ImplicitRefinementModel, texts: list[str], budget: int) -> None:
    """Rows without a known truth, by the judge alone and with RDKit."""
    rows = []
    for text in texts:
        try:
            tokens = model.tokenizer.encode(text)
        except DataError:
            continue
        if len(tokens) <= model.config.max_seq_len:
            rows.append(text)
    before = sum(map(is_molecule, rows)) / len(rows)
    print(f"{len(texts)} rows, {len(rows)} of which the model reads, {100 * before:.1f} % valid")
    print("| method | valid | changed | gave up | median edits | checks | CPU ms |")
    print("|---|---|---|---|---|---|---|")
    for name, checker in (("judge", None), ("judge and RDKit", is_molecule)):
        start = time.process_time()
        repairs = model.repair(rows, checker=checker, budget=budget)
        ms = 1000 * (time.process_time() - start) / len(rows)
        valid = 100 * sum(is_molecule(r.text or "") for r in repairs) / len(rows)
        changed = [len(r.edits) for r in repairs if r.changed]
        gave_up = 100 * sum(r.reason == "gave_up" for r in repairs) / len(rows)
        checks = sum(r.checks for r in repairs) / len(rows)
        print(
            f"| {name} | {valid:.1f} % | {100 * len(changed) / len(rows):.1f} % | {gave_up:.1f} % "
            f"| {median(changed or [0]):g} | {checks:.1f} | {ms:.0f} |",
            flush=True,
        )


def edited(
    model: ImplicitRefinementModel, row: list[int], edits: int, rng: np.random.Generator
) -> list[int]:
    """A row with so many edits, another one than before, that fits the model."""
    vocabulary = np.setdiff1d(np.arange(len(model.tokenizer)), model.tokenizer.all_special_ids)
    while True:
        found = local_edits(row, vocabulary, edits, rng)
        if not edits or (found != row and len(found) <= model.config.max_seq_len):
            return found


def measured(
    model: ImplicitRefinementModel,
    rows: list[list[int]],
    broken: list[list[int]],
    edits: int,
    budget: int,
) -> list[Line]:
    """The methods on the same rows."""
    unjudged = ImplicitRefinementModel(replace(model.config, judge=False), model.tokenizer).eval()
    weights = {k: w for k, w in model.state_dict().items() if ".judge." not in k}
    unjudged.load_state_dict({k: w for k, w in weights.items() if not k.startswith("teacher.")})
    methods = {
        "judge": lambda: model.repair(broken),
        "judge and RDKit": lambda: model.repair(broken, checker=is_molecule, budget=budget),
        "judge and RDKit, flagged too": lambda: model.repair(
            broken, checker=is_molecule, budget=budget, flagged_too=True
        ),
        "search with RDKit": lambda: unjudged.repair(broken, checker=is_molecule, budget=budget),
    }
    if not model.config.judge:
        methods = {"search with RDKit": methods["search with RDKit"]}
    rejected = [not is_molecule(model.tokenizer.decode(row)) for row in broken]
    found = []
    for name, method in methods.items():
        start = time.process_time()
        repairs = method()
        seconds = time.process_time() - start
        n = len(repairs)
        exact = [r.tokens == row for r, row in zip(repairs, rows, strict=True)]
        among = [right for right, bad in zip(exact, rejected, strict=True) if bad]
        found.append(
            Line(
                edits,
                name,
                sum(exact) / n,
                sum(among) / len(among) if among else None,
                sum(is_molecule(r.text or "") for r in repairs) / n,
                sum(r.changed for r in repairs) / n,
                sum(r.reason == "gave_up" for r in repairs) / n,
                sum(r.checks for r in repairs) / n,
                1000 * seconds / n,
            )
        )
    return found


def shown(line: Line) -> str:
    """A row of the table."""
    numbers = (line.exact, line.of_rejected, line.valid, line.changed, line.gave_up)
    shares = ["" if x is None else f"{100 * x:.1f} %" for x in numbers]
    cells = [str(line.edits), line.method, *shares, f"{line.checks:.1f}", f"{line.ms:.0f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
