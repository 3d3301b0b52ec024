"""What enters the transformer: tokens, positions, time, and the last step's beliefs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

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
    holds comes back uninitialised from loaders that build modules without memory. What is
    computed from the sizes alone is kept by :func:`_table`.
    """

    def __init__(self, max_seq_len: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.decay = nn.Parameter(torch.zeros(max_seq_len))

    def forward(self, length: int) -> Tensor:
        """``(L, D)`` positions for a canvas of ``length`` tokens."""
        table = _table(_sinusoids, length, self.hidden_size, self.decay.device)
        return torch.exp(-self.decay[:length, None]) * table.to(self.decay.dtype)


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
    return _table(_turns, length, (width, heads), device)


def _turns(length: int, sizes: tuple[int, int], device: torch.device) -> Tensor:
    width, heads = sizes
    angles = _angles(length, width // heads // 2, ROTARY_WAVELENGTH, device)
    return torch.polar(torch.ones_like(angles), angles).repeat(1, 2 * heads)


def _sinusoids(length: int, width: int, device: torch.device) -> Tensor:
    """``(L, D)`` sines and cosines at the scale of the token embeddings, 0.02."""
    angles = _angles(length, width // 2, MAX_WAVELENGTH, device)
    return 0.02 * torch.cat([angles.sin(), angles.cos()], dim=-1)


def _table(build: Callable[..., Tensor], length: int, sizes: Any, device: torch.device) -> Tensor:
    """What ``build`` makes of these sizes, made once; nothing may be written to it."""
    if torch.compiler.is_compiling():
        return build(length, sizes, device)
    return _kept_table(build, length, sizes, device, torch.is_inference_mode_enabled())


@lru_cache(maxsize=128)
def _kept_table(
    build: Callable[..., Tensor], length: int, sizes: Any, device: torch.device, inference: bool
) -> Tensor:
    # A tensor made in inference mode has no place in a graph: each mode has its own.
    with torch.no_grad():
        return build(length, sizes, device)


def _angles(length: int, count: int, wavelength: float, device: torch.device) -> Tensor:
    """``(L, count)`` angles ``i / wavelength^(j / count)``."""
    exponents = torch.arange(count, device=device) / count
    frequencies = torch.exp(-math.log(wavelength) * exponents)
    return torch.arange(length, device=device)[:, None] * frequencies
