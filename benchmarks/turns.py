"""Timing by turns: whatever else the machine does falls on all contenders alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contender:
    """Something to time: a call that does one round of work."""

    name: str
    work: Callable[[], Any]


@dataclass(frozen=True)
class Rates:
    """Rates of one contender; each list has one entry per round.

    Attributes:
        name: Of the contender.
        per_cpu_second: By CPU time.
        per_second: By wall time.
    """

    name: str
    per_cpu_second: list[float]
    per_second: list[float]


def take_turns(amount: float, contenders: Sequence[Contender], rounds: int) -> list[Rates]:
    """Time the contenders in turn; one round goes before the first that counts.

    Args:
        amount: Units that each contender does in a round.
        contenders: In any order: who begins changes from round to round, so that nobody always
            runs after the same neighbour.
        rounds: Rounds that count.
    """
    cpu: dict[str, list[float]] = {c.name: [] for c in contenders}
    wall: dict[str, list[float]] = {c.name: [] for c in contenders}
    for number in range(rounds + 1):
        shift = number % len(contenders)
        for contender in [*contenders[shift:], *contenders[:shift]]:
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            contender.work()
            cpu_end, wall_end = time.process_time(), time.perf_counter()
            if number:
                cpu[contender.name].append(amount / (cpu_end - cpu_start))
                wall[contender.name].append(amount / (wall_end - wall_start))
    return [Rates(c.name, cpu[c.name], wall[c.name]) for c in contenders]


def ratios(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Rates of one by those of the other, round by round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def spread(values: Sequence[float]) -> str:
    """``median (least–most)``."""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def crossover(batches: Sequence[int], ratio: Sequence[float]) -> float | None:
    """The batch at which a ratio falls to 1, on straight lines between logarithms.

    None where it is below 1 from the start or never falls to it.
    """
    points = list(zip(map(math.log, batches), map(math.log, ratio), strict=True))
    for (left, above), (right, below) in zip(points, points[1:], strict=False):
        if above > 0 >= below:
            return math.exp(left + (right - left) * above / (above - below))
    return None
