"""Molecules as SMILES: any user's file in, accepted strings and rejected lines out.

Nothing is repaired and nothing vanishes: a molecule that RDKit cannot read becomes a
:class:`RejectedLine` with its number and RDKit's reason. Salts, isotopes, charges and
stereo marks are kept exactly as written and counted.
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from imadarem.data.text import iter_lines
from imadarem.errors import ConfigError, DataError, MissingExtraError, nearest

__all__ = [
    "MoleculeFile",
    "RejectedLine",
    "Split",
    "canonical",
    "iter_smiles",
    "parse",
    "read_smiles",
    "split",
    "why_refused",
]

COLUMN_NAMES = ("smiles", "canonical_smiles")
"""Column names taken without being asked for, compared without case, in this order."""

SUFFIXES = (".smi", ".smiles", ".txt", ".csv", ".tsv")
"""File names that are understood, each also with ``.gz`` behind it."""

MOST_IN_MEMORY = 5_000_000
"""Molecules of a file that are read without saying how many are wanted."""

MOST_REJECTED = 1_000_000
"""Lines that may be no molecules before the file is refused."""

_NOTES = {
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
        line: Number of the line in the file, from 1.
        text: What stood where the molecule was expected.
        reason: Why it is no molecule, in RDKit's words where RDKit refused it.
    """

    line: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoleculeFile:
    """What :func:`read_smiles` found.

    Attributes:
        smiles: Accepted molecules as written in the file, in its order, duplicates included.
        rejected: Every line that is not a molecule.
        notes: Accepted molecules that have ``multi_fragment`` (salts, mixtures),
            ``isotope``, ``charge`` (a charged atom), ``stereo``, ``atom_map`` or
            ``wildcard``. All of them are kept as written. Also ``blank`` lines,
            ``cx_extension`` lines of a ``.smi`` file (what stands between ``|`` behind
            the SMILES is left out), and ``no_header`` = 1 when a one-column table starts
            with a molecule. Only counts above zero are present.
    """

    smiles: list[str]
    rejected: list[RejectedLine]
    notes: dict[str, int] = field(default_factory=dict)


class Split(NamedTuple):
    """Two disjoint parts, each in the order of the input."""

    train: list[str]
    valid: list[str]


def read_smiles(
    path: str | Path, *, column: str | None = None, most: int | None = None, seed: int = 0
) -> MoleculeFile:
    """Read the molecules of a file, all of them or as many as are wanted.

    Args:
        path: ``.smi``/``.smiles``/``.txt`` (the first field of each line; a first line
            that says ``SMILES`` is a header) or ``.csv``/``.tsv`` with a header row;
            each also gzipped.
        column: Name of the column with SMILES. Default: ``smiles`` or
            ``canonical_smiles`` in any case, else the only column.
        most: Keep so many molecules, each as likely as any other, in the order of the file;
            memory is then that of ``most`` molecules, however large the file. None keeps all.
        seed: Of that draw.

    Raises:
        DataError: The file or column is missing, the file is empty or not text, or not
            one line is a molecule; it holds more than 5 million molecules and ``most`` is
            None, or more than a million lines that are none.
        MissingExtraError: RDKit is not installed.
    """
    notes: Counter[str] = Counter()
    smiles: list[str] = []
    rejected: list[RejectedLine] = []
    draw, read = random.Random(seed), 0
    # Algorithm R: the k-th molecule replaces a kept one with probability most / k.
    places: list[int] = []
    for item in _checked(path, column, notes):
        if isinstance(item, RejectedLine):
            if len(rejected) == MOST_REJECTED:
                raise DataError(
                    f"more than {MOST_REJECTED:,} lines of {path} are no molecules, beside "
                    f"{read:,} that are.{_first_reasons(rejected)} Is this the right file and "
                    "column?"
                )
            rejected.append(item)
            continue
        notes.update(name for name, pattern in _NOTES.items() if pattern.search(item))
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


