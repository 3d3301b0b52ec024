"""Training on a task with answers: an orchestrator unrolls many refinement steps."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from imadarem.data.corpus import LengthBuckets
from imadarem.data.tasks import Episodes, Task
from imadarem.errors import CheckpointError
from imadarem.orchestrator.accuracy import record_steps
from imadarem.orchestrator.checkpoints import read_extra
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.training.contract import StepFigures
from imadarem.training.settings import TrainingConfig
from imadarem.training.step import TrainingRecord, rank, world_size

#: Training settings that a resume may change: a longer run, other records of it.
MAY_CHANGE = frozenset(
    {
        "steps",
        "log_every",
        "eval_every",
        "save_every",
        "valid_rows",
        "sample_count",
        "best_by",
        "early_stop",
    }  # fmt: skip
)
#: Settings that an orchestrator has itself, and their names there.
OF_THE_ORCHESTRATOR = {
    "gradient_clip": "gradient_clip_threshold",
    "mixed_precision": "mixed_precision",
}
#: Canvas lengths that a validation keeps apart.
LENGTHS_SHOWN = 3


@dataclass(frozen=True)
class TaskAccuracy:
    """What is right on held-out rows after each number of refinement steps.

    Attributes:
        exact: Canvas length → refinement steps → share of rows entirely right. Where there
            are many lengths, the longest stands for all.
        tokens: The same of the blanks that are right, a row's share counting once.
    """

    exact: dict[int, dict[int, float]]
    tokens: dict[int, dict[int, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def record(self) -> dict[str, Any]:
        """``exact_36_at_4``: by canvas length and steps, flat."""
        return {
            f"{name}_{length}_at_{step}": value
            for name, shares in (("exact", self.exact), ("tokens", self.tokens))
            for length, by_step in shares.items()
            for step, value in by_step.items()
        }


class UnrolledTraining:
    """The unrolled objective over a task, for :class:`~imadarem.Trainer`.

    The gradient's clipping and the precision are settings of the orchestrator.

    Args:
        orchestrator: Its model is changed in place.
        task: What to learn; registered with the orchestrator.
    """

    unit = "episodes"
    validates_first = False

    def __init__(self, orchestrator: UnifiedRefinerOrchestrator, task: Task) -> None:
        self.orchestrator, self.task = orchestrator, task
        self.model = orchestrator.model
        orchestrator.register(task)

    @property
    def training(self) -> TrainingRecord:
        """The orchestrator's counts."""
        return self.orchestrator.record

    def prepare(self, config: TrainingConfig) -> None:
        """Share out the episodes."""
        self.config = config
        own, defaults = self.orchestrator.config, TrainingConfig()
        for name, theirs in OF_THE_ORCHESTRATOR.items():
            value = getattr(config, name)
            if value not in (getattr(defaults, name), getattr(own, theirs)):
                warnings.warn(
                    f"{name}={value!r} has no effect here: the orchestrator's "
                    f"{theirs}={getattr(own, theirs)!r} counts. Set that one.",
                    UserWarning,
                    stacklevel=3,
                )
        self._lengths = _lengths(self.task.train, self.model.special.pad)
        batch = max(config.batch_size // world_size() * world_size(), world_size())
        self.buckets = LengthBuckets(self._lengths.numpy(), batch, config.seed)
        self.orchestrator.train()

    def train_step(self, optimizer: torch.optim.Optimizer) -> StepFigures:
        """One step of the orchestrator on the episodes of this step.

        Raises:
            TrainingError: The gradient was not finite many steps in a row.
        """
        step = self.training.step_count
        chosen = torch.from_numpy(self.buckets.batch(step)[rank() :: world_size()])
        rows = self.task.train.rows(chosen)
        width = int(self._lengths[chosen].max())
        part = Episodes(rows.inputs[:, :width], rows.labels[:, :width], rows.task_ids)
        info = self.orchestrator.train_step(part, optimizer, task_type=self.task.name)
        return StepFigures(
            info["loss"],
            info["token_loss"],
            info["gradient_norm"],
            self.buckets.batch_size,
            {name: info[name] for name in ("token_accuracy", "exact_accuracy")},
        )

    def validate(self) -> tuple[TaskAccuracy, list[str]]:
        """Share of held-out rows right by refinement steps, with the averaged weights."""
        steps = self.orchestrator.config.max_steps_train
        runner = self.orchestrator.averaged()
        exact: dict[int, dict[int, float]] = {}
        tokens: dict[int, dict[int, float]] = {}
        parts = by_length(self.task.valid, self.model.special.pad)
        if len(parts) > LENGTHS_SHOWN:
            parts = {max(parts): self.task.valid}
        for length, rows in parts.items():
            part = rows.rows(slice(0, self.config.valid_rows))
            record = record_steps(runner, part, steps, self.task.name)
            shown = [step for step in (1, 2, 4, 6, 8, 16) if step <= steps]
            exact[length] = record.exact(sorted({*shown, steps}))
            tokens[length] = {k: float(record.tokens[k - 1].mean()) for k in exact[length]}
        return TaskAccuracy(exact, tokens), []

    def calibrate(self) -> None:
        """Nothing is fitted: the halting head learns beside the rest."""

    def averaged(self) -> Any:
        """The model with the averaged weights."""
        return self.model.averaged()

    def save(self, run_dir: Path, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Write a checkpoint of model, optimiser and orchestrator."""
        extra = {**self._what_steps_follow_from(), "finished": state["finished"]}
        self.orchestrator.save_checkpoint(run_dir, optimizer, extra=extra)

    def load(self, run_dir: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Go on from the newest checkpoint.

        Raises:
            CheckpointError: It belongs to another model or other settings.
        """
        saved = read_extra(run_dir)
        for kind, ours in self._what_steps_follow_from().items():
            for name, value in ours.items():
                was = saved.get(kind, {}).get(name, value)
                if was != value:
                    raise CheckpointError(
                        f"{run_dir} was trained with the {kind} setting {name}={was!r}, and this "
                        f"run has {value!r}. Continue with the saved value, or start a new run."
                    )
        return self.orchestrator.load_checkpoint(run_dir, optimizer)

    def description(self) -> dict[str, Any]:
        """The task, its sizes, and the settings of the orchestration."""
        return {
            "task": self.task.name,
            "data": self.task.settings,
            "episodes": {"train": len(self.task.train), "valid": len(self.task.valid)},
            "orchestration": self.orchestrator.config.to_dict(),
        }

    def _what_steps_follow_from(self) -> dict[str, Mapping[str, Any]]:
        """Settings that a resume must not change; how long, how often and how many it may."""
        training = asdict(self.config)
        return {
            "training": {name: training[name] for name in sorted(training.keys() - MAY_CHANGE)},
            "model": json.loads(self.model.config.to_json()),
        }


def by_length(episodes: Episodes, pad: int) -> dict[int, Episodes]:
    """The episodes of each canvas length, cropped to it."""
    lengths = _lengths(episodes, pad)
    parts = {}
    for length in sorted(set(lengths.tolist())):
        rows = episodes.rows(lengths == length)
        parts[length] = Episodes(rows.inputs[:, :length], rows.labels[:, :length], rows.task_ids)
    return parts


def _lengths(episodes: Episodes, pad: int) -> torch.Tensor:
    """``(N,)`` positions up to the last one that is no padding."""
    return ((episodes.inputs != pad).long().cumsum(1).argmax(1)) + 1
