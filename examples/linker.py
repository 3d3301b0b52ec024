"""Join two fragments, keep the drug-like ones, and say what was lost and why.

    python examples/linker.py [FRAGMENT FRAGMENT [MODEL]]

Attachment points are written ``*``, ``[*:1]`` or ``[1*]``. MODEL is as in quickstart.py.
"""

from __future__ import annotations

import sys

from imadarem import FragmentTask, ImplicitRefinementModel
from imadarem.design.completion import complete
from imadarem.design.scores import score_named


def main(
    one: str = "*N1CCOCC1", other: str = "*c1ccc(F)cc1", name: str = "smiles", count: int = 16
) -> None:
    model = ImplicitRefinementModel.from_pretrained(name)
    made = complete(model, FragmentTask.of("linker", one, other), count, seed=0)
    qed = score_named("qed")
    for smiles in sorted(made.smiles, key=qed, reverse=True)[:5]:
        print(f"{qed(smiles):.2f}  {smiles}")
    print(f"{len(made.rows)} molecules of {made.draws} rows; lost: {made.lost}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
