"""The training loop: any objective, one process or several, exact resume.

Everything random in step ``s`` is a pure function of (seed, s, rank): which rows, which
masks, which draws, which dropped activations. A resumed run therefore needs no state but
that of the objective and the optimiser. With the same CPU, torch and number of threads it
ends with the same weights, bit for bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from imadarem.errors import CheckpointError, MissingExtraError, TrainingError
from imadarem.training.best import BestWeights
from imadarem.training.contract import (
    Evaluated,
    Progress,
    StepFigures,
    TrainingObjective,
    TrainingResult,
)
from imadarem.training.optim import build_optimizer, learning_rate_factor, parameter_groups
from imadarem.training.run_folder import RunLog, hold, latest_checkpoint, remove_leftovers
from imadarem.training.settings import TrainingConfig
from imadarem.training.step import gathered, rank, share_first, world_size

__all__ = ["Evaluated", "Progress", "Trainer", "TrainingConfig", "TrainingResult"]

T = TypeVar("T")


class Trainer:
    """Trains an objective for a number of steps, and writes a run folder.

    ::

        run/run.json            settings, versions, sizes
        run/metrics.jsonl       one JSON object per record
        run/tensorboard/        the same, where tensorboard is installed
        run/checkpoints/step-*  what an exact resume needs
        run/model/              the averaged model, as from_pretrained reads it

    Args:
        objective: What to train, on what; its model is changed in place.
        config: How to train.
        run_dir: Made if it does not exist.
        device: ``"cpu"``, ``"cuda"``, … or None for the best that there is.
        on_event: Called with each :class:`Progress` and :class:`Evaluated`, in the first
            process.

    Raises:
        ConfigError: The objective cannot train this model.
        DataError: There are no rows to train on.
        MissingExtraError: accelerate is not installed.
    """

    def __init__(
        self,
        objective: TrainingObjective,
        config: TrainingConfig,
        run_dir: str | Path,
        *,
        device: str | None = None,
        on_event: Callable[[Progress | Evaluated], None] | None = None,
    ) -> None:
        self.processes = _processes(device)
        self.objective, self.config = objective, config
        self.run_dir, self.on_event = Path(run_dir), on_event
        self.model = objective.model.to(self.processes.device)
        # Processes that were seeded differently would train different models.
        share_first(self.model.parameters())
        if self.model.teacher is None:
            self.model.init_teacher()
        objective.prepare(config)
        groups = parameter_groups(
            self.model, config.learning_rate, config.weight_decay, config.gate_lr_scale
        )
        self.optimizer = build_optimizer(config.optimizer, groups, steps=config.steps)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self._log = RunLog(self.run_dir, enabled=rank() == 0)
        self._best = None
        if config.best_by is not None:
            self._best = BestWeights(config.best_by, config.early_stop)
        self._first: Any = None
        self._stop, self.finished = False, False
        self._interruptible_thread: int | None = None

    @property
    def step(self) -> int:
        """Optimiser steps done, skipped ones included."""
        return self.objective.training.step_count

    @property
    def _done(self) -> bool:
        """Whether all steps were taken, or no validation was better for long enough."""
        return self.step >= self.config.steps or (self._best is not None and self._best.exhausted)

    # Control

    def request_stop(self) -> None:
        """Finish the step under way, save, and return. Safe in a signal handler.

        A validation or a calibration under way is given up at once.
        """
        self._stop = True
        if self._interruptible_thread == threading.get_ident():
            self._interruptible_thread = None
            raise _StopAskedFor

    def resume(self) -> int:
        """Go on from the newest checkpoint of the run folder; returns its step.

        Raises:
            CheckpointError: There is none, or it belongs to another model or other settings.
        """
        if latest_checkpoint(self.run_dir) is None:
            raise CheckpointError(
                f"{self.run_dir} has no complete checkpoint to resume from. Start without --resume."
            )
        state = self.objective.load(self.run_dir, self.optimizer)
        self._first = state.get("first")
        # Checkpoints of version 0.1 do not say it.
        if self._best is not None:
            self._best.restore(self.run_dir / "metrics.jsonl")
        self.finished = self._done and state.get("finished", True)
        return self.step

    # The loop

    def run(self, *, locked: bool = False) -> TrainingResult:
        """Train until ``steps``, or until asked to stop; save; return how it went.

        A run that was asked to stop ends with the save: it is neither calibrated nor
        validated.

        Args:
            locked: Whether the caller holds the run folder's lock already.

        Raises:
            BusyError: Another process is writing to the run folder.
            TrainingError: The gradient was not finite many steps in a row. The last
                checkpoint is untouched.
        """
        lock = nullcontext() if locked else hold(self.run_dir)
        with lock, torch.random.fork_rng(devices=[]):
            # 1. Take away what a killed run left.
            self._begin()
            # 2. Validate before the first step, where the objective does.
            if self.objective.validates_first and self.step == 0 and self._first is None:
                self._first = self._validate()
            # 3. Train.
            self._train()
            # 4. Save what there is, as a stopped run may be killed soon.
            self.save()
            # 5. Fit what is fitted on held-out rows, and say what the model is worth.
            last = None
            if self._done and not self._asked_to_stop():
                last = self._finish()
            self._log.close()
        model_dir = self.run_dir / "model"
        skipped = self.objective.training.skipped
        return TrainingResult(self.step, self.finished, model_dir, self._first, last, skipped)

    def save(self) -> None:
        """Write the averaged model and a checkpoint; the old checkpoint stays until then."""
        state = {"first": self._first, "finished": self.finished}
        # The checkpoint comes last: once it says that the run is finished, nothing is missing.
        if rank() == 0:
            self.objective.averaged().save_pretrained(self.run_dir / "model")
        self.objective.save(self.run_dir, self.optimizer, state)
        self.processes.wait_for_everyone()

    def _begin(self) -> None:
        if rank() == 0:
            remove_leftovers(self.run_dir)
        starts = self.step == 0 and self._first is None
        description = {
            "training": asdict(self.config),
            "model": self.model.config.to_dict(),
            "parameters": sum(p.numel() for p in self.model.student_parameters()),
            "processes": world_size(),
            "device": str(self.processes.device),
            **self.objective.description(),
        }
        self._log.start(description, self.step, validate_again=starts or self._done)
        if self._best is not None and rank() == 0:
            self._best.restore(self.run_dir / "metrics.jsonl")

    def _train(self) -> None:
        config = self.config
        clock, amount = time.perf_counter(), 0
        while not self._done and not self._asked_to_stop():
            figures, rate = self._train_step()
            amount += figures.amount
            if self.step % config.log_every == 0 or self.step == config.steps:
                now = time.perf_counter()
                self._report(figures, rate, amount / (now - clock))
                clock, amount = now, 0
            if self.step % config.eval_every == 0 and self.step < config.steps:
                self._validate()
                clock, amount = time.perf_counter(), 0
            if self.step % config.save_every == 0:
                self.save()

    def _train_step(self) -> tuple[StepFigures, float]:
        factor = learning_rate_factor(
            self.step, self.config.steps, self.config.warmup, self.config.schedule
        )
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        try:
            figures = self.objective.train_step(self.optimizer)
        except TrainingError as error:
            newest = latest_checkpoint(self.run_dir) or "there is none yet: start a new run"
            raise TrainingError(f"{error} The newest checkpoint: {newest}.") from None
        return figures, self.optimizer.param_groups[0]["lr"]

    def _finish(self) -> Any:
        self._unless_stopped(self.objective.calibrate)
        last = None if self._asked_to_stop() else self._validate()
        if not self._asked_to_stop():
            self.finished = True
            self.save()
        return last

    # Stopping

    def _asked_to_stop(self) -> bool:
        """Whether any process was: they leave the loop together, or wait for each other."""
        return any(gathered(self._stop))

    def _unless_stopped(self, work: Callable[[], T]) -> T | None:
        """Do work that no later step depends on; give it up and return None on a stop."""
        if self._stop:
            return None
        try:
            self._interruptible_thread = threading.get_ident()
            try:
                return work()
            finally:
                self._interruptible_thread = None
        except _StopAskedFor:
            return None

    # Records

    def _validate(self) -> Any:
        """The figures of a validation, or None where it was given up."""
        found = self._unless_stopped(self.objective.validate)
        if found is None:
            return None
        figures, samples = found
        record = {**figures.record(), **({"samples": samples[:5]} if samples else {})}
        self._log.write("valid", self.step, record)
        if self._best is not None and self._best.see(self.step, figures.record()) and rank() == 0:
            self.objective.averaged().save_pretrained(self.run_dir / "best")
        self._tell(Evaluated(self.step, figures, samples))
        return figures

    def _report(self, figures: StepFigures, rate: float, speed: float) -> None:
        progress = Progress(
            step=self.step,
            steps=self.config.steps,
            loss=figures.loss,
            token_loss=figures.token_loss,
            gradient_norm=figures.gradient_norm,
            learning_rate=rate,
            speed=speed,
            unit=self.objective.unit,
            skipped=self.objective.training.skipped,
            more=figures.more,
        )
        self._log.write("train", self.step, progress.to_dict())
        self._tell(progress)

    def _tell(self, event: Progress | Evaluated) -> None:
        if self.on_event is not None and rank() == 0:
            self.on_event(event)


class _StopAskedFor(BaseException):
    """Leaves a validation from within a signal handler; no error."""


def _processes(device: str | None) -> Any:
    """Device and neighbours of this process, as torchrun or ``accelerate launch`` set them."""
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingExtraError("accelerate", "train") from None
    return PartialState(cpu=device == "cpu")
