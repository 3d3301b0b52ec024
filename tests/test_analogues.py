"""Analogues: protected atoms stay, similarity is in the window, and what changed is said."""

from __future__ import annotations

import numpy as np
import pytest
from cli_parts import SIXTY, records, saved_model

from imadarem import ImplicitRefinementModel
from imadarem.data.molecules import parse
from imadarem.design.analogues import _difference, analogues
from imadarem.design.fragment import matched_part
from imadarem.design.mutation import Mutation
from imadarem.design.prompts import SmilesNotation
from imadarem.design.scores import similarity_to
from imadarem.design.verification import rejection_reason
from imadarem.errors import ConfigError, DataError
from imadarem.tokenizers import SelfiesTokenizer, SmilesTokenizer

AMIDE = "Cc1ccc(C(=O)Nc2ccc(F)cc2)cc1"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("analogues")
    saved_model(made, SelfiesTokenizer.from_corpus([*SIXTY, AMIDE]), SIXTY, max_seq_len=60)
    return made


@pytest.fixture(scope="session")
def model(folder):
    return ImplicitRefinementModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("parent", "pattern", "child", "why"),
    [
        ("CCNC(=O)CC", "C(=O)N", "CNC(=O)c1ccccc1", None),
        ("CCNC(=O)CC", "C(=O)N", "CN(C)C(=O)CC", "attachment points not respected"),
        ("CCNC(=O)CC", "C(=O)N", "CCNC(=S)CC", "fragment changed"),
        ("C[C@H](N)CO", "[C@H](N)CO", "CC[C@H](N)CO", None),
        ("C[C@H](N)CO", "[C@H](N)CO", "CC[C@@H](N)CO", "stereo changed"),
        ("CC[NH+](C)C", "[NH+]", "CCN(C)C", "fragment changed"),
        ("Cc1ccccc1", "c1ccccc1", "Oc1ccccc1", None),
        ("Cc1ccccc1", "c1ccccc1", "Oc1ccccc1O", "attachment points not respected"),
        ("O=C1CCCN1C", "C(=O)N", "O=C1CCN1C", None),  # half of a ring: the rest may change
    ],
)
def test_a_protected_atom_keeps_its_bonds_hydrogens_charge_and_stereo(parent, pattern, child, why):
    part = matched_part(parent, [pattern])
    assert rejection_reason(parent, [part]) is None
    assert rejection_reason(child, [part]) == why


def test_what_nothing_protects_is_said():
    assert matched_part("CCO", []) is None
    with pytest.raises(DataError, match="matches no atom"):
        matched_part("CCO", ["N"])
    with pytest.raises(DataError, match="not a SMARTS pattern"):
        matched_part("CCO", ["C(("])
    with pytest.raises(DataError, match="match every atom"):
        matched_part("CCO", ["CCO"])


def test_a_blank_run_spares_the_protected_atoms():
    part = matched_part(AMIDE, ["C(=O)N"])
    mutate = Mutation(SmilesNotation(SmilesTokenizer.from_corpus([AMIDE]), 60), part)
    rng = np.random.default_rng(0)
    prompts = [mutate(AMIDE, rng) for _ in range(40)]
    # The amide's own tokens are =O, N and one aliphatic C; the methyl is another C.
    assert all({"=", "O", "N", "C"} <= set(prompt.tokens) for prompt in prompts)
    assert any(len(prompt.runs) == 1 and prompt.tokens[-1] is not None for prompt in prompts)


def test_every_analogue_is_protected_similar_and_counted(model):
    made = analogues(model, AMIDE, 8, protect=["C(=O)N"], similar=(0.2, 0.9), steps=2)
    part = matched_part(AMIDE, ["C(=O)N"])
    near = similarity_to(AMIDE)
    assert made.rows
    assert [rejection_reason(row.smiles, [part]) for row in made.rows] == [None] * len(made.rows)
    assert all(0.2 <= near(row.smiles) == row.similarity <= 0.9 for row in made.rows)
    assert len(made.rows) + sum(made.lost.values()) == made.draws
    assert [row.site for row in made.rows] == sorted(row.site for row in made.rows)
    again = analogues(
        model, AMIDE, 8, protect=["C(=O)N"], similar=(0.2, 0.9), steps=2, batch_size=3
    )
    assert again == made


@pytest.mark.parametrize(
    ("child", "site", "removed", "added"),
    [
        ("Cc1ccc(C(=O)Nc2ccc(Cl)cc2)cc1", (13,), "*F", "*Cl"),
        ("CCc1ccc(C(=O)Nc2ccc(F)cc2)cc1", (), "", "*C"),
        ("CC(=O)Nc1ccc(F)cc1", (1, 2, 3, 4, 5, 16, 17), "*c1ccc(C)cc1", "*C"),
    ],
)
def test_what_changed_is_what_the_molecules_do_not_share(child, site, removed, added):
    assert parse(AMIDE).GetAtomWithIdx(12).GetSymbol() == "F"
    assert _difference(AMIDE, child) == (site, removed, added)


@pytest.mark.parametrize(
    ("smiles", "given", "error", "message"),
    [
        ("C1CC", {}, DataError, "not a valid SMILES"),
        ("CCO.Cl", {}, DataError, "several parts"),
        ("CCO", {"similar": (0.9, 0.1)}, ConfigError, "the least first"),
        ("C" * 99, {}, DataError, "60 tokens"),
    ],
)
def test_what_has_no_analogues_is_refused(model, smiles, given, error, message):
    with pytest.raises(error, match=message):
        analogues(model, smiles, 2, **given)


@pytest.mark.usefixtures("elsewhere")
def test_the_command_copies_the_columns_of_its_file(said, folder):
    from pathlib import Path

    Path("leads.csv").write_text(f"id,smiles,assay\nlead-1,{AMIDE},7.5\n")
    code, out, err = said(
        *("analogues", "leads.csv", "--model", folder, "--steps", 2, "-n", 4, "--json"),
        *("--similar", "0.1..0.95", "--out", "new.csv"),
    )
    rows = [row for row in records(out) if row["kind"] == "molecule"]
    assert (code, len(rows)) == (0, 4), err
    assert {(row["id"], row["assay"], row["given"]) for row in rows} == {("lead-1", "7.5", AMIDE)}
    assert len(Path("new.csv").read_text().splitlines()) == 5
    code, _, err = said("analogues", AMIDE, "--similar", "2..3")
    assert code == 2 and "window of similarities" in err
