"""Masking: how much of a sequence is hidden, which positions, and holes of unknown length.

Time runs from 0 (every open position masked) to ``K`` (nothing masked), along a straight
line, ``mask_rate(t) = 1 - t / K``, or along a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem import checks
from imadarem.config import MASK_SCHEDULES
from imadarem.errors import ConfigError, nearest

Shape = str | Callable[[float], float] | Sequence[float]
"""A name, ``rate(t / K)``, or the share of the blanks that each step fills."""


def check_shape(shape: Shape, steps: int) -> None:
    """Refuse what is no shape of a schedule of ``steps``."""
    if isinstance(shape, str):
        if shape not in MASK_SCHEDULES:
            raise ConfigError(
                f"unknown schedule {shape!r}{nearest(shape, MASK_SCHEDULES)}. Legal: "
                f"{', '.join(MASK_SCHEDULES)}, a function of t / K, or a share for each step."
            )
    elif not callable(shape) and not (
        len(shape) == steps and min(shape) >= 0 and abs(sum(shape) - 1.0) < 1e-6
    ):
        raise ConfigError(
            f"the schedule {list(shape)} needs {steps} shares, one for each step, of at least 0, "
            "that add up to 1."
        )


@dataclass(frozen=True, slots=True)
class MaskSchedule:
    """How many of the open positions are masked at each time.

    ``linear``: ``mask_rate(t) = 1 - t / K``, as many blanks filled in each step.
    ``cosine``: ``mask_rate(t) = cos(π/2 · t / K)``, few blanks filled at first, while little
    is known, and many at the end (MaskGIT, arXiv:2202.04200).

    Your own: a function of ``t / K`` that falls from 1 to 0, or the share of the blanks that
    each of the ``K`` steps fills.

    Args:
        steps: ``K``, at least 1.
        shape: ``linear``, ``cosine``, a function, or ``K`` shares that add up to 1.
    """

    steps: int
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        checks.at_least(1, steps=self.steps)
        check_shape(self.shape, self.steps)

    def mask_rate(self, t: float) -> float:
        """Share of the open positions that is masked at time ``t`` in ``[0, K]``.

        ``t`` may be fractional; a refinement *step* is the whole number ``t`` after it.
        """
        if not 0 <= t <= self.steps:
            raise ConfigError(f"t={t} lies outside the schedule: legal is 0 to {self.steps}.")
        if callable(self.shape):
            rate = float(self.shape(t / self.steps)) if t < self.steps else 0.0
            if not 0.0 <= rate <= 1.0:
                raise ConfigError(f"the schedule gave {rate} at {t / self.steps}; legal is 0 to 1.")
            return rate
        if not isinstance(self.shape, str):
            whole, part = int(t), t - int(t)
            behind = sum(self.shape[whole:]) - (part * self.shape[whole] if part else 0.0)
            return min(max(behind, 0.0), 1.0) if t < self.steps else 0.0
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
        if self.shape == "cosine" and 3 * step == 2 * self.steps:
            return total // 2
        # Sums of shares are off by a rounding error, which must not cost a whole blank.
        return (total.double() * self.mask_rate(step) + 1e-9).long()

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


def choose_masked(counts: Tensor, eligible: Tensor, generator: torch.Generator) -> Tensor:
    """Choose exactly ``counts`` positions per row, uniformly among the eligible ones.

    ``(B,)`` counts and ``(B, L)`` bool → ``(B, L)`` bool. A row with fewer eligible
    positions than its count gives all of them.
    """
    noise = torch.rand(eligible.shape, generator=generator).masked_fill(~eligible, 2.0)
    ranks = noise.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & eligible


@dataclass(frozen=True)
class Holes:
    """At most two runs of hidden positions in each row, the left one first.

    Attributes:
        starts: ``(B, 2)`` first position.
        ends: ``(B, 2)`` exclusive end; a hole may be empty.
        present: ``(B, 2)`` bool, False where the row has no such hole.
    """

    starts: Tensor
    ends: Tensor
    present: Tensor

    @classmethod
    def at_the_end(cls, counts: Tensor, lengths: Tensor) -> Holes:
        """One hole that takes the last ``counts`` ``(B,)`` positions of each row."""
        return cls._pair(lengths - counts, lengths, lengths, lengths, torch.zeros_like(counts))

    @classmethod
    def windows(
        cls, counts: Tensor, lengths: Tensor, generator: torch.Generator, empty: bool = False
    ) -> Holes:
        """One window of ``counts`` positions, or two that have so many together, anywhere.

        Half of the rows get two, of independent sizes and places.

        Args:
            counts: ``(B,)`` hidden positions, at least 1 and at most ``lengths``.
            lengths: ``(B,)``.
            generator: On the CPU.
            empty: Whether one of two windows may have no position.
        """
        draws = torch.rand(4, len(counts), generator=generator, dtype=torch.float64)
        least = 0 if empty else 1
        two = (draws[0] < 0.5) & (counts >= 2)
        # Sizes of the first window: least … counts - least.
        first = least + (draws[1] * (counts + 1 - 2 * least)).long()
        first = torch.where(two, first, counts)
        shown = lengths - counts
        one, other = (draws[2:] * (shown + 1)).long()
        start = torch.where(two, one.minimum(other), one)
        second = torch.where(two, one.maximum(other) + first, lengths)
        ends = torch.where(two, second + counts - first, lengths)
        return cls._pair(start, start + first, second, ends, two)

    @classmethod
    def _pair(cls, start: Tensor, end: Tensor, second: Tensor, last: Tensor, two: Tensor) -> Holes:
        present = torch.stack([torch.ones_like(two, dtype=torch.bool), two.bool()], dim=1)
        return cls(torch.stack([start, second], dim=1), torch.stack([end, last], dim=1), present)

    def where(self, rows: Tensor, other: Holes) -> Holes:
        """These holes in the ``rows`` ``(B,)`` bool, and those of ``other`` in the rest."""
        pick = rows[:, None]
        return Holes(
            torch.where(pick, self.starts, other.starts),
            torch.where(pick, self.ends, other.ends),
            torch.where(pick, self.present, other.present),
        )

    def hidden(self, width: int) -> Tensor:
        """``(B, width)`` bool, the positions in a hole."""
        at = torch.arange(width)[None, :, None]
        inside = (at >= self.starts[:, None]) & (at < self.ends[:, None])
        return (inside & self.present[:, None]).any(dim=-1)

    def surplus(self, most: Tensor, generator: torch.Generator) -> Tensor:
        """``(B, 2)`` blanks too many for the holes of each row, 0 to ``most`` ``(B,)`` together."""
        draws = torch.rand(2, len(most), generator=generator, dtype=torch.float64)
        total = (draws[0] * (most + 1)).long()
        first = torch.where(self.present[:, 1], (draws[1] * (total + 1)).long(), total)
        return torch.stack([first, total - first], dim=1)


def with_surplus(
    targets: Tensor, hidden: Tensor, lengths: Tensor, ends: Tensor, extra: Tensor, nothing: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lengthen holes by blanks that stand for nothing, and mark these holes as longer.

    Behind the tokens of a hole come ``extra - 1`` further blanks whose target is the token
    ``nothing``, and then one visible ``nothing``: the mark of a hole that may have more blanks
    than tokens. A hole without the mark has exactly as many.

    Args:
        targets: ``(B, L)`` ids.
        hidden: ``(B, L)`` bool.
        lengths: ``(B,)`` tokens of each row.
        ends: ``(B, 2)`` exclusive ends of the holes, in order.
        extra: ``(B, 2)`` positions to insert at each end, the mark included; 0 for none.
        nothing: Id of the token.

    Returns:
        Targets ``(B, L')``, hidden positions ``(B, L')`` and the new lengths ``(B,)``. What is
        behind a row's end holds the id 0 and is not hidden.
    """
    at = torch.arange(targets.shape[1])
    new_lengths = lengths + extra.sum(dim=1)
    width = int(new_lengths.max())
    shift = ((at[None, :, None] >= ends[:, None]) * extra[:, None]).sum(dim=-1)
    # What lies behind a row's end goes to one further column, which is cut off.
    goal = torch.where(at < lengths[:, None], at + shift, width)
    wide = torch.full((len(targets), width + 1), nothing).scatter(1, goal, targets)
    blank = torch.ones(wide.shape, dtype=torch.bool).scatter(1, goal, hidden)
    marks = torch.where(extra > 0, ends + extra.cumsum(dim=1) - 1, width)
    blank = blank.scatter(1, marks, False)
    inside = torch.arange(width) < new_lengths[:, None]
    return wide[:, :-1] * inside, blank[:, :-1] & inside, new_lengths
