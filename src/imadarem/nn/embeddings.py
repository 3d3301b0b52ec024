"""What enters the transformer: tokens, positions, time, and the last step's beliefs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["AdaptivePositionalEmbedding", "TimeEmbedding", "TokenEmbedding", "rotary_turns"]

#: Longest wavelength of the sinusoids, in tokens over 2π (arXiv:1706.03762).
MAX_WAVELENGTH = 10_000.0
#: The same for the rotary angles; canvases are short, so the slow end starts sooner.
ROTARY_WAVELENGTH = 1_000.0


class TokenEmbedding(nn.Embedding):
    """Learned input embeddings, ``(B, L)`` ids → ``(B, L, D)``."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        nn.init.normal_(self.weight, std=0.02)

    def expected(self, probs: Tensor) -> Tensor:
        """Mean embedding under ``probs``: ``(B, L, V)`` → ``(B, L, D)``."""
        return probs.to(self.weight.dtype) @ self.weight


class AdaptivePositionalEmbedding(nn.Module):
    """Sinusoidal positions, each scaled by its own learned decay.

    ``pe'(i) = exp(-decay_i) · pe(i)``, ``decay`` starting at 0. The sinusoids are
    computed in every pass instead of kept in a buffer: a buffer that no checkpoint
    holds comes back uninitialised from loaders that build modules without memory.
    """

    def __init__(self, max_seq_len: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.decay = nn.Parameter(torch.zeros(max_seq_len))

    def forward(self, length: int) -> Tensor:
        """``(L, D)`` positions for a canvas of ``length`` tokens."""
        angles = _angles(length, self.hidden_size // 2, MAX_WAVELENGTH, self.decay.device)
        # 0.02 is the scale of the token embeddings: position must not drown the token.
        sinusoids = 0.02 * torch.cat([angles.sin(), angles.cos()], dim=-1)
        return torch.exp(-self.decay[:length, None]) * sinusoids.to(self.decay.dtype)


class TimeEmbedding(nn.Module):
    """A scalar time in [0, 1] per row → a vector, by one layer: ``(B,)`` → ``(B, 1, D)``."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(1, hidden_size)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, time: Tensor) -> Tensor:
        # No matrix product: with one row it would round otherwise than with several.
        scale, shift = self.project.weight[:, 0], self.project.bias
        return time[:, None, None].to(scale.dtype) * scale + shift


def rotary_turns(length: int, width: int, heads: int, device: torch.device) -> Tensor:
    """The rotary embedding as complex numbers ``e^(i · angle)`` (arXiv:2104.09864).

    Args:
        length: ``L`` positions.
        width: ``D`` channels of all heads together.
        heads: Every head has the same angles.

    Returns:
        ``(L, D)``: one number for each pair of channels of the queries, then of the keys.
    """
    angles = _angles(length, width // heads // 2, ROTARY_WAVELENGTH, device)
    return torch.polar(torch.ones_like(angles), angles).repeat(1, 2 * heads)


def _angles(length: int, count: int, wavelength: float, device: torch.device) -> Tensor:
    """``(L, count)`` angles ``i / wavelength^(j / count)``."""
    exponents = torch.arange(count, device=device) / count
    frequencies = torch.exp(-math.log(wavelength) * exponents)
    return torch.arange(length, device=device)[:, None] * frequencies
