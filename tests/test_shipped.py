"""The models in the package do what their cards say."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import canonical
from imadarem.data.moses import load_moses_sample
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
    ("name", "valid", "filters"), [("selfies", 1.0, 0.75), ("smiles", 0.6, 0.9)]
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


def test_the_smiles_model_writes_holes_of_unknown_length() -> None:
    texts = shipped("smiles").infill(["CC(=O)Nc1ccc(<gap>)cc1"] * 64, seed=0).texts
    assert all(text.startswith("CC(=O)Nc1ccc(") and text.endswith(")cc1") for text in texts)
    assert len({len(text) for text in texts}) > 3
    # The card: 7 of 10; four standard errors below.
    assert sum(canonical(text) is not None for text in texts) > 28


def test_the_smiles_model_finds_a_token_out_of_place() -> None:
    molecules = [text for text in load_moses_sample("test")[:120] if "1" in text]
    broken = [text.replace("1", "2", 1) for text in molecules]
    found = shipped("smiles").judge([*molecules, *broken])
    worst = [max(row.wrong or []) for row in found]
    whole, wrong = worst[: len(molecules)], worst[len(molecules) :]
    # The card says 99.8 % of clean rows; here blanks cannot hide the mistake.
    assert sum(p > 0.5 for p in whole) <= 3
    assert sum(p > 0.5 for p in wrong) > 0.8 * len(wrong)