def iter_smiles(path: str | Path, column: str | None = None) -> Iterator[str | RejectedLine]:
    """Walk a file of any size: accepted SMILES as written, or a :class:`RejectedLine`.

    Memory is that of one line. Arguments and errors are those of :func:`read_smiles`,
    except that a file without one good line yields its rejected lines and ends.
    """
    return _checked(path, column, Counter())


def canonical(smiles: str) -> str | None:
    """RDKit's canonical SMILES with stereo and isotopes; ``None`` if it is no molecule."""
    molecule = parse(smiles)
    return None if molecule is None else _chem().MolToSmiles(molecule)


def parse(smiles: str) -> Any | None:
    """A sanitised RDKit molecule, or ``None``; nothing is printed.

    The empty string, white space and letters beyond ASCII make no molecule here, though
    RDKit would read zero atoms, cut at the space, and skip the letters.
    """
    if len(smiles.split()) != 1 or not smiles.isascii():
        return None
    chem = _chem()
    from rdkit import rdBase

    with rdBase.BlockLogs():
        return chem.MolFromSmiles(smiles)


def split(
    smiles: Sequence[str],
    *,
    seed: int = 0,
    valid_fraction: float = 0.1,
    notes: Counter[str] | None = None,
) -> Split:
    """Split molecules so that copies of one molecule never fall on both sides.

    The side depends only on the seed and the canonical form, not on the order or on the
    other molecules: a molecule keeps its side when the file grows.

    Args:
        smiles: Molecules, in any notation; returned as given.
        seed: Chooses another split.
        valid_fraction: Expected share of distinct molecules in ``valid``, in [0, 1).
        notes: Counts under ``duplicate`` the molecules that had occurred before, however
            they were written; they are kept.

    Raises:
        ConfigError: ``valid_fraction`` is out of range.
        DataError: A string is no molecule; :func:`read_smiles` keeps those out.
    """
    if not 0 <= valid_fraction < 1:
        raise ConfigError(f"valid_fraction is {valid_fraction}; it must be in [0, 1).")
    parts = Split([], [])
    seen: set[float] = set()
    for text in smiles:
        form = canonical(text)
        if form is None:
            raise DataError(f"{text!r} is not a molecule. Read files with read_smiles first.")
        place = _uniform(form, seed)
        side = parts.valid if place < valid_fraction else parts.train
        side.append(text)
        if notes is not None:
            notes["duplicate"] += place in seen
            seen.add(place)
    if notes is not None and not notes["duplicate"]:
        del notes["duplicate"]
    return parts


