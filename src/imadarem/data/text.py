"""Lines of a text file, plain or gzipped, with errors a person can act on.

Memory is that of one line, whatever the size of the file. Gzip is recognised by its first two
bytes, UTF-16 by its byte-order mark or by its NUL bytes.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from imadarem.errors import DataError

MAX_LINE_CHARACTERS = 1_000_000
"""A longer line means that the file has no line breaks, or is not text."""

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CHUNK = 1 << 16


def read_lines(path: str | Path, *, keep_blank: bool = False) -> list[str]:
    """All lines of a text file, without their line ends.

    Args:
        path: A text file in UTF-8 or UTF-16, plain or gzipped.
        keep_blank: Keep lines that hold only white space; by default they are left out.

    Raises:
        DataError: The file is missing, a directory, empty, binary or in another encoding.
    """
    lines = [text for _, text in iter_lines(path) if keep_blank or text.strip()]
    if not lines:
        raise DataError(f"{path} holds only blank lines. Give a file with one text per line.")
    return lines


def iter_lines(path: str | Path, *, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """``(line number from 1, line without its line end)`` for each line, blank ones included.

    Accepts the line ends of Unix, Windows and old Macs, and a byte-order mark.

    Args:
        path: A text file, plain or gzipped.
        encoding: Its encoding; default is UTF-16 where the file looks like it, else UTF-8.

    Raises:
        DataError: As for :func:`read_lines`, as soon as the trouble is reached.
    """
    path = Path(path)
    raw = open_binary(path)
    with io.TextIOWrapper(raw, encoding=encoding or _unicode(path), newline=None) as text:
        yield from _checked(text, path)


def is_utf8(path: str | Path) -> bool:
    """Whether a text file is in UTF-8, or in UTF-16, to its end.

    Raises:
        DataError: The file is missing, a directory, empty or a damaged gzip file.
    """
    path = Path(path)
    decoder = codecs.getincrementaldecoder(_unicode(path))()
    with open_binary(path) as file:
        try:
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(path, error) from None
    return True


def _unicode(path: Path) -> str:
    """``utf-16`` with a mark or NUL bytes at every second place, else ``utf-8``."""
    try:
        with open_binary(path) as file:
            head = file.read(200)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
    if head.startswith(_UTF16_MARKS):
        return "utf-16"
    half = len(head) // 2
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = head[start::2].count(0), head[1 - start :: 2].count(0)
        if half >= 4 and zeros >= 0.8 * half and not others:
            return name
    return "utf-8-sig"


def open_binary(path: str | Path) -> BinaryIO:
    """The file's bytes, unpacked when gzipped.

    Raises:
        DataError: It is missing, a directory, empty or an archive.
    """
    path = Path(path)
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
        magic = head.read(4)
    if not magic:
        raise DataError(f"{path} is empty. Give a file with one entry per line.")
    if magic == b"PK\3\4":
        raise DataError(f"{path} is a ZIP archive or an Excel file. Unpack it, or save it as CSV.")
    if magic.startswith(b"\x1f\x8b"):
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
            f"{path} is not {error.encoding} text: byte 0x{error.object[error.start]:02x} near "
            f"line {number + 1}. Save it as UTF-8, or check that it is the file you meant."
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from None
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


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is a damaged gzip file ({error}). Fetch it again.")
