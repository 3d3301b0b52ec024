"""The matrix products of a block, as sampling does them: whole positions in, whole positions out.

What is done between them (neighbours, attention) is in :mod:`imadarem.nn.packed`. A row of a
product depends on its own position alone, whatever the others are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from imadarem.nn.blocks import Block
from imadarem.nn.gradients import side_by_side

__all__ = ["FloatProducts", "Products", "Room", "normed"]


class Products(Protocol):
    """The products of one block over ``N`` positions of ``D`` channels, float32.

    Attributes:
        attends: Whether the block has attention; without it ``qkv`` and ``add_mixed`` are not
            called.
    """

    @property
    def attends(self) -> bool: ...

    def qkv(self, x: Tensor) -> Tensor:
        """``(N, D)`` → ``(N, 3D)``, good until the next product: normalised, then projected."""
        ...

    def add_mixed(self, x: Tensor, mixed: Tensor) -> None:
        """``x += out(mixed)``, both ``(N, D)``."""
        ...

    def add_feed_forward(self, x: Tensor) -> None:
        """``x += contract(gelu(expand(norm(x))))``, ``(N, D)``."""
        ...


class Room:
    """Memory that one product after the other is written to.

    Memory of some megabytes is given back to the system as soon as it is free, and mapped page by
    page when it is asked for again: at 2,304 positions of 128 channels a tenth of a block's time.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """``x @ weight.T`` of ``(N, D)`` and ``(O, D)``: ``(N, O)``, good until the next one."""
        shape = len(x), len(weight)
        wanted = shape[0] * shape[1]
        if len(self._memory) < wanted:
            self._memory = torch.empty(wanted)
        return torch.mm(x, weight.t(), out=self._memory[:wanted].view(shape))


@dataclass(frozen=True)
class FloatProducts:
    """In float32, by torch.

    Attributes:
        qkv_weight: ``(3D, D)``; channels that are rotated together beside each other. None
            without attention, as ``out`` is.
        out: ``(D, D)``, transposed.
        expand: ``(F, D)`` and its bias.
        contract: ``(F, D)``, transposed, and its bias.
        norms: Of the attention, if any, and of the feed-forward part.
        room: For what a product gives that the block itself reads and nobody else.
    """

    qkv_weight: Tensor | None
    out: Tensor | None
    expand: tuple[Tensor, Tensor]
    contract: tuple[Tensor, Tensor]
    norms: tuple[nn.LayerNorm | None, nn.LayerNorm]
    room: Room

    @classmethod
    def of(cls, block: Block, turned: bool, room: Room | None = None) -> FloatProducts:
        """Of a block.

        Args:
            block: Its weights are read now.
            turned: Whether its queries and keys will be rotated.
            room: Shared with other blocks of the network; None makes one.
        """
        qkv = out = None
        if block.attention is not None:
            qkv = block.attention.qkv.weight.detach()
            out = block.attention.out.weight.detach().t().contiguous()
            qkv = side_by_side(qkv, block.attention.num_heads) if turned else qkv
        return cls(
            qkv,
            out,
            (block.expand.weight.detach(), block.expand.bias.detach()),
            (block.contract.weight.detach().t().contiguous(), block.contract.bias.detach()),
            (block.attention_norm, block.feed_forward_norm),
            room or Room(),
        )

    @property
    def attends(self) -> bool:
        return self.qkv_weight is not None

    def qkv(self, x: Tensor) -> Tensor:
        norm = self.norms[0]
        assert norm is not None and self.qkv_weight is not None
        return self.room.product(normed(norm, x), self.qkv_weight)

    def add_mixed(self, x: Tensor, mixed: Tensor) -> None:
        assert self.out is not None
        x.addmm_(mixed, self.out)

    def add_feed_forward(self, x: Tensor) -> None:
        weight, bias = self.expand
        hidden = self.room.product(normed(self.norms[1], x), weight)
        hidden += bias
        torch.ops.aten.gelu_(hidden)
        weight, bias = self.contract
        x += bias
        x.addmm_(hidden, weight)


def normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """The layer's norm of ``(..., D)``, without calling the module."""
    return torch.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
