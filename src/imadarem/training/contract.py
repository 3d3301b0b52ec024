"""What the training loop, its objectives and those who watch a run say to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from imadarem.training.settings import TrainingConfig
from imadarem.training.step import TrainingRecord


class StepFigures(NamedTuple):
    """What an objective tells of one training step.

    Attributes:
        loss: Total loss, nats.
        token_loss: Its token term, nats per token; None where it did not apply.
        gradient_norm: Before clipping; None for a skipped step.
        amount: Units of work done, over all processes.
        more: Further figures by name.
    """

    loss: float
    token_loss: float | None
    gradient_norm: float | None
    amount: int
    more: Mapping[str, float | None]


class Figures(Protocol):
    """The result of a validation."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        ...

    def record(self) -> dict[str, Any]:
        """As one flat record of ``metrics.jsonl``."""
        ...


class TrainingObjective(Protocol):
    """What is trained, on what: the seam between the loop and a kind of training.

    :class:`~imadarem.training.masked.MaskedTraining` and
    :class:`~imadarem.orchestrator.training.UnrolledTraining` are the two.

    Attributes:
        model: Changed in place.
        training: Counts the steps.
        unit: What ``StepFigures.amount`` counts: ``tokens`` or ``episodes``.
        validates_first: Whether a run begins with a validation.
    """

    model: Any
    unit: str
    validates_first: bool

    @property
    def training(self) -> TrainingRecord: ...

    def prepare(self, config: TrainingConfig) -> None:
        """Get ready for a run; called once, with the model on its device."""
        ...

    def train_step(self, optimizer: torch.optim.Optimizer) -> StepFigures:
        """One guarded optimiser step on the rows of this step."""
        ...

    def validate(self) -> tuple[Figures, list[str]]:
        """Figures of the averaged weights on held-out rows, and samples drawn from them."""
        ...

    def calibrate(self) -> None:
        """Fit, after the last step, what is fitted on held-out rows."""
        ...

    def save(self, run_dir: Path, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Write a checkpoint with ``state`` in it; called in every process."""
        ...

    def load(self, run_dir: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Go on from the newest checkpoint; the ``state`` that was saved with it."""
        ...

    def averaged(self) -> Any:
        """The model with the averaged weights, as users get it."""
        ...

    def description(self) -> dict[str, Any]:
        """For ``run.json``, beside the settings of the training."""
        ...


@dataclass(frozen=True)
class Progress:
    """One logged stretch of training; the figures are those of the last step.

    Attributes:
        step: Steps done, of ``steps``.
        steps: Length of the run.
        loss: Total loss, nats.
        token_loss: Its token term, nats per token; None where it did not apply.
        gradient_norm: Before clipping; None for a skipped step.
        learning_rate: Of the matrices.
        speed: Units per second of all processes, since the last record.
        unit: ``tokens`` or ``episodes``.
        skipped: Steps skipped so far because something was not finite.
        more: Further figures: ``gate_loss``, or ``token_accuracy`` and ``exact_accuracy``.
    """

    step: int
    steps: int
    loss: float
    token_loss: float | None
    gradient_norm: float | None
    learning_rate: float
    speed: float
    unit: str
    skipped: int
    more: Mapping[str, float | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As one flat record of JSON values; what is not finite becomes None."""
        flat = {**asdict(self), **self.more}
        del flat["more"], flat["unit"], flat["speed"]
        flat[f"{self.unit}_per_second"] = self.speed
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in flat.items()
        }


@dataclass(frozen=True)
class Evaluated:
    """A validation of the averaged weights, with samples drawn from them."""

    step: int
    figures: Any
    samples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        step: Steps done.
        finished: False if it was asked to stop before its end.
        model_dir: The averaged model, ready for ``from_pretrained``.
        first: The validation before the first step, or None where there was none.
        last: The one after the last step, or None for a run that is not finished.
        skipped: Steps skipped because something was not finite.
    """

    step: int
    finished: bool
    model_dir: Path
    first: Any
    last: Any
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "step": self.step,
            "finished": self.finished,
            "model_dir": str(self.model_dir),
            "first": None if self.first is None else self.first.to_dict(),
            "last": None if self.last is None else self.last.to_dict(),
            "skipped": self.skipped,
        }
