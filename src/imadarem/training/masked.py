"""Training on plain rows: hide a part of each, ask for it back, and judge own tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem.checkpoint import load_state, load_tensors
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.corpus import LengthBuckets, TokenCorpus, collate
from imadarem.errors import CheckpointError, DataError, NonFiniteError
from imadarem.files import load_json
from imadarem.tokenizers import SpecialIds
from imadarem.training.contract import StepFigures
from imadarem.training.objective import Objective
from imadarem.training.row_conditions import RowConditions, Source
from imadarem.training.run_folder import latest_checkpoint, save_checkpoint
from imadarem.training.settings import TrainingConfig, refuse_parts_trained_by_unrolling
from imadarem.training.step import GuardedUpdate, TrainingRecord, rank, step_generator, world_size
from imadarem.training.validation import (
    GateCalibration,
    Validation,
    fit_gate_calibration,
    validate,
)

#: Shares of the rows of a model with a joint head, where the settings leave them open.
BLANK_SHARE, SUFFIX_SHARE, WINDOW_SHARE = 0.25, 0.12, 0.45


class MaskedTraining:
    """The masked objective over rows of data, for :class:`~imadarem.Trainer`.

    A model that draws the lengths of its samples and knows none takes those of the rows.

    Args:
        model: Changed in place.
        train: Training rows.
        valid: Held-out rows.
        conditions: What the training rows are like, by name: a number or a class for each row, or
            a function of its text that gives one. Models for which ``sample(condition=…)`` works
            afterwards; see :class:`~imadarem.training.row_conditions.RowConditions`.

    Raises:
        ConfigError: The model has parts that this objective does not train, or was trained with
            other conditions.
        DataError: No row fits into ``max_seq_len``.
    """

    unit = "tokens"
    validates_first = True

    def __init__(
        self,
        model: Any,
        train: TokenCorpus,
        valid: TokenCorpus,
        conditions: Mapping[str, Source] | None = None,
    ) -> None:
        refuse_parts_trained_by_unrolling(model.config)
        limit = _longest_row(model.config, model.special)
        self.model = model
        self.train, self.valid = train.no_longer_than(limit), valid.no_longer_than(limit)
        self.conditions = None
        if conditions:
            kept = np.flatnonzero(train.lengths <= limit)
            self.conditions = RowConditions(model, conditions, train, kept)
        if model.config.length_mode == "drawn" and model.config.length_counts is None:
            model.config = replace(model.config, length_counts=self.train.length_counts())
        self.training = TrainingRecord()
        self._gate = GateCalibration()

    def prepare(self, config: TrainingConfig) -> None:
        """Split the held-out rows and share out the batches."""
        self.config = config
        self.valid, self.calibration = _shared(self.valid, config.valid_rows)
        self.buckets = LengthBuckets(self.train.lengths, self._global_batch(), config.seed)
        self.update = GuardedUpdate(
            self.model, clip=config.gradient_clip, precision=config.mixed_precision
        )

    def train_step(self, optimizer: torch.optim.Optimizer) -> StepFigures:
        """One guarded optimiser step on the rows of this step.

        Raises:
            TrainingError: The gradient was not finite many steps in a row.
        """
        ids, inside, condition, generator = self._batch(self.training.step_count)
        self.model.train()
        loss, token, gate = math.nan, None, None
        # A model that gives NaN where it fills its own canvases makes this a step to skip.
        with suppress(NonFiniteError):
            parts = [
                self._backward(rows, real, asked, len(rows) / len(ids), generator)
                for rows, real, asked in zip(
                    ids.chunk(self.config.accumulation),
                    inside.chunk(self.config.accumulation),
                    repeat(None)
                    if condition is None
                    else condition.chunk(self.config.accumulation),
                    strict=False,
                )
            ]
            loss, token, gate = (sum(column) for column in zip(*parts, strict=True))
        norm = self.update.apply(optimizer, loss, self.training)
        if norm is None:
            self.update.refuse_endless_skips(self.training)
        tokens = int(inside.sum()) * world_size()
        return StepFigures(loss, token, norm, tokens, {"gate_loss": gate})

    def _backward(
        self,
        ids: Tensor,
        inside: Tensor,
        condition: Tensor | None,
        share: float,
        generator: torch.Generator,
    ) -> tuple[float, float, float]:
        """Add the gradient of a part of the batch; the loss and its terms, times its share."""
        with self.update.autocast():
            terms = self.objective()(self.model, ids, inside, generator, condition=condition)
            total = terms.total * share
        self.update.backward(total)
        return float(total.detach()), float(terms.token) * share, float(terms.gate) * share

    def objective(self) -> Objective:
        """The loss function of the next step.

        It trains the gate after a warm-up, on a frozen backbone from the first step on.
        """
        frozen = bool((self.model.config.backbone or {}).get("frozen"))
        warm = frozen or self.training.step_count >= self.config.gate_warmup * self.config.steps
        blank = self._share(self.config.blank_share, BLANK_SHARE)
        ends = self._share(self.config.suffix_share, SUFFIX_SHARE)
        # Shares that are given leave less than usual for the windows.
        room = max(1.0 - blank - ends, 0.0)
        return Objective(
            config=self.model.config,
            special=self.model.special,
            on_policy_share=self.config.on_policy_share if warm else 0.0,
            blank_share=blank,
            suffix_share=ends,
            window_share=self._share(self.config.window_share, min(WINDOW_SHARE, room)),
            surplus=self.config.surplus,
        )

    def validate(self) -> tuple[Validation, list[str]]:
        """Figures of the averaged weights on held-out rows, and samples drawn from them."""
        averaged = self.averaged()
        objective = Objective(config=averaged.config, special=averaged.special)
        figures = validate(averaged, objective, self.valid)
        samples: list[str] = []
        if self.config.sample_count and hasattr(averaged.tokenizer, "decode"):
            samples = averaged.sample(self.config.sample_count, seed=self.config.seed).texts
        return figures, samples

    def calibrate(self) -> None:
        """Fit the gate's calibration, where there is a trained gate."""
        if not self.model.config.use_refine_gate or self.config.on_policy_share == 0:
            return
        averaged = self.averaged()
        objective = Objective(config=averaged.config, special=averaged.special)
        self._gate = fit_gate_calibration(averaged, objective, self.calibration)

    def averaged(self) -> Any:
        """The averaged model with the gate's fitted calibration."""
        averaged = self.model.averaged()
        self._gate.apply(averaged.config)
        return averaged

    def save(self, run_dir: Path, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Write a checkpoint; the first process does."""
        if rank() > 0:
            return
        first = state["first"]
        steps = {"step": self.training.step_count, "skipped": self.training.skipped}
        whole = {**state, **steps, "first": None if first is None else first.to_dict()}
        scaler = self.update.scaler
        parts = {} if scaler is None else {"scaler": scaler.state_dict()}
        save_checkpoint(run_dir, self.model, optimizer, whole, parts)

    def load(self, run_dir: Path, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Go on from the newest checkpoint.

        Raises:
            CheckpointError: It belongs to another model or optimiser.
        """
        folder = latest_checkpoint(run_dir)
        assert folder is not None
        state: dict[str, Any] = load_json(folder / "trainer.json")
        try:
            self.model.load_state_dict(load_tensors(folder / "model.safetensors"), strict=True)
            optimizer.load_state_dict(load_state(folder / "optimizer"))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{folder} does not fit this model and optimizer: {str(error)[:200]}"
            ) from None
        if self.update.scaler is not None and (folder / "scaler.json").exists():
            self.update.scaler.load_state_dict(load_state(folder / "scaler"))
        self.training = TrainingRecord(step_count=state["step"], skipped=state["skipped"])
        first = state["first"]
        return {**state, "first": None if first is None else Validation.from_dict(first)}

    def description(self) -> dict[str, Any]:
        """The numbers of rows."""
        return {"rows": {"train": len(self.train), "valid": len(self.valid)}}

    def _share(self, given: float | None, with_joint_head: float) -> float:
        if given is not None:
            return given
        return with_joint_head if self.model.config.joint_size else 0.0

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor | None, torch.Generator]:
        """Ids, which are real, what the rows are asked to be like, and the step's generator."""
        generator = step_generator(self.config.seed, step)
        numbers = self.buckets.batch(step)[rank() :: world_size()]
        ids, inside = collate([self.train[i] for i in numbers], self.model.special.pad)
        device = self.update.device
        condition = None
        if self.conditions is not None:
            condition = self.conditions.of(numbers, generator).to(device)
        return ids.to(device), inside.to(device), condition, generator

    def _global_batch(self) -> int:
        rows = min(self.config.batch_size, len(self.train))
        size = rows // world_size() * world_size()
        if size == 0:
            raise DataError(
                f"a batch of {rows} rows cannot be shared among {world_size()} processes. Use a "
                "larger batch_size or fewer processes."
            )
        return size


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
