"""One transformer block: neighbours, relations, attention over the canvas, feed-forward."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.gradients import neighbour_sum, turned_heads
from imadarem.nn.relations import RelationPooling

__all__ = ["Block", "NeighbourConvolution", "SelfAttention"]

Rotation = tuple[Tensor, Tensor]


class NeighbourConvolution(nn.Module):
    """A depthwise convolution over neighbouring tokens, zero at initialisation.

    ``y_i = Σ_j w_j · x_{i+j}``, ``j`` from ``-k`` to ``k``. Padding contributes zeros.
    """

    def __init__(self, hidden_size: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, hidden_size))

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, L, D)`` and the attended positions ``(B, L)`` → ``(B, L, D)``."""
        if attended is not None:
            x = x * attended[..., None]
        return neighbour_sum(x, self.weight)


class SelfAttention(nn.Module):
    """Multi-head attention of every position to every attended position."""

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.head_size = config.hidden_size // config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, attended: Tensor | None, rotation: Rotation | None) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``; ``attended`` is ``(B, L)`` bool or None for all."""
        batch, length, width = x.shape
        if rotation is not None and self._learns(x):
            q, k, v = turned_heads(x, self.qkv.weight, self.num_heads, rotation)
        else:
            heads = self.qkv(x).view(batch, length, 3, self.num_heads, self.head_size)
            heads = heads.permute(2, 0, 3, 1, 4)
            q, k, v = heads
            if rotation is not None:
                q, k = _rotate(heads[:2], rotation)
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if attended is None else attended[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def _learns(self, x: Tensor) -> bool:
        """Whether there will be a gradient, in float32, of a layer that is ours alone."""
        layer, device = self.qkv, x.device.type
        alone = type(layer) is nn.Linear and "forward" not in vars(layer)
        alone = alone and not layer._forward_hooks and not layer._forward_pre_hooks
        plain = x.dtype == layer.weight.dtype == torch.float32
        plain = plain and not torch.is_autocast_enabled(device)
        return alone and plain and torch.is_grad_enabled() and layer.weight.requires_grad


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
        rotation: Rotation | None,
        members: Tensor | None = None,
    ) -> Tensor:
        """``(B, L, D)`` → ``(B, L, D)``; ``members`` as :class:`RelationPooling` takes them."""
        if self.neighbours is not None:
            x = x + self.neighbours(x, attended)
        if self.relations is not None and self.relations_norm is not None and members is not None:
            x = x + self.dropout(self.relations(self.relations_norm(x), members))
        if self.attention is not None and self.attention_norm is not None:
            x = x + self.dropout(self.attention(self.attention_norm(x), attended, rotation))
        hidden = F.gelu(self.expand(self.feed_forward_norm(x)))
        return x + self.dropout(self.contract(hidden))


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn pairs of channels of ``(..., L, D)`` by the angles of their position."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
