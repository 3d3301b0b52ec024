"""Masking: how much of a sequence is hidden at time t, and which positions.

Time runs from 0 (every open position masked) to ``K`` (nothing masked):
``mask_rate(t) = 1 - t / K``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem.errors import ConfigError

__all__ = ["MaskSchedule", "choose_masked", "masked_counts", "stratified_rates"]


@dataclass(frozen=True, slots=True)
class MaskSchedule:
    """The linear schedule ``mask_rate(t) = 1 - t / K``.

    Args:
        steps: ``K``, at least 1.

    Raises:
        ConfigError: ``steps`` is below 1.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")

    def mask_rate(self, t: float) -> float:
        """Share of the open positions that is masked at time ``t`` in ``[0, K]``.

        ``t`` may be fractional; a refinement *step* is the whole number ``t`` after it.

        Raises:
            ConfigError: ``t`` lies outside ``[0, K]``.
        """
        if not 0 <= t <= self.steps:
            raise ConfigError(f"t={t} lies outside the schedule: legal is 0 to {self.steps}.")
        return 1.0 - t / self.steps

    def remaining(self, step: int, total: Tensor) -> Tensor:
        """Masked positions left after whole ``step`` of rows that began with ``total``.

        ``(B,)`` counts → ``(B,)`` counts, rounded down, so the last step leaves none.
        """
        # Whole-number arithmetic: 1 - t/K in floats rounds some exact counts down by one.
        return total * (self.steps - step) // self.steps

    def grid_rates(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count,)`` rates drawn uniformly from the grid ``t = 0 … K - 1``."""
        t = torch.randint(self.steps, (count,), generator=generator)
        return 1.0 - t.double() / self.steps


def stratified_rates(count: int, generator: torch.Generator) -> Tensor:
    """``(count,)`` mask rates in (0, 1], one in each of ``count`` equal strata, shuffled.

    One shared offset, so each rate alone is uniform and the batch covers the interval
    evenly: the low-discrepancy sampler of variational diffusion, arXiv:2107.00630.
    """
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    strata = torch.arange(count, dtype=torch.float64)
    rates = 1.0 - (strata + offset) / count
    return rates[torch.randperm(count, generator=generator)]


def masked_counts(rates: Tensor, lengths: Tensor) -> Tensor:
    """``ceil(rate * length)``, at least 1: ``(B,)`` rates and lengths → ``(B,)`` counts."""
    counts = torch.ceil(rates * lengths.double()).long()
    return torch.minimum(counts.clamp(min=1), lengths)


def choose_masked(counts: Tensor, eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Choose exactly ``counts`` positions per row, uniformly among the eligible ones.

    ``(B,)`` counts and ``(B, L)`` bool → ``(B, L)`` bool. A row with fewer eligible
    positions than its count gives all of them.
    """
    noise = torch.rand(eligible.shape, generator=generator).masked_fill(~eligible, 2.0)
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & eligible
