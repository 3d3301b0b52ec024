"""Goal-directed search on the 23 oracles of PMO (arXiv:2206.12411), all offline.

    python -m venv pmo && pmo/bin/pip install molscore==1.9.5 'pandas<3' scipy joblib six
    python benchmarks/pmo.py --python pmo/bin/python                    all, 10,000 calls each
    python benchmarks/pmo.py --python pmo/bin/python QED JNK3 --calls 1000 --seeds 3

For each oracle: the area under the curve of the mean score of the ten best molecules over calls,
÷ calls, in [0, 1] (after a search that ends early its last value holds). The searches start
from samples of the model. ``molscore`` brings other versions of packages, so its oracles run in an
environment of their own (pmo_oracle.py). Published sums over 23: InVirtuoGen 18.99 and f-RAG 16.93
(starts prescreened on a data set), GenMol 18.36, REINVENT 14.2, graph GA 13.8.
DRD2, GSK3B and JNK3 are old scikit-learn models, for which molscore makes an environment by mamba.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pmo_oracle import END

from imadarem import ImplicitRefinementModel
from imadarem.design.evolution import EvolutionSettings, evolve
from imadarem.design.scored_table import Scored
from imadarem.design.scores import Score

ORACLES = (
    *("Albuterol_similarity", "Amlodipine_MPO", "C7H8N2O2", "C9H10N2O2PF2Cl"),
    *("Celecoxxib_rediscovery", "DRD2", "Deco_hop", "Fexofenadine_MPO", "GSK3B", "JNK3"),
    *("Median_molecules_1", "Median_molecules_2", "Mestranol_similarity", "Osimertinib_MPO"),
    *("Perindopril_MPO", "QED", "Ranolazine_MPO", "Scaffold_hop", "Sitagliptin_MPO"),
    *("Thiothixene_rediscovery", "Troglitazone_rediscovery", "Valsartan_smarts", "Zaleplon_MPO"),
)
TOP = 10


class Oracle:
    """A process of another environment that scores many molecules at a time."""

    batched = True

    def __init__(self, python: str, name: str) -> None:
        script = Path(__file__).with_name("pmo_oracle.py")
        pipe = subprocess.PIPE
        command = [python, str(script), name]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, smiles: Sequence[str]) -> list[float]:
        asked, told = self.process.stdin, self.process.stdout
        assert asked is not None and told is not None
        asked.write("".join(f"{line}\n" for line in (*smiles, END)))
        asked.flush()
        return [float(told.readline()) for _ in smiles]

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def area(rows: Sequence[Scored], calls: int) -> float:
    """Area under the mean of the ten best over the calls, ÷ calls."""
    best: list[float] = []
    total = mean = 0.0
    for row in sorted(rows, key=lambda row: row.call):
        best = sorted([*best, row.score], reverse=True)[:TOP]
        mean = sum(max(score, 0.0) for score in best) / TOP
        total += mean
    return (total + mean * (calls - len(rows))) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("oracles", nargs="*", default=ORACLES, metavar="ORACLE")
    parser.add_argument("--python", required=True, help="of an environment with molscore==1.9.5")
    parser.add_argument("--model", default="smiles")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    model = ImplicitRefinementModel.from_pretrained(given.model)
    print("| oracle | AUC of the top 10 | best | seconds |\n|---|---|---|---|")
    areas = []
    for name in given.oracles:
        oracle, start = Oracle(given.python, name), time.perf_counter()
        found = []
        for seed in range(given.seeds):
            settings = EvolutionSettings(score=name, budget=given.calls, seed=seed)
            found.append(evolve(model, Score(name, oracle), settings, steps=1))
        oracle.close()
        areas.append(fmean(area(list(made.scored.values()), given.calls) for made in found))
        best = max(made.best(1)[0].score for made in found)
        seconds = time.perf_counter() - start
        print(f"| {name} | {areas[-1]:.3f} | {best:.3f} | {seconds:.0f} |", flush=True)
    print(f"\nsum over {len(areas)}: {sum(areas):.2f}")


if __name__ == "__main__":
    main()
