"""The training loop: any corpus, one process or several, exact resume, nothing lost.

Everything random in step ``s`` is a pure function of (seed, s, rank): which rows, which
masks, which draws, which dropped activations. A resumed run therefore needs no state but
weights, teacher, optimiser and the step number, and continues bit for bit on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from imadarem.checkpoint import load_json, load_state, load_tensors
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.corpus import LengthBuckets, TokenCorpus, collate
from imadarem.errors import (
    CheckpointError,
    DataError,
    MissingExtraError,
    TrainingError,
)
from imadarem.nn import EmaTeacher
from imadarem.tokenizers import SpecialIds
from imadarem.training.objective import LossTerms, Objective
from imadarem.training.optim import build_optimizer, learning_rate_factor, parameter_groups
from imadarem.training.run_folder import RunLog, latest_checkpoint, save_checkpoint
from imadarem.training.settings import TrainingConfig
from imadarem.training.step import MAX_SKIPPED_IN_A_ROW, step_generator, warm_decay
from imadarem.training.validation import (
    GateCalibration,
    Validation,
    fit_gate_calibration,
    validate,
)

__all__ = ["Evaluated", "Progress", "Trainable", "Trainer", "TrainingConfig", "TrainingResult"]

#: Shares of the rows of a model with a joint head, where the settings leave them open.
BLANK_SHARE, SUFFIX_SHARE, WINDOW_SHARE = 0.25, 0.12, 0.38


class Trainable(Protocol):
    """What the trainer asks of a model; :class:`~imadarem.ImplicitRefinementModel` has it."""

    config: ImplicitRefinementConfig
    special: SpecialIds
    teacher: EmaTeacher | None

    def init_teacher(self) -> None: ...
    def update_teacher(self, decay: float | None = None) -> None: ...
    def averaged(self) -> Any: ...


@dataclass(frozen=True)
class Progress:
    """One logged stretch of training; the losses are those of the last step.

    Attributes:
        step: Steps done, of ``steps``.
        steps: Length of the run.
        loss: Total loss, nats.
        token_loss: Its token term, nats per token.
        gate_loss: Its gate term, nats per judged token.
        gradient_norm: Before clipping.
        learning_rate: Of the matrices.
        tokens_per_second: Real tokens of all processes, since the last record.
        skipped: Steps skipped so far because something was not finite.
    """

    step: int
    steps: int
    loss: float
    token_loss: float
    gate_loss: float
    gradient_norm: float
    learning_rate: float
    tokens_per_second: float
    skipped: int


@dataclass(frozen=True)
class Evaluated:
    """A validation of the averaged weights, with samples drawn from them."""

    step: int
    figures: Validation
    samples: list[str]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        step: Steps done.
        finished: False if it was asked to stop before.
        model_dir: The averaged model, ready for ``from_pretrained``.
        first: The first validation of the run.
        last: The last one.
        skipped: Steps skipped because something was not finite.
    """

    step: int
    finished: bool
    model_dir: Path
    first: Validation
    last: Validation
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        figures = {"first": self.first.to_dict(), "last": self.last.to_dict()}
        return {**asdict(self), **figures, "model_dir": str(self.model_dir)}


