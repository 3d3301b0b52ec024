"""The four fragment tasks on ten approved drugs, beside GenMol's published quality.

    python benchmarks/fragments.py --model default --n 100
    python benchmarks/fragments.py --model runs/safe/model --n 100 --seeds 3 --json rows.json
    python benchmarks/fragments.py --quick                        3 drugs, 10 rows each

For each drug and task the model fills n rows, each once; nothing is drawn again in place of
what was lost. As GenMol (arXiv:2501.06158) defines them, averaged over the drugs:

valid       share of the n rows that RDKit reads as a molecule
kept        share of the valid ones with everything that was given in them: what peers leave out
unique      distinct ÷ returned; a row is returned only if it is valid and kept
quality     distinct returned molecules with QED >= 0.6 and SA <= 4, ÷ n
diversity   1 - mean Tanimoto similarity between returned molecules (Morgan, radius 2, 2048 bits)
distance    1 - mean Tanimoto similarity of the returned molecules to the drug

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
from imadarem.design.completion import FragmentTask, draw
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
    valid: float
    kept: float | None
    unique: float | None
    quality: float
    diversity: float | None
    distance: float | None
    violations: int
    passes: float
    lost: dict[str, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--n", type=int, default=100, help="rows for each drug and task")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--policy")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    drugs = list(csv.DictReader(Path(__file__).with_suffix(".csv").open(encoding="utf-8")))
    n, drugs = (10, drugs[:3]) if given.quick else (given.n, drugs)
    model = ImplicitRefinementModel.from_pretrained(given.model)
    sampling = {
        name: value
        for name in ("steps", "policy", "temperature")
        if (value := getattr(given, name)) is not None
    }
    begun = time.process_time()
    rows = [
        measured(model, task, drug, n, seed, sampling)
        for task in TASKS
        for drug in drugs
        for seed in range(given.seeds)
    ]
    print(f"{given.model}, {model.tokenizer.notation}, {len(drugs)} drugs, {n} rows each, ", end="")
    print(f"{given.steps} steps, {time.process_time() - begun:.0f} s of CPU time\n")
    print(table(rows))
    lost = Counter[str]()
    for row in rows:
        lost.update(row.lost)
    print("\nlost rows:", ", ".join(f"{count} {why}" for why, count in lost.most_common()) or 0)
    print(f"returned without what was given: {sum(row.violations for row in rows)}")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def measured(
    model: Any, task: str, drug: dict[str, str], n: int, seed: int, sampling: dict[str, Any]
) -> Row:
    """Fill n rows of one task on one drug, and measure what is returned."""
    asked = FragmentTask.of(task, drug[TASKS[task]])
    drawn = draw(model, asked, n, seed=seed, **sampling)
    valid = [row for row in drawn if row.smiles is not None]
    returned = [row.smiles for row in valid if row.lost is None and row.smiles is not None]
    distinct = sorted(set(returned))
    known = [found for s in distinct if (found := describe(s, filters=False)) is not None]
    good = sum(found.qed >= 0.6 and found.sa <= 4 for found in known)
    bits = {s: found.wide for s, found in zip(distinct, known, strict=True)}
    target = describe(canonical(drug["smiles"]) or "", filters=False)
    assert target is not None
    all_bits = unpacked([bits[s] for s in returned])
    return Row(
        task=task,
        drug=drug["name"],
        seed=seed,
        valid=len(valid) / n,
        kept=len(returned) / len(valid) if valid else None,
        unique=len(distinct) / len(returned) if returned else None,
        quality=good / n,
        diversity=diversity(unpacked([found.wide for found in known])),
        distance=1 - float(tanimoto(all_bits, unpacked([target.wide])).mean())
        if returned
        else None,
        violations=sum(not has_all(s, asked) for s in distinct),
        passes=fmean(row.forward_passes for row in drawn),
        lost=dict(Counter(row.lost for row in drawn if row.lost is not None)),
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
    names = ("valid", "kept", "unique", "quality", "diversity", "distance")
    lines = [
        "| task | valid | kept | unique | quality | GenMol's quality | diversity | distance |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        ours = [row for row in rows if row.task == task]
        cells = []
        for name in names:
            values = [v for row in ours if (v := getattr(row, name)) is not None]
            mean = fmean(values) if values else float("nan")
            percent = name not in ("diversity", "distance")
            cells.append(f"{mean:.1%}" if percent else f"{mean:.3f}")
            if name == "quality":
                cells.append(f"{GENMOL[task]} %")
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
