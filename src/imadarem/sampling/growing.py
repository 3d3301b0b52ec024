"""A file of samples that grows by blocks and can be gone on with after any kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from imadarem.checkpoint import load_json, save_json
from imadarem.errors import CheckpointError, ConfigError

__all__ = ["GrowingFile"]


class GrowingFile:
    """A file to which whole blocks of samples are added, and a record of how far it is.

    The record, ``<path>.json``, says how many samples the first so many bytes hold. A block is
    on the disk before the record knows of it, and what the record does not know of is cut off
    when the file is opened again: whenever a process dies, no sample is lost that was recorded,
    and none stands there twice.

    Attributes:
        samples: Samples that the file holds.
        tallies: Sums over these samples, by name, such as how many were valid.
    """

    def __init__(
        self, path: str | Path, settings: dict[str, Any], wanted: int, *, resume: bool = False
    ) -> None:
        """Begin the file, or go on with it where ``resume`` and it is there.

        Args:
            path: Its folder must exist.
            settings: JSON values on which the samples depend; others are refused on going on.
            wanted: Samples that the finished file is to hold.
            resume: Go on where the file ends.

        Raises:
            ConfigError: The file belongs to other settings, holds more than is wanted, has no
                record; or it is unfinished and was not to be gone on with.
            CheckpointError: The file or its record is damaged, or cannot be written.
        """
        self.path = Path(path)
        self.record = self.path.with_name(f"{self.path.name}.json")
        self.settings, self.wanted = settings, wanted
        self.samples, self._bytes = 0, 0
        self.tallies: dict[str, int] = {}
        known = self._read()
        if resume and known is not None:
            self._go_on(known)
        else:
            self._refuse_to_replace(known, resume)
        try:
            self._file = self.path.open("r+b" if self.samples else "w+b")
            self._file.truncate(self._bytes)
            self._file.seek(self._bytes)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be written: {error}.") from None
        self._save()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, text: str, samples: int, tallies: dict[str, int]) -> None:
        """Add a block of ``samples`` samples and its tallies; on the disk when this returns.

        Raises:
            CheckpointError: The disk is full; the file holds all blocks before this one.
        """
        block = text.encode("utf-8")
        try:
            self._file.write(block)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be added to: {error}. It holds {self.samples:,} samples; "
                "make room and go on from there with --resume."
            ) from None
        self.samples += samples
        self._bytes += len(block)
        for name, count in tallies.items():
            self.tallies[name] = self.tallies.get(name, 0) + count
        self._save()

    def _save(self) -> None:
        known = {"samples": self.samples, "bytes": self._bytes, "wanted": self.wanted}
        save_json({**known, "tallies": self.tallies, "settings": self.settings}, self.record)

    def _read(self) -> dict[str, Any] | None:
        if not self.record.is_file():
            return None
        known = load_json(self.record)
        if not isinstance(known, dict) or not {"samples", "bytes", "settings"} <= known.keys():
            raise CheckpointError(f"{self.record} is no record of samples; move it away.")
        return known

    def _go_on(self, known: dict[str, Any]) -> None:
        for name in {**known["settings"], **self.settings}:
            before, now = known["settings"].get(name), self.settings.get(name)
            if before != now:
                raise ConfigError(
                    f"{self.path} was begun with {name} = {before!r}, and now it is {now!r}: the "
                    "samples would not belong together. Give the same settings, or another file."
                )
        if known["samples"] > self.wanted:
            raise ConfigError(
                f"{self.path} holds {known['samples']:,} samples already, and {self.wanted:,} are "
                "wanted. Ask for as many or more, or write to another file."
            )
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < known["bytes"]:
            raise CheckpointError(
                f"{self.path} has {size:,} bytes and should have {known['bytes']:,}: it was cut "
                f"or replaced. Put it back, or remove {self.record} and begin again."
            )
        self.samples, self._bytes = known["samples"], known["bytes"]
        self.tallies = dict(known["tallies"])

    def _refuse_to_replace(self, known: dict[str, Any] | None, resume: bool) -> None:
        if resume and self.path.is_file():
            raise ConfigError(
                f"{self.path} has no record beside it ({self.record.name}), so where it ends is "
                "not known. Write to another file, or leave --resume out to replace it."
            )
        if known is not None and 0 < known["samples"] < known.get("wanted", 0):
            raise ConfigError(
                f"{self.path} holds {known['samples']:,} of {known['wanted']:,} samples of a run "
                f"that was interrupted. Add --resume to go on, or remove {self.record.name} to "
                "begin again."
            )
