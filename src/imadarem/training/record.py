"""What a training run counts: steps, skipped steps, recent losses and gradient norms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

__all__ = ["TrainingRecord"]

#: Losses and norms that are kept.
HISTORY = 100


@dataclass
class TrainingRecord:
    """Counters and short histories of a training run.

    Attributes:
        step_count: Training steps taken, skipped ones included.
        skipped: Steps whose loss or gradient was not finite; weights are as before them.
        skipped_in_a_row: The same, since the last good step.
        recent_losses: The last losses, oldest first.
        gradient_norms: The last global norms before clipping, oldest first.
    """

    step_count: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    recent_losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)

    def good_step(self, loss: float, norm: float) -> None:
        """A step that changed the weights."""
        self.step_count += 1
        self.skipped_in_a_row = 0
        self.recent_losses = [*self.recent_losses, loss][-HISTORY:]
        self.gradient_norms = [*self.gradient_norms, norm][-HISTORY:]

    def skip(self) -> None:
        """A step that was not finite; it enters no history."""
        self.step_count += 1
        self.skipped += 1
        self.skipped_in_a_row += 1

    def smoothed_loss(self, window: int) -> float | None:
        """Mean of the last ``window`` losses."""
        return fmean(self.recent_losses[-window:]) if self.recent_losses else None

    def stability(self) -> dict[str, float | int | None]:
        """How steady training is.

        ``gradient_norm_variation`` and ``loss_variation`` are standard deviations over means
        of the histories; None before two values.
        """
        return {
            "skipped_steps": self.skipped,
            "gradient_norm_variation": _variation(self.gradient_norms),
            "loss_variation": _variation(self.recent_losses),
        }

    @staticmethod
    def history(values: list[float]) -> dict[str, float | int | None]:
        """The last value, the mean, and how many there are."""
        return {
            "recent": values[-1] if values else None,
            "average": fmean(values) if values else None,
            "history_length": len(values),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(v) if isinstance(v, list) else v for name, v in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingRecord:
        """The inverse of :meth:`to_dict`."""
        return cls(**values)


def _variation(values: list[float]) -> float | None:
    if len(values) < 2 or math.isclose(fmean(values), 0.0):
        return None
    return pstdev(values) / abs(fmean(values))
