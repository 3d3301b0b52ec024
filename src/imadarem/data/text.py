"""Lines of a text file, plain or gzipped, with errors a person can act on.

Memory is that of one line: a file of any size can be walked. Gzip is recognised by
its first two bytes, so a name without ``.gz`` is no obstacle.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from imadarem.errors import DataError

__all__ = ["MAX_LINE_CHARACTERS", "iter_lines", "read_lines"]

MAX_LINE_CHARACTERS = 1_000_000
"""A longer line means that the file has no line breaks, or is not text."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_lines(path: str | Path, *, keep_blank: bool = False) -> list[str]:
    """All lines of a text file, without their line ends.

    Args:
        path: A UTF-8 text file, plain or gzipped.
        keep_blank: Keep lines that hold only white space; by default they are left out.

    Raises:
        DataError: The file is missing, a directory, empty, binary or not UTF-8.
    """
    lines = [text for _, text in iter_lines(path) if keep_blank or text.strip()]
    if not lines:
        raise DataError(f"{path} holds only blank lines. Give a file with one text per line.")
    return lines


def iter_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """``(line number from 1, line without its line end)`` for each line, blank ones included.

    Accepts the line ends of Unix, Windows and old Macs, and a UTF-8 byte-order mark.

    Raises:
        DataError: As for :func:`read_lines`, as soon as the trouble is reached.
    """
    path = Path(path)
    raw = _open_binary(path)
    with io.TextIOWrapper(raw, encoding="utf-8-sig", newline=None) as text:
        yield from _checked(text, path)


def _open_binary(path: Path) -> BinaryIO:
    """The file's bytes, unpacked when gzipped; refuses what is not a file with content."""
    if path.is_dir():
        raise DataError(f"{path} is a directory. Give the path of one file in it.")
    try:
        head = path.open("rb")
    except FileNotFoundError:
        raise DataError(
            f"there is no file {path}. Check the path; a relative one starts at {Path.cwd()}."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror or error}.") from None
    with head:
        magic = head.read(2)
    if not magic:
        raise DataError(f"{path} is empty. Give a file with one entry per line.")
    if magic in _UTF16_MARKS:
        raise DataError(f"{path} is UTF-16 text. Save it again as UTF-8.")
    if magic == b"\x1f\x8b":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _checked(text: io.TextIOWrapper, path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        while line := text.readline(MAX_LINE_CHARACTERS + 1):
            number += 1
            _refuse_unreadable(line, number, path)
            yield number, line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} near line "
            f"{number + 1}. Save it as UTF-8, or check that it is the file you meant."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is a damaged gzip file ({error}) after line {number}. Fetch it again."
        ) from None
    if number == 0:
        raise DataError(f"{path} is empty. Give a file with one entry per line.")


def _refuse_unreadable(line: str, number: int, path: Path) -> None:
    if "\0" in line:
        raise DataError(
            f"{path} is a binary file: line {number} holds a NUL byte. Give a text file "
            "(.smi, .csv, .tsv or .txt, each also as .gz)."
        )
    if len(line) > MAX_LINE_CHARACTERS:
        raise DataError(
            f"{path}, line {number} is longer than {MAX_LINE_CHARACTERS:,} characters. "
            "Give a text file with one entry per line."
        )
