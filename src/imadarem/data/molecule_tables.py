"""Where the molecules stand in a table of text: its delimiter, its header, their column."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from imadarem.data.molecules import canonical, parse
from imadarem.errors import DataError, nearest

Line = tuple[int, str]

COLUMN_NAMES = (
    *("smiles", "canonicalsmiles", "isomericsmiles", "cxsmiles", "smilesstring"),
    *("ligandsmiles", "compoundsmiles", "moleculesmiles", "molsmiles", "drugsmiles"),
    *("smi", "structure", "structures", "molecule", "mol", "compound", "ligand", "drug"),
)
"""Names of the column with molecules, in lower case and without signs, the most specific first."""

#: The others also stand above numbers and names, so that their cells decide.
SURE = COLUMN_NAMES[: COLUMN_NAMES.index("smi")]
REACTIONS = re.compile("reaction|rxn|reactant|product")
#: Lines, and columns, that are read to find out where the molecules stand.
SAMPLE, MOST_COLUMNS = 20, 64
#: Files whose first row is a header unless it has a molecule.
TABLES = (".csv", ".tsv")
#: A hash sign before white space or before a word, not before a cell.
COMMENT = re.compile(r"#(\s|$|[^\s,;]+\s)")


@dataclass(frozen=True)
class Layout:
    """How a table is to be read.

    Attributes:
        delimiter: Between two cells; None: white space.
        header: The names of its columns; None where the first line is a row.
        columns: Columns with the molecules; where there are several, they must agree.
    """

    delimiter: str | None
    header: tuple[str, ...] | None
    columns: tuple[int, ...]


def table_rows(
    lines: Iterator[Line], path: Path, column: str | None, notes: Counter[str]
) -> Iterator[tuple[int, list[str], Layout]]:
    """``(line, cells, layout)`` for each row of a table, header, comments and blanks left out.

    Args:
        lines: The numbered lines of the file.
        path: Its name; in ``.csv`` and ``.tsv`` files the first row is a header.
        column: Name, or number from 1, of the column with molecules.
        notes: Counts ``blank`` lines, ``comment`` lines, and sets ``no_header``.

    Raises:
        DataError: No column has the molecules, or a quotation mark is never closed.
    """
    lines = _without_comments(lines, notes)
    head = list(islice(lines, SAMPLE + 2))
    if not head:
        raise DataError(f"{path} holds only blank lines.")
    given = re.fullmatch(r'"?sep=(.)"?', head[0][1].strip())
    if given:
        head = head[1:]
    layout = _layout(head, path, column, given[1] if given else None)
    rows = _records(chain(head, lines), layout, path)
    if layout.header is not None:
        next(rows, None)
    elif file_suffix(path) in TABLES:
        notes["no_header"] = 1
    for number, cells in rows:
        if any(cells):
            yield number, cells, layout
        else:
            notes["blank"] += 1


def file_suffix(path: Path) -> str:
    """The ending of a file's name in lower case, ``.gz`` left out."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _without_comments(lines: Iterator[Line], notes: Counter[str]) -> Iterator[Line]:
    """The lines that are rows, or a header even where it is written as a comment."""
    rows = 0
    for number, line in lines:
        text = line.strip()
        if not text:
            notes["blank"] += 1
        elif not rows and _is_marked_header(text):
            rows += 1
            yield number, text.removeprefix("#").lstrip()
        elif COMMENT.match(text):
            notes["comment"] += 1
        else:
            rows += 1
            yield number, line


def _is_marked_header(text: str) -> bool:
    """Whether a line that begins with # names the molecules in its first cell."""
    cells = re.split(r"[,;\t]", text.removeprefix("#"))
    if len(cells) == 1 and len(text.split()) <= 3:
        cells = text.removeprefix("#").split()
    return text.startswith("#") and bool(cells) and _plain(cells[0]) in SURE


# --- the layout


def _layout(head: Sequence[Line], path: Path, column: str | None, given: str | None) -> Layout:
    """The delimiter by which the most rows of the sample have a molecule in one column."""
    first = head[0][1]
    if given:
        delimiters: list[str | None] = [given]
    elif file_suffix(path) in TABLES:
        delimiters = [max(",;\t|", key=first.count)]
    else:
        delimiters = ["\t", None, ",", ";"]
    found = []
    for delimiter in delimiters:
        rows = [_cells(line, delimiter) for _, line in head[: SAMPLE + 1]]
        if delimiter is None or len(delimiters) == 1 or any(len(row) > 1 for row in rows):
            counts = _molecule_counts(rows)
            found.append((max(counts, default=0), delimiter, rows, counts))
    # White space where nothing is a molecule: the first word of a line is a bad one.
    best = max(found, key=lambda item: (item[0], item[0] == 0 and item[1] is None))
    _, delimiter, rows, counts = best
    return _columns(rows, counts, delimiter, path, column)


