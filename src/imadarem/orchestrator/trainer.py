"""The training loop over a task: batches by step, validation, checkpoints, exact resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
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
from imadarem.orchestrator.processes import gathered, rank, share_first, world_size
from imadarem.orchestrator.training_settings import TaskTrainingConfig
from imadarem.training.optim import build_optimizer, learning_rate_factor, parameter_groups
from imadarem.training.run_folder import RunLog

__all__ = ["TaskEvaluated", "TaskProgress", "TaskTrainer", "TaskTrainingConfig"]

#: Training settings that a resume may change: a longer run, other records of it.
MAY_CHANGE = frozenset({"steps", "log_every", "eval_every", "save_every", "valid_rows"})

#: Canvas lengths that a validation keeps apart.
LENGTHS_SHOWN = 3


@dataclass(frozen=True)
class TaskProgress:
    """One logged stretch of training; the figures are those of the last step.

    Attributes:
        step: Steps done, of ``steps``.
        steps: Length of the run.
        loss: Total loss, nats.
        token_loss: Its token term, nats per blank.
        token_accuracy: Share of blanks right after the last refinement step.
        exact_accuracy: Share of rows entirely right after it.
        gradient_norm: Before clipping; None for a skipped step.
        learning_rate: Of the matrices.
        episodes_per_second: Of all processes, since the last record.
        skipped: Steps skipped so far because something was not finite.
    """

    step: int
    steps: int
    loss: float
    token_loss: float | None
    token_accuracy: float
    exact_accuracy: float
    gradient_norm: float | None
    learning_rate: float
    episodes_per_second: float
    skipped: int


@dataclass(frozen=True)
class TaskEvaluated:
    """A validation of the averaged weights: what is right by refinement steps.

    Attributes:
        step: Optimiser steps done.
        exact: Canvas length → refinement steps → share of rows entirely right. Where there
            are many lengths, the longest stands for all.
        tokens: The same of the blanks that are right, a row's share counting once.
    """

    step: int
    exact: dict[int, dict[int, float]]
    tokens: dict[int, dict[int, float]] = field(default_factory=dict)


class TaskTrainer:
    """Trains an orchestrator's model on a task and keeps a run folder.

    ::

        run/run.json            settings, versions, sizes
        run/metrics.jsonl       one JSON object per record
        run/checkpoints/step-*  what an exact resume needs
        run/model/              the averaged model, as from_pretrained reads it

    Args:
        orchestrator: Its model is changed in place.
        task: What to learn; registered with the orchestrator.
        config: How to train.
        run_dir: Made if it does not exist.
        on_event: Called with each :class:`TaskProgress` and :class:`TaskEvaluated`.
    """

    def __init__(
        self,
        orchestrator: UnifiedRefinerOrchestrator,
        task: Task,
        config: TaskTrainingConfig,
        run_dir: str | Path,
        *,
        on_event: Callable[[TaskProgress | TaskEvaluated], None] | None = None,
    ) -> None:
        self.orchestrator, self.task, self.config = orchestrator, task, config
        self.run_dir, self.on_event = Path(run_dir), on_event
        orchestrator.register(task)
        model = orchestrator.model
        # Processes that were seeded differently would train different models.
        share_first(model.parameters())
        if model.teacher is None:
            model.init_teacher()
        groups = parameter_groups(model, config.learning_rate, config.weight_decay, 1.0)
        self.optimizer = build_optimizer(config.optimizer, groups, steps=config.steps)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._lengths = _lengths(task.train, model.special.pad)
        batch = max(config.batch_size // world_size() * world_size(), world_size())
        self.buckets = LengthBuckets(self._lengths.numpy(), batch, config.seed)
        self._log = RunLog(self.run_dir, enabled=rank() == 0)
        self._stop = False

    @property
    def step(self) -> int:
        """Optimiser steps done, skipped ones included."""
        return self.orchestrator.step_count

    def request_stop(self) -> None:
        """Finish the step under way, save, and return. Safe in a signal handler."""
        self._stop = True

    def resume(self) -> int:
        """Go on from the newest checkpoint of the run folder; returns its step.

        Raises:
            CheckpointError: There is none, or it belongs to other settings.
        """
        saved = read_extra(self.run_dir)
        for kind, ours in self._what_steps_follow_from().items():
            for name, value in ours.items():
                was = saved.get(kind, {}).get(name, value)
                if was != value:
                    raise CheckpointError(
                        f"{self.run_dir} was trained with the {kind} setting {name}={was!r}, and "
                        f"this run has {value!r}. Go on with the saved value, or start afresh."
                    )
        self.orchestrator.load_checkpoint(self.run_dir, self.optimizer)
        return self.step

    def run(self) -> TaskEvaluated:
        """Train until ``steps`` or until asked to stop; save; return the last validation.

        Raises:
            TrainingError: The gradient was not finite many steps in a row.
        """
        self._log.start(self._description())
        self.orchestrator.train()
        clock, done = time.perf_counter(), 0
        while self.step < self.config.steps and not self._asked_to_stop():
            info, rate = self._one_step()
            done += self.buckets.batch_size
            if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                now = time.perf_counter()
                self._report(info, rate, done / (now - clock))
                clock, done = now, 0
            if self.step % self.config.save_every == 0:
                self.save()
            if self.step % self.config.eval_every == 0 and self.step < self.config.steps:
                self.evaluate()
                clock, done = time.perf_counter(), 0
        # First: who asked it to stop may not wait for the validation.
        self.save()
        last = self.evaluate()
        self._log.close()
        return last

    def save(self) -> None:
        """Write a checkpoint and the averaged model."""
        extra = self._what_steps_follow_from()
        self.orchestrator.save_checkpoint(self.run_dir, self.optimizer, extra=extra)
        if rank() == 0:
            self.orchestrator.model.averaged().save_pretrained(self.run_dir / "model")

    def evaluate(self) -> TaskEvaluated:
        """Share of held-out rows right by refinement steps, with the averaged weights."""
        steps = self.orchestrator.config.max_steps_train
        runner = self.orchestrator.averaged()
        exact: dict[int, dict[int, float]] = {}
        tokens: dict[int, dict[int, float]] = {}
        parts = by_length(self.task.valid, self.orchestrator.model.special.pad)
        if len(parts) > LENGTHS_SHOWN:
            parts = {max(parts): self.task.valid}
        for length, rows in parts.items():
            part = rows.rows(slice(0, self.config.valid_rows))
            record = record_steps(runner, part, steps, self.task.name)
            shown = [step for step in (1, 2, 4, 6, 8, 16) if step <= steps]
            exact[length] = record.exact(sorted({*shown, steps}))
            tokens[length] = {k: float(record.tokens[k - 1].mean()) for k in exact[length]}
        found = TaskEvaluated(self.step, exact, tokens)
        self._log.write(
            "valid",
            self.step,
            {
                f"{name}_{length}_at_{step}": value
                for name, shares in (("exact", exact), ("tokens", tokens))
                for length, by_step in shares.items()
                for step, value in by_step.items()
            },
        )
        if self.on_event is not None and rank() == 0:
            self.on_event(found)
        return found

    def _asked_to_stop(self) -> bool:
        # All processes stop after the same step, whichever of them was asked.
        return any(gathered(self._stop))

    def _what_steps_follow_from(self) -> dict[str, dict[str, Any]]:
        """Settings that a resume must not change; how long, how often and how many it may."""
        training = asdict(self.config)
        model = json.loads(self.orchestrator.model.config.to_json())
        return {
            "training": {name: training[name] for name in sorted(training.keys() - MAY_CHANGE)},
            "model": model,
        }

    def _one_step(self) -> tuple[dict[str, Any], float]:
        factor = learning_rate_factor(
            self.step, self.config.steps, self.config.warmup_steps, self.config.schedule
        )
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        chosen = torch.from_numpy(self.buckets.batch(self.step)[rank() :: world_size()])
        rows = self.task.train.rows(chosen)
        width = int(self._lengths[chosen].max())
        part = Episodes(rows.inputs[:, :width], rows.labels[:, :width], rows.task_ids)
        info = self.orchestrator.train_step(part, self.optimizer, task_type=self.task.name)
        return info, self.optimizer.param_groups[0]["lr"]

    def _report(self, info: dict[str, Any], rate: float, speed: float) -> None:
        progress = TaskProgress(
            step=self.step,
            steps=self.config.steps,
            loss=info["loss"],
            token_loss=info["token_loss"],
            token_accuracy=info["token_accuracy"],
            exact_accuracy=info["exact_accuracy"],
            gradient_norm=info["gradient_norm"],
            learning_rate=rate,
            episodes_per_second=speed,
            skipped=self.orchestrator.record.skipped,
        )
        self._log.write("train", self.step, asdict(progress))
        if self.on_event is not None and rank() == 0:
            self.on_event(progress)

    def _description(self) -> dict[str, Any]:
        model = self.orchestrator.model
        return {
            "task": self.task.name,
            "data": self.task.settings,
            "episodes": {"train": len(self.task.train), "valid": len(self.task.valid)},
            "training": asdict(self.config),
            "orchestration": self.orchestrator.config.to_dict(),
            "model": model.config.to_dict(),
            "parameters": sum(p.numel() for p in model.student_parameters()),
            "processes": world_size(),
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
