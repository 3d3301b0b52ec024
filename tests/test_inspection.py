"""Looking at a file of molecules: what each notation refuses, whose canvas is too short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_parts import SIXTY, records

from imadarem.cli import console
from imadarem.data import inspection
from imadarem.data.inspection import canvas_fits, inspect_notations
from imadarem.data.standardize import standardize, standardize_all
from imadarem.errors import DataError
from imadarem.workers import Workers


@pytest.mark.parametrize(
    ("smiles", "parent", "changes"),
    [
        ("CCO", "CCO", ""),
        ("OCC", "CCO", ""),
        ("CC(=O)[O-].[Na+]", "CC(=O)O", "fragments charges"),
        ("C[NH2+]C.[Cl-]", "CNC", "fragments charges"),
        ("CN.O", "CN", "fragments"),
        ("C[N+](C)(C)C", "C[N+](C)(C)C", ""),  # no hydrogen to take away
        ("C[C@H](N)C(=O)O.Cl", "C[C@H](N)C(=O)O", "fragments"),  # stereo stays
        ("[13CH3]O", "[13CH3]O", ""),
        ("Oc1ccccn1", "O=c1cccc[nH]1", "tautomer"),
    ],
)
def test_the_parent_structure_and_what_was_changed(smiles, parent, changes):
    found = standardize(smiles, tautomer="tautomer" in changes)
    assert found.smiles == parent
    made = [name for name in ("fragments", "charges", "tautomer") if getattr(found, name)]
    assert " ".join(made) == changes


def test_each_parent_stays_once_and_the_changes_are_counted():
    smiles = ["CCO", "CC(=O)[O-].[Na+]", "CC(O)=O", "OCC", "C[NH3+]"]
    with Workers() as workers:
        kept, counts = standardize_all(smiles, workers)
    assert kept == ["CCO", "CC(=O)O", "CN"]
    assert counts == {"fragments_removed": 1, "neutralised": 2, "duplicates_removed": 2}
    with pytest.raises(DataError, match="not a molecule"):
        standardize("C1CC")


def test_molecules_that_a_notation_refuses_or_a_canvas_is_too_short_for_are_counted(monkeypatch):
    monkeypatch.setattr(inspection, "MOST_SAFE", 3)
    # A chain of 60 atoms fits the 64 tokens of "selfies" and the 72 of "smiles".
    smiles = ["CCO", "C" * 60, "C" * 70, "[Cu+2]", "CC(=O)[O-].[Na+]"]
    with Workers() as workers:
        notated = inspect_notations(smiles, workers)
    assert [notated[name].tried for name in ("selfies", "smiles", "safe")] == [5, 5, 3]
    # 3, 60, 70, 1 and 9 tokens: C C ( = O ) [O-] . [Na+], and [Cu+2].
    assert notated["smiles"].figures() == {
        **{"tried": 5, "refused": 0, "shortest": 1, "median": 9, "longest": 70, "vocabulary": 9}
    }
    fits = {fit.model: fit for fit in canvas_fits(notated)}
    assert set(fits) == {"druglike", "selfies", "smiles"}
    assert (fits["smiles"].canvas, fits["smiles"].too_long, fits["smiles"].of) == (72, 0, 5)
    assert (fits["selfies"].canvas, fits["selfies"].too_long) == (64, 1)
    for name, reason in notated["selfies"].refused:
        assert reason, name


def test_the_command_names_what_was_standardized_and_who_has_no_room(said, elsewhere):
    Path("a.smi").write_text("\n".join([*SIXTY[:5], "C" * 70, "CC(=O)[O-].[Na+]", "CC(=O)O"]))
    code, out, err = said("data", "inspect", "a.smi", "--standardize", "--json")
    assert code == 0, err
    summary = records(out)[-1]
    assert (summary["fragments_removed"], summary["neutralised"]) == (1, 1)
    assert (summary["duplicates_removed"], summary["distinct"]) == (1, 7)
    assert summary["models"]["smiles"] == {"canvas": 72, "too_long": 0, "of": 7}
    code, out, err = said("data", "inspect", "a.smi")
    assert re.search(r"selfies +selfies +64 tokens +1 \(12\.5%\)", out)
    assert err == ""
    assert said("data", "inspect", "a.smi", "--tautomer")[0] == 2


def test_progress_is_told_in_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.stages() as progress:
        progress("as safe", 64, 1000)
    with console.progress_bar("sampling", 20) as advance:
        advance(5)
        advance(7)
    told = capsys.readouterr().err.splitlines()
    assert told == ["as safe: 64 of 1,000", "sampling: 5 of 20", "sampling: 12 of 20"]
