"""What a token is drawn from: weights over the vocabulary, their tail, their entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """Leave the tail of each token's distribution out of the draw.

    Tokens are ranked by their probability *after* the temperature, equal ones by their id.
    First the ``top_k`` highest are kept; of these, renormalised, the fewest whose
    probabilities add up to ``top_p`` or more (the nucleus, arXiv:1904.09751). That is the
    order of Hugging Face's ``generate`` too, which however keeps every token that ties with
    the k-th. At least one token is always kept.

    Args:
        top_k: Tokens kept, at least 1; None keeps all.
        top_p: Probability that the kept tokens must have together, above 0 and at most 1;
            None and 1 keep all.
    """

    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        k, p = self.top_k, self.top_p
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ConfigError(f"top_k={k!r} must be a whole number of at least 1, or None for all.")
        if p is not None and not 0.0 < p <= 1.0:
            raise ConfigError(f"top_p={p!r} must be above 0 and at most 1; 1 keeps every token.")

    @property
    def keeps_all(self) -> bool:
        """Whether no token is ever cut."""
        return self.top_k is None and self.top_p in (None, 1.0)

    def __call__(self, weights: Tensor) -> Tensor:
        """``(..., V)`` weights, of any sum → the same, 0 for the tokens that are cut."""
        if self.keeps_all:
            return weights
        ranked, order = weights.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ranked[..., self.top_k :] = 0.0
        if self.top_p is not None and self.top_p < 1.0:
            cumulative = ranked.cumsum(dim=-1)
            # Subtract before comparing: the likeliest token must always pass.
            cut = cumulative - ranked >= self.top_p * cumulative[..., -1:]
            ranked = ranked.masked_fill(cut, 0.0)
        return torch.zeros_like(weights).scatter(-1, order, ranked)


def inverse_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
    """The first token whose cumulative weight exceeds a uniform share of the whole.

    ``(..., V)`` weights and ``(...)`` numbers in (0, 1), float64 both → ``(...)`` int64.
    """
    cumulative = probs.cumsum(dim=-1)
    target = uniform * cumulative[..., -1]
    tokens = torch.searchsorted(cumulative, target[..., None], right=True).squeeze(-1)
    return tokens.clamp(max=probs.shape[-1] - 1)


def normalized_entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats ÷ ln V, in [0, 1]: ``(B, L, V)`` → ``(B, L)``."""
    weighted = log_probs.exp() * log_probs
    entropy = -weighted.nan_to_num(nan=0.0).sum(dim=-1)
    return entropy / math.log(max(log_probs.shape[-1], 2))
