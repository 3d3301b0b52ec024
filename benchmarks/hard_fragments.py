"""Ten fragments of drugs with what models of MOSES have never seen: 24 molecules around each.

    python benchmarks/hard_fragments.py --model default
    python benchmarks/hard_fragments.py --model druglike --n 24 --seeds 3

Stereo centres, charges, phosphorus, boron, iodine, silicon, and macrocycles, longer than the canvas
some of them. For each: how many were found of those asked for, CPU seconds until the 20th (of
24), the share of the returned molecules that have what was given by a search apart from the
library's own, the share with odd groups or unknown rings beside it, and why rows were lost.
"""

from __future__ import annotations

import argparse
import time
from statistics import fmean

from fragments import has_all

from imadarem import ImplicitRefinementModel
from imadarem.design.completion import FragmentTask, complete

#: Name → kind of task and fragments.
GIVEN: dict[str, tuple[str, ...]] = {
    "sofosbuvir, P and stereo": (
        "motif",
        "C[C@]1(F)[C@H](n2ccc(=O)[nH]c2=O)O[C@H](CO[P@@](=O)(N*)Oc2ccccc2)[C@H]1O",
    ),
    "bortezomib, B": ("motif", "*C(=O)N[C@@H](CC(C)C)B(O)O"),
    "tavaborole, B": ("scaffold", "*c1ccc2c(c1)COB2O"),
    "liothyronine, I": ("motif", "*c1cc(I)c(Oc2ccc(O)c(I)c2)c(I)c1"),
    "silicon": ("scaffold", "C[Si](C)(C)c1ccc(C(=O)N*)cc1"),
    "glycopyrronium, a charge": ("motif", "C[N+]1(C)CC[C@@H](OC(=O)C(*)(O)c2ccccc2)C1"),
    "penicillin, a carboxylate": ("motif", "CC1(C)S[C@@H]2[C@H](NC(=O)*)C(=O)N2[C@H]1C(=O)[O-]"),
    "erythromycin, a macrolide": (
        "scaffold",
        "CC[C@H]1OC(=O)[C@H](C)[C@@H](O*)[C@H](C)[C@@H](O*)[C@](C)(O)C[C@@H](C)C(=O)[C@H](C)"
        "[C@@H](O)[C@]1(C)O",
    ),
    "lorlatinib, a ring to close": ("ring", "*[C@H](C)Oc1cc(cnc1N)-c1c(*)nn(C)c1C#N"),
    "a linker of two centres": (
        "linker",
        "*N1CC[C@H](F)[C@@H](O)C1",
        "*[C@@H]1CCC[N+](C)(C)C1",
    ),
}
ENOUGH = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--width", type=int)
    given = parser.parse_args()
    model = ImplicitRefinementModel.from_pretrained(given.model)
    sampling = {} if given.width is None else {"width": given.width}
    print(f"{given.model}, {given.n} of each, {given.seeds} seeds\n")
    print("| fragment | found | CPU s to 20 | kept | odd | rows | lost |")
    print("|---|---|---|---|---|---|---|")
    for name, (kind, *fragments) in GIVEN.items():
        task = FragmentTask.of(kind, *fragments)
        oddities = task.oddities()
        found, seconds, kept, odd, rows = [], [], [], [], []
        lost: dict[str, int] = {}
        for seed in range(given.seeds):
            clock = _Clock()
            made = complete(model, task, given.n, seed=seed, on_rows=clock, **sampling)
            found.append(len(made.smiles))
            seconds.append(clock.seconds)
            kept += [has_all(smiles, task) for smiles in made.smiles]
            odd += [bool(oddities.rejection_reason(smiles)) for smiles in made.smiles]
            rows.append(made.draws)
            lost = made.lost
        reasons = ", ".join(f"{count} {why}" for why, count in list(lost.items())[:3])
        none = float("nan")
        print(
            f"| {name} | {fmean(found):.1f} | {fmean(seconds):.1f} | {fmean(kept or [none]):.0%} | "
            f"{fmean(odd or [none]):.0%} | {fmean(rows):.0f} | {reasons} |",
            flush=True,
        )


class _Clock:
    """CPU seconds until enough molecules were found; infinity before that."""

    def __init__(self) -> None:
        self.start, self.found, self.seconds = time.process_time(), 0, float("inf")

    def __call__(self, rows: int) -> None:
        self.found += rows
        if self.found == ENOUGH:
            self.seconds = time.process_time() - self.start


if __name__ == "__main__":
    main()
