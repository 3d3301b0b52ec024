"""How many puzzles were solved, with its confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from imadarem.data.tasks import Verifier
from imadarem.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class PuzzleReport:
    """Shares in [0, 1].

    Attributes:
        count: Puzzles.
        exact: Share whose every token is that of the label.
        exact_low: Lower end of its 95 % interval (Wilson).
        exact_high: Upper end.
        token_accuracy: Share of the blanks, of all puzzles together, filled rightly; NaN
            where there is no blank.
        legal: Share that the verifier accepts; None without one. Where a puzzle has several
            solutions, this exceeds ``exact``.
    """

    count: int
    exact: float
    exact_low: float
    exact_high: float
    token_accuracy: float
    legal: float | None


def evaluate_puzzles(
    inputs: Tensor,
    answers: Tensor,
    labels: Tensor,
    *,
    mask_id: int,
    verify: Verifier | None = None,
) -> PuzzleReport:
    """Compare answers with labels.

    Args:
        inputs: ``(N, L)`` questions, ``mask_id`` at the blanks.
        answers: ``(N, L)`` what the model wrote.
        labels: ``(N, L)`` what is right.
        mask_id: The id of a blank.
        verify: The task's verifier, which knows no label.

    Raises:
        DataError: The shapes differ, or there is no puzzle.
    """
    if not inputs.shape == answers.shape == labels.shape or inputs.dim() != 2:
        raise DataError(
            f"inputs {tuple(inputs.shape)}, answers {tuple(answers.shape)} and labels "
            f"{tuple(labels.shape)} must all have one shape (N, L)."
        )
    if len(inputs) == 0:
        raise DataError("there is no puzzle to evaluate. Give at least one row.")
    right = answers == labels
    solved, count = int(right.all(1).sum()), len(inputs)
    low, high = wilson_interval(solved, count)
    blank = inputs == mask_id
    blanks = int(blank.sum())
    return PuzzleReport(
        count=count,
        exact=solved / count,
        exact_low=low,
        exact_high=high,
        token_accuracy=int((right & blank).sum()) / blanks if blanks else math.nan,
        legal=None if verify is None else int(verify(inputs, answers).sum()) / count,
    )


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Bounds of a share of which ``hits`` of ``count`` were seen.

    ``(p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` (Wilson, 1927). Unlike the usual
    ``p ± z √(p(1-p)/n)`` it says something at 0 and at all.

    Args:
        hits: How often it was so.
        count: Of how many, at least 1.
        z: Standard deviations; 1.96 for 95 %.

    Raises:
        ConfigError: ``hits`` is not between 0 and ``count``, or ``count`` is below 1.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ConfigError(f"hits={hits} must be from 0 to count={count}; count must be at least 1.")
    share, spread = hits / count, z * z / count
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    # At 0 and at all the ends are exact; rounding would put them a hair off.
    return (0.0 if hits == 0 else low), (1.0 if hits == count else high)
