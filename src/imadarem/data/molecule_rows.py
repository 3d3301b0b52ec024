"""Molecules with their other columns: from a file, a list or a DataFrame, and back."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imadarem.data.molecule_files import MOLFILES, PARQUET, TEXTS, RejectedLine, iter_rows
from imadarem.data.molecule_tables import file_suffix, named_columns, unknown_column
from imadarem.data.molecules import parse, parse_error
from imadarem.errors import ConfigError, DataError, MissingExtraError
from imadarem.files import write_bytes, write_text

FORMATS = (".smi", ".csv", ".tsv", ".sdf", ".sdf.gz", ".parquet", ".png", ".svg")
"""Endings of the files that :func:`write_rows` writes."""

PICTURED = 100
"""Molecules in a picture; more would be too small to see."""

#: Columns that a picture shows below a molecule, where there are any of each group.
LEGENDS = (("id", "name", "ID", "Name"), ("score", "similarity"))

Rows = Sequence[Mapping[str, Any]]


def is_file(text: str) -> bool:
    """Whether a text names a file of molecules rather than being one."""
    suffix = file_suffix(Path(text))
    return suffix in (*TEXTS, *MOLFILES, *PARQUET) and parse(text) is None


def read_rows(
    source: str | Path | Iterable[str] | Any, *, column: str | None = None
) -> tuple[list[dict[str, Any]], list[RejectedLine]]:
    """Rows of molecules, ``smiles`` first and every other column behind it.

    Args:
        source: A file as :func:`~imadarem.data.molecule_files.read_smiles` reads it, a list of
            SMILES, or a ``pandas.DataFrame``.
        column: Name of the column with SMILES; default: by its name.

    Returns:
        The rows, and what is no molecule.

    Raises:
        DataError: There is no molecule, or no such column or file.
    """
    rows: list[dict[str, Any]] = []
    rejected: list[RejectedLine] = []
    if isinstance(source, str | Path):
        for item in iter_rows(Path(source), column, Counter(), columns=True):
            if isinstance(item, RejectedLine):
                rejected.append(item)
            else:
                rows.append({"smiles": item.smiles, **item.columns})
    else:
        frame = source if hasattr(source, "columns") else None
        given = _frame_rows(frame, column) if frame is not None else [{"smiles": s} for s in source]
        for number, row in enumerate(given, start=1):
            text = str(row["smiles"])
            if parse(text) is None:
                rejected.append(RejectedLine(number, text, parse_error(text)))
            else:
                rows.append(row)
    if not rows:
        first = f" The first: {rejected[0].text[:60]!r}: {rejected[0].reason}." if rejected else ""
        raise DataError(f"there is no molecule in what was given.{first}")
    return rows, rejected


def write_rows(rows: Rows, path: Path) -> int:
    """Write molecules in the format of a file's ending; see :data:`FORMATS`.

    A ``.smi`` file has a SMILES and its ``id``, where it has one, on each line; an SDF file has
    coordinates in the plane and the columns as properties; a picture has the first molecules.

    Args:
        rows: ``smiles`` and any other columns; None is an empty cell.
        path: The file.

    Returns:
        How many molecules were written.

    Raises:
        ConfigError: The ending is no known one.
        DataError: There is no molecule for a picture.
        MissingLibraryError: RDKit cannot draw on this system.
    """
    ending = ".sdf.gz" if path.name.endswith(".sdf.gz") else path.suffix
    if ending not in FORMATS:
        raise ConfigError(f"{path} must end in one of {', '.join(FORMATS)}.")
    if ending in (".png", ".svg"):
        return _picture(rows[:PICTURED], path)
    if ending == ".smi":
        lines = (f"{row['smiles']} {row.get('id') or ''}".rstrip() for row in rows)
        write_text("".join(f"{line}\n" for line in lines), path)
    elif ending in (".csv", ".tsv"):
        write_text(_table(rows, "," if ending == ".csv" else "\t"), path)
    elif ending == ".parquet":
        write_bytes(_parquet(rows), path)
    else:
        text = _sdf(rows).encode()
        write_bytes(gzip.compress(text) if ending == ".sdf.gz" else text, path)
    return len(rows)


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(rows: Rows, delimiter: str) -> str:
    buffer = io.StringIO()
    names = _names(rows) or ["smiles"]
    writer = csv.DictWriter(buffer, names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _parquet(rows: Rows) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "mol") from None
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), buffer)
    return buffer.getvalue()


def _sdf(rows: Rows) -> str:
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    buffer = io.StringIO()
    writer = Chem.SDWriter(buffer)
    for row in rows:
        molecule = parse(row["smiles"])
        assert molecule is not None
        rdDepictor.Compute2DCoords(molecule)
        molecule.SetProp("_Name", str(row.get("id") or ""))
        for name, value in row.items():
            if value is not None and name != "id":
                molecule.SetProp(name, str(value))
        writer.write(molecule)
    writer.close()
    return buffer.getvalue()


def _picture(rows: Rows, path: Path) -> int:
    from imadarem.viz.molecules import molecule_grid_png, molecule_grid_svg

    smiles, legends = [row["smiles"] for row in rows], [_legend(row) for row in rows]
    if path.suffix == ".svg":
        write_text(molecule_grid_svg(smiles, legends), path)
    else:
        write_bytes(molecule_grid_png(smiles, legends), path)
    return len(rows)


def _legend(row: Mapping[str, Any]) -> str:
    found = [next((row[n] for n in names if row.get(n) is not None), None) for names in LEGENDS]
    shown = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in found if v is not None]
    return "  ".join(shown)


def _frame_rows(frame: Any, column: str | None) -> list[dict[str, Any]]:
    names = [str(name) for name in frame.columns]
    if column is not None and column not in names:
        raise unknown_column(names, column, Path("the table"))
    found = (names.index(column),) if column else named_columns(names, [1] * len(names))
    if not found:
        raise DataError(
            f"the table has no column called smiles or a usual name like it. Its columns are: "
            f"{', '.join(names)}. Name the one with molecules, as column=..."
        )
    rows = []
    for record in frame.to_dict("records"):
        cells = dict(zip(names, record.values(), strict=True))
        rows.append({"smiles": cells.pop(names[found[0]]), **cells})
    return rows
