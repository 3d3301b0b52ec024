"""The matrix products of a block, as sampling does them: whole positions in, whole positions out.

What is done between them (neighbours, attention) is in :mod:`imadarem.nn.packed`. A row of a
product depends on its own position alone, whatever the others are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.blocks import Block
from imadarem.nn.gradients import side_by_side

__all__ = ["FloatProducts", "Products", "normed"]


class Products(Protocol):
    """The products of one block over ``N`` positions of ``D`` channels, float32.

    Attributes:
        attends: Whether the block has attention; without it ``qkv`` and ``add_mixed`` are not
            called.
    """

    @property
    def attends(self) -> bool: ...

    def qkv(self, x: Tensor) -> Tensor:
        """``(N, D)`` → ``(N, 3D)``: normalised, then queries, keys and values."""
        ...

    def add_mixed(self, x: Tensor, mixed: Tensor) -> None:
        """``x += out(mixed)``, both ``(N, D)``."""
        ...

    def add_feed_forward(self, x: Tensor) -> None:
        """``x += contract(gelu(expand(norm(x))))``, ``(N, D)``."""
        ...


@dataclass(frozen=True)
class FloatProducts:
    """In float32, by torch.

    Attributes:
        qkv_weight: ``(3D, D)``; channels that are rotated together beside each other. None
            without attention, as ``out`` is.
        out: ``(D, D)``.
        expand: ``(F, D)`` and its bias.
        contract: ``(F, D)``, transposed, and its bias.
        norms: Of the attention, if any, and of the feed-forward part.
    """

    qkv_weight: Tensor | None
    out: Tensor | None
    expand: tuple[Tensor, Tensor]
    contract: tuple[Tensor, Tensor]
    norms: tuple[nn.LayerNorm | None, nn.LayerNorm]

    @classmethod
    def of(cls, block: Block, turned: bool) -> FloatProducts:
        """Of a block; ``turned``: its queries and keys will be rotated."""
        qkv = out = None
        if block.attention is not None:
            qkv, out = block.attention.qkv.weight.detach(), block.attention.out.weight.detach()
            qkv = side_by_side(qkv, block.attention.num_heads) if turned else qkv
        return cls(
            qkv,
            out,
            (block.expand.weight.detach(), block.expand.bias.detach()),
            (block.contract.weight.detach().t().contiguous(), block.contract.bias.detach()),
            (block.attention_norm, block.feed_forward_norm),
        )

    @property
    def attends(self) -> bool:
        return self.qkv_weight is not None

    def qkv(self, x: Tensor) -> Tensor:
        norm = self.norms[0]
        assert norm is not None and self.qkv_weight is not None
        return F.linear(normed(norm, x), self.qkv_weight)

    def add_mixed(self, x: Tensor, mixed: Tensor) -> None:
        assert self.out is not None
        x += F.linear(mixed, self.out)

    def add_feed_forward(self, x: Tensor) -> None:
        hidden = torch.ops.aten.gelu_(F.linear(normed(self.norms[1], x), *self.expand))
        weight, bias = self.contract
        x += torch.addmm(bias, hidden, weight)


def normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer's norm of ``(..., D)``, without calling the module."""
    return torch.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
