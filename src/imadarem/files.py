"""Files that are either whole or not there: atomic writes of anything, text and JSON.

Nothing on disk is ever overwritten in place: a file is written aside, flushed to the disk
and renamed over the old one, so that a crash leaves the last good copy.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from imadarem.errors import CheckpointError
from imadarem.locks import TEMPORARY

#: Bytes of the largest JSON document that is read.
MAX_JSON_BYTES = 64 << 20


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(TEMPORARY, f".{path.name}.", path.parent)
    except OSError as error:
        raise CheckpointError(_cannot_write(path, error)) from None
    os.close(handle)
    aside = Path(name)
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files for their owner alone; a model is to be shared.
        aside.chmod(0o644)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_cannot_write(path, error)) from None
    finally:
        aside.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Write a UTF-8 text file, atomically."""
    write_bytes(text.encode("utf-8"), path)


def write_bytes(data: bytes, path: str | Path) -> None:
    """Write a file, atomically."""
    write_atomically(path, lambda aside: aside.write_bytes(data))


def save_json(value: Any, path: str | Path) -> None:
    """Write a JSON document, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_text(text, path)


def load_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON document."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise CheckpointError(
                f"{path} has {size} bytes, which is too large to load: legal is at most "
                f"{max_bytes}."
            )
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}.") from None
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: it is nested too deeply.") from None
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _cannot_write(path: Path, error: Exception) -> str:
    return (
        f"{path} could not be written: {error}. What was there before is unchanged; "
        "free some space or choose another folder."
    )
