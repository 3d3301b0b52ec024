"""Grids of molecules as pictures, drawn by RDKit.

RDKit's drawing code loads X11 libraries even where no screen is used. Servers and slim
containers often lack them; the error then says how to install them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imadarem.data.molecules import parse
from imadarem.errors import ConfigError, DataError, MissingExtraError, MissingLibraryError

#: Width and height of one molecule, in pixels.
PANEL = (240, 200)


def molecule_grid_svg(
    smiles: Sequence[str], legends: Sequence[str] | None = None, columns: int = 4
) -> str:
    """Molecules in rows of ``columns``, as the text of an SVG file.

    Args:
        smiles: The molecules, at least one.
        legends: A line under each; default none.
        columns: Molecules in a row, at least 1.

    Raises:
        DataError: There is no molecule, a string is none, or the legends do not fit.
        ConfigError: ``columns`` is below 1.
        MissingExtraError: RDKit is not installed.
        MissingLibraryError: RDKit cannot draw on this system.
    """
    drawing = _drawing()
    return _drawn(drawing.MolDraw2DSVG, smiles, legends, columns)


def molecule_grid_png(
    smiles: Sequence[str], legends: Sequence[str] | None = None, columns: int = 4
) -> bytes:
    """The same picture as the bytes of a PNG file; arguments and errors are the same."""
    drawing = _drawing()
    if not hasattr(drawing, "MolDraw2DCairo"):
        raise MissingLibraryError("this RDKit was built without Cairo, so it draws no PNG.")
    return _drawn(drawing.MolDraw2DCairo, smiles, legends, columns)


def _drawn(kind: Any, smiles: Sequence[str], legends: Sequence[str] | None, columns: int) -> Any:
    molecules = [_molecule(text) for text in smiles]
    if not molecules:
        raise DataError("there is no molecule to draw; give at least one.")
    if columns < 1:
        raise ConfigError(f"columns={columns} must be at least 1.")
    if legends is not None and len(legends) != len(molecules):
        raise DataError(
            f"{len(legends)} legends were given for {len(molecules)} molecules; give one each."
        )
    across = min(columns, len(molecules))
    down = -(-len(molecules) // across)
    canvas = kind(across * PANEL[0], down * PANEL[1], *PANEL)
    canvas.DrawMolecules(molecules, legends=list(legends or [""] * len(molecules)))
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _molecule(text: str) -> Any:
    molecule = parse(text)
    if molecule is None:
        raise DataError(f"{text!r} is not a molecule, so it cannot be drawn. Leave it out.")
    return molecule


def _drawing() -> Any:
    """RDKit's drawing module, or the reason why it cannot be had."""
    try:
        import rdkit  # noqa: F401
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
    try:
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        raise MissingLibraryError(
            f"RDKit cannot draw on this system: {error}. Everything else works without. On "
            "Debian or Ubuntu: apt-get install libxrender1 libxext6 libexpat1"
        ) from None
    return rdMolDraw2D
