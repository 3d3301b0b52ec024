"""One transformer block: neighbours, relations, attention over the canvas, feed-forward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.relations import RelationPooling


class SelfAttention(nn.Module):
    """Multi-head attention of every position to every attended position.

    The rows of ``qkv`` are the queries, the keys and the values of all heads. Two neighbouring
    channels of a query or a key form a pair that the rotary embedding turns.
    """

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, attended: Tensor | None, turns: Tensor | None) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``.

        Args:
            x: Normalised states.
            attended: ``(B, L)`` bool, or None for all.
            turns: ``(L, D)`` complex numbers of length 1, see
                :func:`~imadarem.nn.transformer.rotary_turns`; None leaves positions out.
        """
        batch, length, width = x.shape
        qk, v = self.qkv(x).split([2 * width, width], dim=-1)
        if turns is not None:
            qk = rotate_pairs(qk, turns)
        q, k = qk.view(batch, length, 2, self.num_heads, -1).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v.view(batch, length, self.num_heads, -1).transpose(1, 2),
            attn_mask=None if attended is None else attended[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Pre-norm residual block; the identity at initialisation."""

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.neighbours = (
            NeighbourConvolution(width, config.conv_kernel_size)
            if config.conv_kernel_size
            else None
        )
        self.relations_norm, self.relations = None, None
        if config.relations is not None:
            self.relations_norm = nn.LayerNorm(width)
            self.relations = RelationPooling(width, len(config.relations[0]))
        self.attention_norm = nn.LayerNorm(width) if config.attention else None
        self.attention = SelfAttention(config) if config.attention else None
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.feed_forward_size)
        self.contract = nn.Linear(config.feed_forward_size, width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        attended: Tensor | None,
        turns: Tensor | None,
        members: Tensor | None = None,
    ) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``; ``members`` as :class:`RelationPooling` takes them."""
        if self.neighbours is not None:
            x = self.neighbours(x, attended)
        if self.relations is not None and self.relations_norm is not None and members is not None:
            x = x + self.dropout(self.relations(self.relations_norm(x), members))
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), attended, turns))
        hidden = F.gelu(self.expand(self.feed_forward_norm(x)))
        return x + self.dropout(self.contract(hidden))


def rotate_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864): turn pairs of channels by their position's angle.

    A pair of neighbouring channels is a complex number, and a turn one complex product. Without a
    gradient ``x`` is overwritten.

    Args:
        x: ``(B, L, 2D)``, queries and keys.
        turns: ``(L, D)`` complex numbers of length 1.
    """
    # Half precision has no complex numbers, and angles are better in single precision anyway.
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    pairs = torch.view_as_complex(wide.view(*x.shape[:-1], -1, 2))
    turned = pairs * turns if torch.is_grad_enabled() else pairs.mul_(turns)
    return torch.view_as_real(turned).view(x.shape).to(x.dtype)


class NeighbourConvolution(nn.Module):
    """A residual depthwise convolution, the identity at initialisation.

    ``y_i = x_i + Σ_j w_j · x_{i+j}``, ``j`` from ``-k`` to ``k``. Padding contributes zeros.
    Shifted sums beat ``conv1d`` at these sizes on a CPU. Their gradient is written out: autograd
    would give each shifted slice one of the whole size, mostly zeros, and add them up, which is a
    tenth of a small model's training step.

    Args:
        hidden_size: Channels ``D``.
        taps: ``2k + 1``, odd.
    """

    def __init__(self, hidden_size: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, hidden_size))

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, L, D)`` and the attended positions ``(B, L)`` bool → ``(B, L, D)``."""
        inputs = x if attended is None else x * attended[..., None]
        if not torch.is_grad_enabled():
            return _add_neighbours(x, inputs, self.weight)
        y: Tensor = _AddNeighbours.apply(x, inputs, self.weight)
        return y


class _AddNeighbours(torch.autograd.Function):
    """``x + Σ_j w_j · heard_{i+j}``; all ``(B, L, D)``, the weight ``(taps, D)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _add_neighbours(x, inputs, weight)

    @staticmethod
    @once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        to_inputs = to_weight = None
        if ctx.needs_input_grad[1]:
            # A neighbour on the left has this one on its right: the same sum, the taps reversed.
            to_inputs = _add_neighbours(torch.zeros_like(grad), grad, weight.flip(0))
            to_inputs = to_inputs.to(inputs.dtype)
        if ctx.needs_input_grad[2]:
            to_weight = _weight_gradient(inputs, grad, len(weight)).to(weight.dtype)
        return grad, to_inputs, to_weight


def _add_neighbours(x: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    reach, length = len(weight) // 2, x.shape[1]
    y = torch.addcmul(x, inputs, weight[reach])
    for j in range(1, min(reach, length - 1) + 1):
        y[:, j:].addcmul_(inputs[:, :-j], weight[reach - j])
        y[:, :-j].addcmul_(inputs[:, j:], weight[reach + j])
    return y


def _weight_gradient(inputs: Tensor, grad: Tensor, taps: int) -> Tensor:
    """``(taps, D)``: the gradient of each tap's weight."""
    reach, length = taps // 2, inputs.shape[1]
    padded = F.pad(inputs, (0, 0, reach, reach))
    # Contiguous: a sum over strided memory takes thirty times as long.
    product = torch.empty_like(grad, memory_format=torch.contiguous_format)
    windows = (padded[:, j : j + length] for j in range(taps))
    return torch.stack([torch.mul(x, grad, out=product).sum(dim=(0, 1)) for x in windows])
