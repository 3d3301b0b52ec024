"""The models in the package do what their cards say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical
from imadarem.evaluation.chemistry import passes_filters
from imadarem.pretrained import SHIPPED


@cache
def shipped(name: str) -> ImplicitRefinementModel:
    return ImplicitRefinementModel.from_pretrained(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_is_small_and_has_a_card(name: str) -> None:
    folder = SHIPPED[name]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    card = Path(folder / "README.md").read_text().lower()
    for said in ("seed", "hardware", "steps", "imadarem", "limits"):
        assert said in card, said


# Of 128 rows; the cards' shares less four standard deviations.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "valid", "filters"), [("default", 1.0, 0.75), ("smiles", 0.6, 0.9)]
)
def test_a_molecule_model_writes_molecules_that_are_new_and_pass_filters(name, valid, filters):
    found = [canonical(text) for text in shipped(name).sample(128, seed=1, steps=1)]
    good = [smiles for smiles in found if smiles is not None]
    assert len(good) >= valid * len(found)
    assert len(set(good)) >= len(good) - 1
    assert sum(map(passes_filters, good)) >= filters * len(good)


def test_the_smiles_model_fills_holes_in_a_smiles() -> None:
    prompt = "c1ccc(" + "<mask>" * 6 + ")cc1"
    for text in shipped("smiles").infill([prompt] * 8, seed=0).texts:
        assert text.startswith("c1ccc(") and text.endswith(")cc1")
