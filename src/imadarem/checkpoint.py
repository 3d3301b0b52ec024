"""Tensors and nested state on the disk: safetensors and JSON, no pickle.

State that is not all tensors (an optimiser's, say) is split into tensors for safetensors and a
JSON skeleton that says where they belong. Every file is whole or not there; see
:mod:`imadarem.files`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from imadarem.errors import CheckpointError
from imadarem.files import load_json, save_json, write_atomically


def save_tensors(
    tensors: Mapping[str, Tensor], path: str | Path, most: int | str | None = None
) -> None:
    """Write named tensors as safetensors, atomically.

    Args:
        tensors: By name.
        path: Of the file.
        most: Bytes of a file at most, such as ``"5GB"``: what is larger goes into several files
            with an index beside them, named as transformers names them. None: one file.
    """
    path = Path(path)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    old, index = set(weight_files(path)), _index_of(path)
    pattern = f"{path.stem}{{suffix}}{path.suffix}"
    limit = sys.maxsize if most is None else most
    plan = split_torch_state_dict_into_shards(whole, filename_pattern=pattern, max_shard_size=limit)
    for file, names in plan.filename_to_tensors.items():
        part = {name: whole[name] for name in names}
        write_atomically(path.with_name(file), partial(save_file, part, metadata={"format": "pt"}))
    if plan.is_sharded:
        save_json({"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}, index)
    else:
        index.unlink(missing_ok=True)
    for left in old - {path.with_name(file) for file in plan.filename_to_tensors}:
        left.unlink(missing_ok=True)


def weight_files(path: Path) -> list[Path]:
    """The files that hold the tensors of ``path``: itself, or those that an index names.

    Raises:
        CheckpointError: The index is damaged or names a file elsewhere.
    """
    index = _index_of(path)
    if not index.is_file() or path.is_file():
        return [path]
    content = load_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} names no files of weights. Copy the folder again.")
    names = sorted({str(name) for name in places.values()})
    shard = re.compile(rf"{re.escape(path.stem)}-\d{{1,6}}-of-\d{{1,6}}{re.escape(path.suffix)}")
    for name in names:
        if not shard.fullmatch(name):
            raise CheckpointError(f"{index} names the file {name[:80]!r}, which is no part of it.")
    return [path.with_name(name) for name in names]


def _index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index.json")


def distinct_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module with each tensor under its first name alone.

    Tied weights, and those that two parts share, have several names; safetensors stores each
    tensor once.
    """
    first: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        first.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in first.values()}


def with_shared_names(weights: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """What :func:`distinct_state` left out, added: every name of the module's state."""
    first: dict[int, str] = {}
    found = dict(weights)
    for name, tensor in module.state_dict(keep_vars=True).items():
        known = first.setdefault(id(tensor), name)
        if name not in found and known in found:
            found[name] = found[known]
    return found


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file, or the several files that it was split into.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(Path(path)):
        with weights_readable(file):
            found |= load_file(file)
    return found


@contextmanager
def weights_readable(path: Path) -> Iterator[None]:
    """Raise one error that names the file where it is missing or no safetensors."""
    try:
        yield
    except CheckpointError:
        raise
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
    """The inverse of :func:`save_state`, exact to the bit and the type."""
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
