"""Where the values of ``imadarem train --condition`` come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imadarem.cli.models import is_molecular
from imadarem.cli.settings import RunSettings
from imadarem.errors import ConfigError

if TYPE_CHECKING:
    from imadarem.data.prepare import PreparedData
    from imadarem.training.row_conditions import Source


LENGTH = "length"


def condition_sources(settings: RunSettings, data: PreparedData) -> dict[str, Source] | None:
    """Values of the conditions that a run names, or functions that give them; None without any.

    Args:
        settings: Of the run.
        data: Its rows.

    Raises:
        ConfigError: There is no such property or column.
        DataError: A column has no value for most molecules.
    """
    names = settings.data.get("condition")
    if not names:
        return None
    molecular = is_molecular(data.tokenizer)
    found: dict[str, Source] = {}
    for name in names:
        if name == LENGTH:
            found[name] = data.train.lengths.tolist()
        elif molecular and (function := property_of(name)) is not None:
            found[name] = function
        elif molecular and Path(settings.data["data"]).is_file():
            found[name] = _column(settings.data["data"], settings.data.get("column"), name)
        else:
            raise ConfigError(
                f"--condition {name} is no condition of this data. Legal are {LENGTH}"
                + (", properties of molecules and columns of a table." if molecular else ".")
            )
    return found


def property_of(name: str) -> Callable[[str], Any] | None:
    """A property of RDKit as a function of SMILES."""
    from imadarem.data.molecules import parse
    from imadarem.design.filters import PROPERTIES

    if name not in PROPERTIES:
        return None

    def value(smiles: str) -> float | None:
        molecule = parse(smiles)
        return None if molecule is None else float(PROPERTIES[name](molecule))

    return value


def _column(path: str, column: str | None, name: str) -> Callable[[str], Any]:
    """A column of a table of molecules as a function of SMILES; numbers where all are numbers."""
    from imadarem.data.molecule_files import Row, iter_rows
    from imadarem.data.molecules import canonical
    from imadarem.design.filters import PROPERTIES

    cells: dict[str, str] = {}
    for row in iter_rows(Path(path), column, Counter(), columns=True):
        if isinstance(row, Row):
            if name not in row.columns:
                raise ConfigError(
                    f"--condition {name} is neither a property nor a column of {path}. Properties "
                    f"are {', '.join(PROPERTIES)}; columns are {', '.join(row.columns) or 'none'}."
                )
            cells[canonical(row.smiles) or row.smiles] = str(row.columns[name] or "").strip()
    numbers = [_as_number(cell) for cell in cells.values() if cell]
    plain = None in numbers

    def value(smiles: str) -> Any:
        cell = cells.get(canonical(smiles) or smiles, "")
        return (cell if plain else _as_number(cell)) if cell else None

    return value


def _as_number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
