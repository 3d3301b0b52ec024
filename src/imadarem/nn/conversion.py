"""Weights saved by version 0.1, converted to the names and the layout of the present network.

Then the model itself was the network (``blocks.0.…`` for ``network.backbone.blocks.0.…``), and
the rotary embedding turned the first half of a head's channels against the second; now it turns
neighbouring channels. Products of a query and a key sum over the channels, so both are permuted
alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from imadarem.model_folder import NETWORK_PREFIX, TEACHER_PREFIX

HEADS = ("gate.", "halt.", "joint.")


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
