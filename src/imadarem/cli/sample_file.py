"""A file of samples that is written block by block and continued after any interruption.

Sample ``n`` of a seed is the same in every run, so the file itself says how far it is: by its
complete rows. Beside it, in ``<file>.json``, stand the settings on which the samples depend.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imadarem.errors import CheckpointError, ConfigError, DataError
from imadarem.files import load_json, save_json
from imadarem.locks import exclusive


class SampleFile:
    """An open file of samples, at its end.

    Attributes:
        path: Its place.
        rows: Samples that it holds.
    """

    def __init__(self, path: Path, rows: int, end: int) -> None:
        """Open ``path`` and cut it after ``rows`` rows, which end at byte ``end``."""
        self.path, self.rows = path, rows
        self._file = path.open("r+b" if rows else "w+b")
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, text: str, rows: int) -> None:
        """Add ``rows`` rows; they are on the disk when this returns."""
        if not _is_table(self.path) and text.count("\n") != rows:
            raise DataError(
                f"a sample behind number {self.rows:,} has a line break, so it is not one line "
                f"of {self.path.name}. Write to a .csv file, which can hold it."
            )
        try:
            self._file.write(text.encode("utf-8"))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.path} could not be written: {error}. It holds {self.rows:,} samples; free "
                "space and run the same command with --resume."
            ) from None
        self.rows += rows

    def close(self) -> None:
        """Close the file. What a full disk refused before is lost, as :meth:`append` said."""
        with suppress(OSError):
            self._file.close()

    def check(self) -> None:
        """Count the rows on the disk."""
        found = count_rows(self.path)[0] if self.path.is_file() else 0
        if found != self.rows:
            raise CheckpointError(
                f"{self.path} holds {found:,} samples, and {self.rows:,} were written: another "
                "program changed it meanwhile. Run the same command with --resume."
            )


@contextmanager
def sample_file(
    path: Path, settings: dict[str, Any], wanted: int, *, resume: bool
) -> Iterator[SampleFile]:
    """Begin a file of samples, or continue it where ``resume`` is set and it exists.

    No other process can write the file within the block.

    Args:
        path: Its folder must exist.
        settings: JSON values on which the samples depend; ``resume`` refuses others.
        wanted: Samples that the finished file is to hold.
        resume: Continue after the last complete row.
    """
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no folder {path.parent}. Make it, or choose another.")
    with exclusive(path):
        rows, end = count_rows(path) if path.is_file() else (0, 0)
        record = path.with_name(f"{path.name}.json")
        known = _record(record)
        if not resume:
            _refuse_to_replace(path, known, rows)
            rows, end = 0, 0
        elif known is None and path.is_file() and path.stat().st_size:
            raise ConfigError(
                f"{path} has no record beside it ({record.name}), so the settings of its samples "
                "are unknown. Write to another file, or leave out --resume to replace the samples."
            )
        elif known is not None and rows:
            _refuse_other_settings(path, known["settings"], settings)
            _refuse_too_many(path, rows, wanted)
        try:
            file = SampleFile(path, rows, end)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be written: {error}.") from None
        try:
            # Behind the cut: samples of one run never stand beside the settings of another.
            _save_record({"wanted": wanted, "settings": settings}, record)
            yield file
        finally:
            file.close()


def count_rows(path: Path) -> tuple[int, int]:
    """The complete samples of a file, and the byte behind the last of them.

    A row is a line; in a ``.csv`` file, whose first row is its head, a quoted cell can hold
    line breaks. Rows end where a line does not, or has a NUL byte: a crash of the machine
    leaves such bytes.
    """
    table = _is_table(path)
    rows, end, at, inside = (-1 if table else 0), 0, 0, False
    with path.open("rb") as file:
        for line in file:
            at += len(line)
            if b"\0" in line or not line.endswith(b"\n"):
                break
            inside ^= table and line.count(b'"') % 2 == 1
            if not inside:
                rows, end = rows + 1, at
    # A head alone is written again with the first rows.
    return (rows, end) if rows > 0 else (0, 0)


def _is_table(path: Path) -> bool:
    return path.suffix == ".csv"


def _record(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    known = load_json(record)
    if not isinstance(known, dict) or not isinstance(known.get("settings"), dict):
        raise CheckpointError(f"{record} is not a record of samples. Move it elsewhere.")
    return known


def _save_record(known: dict[str, Any], record: Path) -> None:
    try:
        save_json(known, record)
    except CheckpointError as error:
        reason = str(error).partition(". What was there")[0]
        raise CheckpointError(
            f"{reason}. Free space and run the same command with --resume."
        ) from None


def _refuse_to_replace(path: Path, known: dict[str, Any] | None, rows: int) -> None:
    wanted = 0 if known is None else known.get("wanted", 0)
    if 0 < rows < wanted:
        raise ConfigError(
            f"{path} holds {rows:,} of {wanted:,} samples of a run that was interrupted. Add "
            f"--resume to continue it, or remove {path.name}.json to begin again."
        )


def _refuse_other_settings(path: Path, known: dict[str, Any], settings: dict[str, Any]) -> None:
    for name in {**known, **settings}:
        before, now = known.get(name), settings.get(name)
        if before != now:
            raise ConfigError(
                f"{path} was begun with {name} = {before!r}, and now it is {now!r}: the samples "
                "would not belong together. Give the same settings, or another file."
            )


def _refuse_too_many(path: Path, rows: int, wanted: int) -> None:
    if rows > wanted:
        raise ConfigError(
            f"{path} holds {rows:,} samples already, and {wanted:,} are wanted. Ask for as many "
            "or more, or write to another file."
        )
