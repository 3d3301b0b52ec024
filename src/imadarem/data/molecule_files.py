"""Files of molecules: any user's file in, accepted SMILES and rejected lines out.

Nothing is repaired and nothing is left out silently: a molecule that RDKit cannot read becomes
a :class:`RejectedLine` with its number and RDKit's reason. Salts, isotopes, charges and
stereo marks are kept exactly as written and counted.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imadarem.data.molecule_tables import (
    Layout,
    agreeing_text,
    file_suffix,
    molecule_text,
    named_columns,
    table_rows,
    unknown_column,
)
from imadarem.data.molecules import parse, parse_error, rdkit_reason
from imadarem.data.text import is_utf8, iter_lines, open_binary
from imadarem.errors import DataError, MissingExtraError

TEXTS = (".smi", ".smiles", ".ism", ".can", ".cxsmiles", ".txt", ".csv", ".tsv")
MOLFILES = (".sdf", ".sd", ".mol")
PARQUET = (".parquet", ".pq")

MOST_IN_MEMORY = 5_000_000
"""Molecules of a file that are read without saying how many are wanted."""

MOST_REJECTED = 1_000_000
"""Lines that may be no molecules before the file is refused."""

#: What a chemist should know about a molecule, by name, and how it shows in SMILES.
FEATURES = {
    "multi_fragment": re.compile(r"\."),
    "isotope": re.compile(r"\[\d"),
    "charge": re.compile(r"\[[^]]*[+-]"),
    "stereo": re.compile(r"[@/\\]"),
    "atom_map": re.compile(r"\[[^]]*:\d"),
    "wildcard": re.compile(r"\*"),
}


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that is kept out.

    Attributes:
        line: Number of the line in the file, from 1; of the record in an SDF file, of the row
            in a Parquet file. 0 where it is unknown.
        text: What stood where the molecule was expected.
        reason: Why it is no molecule, in RDKit's words where RDKit refused it.
    """

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A molecule of a file with what stands beside it.

    Attributes:
        line: As in :class:`RejectedLine`.
        smiles: The molecule as it is written.
        columns: Name → the other cells, where they were asked for.
    """

    line: int
    smiles: str
    columns: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoleculeFile:
    """What :func:`read_smiles` found.

    Attributes:
        smiles: Accepted molecules in the order of the file, duplicates included: as written
            in a file of text or Parquet, as RDKit writes them from an SDF file.
        rejected: Every line that is not a molecule.
        notes: Accepted molecules that have ``multi_fragment`` (salts, mixtures),
            ``isotope``, ``charge`` (a charged atom), ``stereo``, ``atom_map`` or
            ``wildcard``. All of them are kept as written. Also ``blank`` lines, ``comment``
            lines, ``cx_extension`` cells (what stands between ``|`` behind the SMILES is
            left out), ``no_header`` = 1 when a table starts with a molecule, and ``latin1``
            = 1 when a file of text is not UTF-8. Only counts above zero are present.
    """

    smiles: list[str]
    rejected: list[RejectedLine]
    notes: dict[str, int] = field(default_factory=dict)


def read_smiles(
    path: str | Path, *, column: str | None = None, most: int | None = None, seed: int = 0
) -> MoleculeFile:
    """Read the molecules of a file, all of them or as many as are wanted.

    Args:
        path: SMILES as text (``.smi``, ``.smiles``, ``.ism``, ``.can``, ``.cxsmiles``,
            ``.txt``, ``.csv``, ``.tsv``), molfiles (``.sdf``, ``.sd``, ``.mol``), each also
            gzipped, or Parquet (``.parquet``). Text may have a header, an identifier before
            the SMILES, ``#`` comments and a ``sep=;`` line, and be UTF-8, UTF-16 or Latin-1.
        column: Name of the column with SMILES, or its number from 1. Default: by its name
            (``smiles``, ``canonical_smiles``, ``Ligand SMILES``, ``Structure``, …), in files
            without a header by its cells.
        most: Keep so many molecules, each as likely as any other, in the order of the file;
            memory is then that of ``most`` molecules, however large the file. None keeps all.
        seed: Of that draw.

    Raises:
        DataError: The file or column is missing, the file is empty or in no such format, or
            not one line is a molecule; it holds more than 5 million molecules and ``most``
            is None, or more than a million lines that are none; a quotation mark is never
            closed; columns of one name have different molecules.
        MissingExtraError: RDKit, or pyarrow for a Parquet file, is not installed.
    """
    notes: Counter[str] = Counter()
    smiles: list[str] = []
    rejected: list[RejectedLine] = []
    draw, read = random.Random(seed), 0
    # Algorithm R: the k-th molecule replaces a kept one with probability most / k.
    places: list[int] = []
    for item in _checked(Path(path), column, notes):
        if isinstance(item, RejectedLine):
            if len(rejected) == MOST_REJECTED:
                raise _too_many_rejected(path, read, rejected)
            rejected.append(item)
            continue
        notes.update(_features(item))
        read += 1
        if most is None and read > MOST_IN_MEMORY:
            raise DataError(
                f"{path} holds more than {MOST_IN_MEMORY:,} molecules, more than are read at once. "
                "Say how many of them to draw, such as rows=1000000 (--rows)."
            )
        if most is None:
            smiles.append(item)
        elif len(smiles) < most:
            smiles.append(item)
            places.append(read)
        elif (place := draw.randrange(read)) < most:
            smiles[place], places[place] = item, read
    if most is not None:
        smiles = [text for _, text in sorted(zip(places, smiles, strict=True))]
    if not smiles:
        raise DataError(f"{path} holds no molecule.{_first_reasons(rejected)}")
    return MoleculeFile(smiles=smiles, rejected=rejected, notes=dict(+notes))


def feature_counts(smiles: Iterable[str]) -> Counter[str]:
    """How many molecules have each feature of :attr:`MoleculeFile.notes`, by name."""
    return Counter(name for text in smiles for name in _features(text))


def _features(smiles: str) -> list[str]:
    return [name for name, pattern in FEATURES.items() if pattern.search(smiles)]


def iter_smiles(path: str | Path, column: str | None = None) -> Iterator[str | RejectedLine]:
    """Walk a file of any size: accepted SMILES as written, or a :class:`RejectedLine`.

    Memory is that of one line. Arguments and errors are those of :func:`read_smiles`,
    except that a file without one good line yields its rejected lines and ends.
    """
    return _checked(Path(path), column, Counter())


def _too_many_rejected(path: str | Path, read: int, rejected: list[RejectedLine]) -> DataError:
    return DataError(
        f"more than {MOST_REJECTED:,} lines of {path} are no molecules, beside {read:,} that "
        f"are.{_first_reasons(rejected)} Is this the right file and column?"
    )


def _first_reasons(rejected: list[RejectedLine]) -> str:
    shown = [f" Line {r.line}: {r.text[:60]!r}: {r.reason}." for r in rejected[:3]]
    return "".join(shown) or " It holds only blank lines or a header."


# --- from cells to molecules


def _checked(path: Path, column: str | None, notes: Counter[str]) -> Iterator[str | RejectedLine]:
    for item in iter_rows(path, column, notes):
        yield item if isinstance(item, RejectedLine) else item.smiles


def iter_rows(
    path: Path, column: str | None, notes: Counter[str], *, columns: bool = False
) -> Iterator[Row | RejectedLine]:
    """Each row of a file, its molecule checked.

    Args:
        path: The file.
        column: As in :func:`read_smiles`.
        notes: Counts what :attr:`MoleculeFile.notes` says of a file of text.
        columns: Also read the other columns.
    """
    for item in _cells(path, column, notes, columns):
        if isinstance(item, RejectedLine):
            yield item
            continue
        text = molecule_text(item.smiles)
        if parse(text) is None:
            yield RejectedLine(item.line, text, parse_error(text))
        else:
            notes["cx_extension"] += text != item.smiles.strip()
            yield replace(item, smiles=text)


def _cells(
    path: Path, column: str | None, notes: Counter[str], columns: bool
) -> Iterator[Row | RejectedLine]:
    """The cell with the molecule of each row that has one."""
    suffix = file_suffix(path)
    if suffix in TEXTS or not path.is_file():
        return _text_cells(path, column, notes, columns)
    if suffix in PARQUET:
        return _parquet_cells(path, column, columns)
    if suffix not in MOLFILES:
        raise DataError(
            f"{path} is not a file of molecules by its name. Legal endings: "
            f"{', '.join(TEXTS + MOLFILES)}, each also with .gz, and {', '.join(PARQUET)}."
        )
    if column is not None:
        raise DataError(f"{path} has no columns to choose {column!r} from: leave the column out.")
    return _molfile_cells(path, columns)


def _text_cells(
    path: Path, column: str | None, notes: Counter[str], columns: bool
) -> Iterator[Row | RejectedLine]:
    encoding = None
    if not is_utf8(path):
        notes["latin1"] = 1
        encoding = "latin-1"
    lines = iter_lines(path, encoding=encoding)
    for number, cells, layout in table_rows(lines, path, column, notes):
        text = agreeing_text(cells, layout, number, path)
        if text:
            # Behind white space, a CXSMILES extension is a cell of its own.
            behind = cells[layout.columns[0] + 1 :] if layout.delimiter is None else []
            text = " ".join([text, *(behind if behind[:1] and behind[0][0] == "|" else [])])
            yield Row(number, text, _other_cells(cells, layout) if columns else {})
        elif layout.columns[0] < len(cells):
            yield RejectedLine(number, ",".join(cells), "empty cell")
        else:
            width = layout.columns[0] + 1 if layout.header is None else len(layout.header)
            reason = f"short row: {len(cells)} of {width} columns"
            yield RejectedLine(number, ",".join(cells), reason)


def _other_cells(cells: Sequence[str], layout: Layout) -> dict[str, str]:
    """The cells beside the molecule; without a header the first is ``id``."""
    places = [i for i in range(len(cells)) if i not in layout.columns]
    names = layout.header or {i: "id" if i == places[0] else f"column_{i + 1}" for i in places}
    return {names[i]: cells[i] for i in places if layout.header is None or i < len(layout.header)}


def _molfile_cells(path: Path, columns: bool) -> Iterator[Row | RejectedLine]:
    """SMILES of the records of an SDF file, as RDKit writes them."""
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
    number = 0
    with open_binary(path) as file:
        records = Chem.ForwardSDMolSupplier(file)
        while not records.atEnd():
            number += 1
            try:
                with rdBase.CaptureErrorLog() as log:
                    molecule = next(records)
            except StopIteration:
                return
            # RDKit wraps what the file raises, as a damaged gzip file does.
            except (RuntimeError, SystemError) as error:
                reason = error.__cause__ or error.__context__ or error
                raise DataError(f"{path} is damaged at record {number}: {reason}.") from None
            if molecule is None:
                reason = rdkit_reason(log.messages) or "RDKit cannot read it"
                yield RejectedLine(number, f"record {number}", reason)
            elif not molecule.GetNumAtoms():
                yield RejectedLine(number, f"record {number}", "no atoms")
            else:
                others = molecule.GetPropsAsDict() if columns else {}
                if columns and molecule.HasProp("_Name") and molecule.GetProp("_Name"):
                    others = {"id": molecule.GetProp("_Name"), **others}
                yield Row(number, Chem.MolToSmiles(molecule), others)


def _parquet_cells(path: Path, column: str | None, columns: bool) -> Iterator[Row | RejectedLine]:
    """The rows, batch by batch; of them only the column with molecules unless all are wanted."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "mol") from None
    try:
        file = parquet.ParquetFile(path)
        name = _parquet_column(file, column, path)
        number = 0
        for batch in file.iter_batches(columns=None if columns else [name]):
            for cells in batch.to_pylist():
                number += 1
                if cell := cells.pop(name):
                    yield Row(number, cell, cells)
                else:
                    yield RejectedLine(number, "", "empty cell")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}.") from None


def _parquet_column(file: Any, column: str | None, path: Path) -> str:
    """The name of the column with molecules."""
    import pyarrow

    schema = file.schema_arrow
    texts = [
        field.name
        for field in schema
        if pyarrow.types.is_string(field.type) or pyarrow.types.is_large_string(field.type)
    ]
    if column is not None and column not in schema.names:
        raise unknown_column(schema.names, column, path)
    if column is not None and column not in texts:
        raise DataError(
            f"the column {column!r} of {path} holds {schema.field(column).type}, not text."
        )
    found = named_columns(texts, [1] * len(texts))
    if column is not None or found or len(texts) == 1:
        return column or texts[found[0] if found else 0]
    raise DataError(
        f"{path} has no column of text called smiles or a usual name like it. Its columns are: "
        f"{', '.join(schema.names)}. Name the one with molecules (--column)."
    )
