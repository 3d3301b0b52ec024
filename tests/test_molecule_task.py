"""Molecules with holes: real molecules, and no stereoisomer, salt or copy across the split."""

from __future__ import annotations

import pytest
import torch

from imadarem.data.molecule_task import flat_form, molecule_task
from imadarem.data.molecules import canonical
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import SelfiesTokenizer

ALANINES = [
    "C[C@H](N)C(=O)O",
    "C[C@@H](N)C(=O)O",
    "OC(=O)C(C)N",
    "CC([NH3+])C(=O)[O-]",
    "CC(N)C(=O)[O-].[Na+]",
    "CC(N)C(=O)[18OH]",
    "[2H]OC(=O)C(C)N",
]


def test_isomers_salts_charges_and_isotopes_have_one_flat_form():
    assert {flat_form(smiles) for smiles in ALANINES} == {"CC(N)C(=O)O"}
    assert flat_form("F/C=C/F") == flat_form(r"F/C=C\F") == "FC=CF"


def test_other_molecules_have_other_flat_forms():
    # A charge that no hydrogen can take away is part of the molecule.
    others = ["CCO", "CCN", "OCCC(N)=O", "C[N+](C)(C)C", "CN(C)C", "[Na+].[Cl-]", "c1ccccc1"]
    assert len({flat_form(smiles) for smiles in others}) == len(others)


def test_what_is_no_molecule_has_no_form():
    with pytest.raises(DataError, match="not a molecule"):
        flat_form("C(")


def test_stereo_and_charge_copies_never_stand_on_both_sides(tmp_path):
    file = tmp_path / "copies.smi"
    cores = ["CCC", "CCO", "CCCl", "c1ccccc1", "CC#N", "CCOC", "CCS", "CC=O"]
    copies = [*ALANINES, *cores, *(f"{core}.[Na+].[Cl-]" for core in cores)]
    file.write_text("\n".join(copies))
    for seed in range(5):
        task = molecule_task(file, seed=seed, valid_fraction=0.3)
        sides = [
            {flat_form(task.tokenizer.decode(row)) for row in side.labels}
            for side in (task.train, task.valid)
        ]
        assert not sides[0] & sides[1]
        # round(0.3 * 9 forms) = 3.
        assert len(sides[1]) == 3 and len(sides[0]) == 6
        assert len(task.train) + len(task.valid) == len(copies)


def test_labels_are_the_molecules_and_inputs_miss_their_share():
    task = molecule_task(rows=40, hole_share=0.25, hole_span=1)
    decoded = [task.tokenizer.decode(row) for row in task.train.labels]
    assert all(canonical(smiles) for smiles in decoded)
    blank = task.train.inputs == task.tokenizer.mask_token_id
    tokens = (task.train.labels != task.tokenizer.pad_token_id).sum(1)
    assert blank.sum(1).tolist() == [round(0.25 * int(n)) for n in tokens]
    assert task.train.inputs[~blank].equal(task.train.labels[~blank])
    assert task.name == "molecules" and len(task.train) + len(task.valid) == 40


def test_a_tokenizer_leaves_out_what_it_cannot_write(tmp_path):
    file = tmp_path / "few.smi"
    file.write_text("CCO\nCCN\nOCC\nCCBr\nnonsense\nC\n")
    tokenizer = SelfiesTokenizer.from_corpus(["CCO", "CCN"])
    task = molecule_task(file, tokenizer)
    # Bromine is not in the vocabulary, methane is one token; a line is no molecule.
    assert task.settings["not_encodable"] == 2 and task.settings["unreadable"] == 1
    assert task.settings["train_molecules"] + task.settings["valid_molecules"] == 3
    assert task.tokenizer is tokenizer


def test_smiles_can_have_holes_too():
    task = molecule_task(rows=10, tokenizer="smiles")
    assert task.settings["tokenizer"] == "smiles"
    labels = torch.cat([task.train.labels, task.valid.labels])
    assert all(canonical(task.tokenizer.decode(row)) for row in labels)


def test_wrong_settings_say_what_is_legal():
    with pytest.raises(ConfigError, match='did you mean "selfies"'):
        molecule_task(tokenizer="selfie")
    with pytest.raises(ConfigError, match="writes no molecules"):
        molecule_task(tokenizer="char")
    with pytest.raises(ConfigError, match="at least 2"):
        molecule_task(rows=1)
