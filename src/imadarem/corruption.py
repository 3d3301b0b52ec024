"""Masking: how much of a sequence is hidden at time t, and which positions.

Time runs from 0 (every open position masked) to ``K`` (nothing masked), along a straight
line, ``mask_rate(t) = 1 - t / K``, or along a cosine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem.config import MASK_SCHEDULES
from imadarem.errors import ConfigError, nearest

__all__ = ["MaskSchedule", "choose_masked", "last_of", "masked_counts", "stratified_rates"]


@dataclass(frozen=True, slots=True)
class MaskSchedule:
    """How many of the open positions are masked at each time.

    ``linear``: ``mask_rate(t) = 1 - t / K``, as many blanks filled in each step.
    ``cosine``: ``mask_rate(t) = cos(π/2 · t / K)``, few blanks filled at first, while little
    is known, and many at the end (MaskGIT, arXiv:2202.04200).

    Args:
        steps: ``K``, at least 1.
        shape: ``linear`` or ``cosine``.

    Raises:
        ConfigError: ``steps`` is below 1, or ``shape`` is unknown.
    """

    steps: int
    shape: str = "linear"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1.")
        if self.shape not in MASK_SCHEDULES:
            raise ConfigError(
                f"unknown schedule {self.shape!r}{nearest(str(self.shape), MASK_SCHEDULES)}. "
                f"Legal: {', '.join(MASK_SCHEDULES)}."
            )

    def mask_rate(self, t: float) -> float:
        """Share of the open positions that is masked at time ``t`` in ``[0, K]``.

        ``t`` may be fractional; a refinement *step* is the whole number ``t`` after it.

        Raises:
            ConfigError: ``t`` lies outside ``[0, K]``.
        """
        if not 0 <= t <= self.steps:
            raise ConfigError(f"t={t} lies outside the schedule: legal is 0 to {self.steps}.")
        if self.shape == "linear":
            return 1.0 - t / self.steps
        # As a sine from the far end, the rate at t = K is exactly 0.
        return math.sin(math.pi / 2 * (self.steps - t) / self.steps)

    def filled_rate(self, t: float) -> float:
        """``1 - mask_rate(t)``: the share that is not masked.

        Raises:
            ConfigError: ``t`` lies outside ``[0, K]``.
        """
        rate = self.mask_rate(t)
        return t / self.steps if self.shape == "linear" else 1.0 - rate

    def remaining(self, step: int, total: Tensor) -> Tensor:
        """Masked positions left after whole ``step`` of rows that began with ``total``.

        ``(B,)`` counts → ``(B,)`` counts, rounded down, so the last step leaves none.
        """
        # Whole-number arithmetic: 1 - t/K in floats rounds some exact counts down by one.
        if self.shape == "linear":
            return total * (self.steps - step) // self.steps
        # The one rational cosine between the ends is cos 60° = 1/2 (Niven's theorem). Any
        # other rate times a count is irrational, so no exact count can be missed by a float.
        if 3 * step == 2 * self.steps:
            return total // 2
        return (total.double() * self.mask_rate(step)).long()

    def grid_rates(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count,)`` rates drawn uniformly from the grid ``t = 0 … K - 1``."""
        t = torch.randint(self.steps, (count,), generator=generator)
        rates = [self.mask_rate(step) for step in range(self.steps)]
        return torch.tensor(rates, dtype=torch.float64)[t]


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


def last_of(counts: Tensor, eligible: Tensor) -> Tensor:
    """The last ``counts`` ``(B,)`` eligible positions of each row: ``(B, L)`` bool."""
    from_the_end = eligible.flip(1).cumsum(1).flip(1)
    return eligible & (from_the_end <= counts[:, None])


def choose_masked(counts: Tensor, eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Choose exactly ``counts`` positions per row, uniformly among the eligible ones.

    ``(B,)`` counts and ``(B, L)`` bool → ``(B, L)`` bool. A row with fewer eligible
    positions than its count gives all of them.
    """
    noise = torch.rand(eligible.shape, generator=generator).masked_fill(~eligible, 2.0)
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & eligible
