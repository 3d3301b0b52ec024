"""When a finished canvas is good enough: rules over one step, tried in a fixed order."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from imadarem.errors import ConfigError


class StoppingReason(enum.IntEnum):
    """Why a row took no further step."""

    RUNNING = 0
    #: No blank is left and the policy never changes a written token.
    FILLED = 1
    #: No blank is left and the policy found no token to refine.
    SETTLED = 2
    #: No blank is left and less than ``stop_threshold`` of the tokens changed.
    UNCHANGED = 3
    #: The hard cap on steps was reached.
    MAX_STEPS = 4
    #: The task's own check says that the answer is right.
    VERIFIED = 5
    #: The halting head says so.
    CONFIDENCE = 6
    #: The tokens are probable enough.
    QUALITY = 7
    #: The tokens have not changed and not become more probable for a while.
    PATIENCE = 8
    #: The judge accepts the finished row as it is, and no further candidate is drawn.
    VERDICT = 9

    @property
    def label(self) -> str:
        """The reason as it is printed, such as ``max_steps``."""
        return self.name.lower()


class Track(NamedTuple):
    """What a row remembers between steps for the sake of patience.

    Attributes:
        best: ``(B,)``, highest quality so far.
        since: ``(B,)``, steps since it rose or a token changed.
    """

    best: Tensor
    since: Tensor

    @classmethod
    def start(cls, rows: int, device: torch.device) -> Track:
        """Before the first step."""
        best = torch.full((rows,), -math.inf, device=device)
        return cls(best, torch.zeros(rows, dtype=torch.long, device=device))

    def after(self, quality: Tensor, changed: Tensor) -> Track:
        """With a step taken: its quality and whether it changed a token, both ``(B,)``."""
        # A row whose tokens still change goes on, even while their probability falls.
        moving = changed | (quality > self.best + MIN_GAIN)
        since = torch.where(moving, torch.zeros_like(self.since), self.since + 1)
        return Track(torch.maximum(self.best, quality), since)

    def rows(self, keep: Tensor) -> Track:
        """The rows where ``keep`` ``(B,)`` holds."""
        return Track(self.best[keep], self.since[keep])


#: A gain in mean probability below this is no improvement.
MIN_GAIN = 1e-4


@dataclass(frozen=True, kw_only=True)
class Halting:
    """Stopping rules for canvases without a blank; the first that holds gives the reason.

    In order: the task's verifier, the halting head's confidence, quality, patience. The
    loop's hard cap comes last. Every rule looks at its own row alone.

    Args:
        verify: ``verify(inputs, answers)``, both ``(B, L)`` → ``(B,)`` bool, knowing no label.
        confidence: Probability of the halting head above which a row stops (adaptive
            computation time, arXiv:1603.08983, with the stopping rule of arXiv:2510.04871).
        quality: Mean probability of the tokens on the writable positions above which it does.
        patience: Steps in a row with no token changed and no gain in quality after which it
            does.
    """

    verify: Callable[[Tensor, Tensor], Tensor] | None = None
    confidence: float | None = None
    quality: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("confidence", "quality"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name}={value} must be a probability from 0 to 1, or None.")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"patience={self.patience} must be at least 1 step, or None.")

    def reasons(
        self, inputs: Tensor, answers: Tensor, halt: Tensor | None, quality: Tensor, track: Track
    ) -> Tensor:
        """``(B,)`` values of :class:`StoppingReason`; 0 goes on.

        Args:
            inputs: ``(B, L)`` ids of the question, blanks as the mask id.
            answers: ``(B, L)`` ids after the step.
            halt: ``(B,)`` probability of the halting head, where there is one.
            quality: ``(B,)`` mean probability of the tokens on writable positions.
            track: Of the steps so far, this one included.
        """
        found = torch.zeros(len(answers), dtype=torch.long, device=answers.device)
        # From the last rule to the first, so that the first has the last word.
        if self.patience is not None:
            found[track.since >= self.patience] = int(StoppingReason.PATIENCE)
        if self.quality is not None:
            found[quality >= self.quality] = int(StoppingReason.QUALITY)
        if self.confidence is not None and halt is not None:
            found[halt >= self.confidence] = int(StoppingReason.CONFIDENCE)
        if self.verify is not None:
            found[self.verify(inputs, answers)] = int(StoppingReason.VERIFIED)
        return found
