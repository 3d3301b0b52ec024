"""Files that are either whole or not there: atomic writes, safetensors, JSON, no pickle.

Nothing on disk is ever overwritten in place: a file is written aside, flushed to the disk
and renamed over the old one, so that a crash leaves the last good copy. State that is not
all tensors (an optimiser's, say) is split into tensors for safetensors and a JSON skeleton
that says where they belong.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from imadarem.errors import CheckpointError
from imadarem.locks import TEMPORARY

#: Bytes of the largest JSON document that is read.
MAX_JSON_BYTES = 64 << 20

__all__ = [
    "digest",
    "load_json",
    "load_state",
    "load_tensors",
    "save_json",
    "save_state",
    "save_tensors",
    "write_atomically",
    "write_text",
]


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it there.

    Raises:
        CheckpointError: The disk is full or the place cannot be written; ``path`` is as it
            was before, and nothing is left beside it.
    """
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
    write_atomically(path, lambda aside: aside.write_bytes(text.encode("utf-8")))


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write named tensors as safetensors, atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda aside: save_file(whole, aside, metadata={"format": "pt"}))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}.") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights in {path} cannot be read: {error}. The file is damaged or not "
            "safetensors; copy it again."
        ) from None


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of named tensors: the same for the same names and the same bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def save_json(value: Any, path: str | Path) -> None:
    """Write a JSON document, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_text(text, path)


def load_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON document.

    Raises:
        CheckpointError: The file is missing, larger than ``max_bytes``, or not JSON (NaN and
            infinities, which Python's reader would take, are none).
    """
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


def save_state(state: Any, stem: str | Path) -> None:
    """Write nested dicts, lists, numbers, strings and tensors as two files.

    ``<stem>.safetensors`` holds the tensors and ``<stem>.json``, written last, the rest.

    Raises:
        TypeError: Something else is nested in ``state``.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _take_apart(state, "state", tensors)
    save_tensors(tensors or {"empty": torch.zeros(1)}, f"{stem}.safetensors")
    save_json(skeleton, f"{stem}.json")


def load_state(stem: str | Path) -> Any:
    """The inverse of :func:`save_state`, exact to the bit and the type.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    skeleton, tensors = load_json(f"{stem}.json"), load_tensors(f"{stem}.safetensors")
    try:
        return _put_together(skeleton, tensors)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{stem}.json does not fit its tensors: {error}.") from None


def _take_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().clone()
        return {"tensor": path}
    if isinstance(value, Mapping):
        # Pairs, not an object: optimisers key their state by whole numbers.
        pairs = [[key, _take_apart(item, f"{path}.{key}", tensors)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        items = [_take_apart(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"state at {path} is a {type(value).__name__}, which cannot be saved")


def _put_together(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    ((kind, content),) = skeleton.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _put_together(item, tensors) for key, item in content}
    if kind == "value":
        return content
    items = [_put_together(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _cannot_write(path: Path, error: Exception) -> str:
    return (
        f"{path} could not be written: {error}. What was there before is unchanged; "
        "free some space or choose another folder."
    )
