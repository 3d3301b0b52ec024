"""Model folders, checked before anything is built from them.

A folder may come from anybody. Its ``config.json`` says how large a model to build, so the
config is held against the header of ``model.safetensors`` first: a few kilobytes that name
every weight with its type and shape. Sizes that no weight has are refused without building
anything; then a skeleton of the model without memory (torch's ``meta`` device) must have
exactly the weights that the file has. No pickle is read, and no code from the folder is run.

Weights saved by version 0.1 are converted. Then the model itself was the network (``blocks.0.…``
for ``network.backbone.blocks.0.…``), and the rotary embedding turned the first half of a head's
channels against the second; now it turns neighbouring channels. Products of a query and a key sum
over the channels, so both are permuted alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from imadarem.checkpoint import distinct_state, save_tensors, weight_files, weights_readable
from imadarem.config import MODEL_TYPE, ImplicitRefinementConfig
from imadarem.errors import CheckpointError, ConfigError
from imadarem.files import load_json, write_text
from imadarem.pretrained import CARD, default_card

CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: In front of the names of the network's weights, and of the same weights of an EMA teacher.
NETWORK_PREFIX, TEACHER_PREFIX = "network.", "teacher.network."
#: Names of the heads, which stood beside the blocks in version 0.1.
HEADS = ("gate.", "halt.", "joint.")
#: Bytes of the largest ``config.json`` and safetensors header that are read.
MAX_CONFIG_BYTES, MAX_HEADER_BYTES = 4 << 20, 1 << 20
WEIGHT_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
FILLING = ("normal_", "uniform_", "fill_", "zero_")
#: Largest legal values of the sizes that no weight shows.
LIMITS = {"max_seq_len": 1 << 20, "inner_steps": 1000, "max_refinement_steps": 100_000}
#: Largest number of entries in the tables of groups that ``relations`` are made into.
MAX_GROUP_ENTRIES = 1 << 25


def write_folder(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ImplicitRefinementConfig,
    tokenizer: Any,
    card: str | None,
    max_shard_size: int | str = "5GB",
) -> None:
    """Write a model's folder; every file is written aside and moved into place, the config last.

    Args:
        folder: Made if it does not exist.
        weights: The model's state, its teacher's included.
        config: Of the model.
        tokenizer: Saved where it can save itself.
        card: Text of ``README.md``; an existing card is kept where it is None.
        max_shard_size: Bytes of a file of weights at most.

    Raises:
        CheckpointError: The disk is full or the directory cannot be written.
    """
    save_tensors(weights, folder / WEIGHTS, max_shard_size)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    if card is not None or not (folder / CARD).exists():
        own = (w for name, w in weights.items() if not name.startswith(TEACHER_PREFIX))
        write_text(card or default_card(config, sum(w.numel() for w in own)), folder / CARD)
    write_text(config.to_json(), folder / CONFIG)


def read_config(folder: Path) -> ImplicitRefinementConfig:
    """The settings in a model's folder."""
    file = folder / CONFIG
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(
            f"{folder} is no checkpoint: it has no {CONFIG} (found: {found}). "
            "Name a directory that save_pretrained() or a training run wrote."
        )
    settings = load_json(file, max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{file} holds no settings: it must be a JSON object.")
    kind = settings.get("model_type", MODEL_TYPE)
    if kind != MODEL_TYPE and "vocab_size" in settings:
        raise CheckpointError(
            f"{folder} holds a model of transformers (model_type {kind!r}), not one that this "
            "library saved. Load it with ImplicitRefinementModel.from_masked_lm(...)."
        )
    try:
        config = ImplicitRefinementConfig.from_dict(settings)
    except ConfigError as error:
        raise CheckpointError(f"{file} cannot be used: {error}") from None
    for name, limit in LIMITS.items():
        if getattr(config, name) > limit:
            raise _too_large(file, f"{name}={getattr(config, name)}", f"at most {limit}")
    entries = sum(len(layout) * len(layout[0]) ** 2 for layout in config.relations or ())
    if entries > MAX_GROUP_ENTRIES:
        raise _too_large(file, f"relations with {entries} entries", f"at most {MAX_GROUP_ENTRIES}")
    return config


def read_header(path: Path) -> dict[str, Tensor]:
    """The weights of a safetensors file as tensors without memory: names, types and shapes.

    Those of several files where an index names them; see
    :func:`~imadarem.checkpoint.weight_files`.

    Raises:
        CheckpointError: A file is missing or damaged, or a weight is no floating-point tensor.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(path):
        found |= _header_of(file)
    return found


def _header_of(path: Path) -> dict[str, Tensor]:
    found = {}
    with weights_readable(path):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise _too_large(path, f"a header of {size} bytes", f"at most {MAX_HEADER_BYTES}")
        with safe_open(str(path), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (a file, no mapping)
                part = weights.get_slice(name)
                found[name] = (part.get_dtype(), part.get_shape())
    for name, (dtype, _) in found.items():
        if dtype not in WEIGHT_DTYPES:
            raise CheckpointError(
                f"the weight {name} in {path} is {dtype}; weights are floating-point numbers "
                f"({', '.join(WEIGHT_DTYPES)}). Fetch or save the model again."
            )
    return {
        name: torch.empty(shape, dtype=WEIGHT_DTYPES[dtype], device="meta")
        for name, (dtype, shape) in found.items()
    }


def check_weights(
    path: Path,
    header: Mapping[str, Tensor],
    config: ImplicitRefinementConfig,
    build: Callable[[ImplicitRefinementConfig], nn.Module],
) -> None:
    """Refuse weights that are not exactly those of the model, without allocating it.

    Args:
        path: Of the weights, for messages.
        header: Of the file, by :func:`read_header`, under present names.
        config: What the model would be built from.
        build: Makes the network of a config.
    """
    largest = max((size for weight in header.values() for size in weight.shape), default=0)
    shown = ["vocab_size", "hidden_size", "intermediate_size", "joint_size"]
    shown += ["max_seq_len"] if config.positions else []
    for name in shown:
        size = getattr(config, name) or 0
        if size > largest:
            raise no_fit(path, f"{name}={size}, and no weight has more than {largest} rows")
    if config.relations is not None:
        # How many partitions there are shapes a weight, and which positions they join does not.
        config = replace(config, relations=[[[0]] * len(config.relations[0])])
    _refuse_too_many_layers(path, header, config, build)
    skeleton, frozen = _skeleton(build, config)
    wanted = {f"{NETWORK_PREFIX}{name}": weight for name, weight in skeleton.items()}
    if any(name.startswith(TEACHER_PREFIX) for name in header):
        # A teacher has the frozen weights in common with the network; they are stored once.
        own = {name: weight for name, weight in skeleton.items() if name not in frozen}
        wanted |= {f"{TEACHER_PREFIX}{name}": weight for name, weight in own.items()}
    trouble = [f"{name} is missing" for name in sorted(wanted.keys() - header.keys())]
    trouble += [f"{name} is left over" for name in sorted(header.keys() - wanted.keys())]
    trouble += [
        f"{name} is of another shape, {tuple(header[name].shape)} for {tuple(weight.shape)}"
        for name, weight in wanted.items()
        if name in header and header[name].shape != weight.shape
    ]
    if trouble:
        more = f" (and {len(trouble) - 1} more)" if len(trouble) > 1 else ""
        raise no_fit(path, f"{trouble[0]}{more}")


def _refuse_too_many_layers(
    path: Path,
    header: Mapping[str, Tensor],
    config: ImplicitRefinementConfig,
    build: Callable[[ImplicitRefinementConfig], nn.Module],
) -> None:
    """A few missing weights are named later; a skeleton must not be out of all proportion."""
    if config.backbone is None:
        layers = config.num_layers
        one, two = (len(_skeleton(build, replace(config, num_layers=n))[0]) for n in (1, 2))
        weights = one + (two - one) * (layers - 1)
    else:
        settings = config.backbone["config"].items()
        layers = max((n for k, n in settings if "layers" in k and isinstance(n, int)), default=0)
        weights = layers
    if weights > 2 * len(header):
        raise no_fit(path, f"num_layers={layers}, and it has {len(header)} weights")


def check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not all finite; those without memory are passed over."""
    for name, weight in weights.items():
        if weight.device.type != "meta" and not bool(weight.isfinite().all()):
            raise CheckpointError(
                f"the weight {name} in {path} holds NaN or infinite numbers, and a model with it "
                "would write nothing of use. Fetch the model again, or take an earlier checkpoint."
            )


def _skeleton(
    build: Callable[[ImplicitRefinementConfig], nn.Module], config: ImplicitRefinementConfig
) -> tuple[dict[str, Tensor], set[str]]:
    """The weights of a network without memory, and the names of those that training leaves."""
    with torch.device("meta"), _NoInitialisation():
        network = build(config)
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    return distinct_state(network), frozen


class _NoInitialisation(TorchFunctionMode):
    """Leaves out what fills a tensor: for tensors without memory torch would load its compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs.get("tensor", args[0] if args else None)
        if args and isinstance(args[0], Tensor) and func.__name__ in FILLING:
            return args[0]
        return func(*args, **kwargs)


def no_fit(path: Path, reason: str) -> CheckpointError:
    """That the weights of a file are not those of its config."""
    return CheckpointError(
        f"the weights in {path} do not fit the config: {reason}. Fetch or save the model again."
    )


def _too_large(path: Path, given: str, legal: str) -> CheckpointError:
    return CheckpointError(f"{path} has {given}, which is too large to load: legal is {legal}.")


def converted(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """The state of a model, its teacher included, under present names; a present one as it is.

    Args:
        weights: Of a model's ``state_dict()``.
        num_heads: Of the attention.
    """
    if any(name.startswith(NETWORK_PREFIX) for name in weights):
        return dict(weights)
    found = {}
    for name, weight in weights.items():
        prefix = TEACHER_PREFIX if name.startswith(TEACHER_PREFIX) else NETWORK_PREFIX
        bare = name.removeprefix(TEACHER_PREFIX)
        if bare.endswith("attention.qkv.weight"):
            weight = _neighbouring_pairs(weight, num_heads)
        bare = bare if bare.startswith(HEADS) else f"backbone.{bare}"
        found[prefix + bare] = weight
    return found


def _neighbouring_pairs(qkv: Tensor, num_heads: int) -> Tensor:
    """``(3D, D)`` rows such that the halves of each head's queries and keys alternate.

    A weight of another shape is left for others to refuse, and one without memory as it is:
    its shape stays the same, and torch would load its compiler to join it.
    """
    width = qkv.shape[-1]
    if qkv.is_meta or qkv.shape != (3 * width, width) or width % (2 * num_heads):
        return qkv
    halves = qkv[: 2 * width].view(2 * num_heads, 2, -1, width).transpose(1, 2)
    return torch.cat([halves.reshape(2 * width, width), qkv[2 * width :]])
