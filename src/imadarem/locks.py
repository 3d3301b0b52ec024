"""One writer at a time: a lock of the operating system on a file or a folder.

The lock ends with the process that holds it, however that process ends, so a killed run
leaves nothing to clean up. The lock file may stay behind; it is not the lock.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imadarem.errors import BusyError, CheckpointError

#: How the names of files end that are not yet complete; they begin with a dot.
TEMPORARY = ".tmp"


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold the lock on ``path`` within a ``with`` block; never wait for it.

    The lock file is ``<path>/.lock`` where ``path`` is a folder, else ``.<name>.lock`` beside
    it, so a folder must exist before it is locked. The holder writes its process id into it,
    and removes the temporary files of killed writers.

    Raises:
        BusyError: Another process holds the lock, or this one does already.
        CheckpointError: The lock file cannot be made there.
    """
    # Here, not above: it takes a third of a second.
    from filelock import FileLock, SoftFileLock, Timeout

    # One file has one lock, by whichever relative path or link it is reached.
    path = Path(path).resolve()
    file = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    lock = FileLock(file, timeout=0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        # Where no file can be made the lock waits too, until the time is up.
        try:
            file.open("ab").close()
        except OSError as error:
            raise _cannot_lock(path, error) from None
        raise BusyError(path, _holder(file)) from None
    except OSError as error:
        raise _cannot_lock(path, error) from None
    try:
        # A soft lock stands in where the file system has no locks, and has the id already.
        if not isinstance(lock, SoftFileLock):
            with suppress(OSError):  # Windows lets nobody write to a locked file
                file.write_text(f"{os.getpid()}\n", encoding="ascii")
        _remove_temporary_files(path)
        yield
    finally:
        if not isinstance(lock, SoftFileLock):
            # Before the release: whoever holds the file next must find its own.
            with suppress(OSError):
                file.unlink()
        lock.release()


def _cannot_lock(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} could not be locked: {error}. Choose a folder that can be written to."
    )


def _holder(file: Path) -> int | None:
    """The process id in a lock file, or None where it cannot be read."""
    try:
        return int(file.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _remove_temporary_files(path: Path) -> None:
    """Delete what killed writers of a file, or of the files of a folder, left there."""
    folder, name = (path, "*") if path.is_dir() else (path.parent, glob.escape(path.name))
    for left in folder.glob(f".{name}.*{TEMPORARY}"):
        left.unlink(missing_ok=True)
