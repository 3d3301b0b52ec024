"""Complete a scaffold in several ways, with the confidence of the model.

    python examples/infill.py [MODEL] [PROMPT]

PROMPT has one ``<mask>`` for each blank; by default a benzene ring with a free
chain. MODEL is as in quickstart.py.
"""

from __future__ import annotations

import sys
from collections import Counter

from imadarem import ImplicitRefinementModel

BENZENE = "c1ccccc1"


def main(name: str = "smiles", prompt: str = BENZENE + 4 * "<mask>", ways: int = 20) -> None:
    model = ImplicitRefinementModel.from_pretrained(name)
    completions = model.infill([prompt] * ways, seed=0)
    for smiles, count in Counter(completions).most_common():
        print(f"{count:3d} of {ways}  {smiles}")

    # The trajectory has the model's confidence in each blank.
    (row,) = model.analyze_refinement_trajectory(prompt, seed=0)
    last = row.steps[-1]
    for token, given, confidence in zip(last.tokens, row.given, last.confidence, strict=True):
        print(f"{token:12} {'given' if given else f'{confidence:.0%}'}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