def _uniform(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the text and the seed."""
    digest = blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


# --- from lines to molecules


def _checked(
    path: str | Path, column: str | None, notes: Counter[str]
) -> Iterator[str | RejectedLine]:
    for item in _fields(Path(path), column, notes):
        if isinstance(item, RejectedLine):
            yield item
            continue
        number, text = item
        if parse(text) is None:
            yield RejectedLine(number, text, why_refused(text))
        else:
            yield text


def why_refused(smiles: str) -> str:
    """Why :func:`parse` refuses a SMILES, in RDKit's words where they are RDKit's, on one line."""
    if len(smiles.split()) != 1:
        return "white space inside the SMILES"
    if not smiles.isascii():
        strange = next(letter for letter in smiles if not letter.isascii())
        return f"{strange!r} occurs in no SMILES"
    chem = _chem()
    from rdkit import rdBase

    with rdBase.CaptureErrorLog() as log:
        chem.MolFromSmiles(smiles)
    stamp = re.compile(r"^\[[\d:]+\] (SMILES Parse Error: )?")
    messages = [stamp.sub("", line) for line in log.messages.split("\n")]
    reason = re.split(r" while parsing: | for input: ", messages[0])[0]
    where = next((m for m in messages if m.startswith("check for mistakes around")), "")
    place = where.removeprefix("check for mistakes around ").rstrip(":")
    return f"{reason} around {place}" if place else reason or "not a SMILES that RDKit can read"


def _first_reasons(rejected: list[RejectedLine]) -> str:
    shown = [f" Line {r.line}: {r.text[:60]!r}: {r.reason}." for r in rejected[:3]]
    return "".join(shown) or " It holds only blank lines or a header."


# --- from files to fields


def _fields(
    path: Path, column: str | None, notes: Counter[str]
) -> Iterator[tuple[int, str] | RejectedLine]:
    """``(line, text of the SMILES field)`` of each line that has one."""
    suffix = _suffix(path)
    if suffix in (".csv", ".tsv"):
        return _table_fields(path, suffix, column, notes)
    if column is not None:
        raise DataError(
            f"{path} has no columns to choose {column!r} from: in {suffix} files the first "
            "field of a line is the molecule. Leave out the column, or give a .csv or .tsv file."
        )
    return _line_fields(path, notes)


def _suffix(path: Path) -> str:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in SUFFIXES and path.is_file():
        raise DataError(
            f"{path} is not a file of molecules by its name. Legal endings: "
            f"{', '.join(SUFFIXES)}, each also with .gz."
        )
    return suffix


def _line_fields(path: Path, notes: Counter[str]) -> Iterator[tuple[int, str]]:
    for number, line in iter_lines(path):
        words = line.split(maxsplit=1)
        if not words:
            notes["blank"] += 1
        elif not (number == 1 and words[0].lower() in COLUMN_NAMES):
            # CXSMILES: RDKit's extras, such as enhanced stereo, stand between bars.
            notes["cx_extension"] += len(words) > 1 and words[1].startswith("|")
            yield number, words[0]


def _table_fields(
    path: Path, suffix: str, column: str | None, notes: Counter[str]
) -> Iterator[tuple[int, str] | RejectedLine]:
    rows = _rows(path, suffix, notes)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} holds only blank lines. Give a table with a header row.")
    number, header = first
    if column is None and len(header) == 1 and parse(header[0]) is not None:
        notes["no_header"] = 1
        yield number, header[0]
        index = 0
    else:
        index = _column_index(header, column, path)
    for number, row in rows:
        text = row[index] if index < len(row) else ""
        if text:
            yield number, text
        else:
            cells = f"{len(row)} of {len(header)} columns"
            reason = "empty cell" if index < len(row) else f"short row: {cells}"
            yield RejectedLine(number, ",".join(row), reason)


def _rows(path: Path, suffix: str, notes: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    """``(number of the row's last line, stripped cells)``, blank rows left out."""
    lines = iter_lines(path)
    number, header = next(lines)
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)

    def text() -> Iterator[str]:
        yield header + "\n"
        for _, line in lines:
            yield line + "\n"

    # Strict: a quotation mark that never closes would swallow all rows behind it.
    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
            else:
                notes["blank"] += 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. Look for a quotation mark that is "
            "never closed."
        ) from None


def _column_index(header: list[str], column: str | None, path: Path) -> int:
    if column is not None:
        if column in header:
            return _only(header, column, path)
        raise DataError(
            f"{path} has no column {column!r}{_nearest_column(column, header)}. "
            f"Its columns are: {', '.join(header)}."
        )
    folded = [name.lower() for name in header]
    for name in COLUMN_NAMES:
        if name in folded:
            return _only(folded, name, path)
    if len(header) == 1:
        return 0
    raise DataError(
        f"{path} has no column called {' or '.join(COLUMN_NAMES)}"
        f"{_nearest_column('smiles', header)}. Its columns are: {', '.join(header)}. Name the one "
        "with molecules; a table without a header row needs one."
    )


def _only(names: list[str], name: str, path: Path) -> int:
    if names.count(name) > 1:
        raise DataError(
            f"{path} has {names.count(name)} columns called {name!r}. Rename all but one."
        )
    return names.index(name)


def _nearest_column(given: str, header: list[str]) -> str:
    """The suggestion of :func:`nearest`, blind to case, spelt as in the header."""
    spelling = {name.lower(): name for name in header}
    hint = nearest(given.lower(), spelling)
    return re.sub(r'"(.*)"', lambda m: f'"{spelling[m[1]]}"', hint)


def _chem() -> Any:
    """``rdkit.Chem``, loaded when the first molecule is read."""
    try:
        from rdkit import Chem
    except ImportError:
        raise MissingExtraError("rdkit", "mol") from None
    return Chem
