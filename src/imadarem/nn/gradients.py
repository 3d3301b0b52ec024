"""Parts of a block with their gradients written out: autograd would piece them together.

Each slice of a sum or of a turn has a gradient of its own, which autograd fills up with zeros to
the size of the whole and adds: a fifth of a small model's train step on a CPU. Sums are the same
but for their order.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["add_neighbours", "as_pairs", "neighbour_sum", "side_by_side", "turned_heads"]


def neighbour_sum(x: Tensor, weight: Tensor) -> Tensor:
    """``y_i = Σ_j w_(r+j) · x_(i+j)``, ``j`` from ``-r`` to ``r``; outside there are zeros.

    Args:
        x: ``(B, L, D)``.
        weight: ``(2r + 1, D)``.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        found: Tensor = _NeighbourSum.apply(x, weight)
        return found
    return _neighbour_sum(x, weight)


def turned_heads(
    x: Tensor, weight: Tensor, heads: int, rotation: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of every head, the first two turned by their position's angles.

    Channels that are turned against each other are computed beside each other, so that a turn
    is one product of complex numbers; products of a query and a key sum over the channels, in
    whatever order both have them. A fifth of the time of a turn of halves.

    Args:
        x: ``(B, L, D)`` float32.
        weight: ``(3D, D)`` float32, of queries, keys and values.
        heads: ``H``.
        rotation: Cosine and sine, each ``(L, D / 2H)``; the first half of a head's channels
            is turned against the second.

    Returns:
        Three tensors ``(B, H, L, D / H)``; the channels of the first two in that other order.
    """
    # The weight is small: its gradient finds the way back through autograd.
    beside = side_by_side(weight, heads)
    turns = torch.complex(*rotation).repeat(1, 2 * heads)
    q, k, v = _TurnedHeads.apply(F.linear(x, beside), turns, heads)
    return q, k, v


def side_by_side(qkv: Tensor, heads: int) -> Tensor:
    """Rows ``(3D, D)`` of queries and keys such that halves of a head take turns.

    Products of a query and a key sum over the channels, in whatever order both have them.
    """
    width = qkv.shape[1]
    halves = qkv[: 2 * width].view(2 * heads, 2, -1, width).transpose(1, 2)
    return torch.cat([halves.reshape(2 * width, width), qkv[2 * width :]])


def add_neighbours(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``y_i += Σ_j w_(r+j) · x_(i+j)`` over the ``j`` other than 0; without a graph.

    Args:
        y: ``(B, L, D)``, overwritten.
        x: ``(B, L, D)``.
        weight: ``(2r + 1, D)``.
    """
    reach, length = len(weight) // 2, x.shape[1]
    # Shifted sums beat conv1d's transposes at these sizes on a CPU, and in place their stack.
    for j in range(1, min(reach, length - 1) + 1):
        y[:, j:].addcmul_(x[:, :-j], weight[reach - j])
        y[:, :-j].addcmul_(x[:, j:], weight[reach + j])
    return y


def as_pairs(qkv: Tensor) -> Tensor:
    """``(..., 3D)`` of :func:`side_by_side` → queries and keys as complex numbers ``(..., D)``.

    A view: what is written to it is written to them.
    """
    pairs = qkv.view(*qkv.shape[:-1], -1, 2)
    return torch.view_as_complex(pairs[..., : qkv.shape[-1] // 3, :])


class _NeighbourSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _neighbour_sum(x, weight)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            # Each input was heard from the other side: the same sum with the taps reversed.
            to_x = _neighbour_sum(grad, weight.flip(0)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = _heard(x, grad, len(weight)).to(weight.dtype)
        return to_x, to_weight


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, turns: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(turns)
        batch, length, width = *qkv.shape[:2], qkv.shape[2] // 3
        turned = torch.view_as_real(as_pairs(qkv) * turns).view(batch, length, 2, heads, -1)
        values = qkv[..., 2 * width :].view(batch, length, heads, -1)
        q, k = turned.unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), values.transpose(1, 2)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, *to_heads: Tensor) -> tuple[Tensor, None, None]:
        (turns,) = ctx.saved_tensors
        batch, heads, length, size = to_heads[0].shape
        grad = to_heads[0].new_empty(batch, length, 3, heads, size)
        for number, part in enumerate(to_heads):
            grad[:, :, number] = part.transpose(1, 2)
        flat = grad.flatten(2)
        # A turn is undone by the turn backwards.
        as_pairs(flat).mul_(turns.conj().resolve_conj())
        return flat, None, None


def _neighbour_sum(x: Tensor, weight: Tensor) -> Tensor:
    return add_neighbours(x * weight[len(weight) // 2], x, weight)


def _heard(x: Tensor, grad: Tensor, taps: int) -> Tensor:
    """``(taps, D)``, how much each tap's input had a say in the gradient."""
    reach, length = taps // 2, x.shape[1]
    padded = F.pad(x, (0, 0, reach, reach))
    # Whole and in one piece: a sum over pieces takes thirty times as long.
    product = torch.empty_like(grad, memory_format=torch.contiguous_format)
    said = [
        torch.mul(padded[:, j : j + length], grad, out=product).sum(dim=(0, 1)) for j in range(taps)
    ]
    return torch.stack(said)
