"""Draw molecules, watch one come about, and fill holes.

    python examples/quickstart.py [MODEL]

MODEL is a folder that a training run wrote; by default the model that comes with the package.
"""

from __future__ import annotations

import sys

from imadarem import ImplicitRefinementModel


def main(name: str = "smiles") -> None:
    model = ImplicitRefinementModel.from_pretrained(name)

    samples = model.sample(5, seed=0)
    for smiles, passes in zip(samples, samples.forward_passes, strict=True):
        print(f"{smiles}    ({passes} forward passes)")

    # Every step of one refinement: what was written, and what the gate thought of it.
    model.print_refinement_trajectory(length=12, steps=4, seed=0)

    # One <mask> for each blank; what is given never changes.
    print(model.infill("CC(=O)" + 6 * "<mask>", seed=0)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
