"""Search for molecules by a score of one's own, here a weight near 250 with few rings.

    python examples/own_score.py
    imadarem optimize --score own_score:light --start moses-sample --budget 500

The second line, run in this folder, does the same from the command line.
"""

from __future__ import annotations

from rdkit import Chem
from rdkit.Chem import Descriptors

from imadarem import ImplicitRefinementModel
from imadarem.design.evolution import EvolutionSettings, evolve


def light(smiles: str) -> float:
    """1 for a molecule of 250 daltons and one ring, less for others."""
    molecule = Chem.MolFromSmiles(smiles)
    off = abs(Descriptors.MolWt(molecule) - 250) / 250
    return 1 - off - 0.2 * abs(molecule.GetRingInfo().NumRings() - 1)


def main(budget: int = 150) -> None:
    model = ImplicitRefinementModel.from_pretrained("smiles")
    settings = EvolutionSettings(score="light", budget=budget, population=40, children=32)
    made = evolve(model, light, settings, steps=6)
    for row in made.best(5):
        print(f"{row.score:.3f}  {row.smiles}  (call {row.call})")


if __name__ == "__main__":
    main()
