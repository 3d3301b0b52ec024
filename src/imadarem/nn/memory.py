"""How a memory enters the network: retrieved tokens, and a gated look at them.

Shapes: k hits of L' tokens each for every canvas of L positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Retrieved(Protocol):
    """What a memory answers for a batch: k hits of L' tokens for every canvas."""

    @property
    def ids(self) -> Tensor:
        """``(B, k, L')`` token ids."""
        ...

    @property
    def similarity(self) -> Tensor:
        """``(B, k)`` cosines of question and hit."""
        ...

    @property
    def attended(self) -> Tensor:
        """``(B, k, L')`` bool, tokens of hits that count."""
        ...

    def rows(self, which: Tensor) -> Retrieved:
        """Some of the rows, by index or mask."""
        ...


class MemoryEmbedding(nn.Module):
    """Retrieved token ids as vectors to attend to.

    The vector of a token is the sum of what stands there and where (the network's own
    embeddings of tokens and positions, so that place ``i`` of a memory speaks to place ``i`` of
    the canvas), of the company it keeps (the mean of its hit, projected: flattened, a token
    would no longer tell which hit it belongs to), and of how similar its hit is to the
    question. Hits have no order beside that, so any number of them will do.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.company = nn.Linear(hidden_size, hidden_size, bias=False)
        self.similarity = nn.Linear(1, hidden_size)
        # The scale of the token embeddings: nothing drowns the token.
        nn.init.normal_(self.similarity.weight, std=0.02)
        nn.init.zeros_(self.similarity.bias)

    def forward(
        self,
        memory: Retrieved,
        tokens: Callable[[Tensor], Tensor],
        positions: Callable[[int], Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Vectors of all hits in one row.

        Args:
            memory: The hits.
            tokens: The network's embedding of ids.
            positions: Its embedding of so many positions; None where it has none.

        Returns:
            ``(B, k·L', D)`` vectors, and ``(B, k·L')`` bool, which of them count.
        """
        x = tokens(memory.ids)
        if positions is not None:
            x = x + positions(memory.ids.shape[-1])
        real = memory.attended[..., None].to(x.dtype)
        company = (x * real).sum(2) / real.sum(2).clamp(min=1)
        similarity = memory.similarity[..., None].to(x.dtype)
        per_hit = self.company(company) + self.similarity(similarity)
        return (x + per_hit[:, :, None]).flatten(1, 2), memory.attended.flatten(1)


class GatedCrossAttention(nn.Module):
    """Every position of the canvas looks at the memory, as far as a learned gate lets it.

    ``y = x + tanh(g) · attention(x, memory)``, the scalar ``g`` starting at 0: a network with a
    memory begins as the one without, bit for bit. The attention's own weights do not start at
    zero, or the gate would have no gradient to open it.

    Source: Flamingo, arXiv:2204.14198, section 2.2; without its gated feed-forward layer.

    Args:
        hidden_size: ``D``.
        num_heads: Attention heads.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(hidden_size)
        self.memory_norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, memory: Tensor | None, attended: Tensor | None = None) -> Tensor:
        """The canvas with what it took from memory.

        Args:
            x: ``(B, L, D)``.
            memory: ``(B, M, D)``; None, or no vectors at all, returns ``x``.
            attended: ``(B, M)`` bool, vectors that count; None counts all. A row with none
                leaves its ``x`` exactly as it is.

        Returns:
            ``(B, L, D)``.
        """
        if memory is None or memory.shape[1] == 0:
            return x
        if attended is None:
            attended = memory.new_ones(memory.shape[:2], dtype=torch.bool)
        any_hit = attended.any(dim=1)[:, None, None]
        # A row without hits looks at everything and then discards it: a softmax over nothing
        # is NaN, and so is its gradient.
        seen = self._attend(x, memory, attended | ~any_hit[:, 0])
        return x + torch.tanh(self.gate) * seen.masked_fill(~any_hit, 0.0)

    def _attend(self, x: Tensor, memory: Tensor, attended: Tensor) -> Tensor:
        batch, length, width = x.shape
        q = self._heads(self.query(self.norm(x)))
        k, v = self.key_value(self.memory_norm(memory)).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            q, self._heads(k), self._heads(v), attn_mask=attended[:, None, None, :]
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def _heads(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` → ``(B, heads, L, D / heads)``."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
