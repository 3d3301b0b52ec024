"""Pictures of molecules: their size, their contents, and what happens where none can be drawn."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from imadarem.errors import ConfigError, DataError, MissingLibraryError
from imadarem.viz.molecules import molecule_grid_png, molecule_grid_svg

FIVE = ["CCO", "c1ccccc1", "CC(=O)O", "CN", "C1CCCCC1"]


def size(svg: str) -> tuple[int, int]:
    root = ElementTree.fromstring(svg.encode("ascii"))
    return tuple(int(root.get(side).removesuffix("px")) for side in ("width", "height"))


# A panel is 240 x 200. Five molecules, four in a row: 4 * 240 wide, two rows high.
@pytest.mark.parametrize(
    ("count", "columns", "expected"),
    [(5, 4, (960, 400)), (5, 1, (240, 1000)), (2, 4, (480, 200)), (4, 4, (960, 200))],
)
def test_a_grid_is_as_large_as_its_panels(count, columns, expected):
    assert size(molecule_grid_svg(FIVE[:count], columns=columns)) == expected


def test_every_molecule_of_a_grid_is_drawn():
    # RDKit marks the bonds of the picture: CCO has two, CN one.
    def bonds(*smiles):
        return molecule_grid_svg(smiles).count("class='bond-")

    assert bonds("CCO") > 0
    assert bonds("CCO", "CN") > bonds("CCO")


def test_legends_are_drawn():
    plain, named = (molecule_grid_svg(["CCO"], legends) for legends in (None, ["ethanol"]))
    assert "class='legend'" not in plain
    assert "class='legend'" in named


def test_a_png_is_a_png():
    assert molecule_grid_png(["CCO"]).startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("smiles", "legends", "columns", "error", "reason"),
    [
        ([], None, 4, DataError, "no molecule to draw"),
        (["CCO", "C1CC"], None, 4, DataError, "'C1CC' is not a molecule"),
        (["CCO"], ["a", "b"], 4, DataError, "2 legends were given for 1"),
        (["CCO"], None, 0, ConfigError, "columns=0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_reason(smiles, legends, columns, error, reason):
    with pytest.raises(error, match=reason):
        molecule_grid_svg(smiles, legends, columns)


def test_a_system_that_cannot_draw_is_told_what_to_install(monkeypatch):
    # None makes Python raise ImportError, as a missing shared library does.
    monkeypatch.setitem(sys.modules, "rdkit.Chem.Draw", None)
    with pytest.raises(MissingLibraryError, match="apt-get install libxrender1"):
        molecule_grid_svg(["CCO"])
