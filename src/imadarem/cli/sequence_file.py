"""Files of sequences, right or wrong: lines, SMILES with names, FASTA and tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imadarem.errors import ConfigError, DataError, nearest

SMILES, FASTA = (".smi", ".smiles"), (".fa", ".faa", ".fasta")
TABLES = {".csv": ",", ".tsv": "\t"}
#: Names of the column that is read where none is given, the first that there is.
COLUMNS = ("smiles", "sequence", "text")


@dataclass(frozen=True)
class SequenceFile:
    """Sequences, and what stands beside them in their file.

    Attributes:
        texts: The sequences.
        rewritten: The file's text with other sequences in their places.
    """

    texts: list[str]
    rewritten: Callable[[Sequence[str]], str]

    @classmethod
    def read(cls, path: Path, column: str | None) -> SequenceFile:
        """Read a file by its ending, also with ``.gz``; other endings have a sequence per line.

        Args:
            path: ``.csv`` and ``.tsv`` have a header, ``.smi`` a sequence as the first word of a
                line, ``.fa``, ``.faa`` and ``.fasta`` records with a header line each.
            column: Of a table.
        """
        from imadarem.data.text import read_lines

        suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
        if suffix in TABLES:
            return _table(read_lines(path), TABLES[suffix], path, column)
        if column is not None:
            raise ConfigError(f"--column is for .csv and .tsv files; {path} has no columns.")
        lines = read_lines(path)
        if suffix in FASTA:
            return cls.from_fasta(lines, str(path))
        return _smiles(lines) if suffix in SMILES else cls.from_lines(lines)

    @classmethod
    def from_lines(cls, lines: Iterable[str]) -> SequenceFile:
        """One sequence per line; records where the first line is a header of FASTA."""
        texts = [line.strip() for line in lines if line.strip()]
        if texts and texts[0].startswith(">"):
            return cls.from_fasta(texts, "stdin")
        return cls(texts, _lines)

    @classmethod
    def from_fasta(cls, lines: Sequence[str], name: str) -> SequenceFile:
        """Records of a header line and lines of one sequence, which is rewritten on one line."""
        headers: list[str] = []
        parts: list[list[str]] = []
        for line in lines:
            if line.startswith(">"):
                headers.append(line)
                parts.append([])
            elif parts:
                parts[-1].append(line.strip())
            else:
                raise DataError(f"{name} is not FASTA: its first line must begin with >.")
        return cls(
            ["".join(part) for part in parts],
            lambda texts: _lines(x for pair in zip(headers, texts, strict=True) for x in pair),
        )

    def written(self, texts: Sequence[str], path: Path, source: Path | None) -> str:
        """The text of ``path``: like the source where both are of one kind, else one per line."""
        same = source is not None and path.suffix == Path(source.name.removesuffix(".gz")).suffix
        return self.rewritten(texts) if same else _lines(texts)


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _smiles(lines: Sequence[str]) -> SequenceFile:
    texts = [line.split()[0] for line in lines]
    rests = [line.strip().removeprefix(text) for line, text in zip(lines, texts, strict=True)]
    return SequenceFile(texts, lambda new: _lines(a + b for a, b in zip(new, rests, strict=True)))


def _table(lines: Sequence[str], delimiter: str, path: Path, column: str | None) -> SequenceFile:
    header, *rows = csv.reader(lines, delimiter=delimiter)
    names = [name.strip().lower() for name in header]
    wanted = [column.lower()] if column is not None else list(COLUMNS)
    at = next((names.index(name) for name in wanted if name in names), None)
    if at is None and column is None and len(header) == 1:
        at = 0
    if at is None:
        what = f"no column {column!r}{nearest(column, header)}" if column else "several columns"
        raise DataError(f"{path} has {what}. Name one of them by --column: {', '.join(header)}.")
    short = [number for number, row in enumerate(rows, start=2) if len(row) <= at]
    if short:
        raise DataError(f"line {short[0]} of {path} has no column {header[at]!r}.")

    def rewritten(texts: Sequence[str]) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(
            [*row[:at], text, *row[at + 1 :]] for row, text in zip(rows, texts, strict=True)
        )
        return buffer.getvalue()

    return SequenceFile([row[at].strip() for row in rows], rewritten)