def _columns(
    rows: list[list[str]],
    counts: list[int],
    delimiter: str | None,
    path: Path,
    column: str | None,
) -> Layout:
    header, table = tuple(rows[0]), file_suffix(path) in TABLES
    if column is not None:
        return Layout(delimiter, *_chosen(header, column, path, rows))
    named = named_columns(header, counts)
    if named:
        return Layout(delimiter, header, named)
    likely = max(range(len(counts)), key=counts.__getitem__) if counts else 0
    cell = header[likely] if likely < len(header) else ""
    if not table or (counts[likely] and parse(molecule_text(cell)) is not None):
        return Layout(delimiter, None, (likely if counts[likely] else 0,))
    if len(header) == 1:
        return Layout(delimiter, header, (0,))
    hint = nearest("smiles", [name.lower() for name in header])
    looks = f" The column {header[likely]!r} looks like molecules." if counts[likely] else hint
    raise DataError(
        f"{path} has no column called smiles or a usual name like it.{looks} Its columns are: "
        f"{', '.join(header)}. Name the one with molecules, as in --column {header[likely]!r}; a "
        "table without a header row needs one."
    )


def _chosen(
    header: tuple[str, ...], column: str, path: Path, rows: list[list[str]]
) -> tuple[tuple[str, ...] | None, tuple[int, ...]]:
    """The header, None where there is none, and the columns that the user named."""
    if column in header:
        return header, tuple(i for i, name in enumerate(header) if name == column)
    number = int(column) - 1 if column.isdecimal() else -1
    if 0 <= number < len(header):
        without = any(parse(molecule_text(cell)) is not None for cell in header)
        return (None if without else header), (number,)
    raise unknown_column(header, column, path)


def unknown_column(header: Sequence[str], column: str, path: Path) -> DataError:
    """The error that a table has no such column, with the nearest of its columns."""
    spelling = {name.lower(): name for name in header}
    hint = nearest(column.lower(), spelling)
    hint = re.sub(r'"(.*)"', lambda found: f'"{spelling[found[1]]}"', hint)
    return DataError(
        f"{path} has no column {column!r}{hint}. Its columns are: {', '.join(header)}."
    )


def named_columns(header: Sequence[str], counts: Sequence[int]) -> tuple[int, ...]:
    """The columns whose name says that they hold molecules; empty where none does.

    Args:
        header: The names.
        counts: Molecules that each column has in a sample of the rows.
    """
    plain = [_plain(name) for name in header]
    for wanted in SURE:
        if wanted in plain:
            return tuple(i for i, name in enumerate(plain) if name == wanted)
    for i, name in enumerate(plain):
        if "smiles" in name and not REACTIONS.search(name):
            return (i,)
    for wanted in COLUMN_NAMES[len(SURE) :]:
        found = tuple(i for i, name in enumerate(plain) if name == wanted)
        if any(i < len(counts) and counts[i] for i in found):
            return found
    return ()


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _cells(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _molecule_counts(rows: Sequence[Sequence[str]]) -> list[int]:
    """How many rows have a molecule in each column."""
    width = min(max(map(len, rows)), MOST_COLUMNS)
    return [
        sum(i < len(row) and parse(molecule_text(row[i])) is not None for row in rows)
        for i in range(width)
    ]


def molecule_text(cell: str) -> str:
    """The SMILES of a cell: what stands before a CXSMILES extension, ``|…|``."""
    smiles, _, rest = cell.strip().partition(" ")
    return smiles if rest.lstrip().startswith("|") else cell.strip()


# --- the rows


def _records(lines: Iterator[Line], layout: Layout, path: Path) -> Iterator[tuple[int, list[str]]]:
    """``(number of its first line, stripped cells)`` for each row."""
    if layout.delimiter is None:
        for number, line in lines:
            yield number, line.split()
        return
    taken: list[Line] = []

    def text() -> Iterator[str]:
        for number, line in lines:
            taken.append((number, line))
            yield f"{line}\n"

    reader = csv.reader(text(), delimiter=layout.delimiter)
    while True:
        taken.clear()
        try:
            cells = next(reader, None)
        except csv.Error:  # a cell of more than 131,072 characters
            raise _unclosed(path, taken[0]) from None
        if cells is None:
            return
        if len(taken) > 1 or taken[0][1].count('"') % 2:
            _check_quotes(taken, layout, path)
        yield taken[0][0], [cell.strip() for cell in cells]


def _check_quotes(taken: Sequence[Line], layout: Layout, path: Path) -> None:
    """Refuse a row whose quotation mark is never closed, or swallows other rows."""
    assert layout.delimiter is not None
    text = (f"{line}\n" for _, line in taken)
    try:
        list(csv.reader(text, delimiter=layout.delimiter, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise _unclosed(path, taken[0]) from None
    for _, line in taken[1:]:
        cells = _cells(line, layout.delimiter)
        if any(i < len(cells) and parse(cells[i]) is not None for i in layout.columns):
            raise _unclosed(path, taken[0])


def _unclosed(path: Path, opening: Line) -> DataError:
    number, line = opening
    return DataError(
        f"{path}, line {number}: a quotation mark is never closed: {line[:60]!r}. Remove it, or "
        "write it twice."
    )


def agreeing_text(cells: Sequence[str], layout: Layout, number: int, path: Path) -> str:
    """The molecule of a row, as the columns that have it agree.

    Raises:
        DataError: Two columns of one name have different molecules.
    """
    texts = [cells[i] for i in layout.columns if i < len(cells) and cells[i]]
    if len(set(texts)) > 1 and len({canonical(molecule_text(text)) for text in texts}) > 1:
        assert layout.header is not None
        name = layout.header[layout.columns[0]]
        raise DataError(
            f"{path} has {len(layout.columns)} columns called {name!r} in some spelling, and they "
            f"differ on line {number}: {' and '.join(map(repr, texts))}. Rename all but one."
        )
    return texts[0] if texts else ""