class Trainer:
    """Trains a refiner and keeps a run folder.

    ::

        run/run.json            settings, versions, sizes
        run/metrics.jsonl       one JSON object per record
        run/tensorboard/        the same, where tensorboard is installed
        run/checkpoints/step-*  what an exact resume needs
        run/model/              the averaged model, as from_pretrained reads it

    Args:
        model: Changed in place.
        train: Training rows.
        valid: Held-out rows.
        config: How to train.
        run_dir: Made if it does not exist.
        device: ``"cpu"``, ``"cuda"``, … or None to let Accelerate choose.
        on_event: Called with each :class:`Progress` and :class:`Evaluated`.

    Raises:
        DataError: No row fits into ``max_seq_len``.
        MissingExtraError: accelerate is not installed.
    """

    def __init__(
        self,
        model: Any,
        train: TokenCorpus,
        valid: TokenCorpus,
        config: TrainingConfig,
        run_dir: str | Path,
        *,
        device: str | None = None,
        on_event: Callable[[Progress | Evaluated], None] | None = None,
    ) -> None:
        self.accelerator = _accelerator(config.mixed_precision, device)
        limit = _longest_row(model.config, model.special)
        self.train, self.valid = train.no_longer_than(limit), valid.no_longer_than(limit)
        self.valid, self.calibration = _shared(self.valid, config.valid_rows)
        self.config, self.run_dir, self.on_event = config, Path(run_dir), on_event
        self.model = model.to(self.accelerator.device)
        if self.model.teacher is None:
            self.model.init_teacher()
        groups = parameter_groups(
            self.model, config.learning_rate, config.weight_decay, config.gate_lr_scale
        )
        self.optimizer = build_optimizer(config.optimizer, groups, steps=config.steps)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.network = self.accelerator.prepare(self.model)
        self.buckets = LengthBuckets(self.train.lengths, self._global_batch(), config.seed)
        self.step = 0
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._gate = GateCalibration()
        self._stop = False
        self._first: Validation | None = None
        self._log = RunLog(self.run_dir, enabled=self.accelerator.is_main_process)

    # Control

    def request_stop(self) -> None:
        """Finish the step under way, save, and return. Safe in a signal handler."""
        self._stop = True

    def resume(self) -> int:
        """Go on from the newest checkpoint of the run folder; returns its step.

        Raises:
            CheckpointError: There is none, or it belongs to another model.
        """
        folder = latest_checkpoint(self.run_dir)
        if folder is None:
            raise CheckpointError(
                f"{self.run_dir} has no checkpoint to resume from. Start without --resume."
            )
        state = load_json(folder / "trainer.json")
        try:
            self.model.load_state_dict(load_tensors(folder / "model.safetensors"), strict=True)
            self.optimizer.load_state_dict(load_state(folder / "optimizer"))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{folder} does not fit this model and optimizer: {str(error)[:200]}"
            ) from None
        self.step, self.skipped = state["step"], state["skipped"]
        if state["first"] is not None:
            self._first = Validation.from_dict(state["first"])
        return self.step

    # The loop

    def run(self) -> TrainingResult:
        """Train until ``steps``, or until asked to stop; save; return how it went.

        Raises:
            TrainingError: The gradient was not finite many steps in a row. The last
                checkpoint is untouched.
        """
        self._log.start(self._description())
        if self._first is None:
            self._first = self._evaluate()
        with torch.random.fork_rng(devices=[]):
            clock, tokens = time.perf_counter(), 0
            while self.step < self.config.steps and not self._asked_to_stop():
                # 1. The rows of this step, and all of its randomness.
                ids, inside, generator = self._batch(self.step)
                # 2. Loss, gradient, and one guarded optimiser step.
                terms, norm, rate = self._optimise(ids, inside, generator)
                self.step += 1
                tokens += int(inside.sum()) * self.accelerator.num_processes
                # 3. Say how it goes, validate, save.
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    now = time.perf_counter()
                    self._report(terms, norm, rate, tokens / (now - clock))
                    clock, tokens = now, 0
                if self.step % self.config.eval_every == 0 and self.step < self.config.steps:
                    self._evaluate()
                    clock, tokens = time.perf_counter(), 0
                if self.step % self.config.save_every == 0:
                    self.save()
        # 4. Save what there is, as a stopped run may be killed soon; calibrate the gate on rows of
        #    its own, and say what the model is worth.
        self.save()
        self._calibrate()
        last = self._evaluate()
        self.save()
        self._log.close()
        finished = self.step >= self.config.steps
        model_dir = self.run_dir / "model"
        return TrainingResult(self.step, finished, model_dir, self._first, last, self.skipped)

    def _asked_to_stop(self) -> bool:
        """Whether any process was: they leave the loop together, or wait for each other."""
        if self.accelerator.num_processes == 1:
            return self._stop
        asked = torch.tensor(float(self._stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum") > 0)

    def save(self) -> None:
        """Write a checkpoint and the averaged model; the old checkpoint stays until then."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            first = None if self._first is None else self._first.to_dict()
            state = {"step": self.step, "skipped": self.skipped, "first": first}
            save_checkpoint(self.run_dir, self.model, self.optimizer, state)
            self._averaged().save_pretrained(self.run_dir / "model")
        self.accelerator.wait_for_everyone()

    def _optimise(
        self, ids: Tensor, inside: Tensor, generator: torch.Generator
    ) -> tuple[LossTerms, float, float]:
        factor = learning_rate_factor(
            self.step, self.config.steps, self.config.warmup_steps, self.config.schedule
        )
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        self.model.train()
        with self.accelerator.autocast():
            terms = self._objective()(self.network, ids, inside, generator, rollout=self.model)
        self.accelerator.backward(terms.total)
        parameters = self.model.student_parameters()
        norm = self.accelerator.clip_grad_norm_(parameters, self.config.gradient_clip)
        # A loss that is not finite makes every rank's gradient so; the norm decides for all.
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.model.update_teacher(warm_decay(self.model.config.ema_decay, self.step))
            self._skipped_in_a_row = 0
        else:
            self._skip()
        self.optimizer.zero_grad(set_to_none=True)
        return terms, float(norm), self.optimizer.param_groups[0]["lr"]

    def _skip(self) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the gradient was not finite for {MAX_SKIPPED_IN_A_ROW} steps in a row (step "
                f"{self.step}). Weights were not touched by them. Lower learning_rate "
                f"({self.config.learning_rate:g}) or gradient_clip, and resume from "
                f"{latest_checkpoint(self.run_dir) or 'the start: no checkpoint was saved yet'}."
            )

    def _objective(self) -> Objective:
        warm = self.step >= self.config.gate_warmup * self.config.steps
        return Objective(
            config=self.model.config,
            special=self.model.special,
            on_policy_share=self.config.on_policy_share if warm else 0.0,
            blank_share=self._share(self.config.blank_share, BLANK_SHARE),
            suffix_share=self._share(self.config.suffix_share, SUFFIX_SHARE),
            window_share=self._share(self.config.window_share, WINDOW_SHARE),
            surplus=self.config.surplus,
        )

    def _share(self, given: float | None, with_joint_head: float) -> float:
        if given is not None:
            return given
        return with_joint_head if self.model.config.joint_size else 0.0

    def _batch(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        generator = step_generator(self.config.seed, step, rank)
        rows = [self.train[i] for i in self.buckets.batch(step)[rank::world]]
        ids, inside = collate(rows, self.model.special.pad)
        device = self.accelerator.device
        return ids.to(device), inside.to(device), generator

    def _global_batch(self) -> int:
        world: int = self.accelerator.num_processes
        size = min(self.config.batch_size, len(self.train)) // world * world
        if size == 0:
            raise DataError(
                f"a batch of {min(self.config.batch_size, len(self.train))} rows cannot be shared "
                f"among {world} processes. Use a larger batch_size or fewer processes."
            )
        return size

    # Records

    def _report(self, terms: LossTerms, norm: float, rate: float, speed: float) -> None:
        progress = Progress(
            step=self.step,
            steps=self.config.steps,
            loss=float(terms.total.detach()),
            token_loss=float(terms.token),
            gate_loss=float(terms.gate),
            gradient_norm=norm,
            learning_rate=rate,
            tokens_per_second=speed,
            skipped=self.skipped,
        )
        self._log.write("train", self.step, asdict(progress))
        self._tell(progress)

    def _averaged(self) -> Any:
        """The averaged model with the gate's fitted calibration."""
        averaged = self.model.averaged()
        self._gate.apply(averaged.config)
        return averaged

    def _calibrate(self) -> None:
        """Fit the gate's calibration, where there is a trained gate."""
        if not self.model.config.use_refine_gate or self.config.on_policy_share == 0:
            return
        averaged = self._averaged()
        objective = Objective(config=averaged.config, special=averaged.special)
        self._gate = fit_gate_calibration(averaged, objective, self.calibration)

    def _evaluate(self) -> Validation:
        averaged = self._averaged()
        objective = Objective(config=averaged.config, special=averaged.special)
        figures = validate(averaged, objective, self.valid)
        samples: list[str] = []
        if self.config.sample_count and hasattr(averaged.tokenizer, "decode"):
            samples = averaged.sample(self.config.sample_count, seed=self.config.seed).texts
        self._log.write("valid", self.step, {**figures.to_dict(), "samples": samples[:5]})
        self._tell(Evaluated(self.step, figures, samples))
        return figures

    def _tell(self, event: Progress | Evaluated) -> None:
        if self.on_event is not None and self.accelerator.is_main_process:
            self.on_event(event)

    def _description(self) -> dict[str, Any]:
        return {
            "training": asdict(self.config),
            "model": self.model.config.to_dict(),
            "parameters": sum(p.numel() for p in self.model.student_parameters()),
            "rows": {"train": len(self.train), "valid": len(self.valid)},
            "processes": self.accelerator.num_processes,
            "device": str(self.accelerator.device),
        }


def _accelerator(mixed_precision: str, device: str | None) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError:
        raise MissingExtraError("accelerate", "train") from None
    # The gate and the self-conditioning take part in some steps only.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        mixed_precision=mixed_precision, cpu=device == "cpu", kwargs_handlers=[unused]
    )


def _shared(held_out: TokenCorpus, rows: int) -> tuple[TokenCorpus, TokenCorpus]:
    """Rows to validate on, and as many others to calibrate on; the same where there are few."""
    order = np.arange(len(held_out))
    if len(held_out) < 2 * rows:
        first = held_out if len(held_out) <= rows else held_out.subset(order[:rows])
        return first, first
    return held_out.subset(order[:rows]), held_out.subset(order[rows : 2 * rows])


def _longest_row(config: ImplicitRefinementConfig, special: SpecialIds) -> int:
    """Tokens that fit on a canvas; a canvas that ends by EOS needs room for it."""
    ends = config.length_mode == "eos" and special.eos is not None
    return config.max_seq_len - 1 if ends else config.max_seq_len
