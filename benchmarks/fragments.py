"""The four fragment tasks on ten approved drugs, beside GenMol's published quality.

    python benchmarks/fragments.py --model default --n 100
    python benchmarks/fragments.py --once                        each row once, odd ones too
    python benchmarks/fragments.py --model runs/safe/model --n 100 --seeds 3 --json rows.json
    python benchmarks/fragments.py --quick                        3 drugs, 10 rows each

For each drug and task the model fills rows until n different molecules are found that have all
that was given, and no odd group or unknown ring beside (as ``imadarem infill``), or 20 n rows.
With ``--once`` it fills n rows, each once, and nothing is rejected as odd. As GenMol
(arXiv:2501.06158) defines them, averaged over the drugs:

found       returned molecules ÷ n; with ``--once`` repeated ones are among them
kept        share of the filled valid rows with everything that was given in them
unique      distinct ÷ returned
quality     distinct returned molecules with QED >= 0.6 and SA <= 4, ÷ n
odd         share of the returned ones with an odd group or a ring system that is not in the
            reference table, beside those of the fragments
diversity   1 - mean Tanimoto similarity between returned molecules (Morgan, radius 2, 2048 bits)
distance    1 - mean Tanimoto similarity of the returned molecules to the drug
rows        filled rows ÷ n

Below the table stands how often a *returned* molecule was found without what was given, by a
search apart from the library's own: it must be 0. The drugs and fragments (fragments.csv)
are those of GenMol: NVIDIA-Digital-Bio/genmol, data/fragments.csv, Apache-2.0.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from rdkit import Chem

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical
from imadarem.design.completion import FragmentTask, complete, draw
from imadarem.design.verification import LOST, TOO_LONG, UNFIT
from imadarem.evaluation.chemistry import describe

TASKS = {
    "linker": "linker_design",
    "motif": "motif_extension",
    "scaffold": "scaffold_decoration",
    "superstructure": "superstructure_generation",
}
#: GenMol's quality in percent, 89 M parameters (arXiv:2501.06158, table 2).
GENMOL = {"linker": 21.9, "motif": 30.1, "scaffold": 31.8, "superstructure": 34.8}


@dataclass(frozen=True)
class Row:
    """One task on one drug with one seed; shares in [0, 1], None where undefined."""

    task: str
    drug: str
    seed: int
    found: float
    kept: float | None
    unique: float | None
    quality: float
    odd: float | None
    diversity: float | None
    distance: float | None
    violations: int
    rows: float
    lost: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--n", type=int, default=100, help="rows for each drug and task")
    parser.add_argument("--once", action="store_true", help="fill n rows, whatever they become")
    parser.add_argument("--steps", type=int, help="default: the model's setting")
    parser.add_argument("--policy")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--width", type=int, help="candidates of each row, chosen by the verdict")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    drugs = list(csv.DictReader(Path(__file__).with_suffix(".csv").open(encoding="utf-8")))
    n, drugs = (10, drugs[:3]) if given.quick else (given.n, drugs)
    model = ImplicitRefinementModel.from_pretrained(given.model)
    sampling = {
        name: value
        for name in ("steps", "policy", "temperature", "width")
        if (value := getattr(given, name)) is not None
    }
    begun = time.process_time()
    rows = [
        measured(model, task, drug, n, seed, given.once, sampling)
        for task in TASKS
        for drug in drugs
        for seed in range(given.seeds)
    ]
    print(f"{given.model}, {model.tokenizer.notation}, {len(drugs)} drugs, {n} rows each, ", end="")
    settings = ", ".join(f"{name} {value}" for name, value in sampling.items())
    seconds = time.process_time() - begun
    print(f"{settings or 'settings of the model'}, {seconds:.0f} s of CPU time\n")
    print(table(rows))
    lost = Counter[str]()
    for row in rows:
        lost.update(row.lost)
    print("\nlost rows:", ", ".join(f"{count} {why}" for why, count in lost.most_common()) or 0)
    print(f"returned without what was given: {sum(row.violations for row in rows)}")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measured(
    model: Any,
    task: str,
    drug: dict[str, str],
    n: int,
    seed: int,
    once: bool,
    sampling: dict[str, Any],
) -> Row:
    """Fill rows of one task on one drug, and measure what is returned."""
    asked = FragmentTask.of(task, drug[TASKS[task]])
    if once:
        drawn = draw(model, asked, n, seed=seed, **sampling)
        returned = [str(row.smiles) for row in drawn if row.smiles and row.lost is None]
        draws, lost = n, dict(Counter(row.lost for row in drawn if row.lost is not None))
    else:
        made = complete(model, asked, n, seed=seed, **sampling)
        returned, draws, lost = made.smiles, made.draws, made.lost
    distinct = sorted(set(returned))
    known = [found for s in distinct if (found := describe(s, filters=False)) is not None]
    good = sum(found.qed >= 0.6 and found.sa <= 4 for found in known)
    bits = {s: found.wide for s, found in zip(distinct, known, strict=True)}
    target = describe(canonical(drug["smiles"]) or "", filters=False)
    assert target is not None
    oddities, count = asked.oddities(), len(returned)
    broken = sum(lost.get(reason, 0) for reason in (UNFIT, TOO_LONG, "no molecule"))
    missing = sum(lost.get(reason, 0) for reason in LOST) - broken
    all_bits = unpacked([bits[s] for s in returned])
    return Row(
        task=task,
        drug=drug["name"],
        seed=seed,
        found=count / n,
        kept=1 - missing / (draws - broken) if draws > broken else None,
        unique=len(distinct) / count if count else None,
        quality=good / n,
        odd=sum(bool(oddities.rejection_reason(s)) for s in returned) / count if count else None,
        diversity=diversity(unpacked([found.wide for found in known])),
        distance=1 - float(tanimoto(all_bits, unpacked([target.wide])).mean()) if count else None,
        violations=sum(not has_all(s, asked) for s in distinct),
        rows=draws / n,
        lost=lost,
    )


def has_all(smiles: str, task: FragmentTask) -> bool:
    """Every fragment is in the molecule as a pattern: each point any atom, no hydrogen."""
    molecule = Chem.MolFromSmiles(smiles)
    for fragment in task.fragments:
        pattern = Chem.MolFromSmarts(as_pattern(fragment.molecule))
        if not molecule.HasSubstructMatch(pattern, useChirality=True):
            return False
    return True


def as_pattern(fragment: Any) -> str:
    """SMARTS of a fragment, its attachment points as any heavy atom."""
    plain = Chem.RWMol(fragment)
    for atom in plain.GetAtoms():
        if atom.GetAtomicNum() == 0:
            atom.SetIsotope(0)
    return str(Chem.MolToSmarts(plain)).replace("#0", "!#1")


def diversity(bits: Any) -> float | None:
    if len(bits) < 2:
        return None
    pairs = tanimoto(bits, bits)[np.triu_indices(len(bits), 1)]
    return 1 - float(pairs.mean())


def tanimoto(left: Any, right: Any) -> Any:
    both = left @ right.T
    return both / (left.sum(1)[:, None] + right.sum(1)[None] - both)


def unpacked(packed: list[bytes]) -> Any:
    rows = [np.unpackbits(np.frombuffer(row, dtype=np.uint8)) for row in packed]
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)


def table(rows: list[Row]) -> str:
    names = ("found", "kept", "unique", "quality", "odd", "diversity", "distance", "rows")
    lines = [
        "| task | found | kept | unique | quality | GenMol's | odd | diversity | distance | rows |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        ours = [row for row in rows if row.task == task]
        cells = []
        for name in names:
            values = [v for row in ours if (v := getattr(row, name)) is not None]
            mean = fmean(values) if values else float("nan")
            percent = name not in ("diversity", "distance", "rows")
            cells.append(f"{mean:.1%}" if percent else f"{mean:.3f}")
            if name == "quality":
                cells.append(f"{GENMOL[task]} %")
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
