"""Drawing tokens from logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.sampling.noise import RowNoise, Stream

__all__ = ["draw_tokens", "forbid", "normalized_entropy"]


def forbid(logits: Tensor, canvas: Canvas, may_end: bool) -> Tensor:
    """Log-probabilities ``(B, L, V)`` over the tokens that may stand at each position.

    Special tokens are ruled out everywhere; the EOS everywhere but where
    :meth:`Canvas.ending_allowed` says so, and there too unless ``may_end``.
    """
    logits = logits.float().clone()
    special = canvas.special
    logits[..., list(special.banned)] = -math.inf
    if special.eos is not None:
        allowed = canvas.ending_allowed() if may_end else torch.zeros_like(canvas.open)
        logits[..., special.eos] = logits[..., special.eos].masked_fill(~allowed, -math.inf)
    return logits.log_softmax(dim=-1)


def draw_tokens(
    log_probs: Tensor, noise: RowNoise, temperature: float, eos: int | None = None
) -> Tensor:
    """Draw a token at every position: ``(B, L, V)`` → ``(B, L)`` int64.

    By inversion of the cumulative distribution in float64. Temperature 0 takes the most
    likely token.

    Endings are drawn with *one* uniform number per row: position i ends the row iff
    ``p_i(EOS) > u``. Each position's own probability is unchanged, but since the model
    learns ``p_i(EOS) = P(length ≤ i)``, the first EOS of a parallel draw then has exactly
    the model's distribution of lengths; independent draws would end rows far too early.
    """
    if temperature == 0:
        return log_probs.argmax(dim=-1)
    probs = (log_probs.double() / temperature).softmax(dim=-1)
    if eos is None:
        return _invert(probs, noise)
    ends = probs[..., eos] > noise.uniform(Stream.ENDING, 1)
    # What is left must still be a distribution where an EOS was certain; it is not used there.
    probs[..., eos] = torch.where(probs[..., eos] >= 1.0, 1.0, 0.0)
    return _invert(probs, noise).masked_fill(ends, eos)


def _invert(probs: Tensor, noise: RowNoise) -> Tensor:
    """The first token whose cumulative weight exceeds a uniform share of the whole."""
    cumulative = probs.cumsum(dim=-1)
    target = noise.uniform(Stream.TOKEN, probs.shape[1]) * cumulative[..., -1]
    tokens = torch.searchsorted(cumulative, target[..., None], right=True).squeeze(-1)
    return tokens.clamp(max=probs.shape[-1] - 1)


def normalized_entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats ÷ ln V, in [0, 1]: ``(B, L, V)`` → ``(B, L)``."""
    weighted = log_probs.exp() * log_probs
    entropy = -weighted.nan_to_num(nan=0.0).sum(dim=-1)
    return entropy / math.log(max(log_probs.shape[-1], 2))
