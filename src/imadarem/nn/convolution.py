"""A depthwise convolution over neighbouring tokens, with its gradient written out.

Shifted sums beat ``conv1d`` at these sizes on a CPU. Autograd would give each shifted slice a
gradient of the whole size, mostly zeros, and add them up: a tenth of a small model's train step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["NeighbourConvolution"]


class NeighbourConvolution(nn.Module):
    """A residual depthwise convolution, the identity at initialisation.

    ``y_i = x_i + Σ_j w_j · x_{i+j}``, ``j`` from ``-k`` to ``k``. Padding contributes zeros.

    Args:
        hidden_size: Channels ``D``.
        taps: ``2k + 1``, odd.
    """

    def __init__(self, hidden_size: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, hidden_size))

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, L, D)`` and the attended positions ``(B, L)`` bool → ``(B, L, D)``."""
        heard = x if attended is None else x * attended[..., None]
        if not torch.is_grad_enabled():
            return _add_neighbours(x, heard, self.weight)
        y: Tensor = _AddNeighbours.apply(x, heard, self.weight)
        return y


class _AddNeighbours(torch.autograd.Function):
    """``x + Σ_j w_j · heard_{i+j}``; all ``(B, L, D)``, the weight ``(taps, D)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, heard: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(heard, weight)
        return _add_neighbours(x, heard, weight)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        heard, weight = ctx.saved_tensors
        to_heard = to_weight = None
        if ctx.needs_input_grad[1]:
            # Each input was heard from the other side: the same sum with the taps reversed.
            to_heard = _add_neighbours(torch.zeros_like(grad), grad, weight.flip(0))
            to_heard = to_heard.to(heard.dtype)
        if ctx.needs_input_grad[2]:
            to_weight = _weight_gradient(heard, grad, len(weight)).to(weight.dtype)
        return grad, to_heard, to_weight


def _add_neighbours(x: Tensor, heard: Tensor, weight: Tensor) -> Tensor:
    reach, length = len(weight) // 2, x.shape[1]
    y = torch.addcmul(x, heard, weight[reach])
    for j in range(1, min(reach, length - 1) + 1):
        y[:, j:].addcmul_(heard[:, :-j], weight[reach - j])
        y[:, :-j].addcmul_(heard[:, j:], weight[reach + j])
    return y


def _weight_gradient(heard: Tensor, grad: Tensor, taps: int) -> Tensor:
    """``(taps, D)``: the gradient of each tap's weight."""
    reach, length = taps // 2, heard.shape[1]
    padded = F.pad(heard, (0, 0, reach, reach))
    # Contiguous: a sum over strided memory takes thirty times as long.
    product = torch.empty_like(grad, memory_format=torch.contiguous_format)
    windows = (padded[:, j : j + length] for j in range(taps))
    return torch.stack([torch.mul(x, grad, out=product).sum(dim=(0, 1)) for x in windows])
