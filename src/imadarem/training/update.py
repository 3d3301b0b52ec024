"""One optimiser step that nothing non-finite gets through."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from imadarem.errors import TrainingError
from imadarem.training.grokfast import GrokFastEma
from imadarem.training.processes import average_gradients, gathered
from imadarem.training.record import TrainingRecord

__all__ = ["MAX_SKIPPED_IN_A_ROW", "GuardedUpdate"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: Non-finite steps in a row after which training gives up.
MAX_SKIPPED_IN_A_ROW = 20


class GuardedUpdate:
    """The part of a training step behind the loss, the same for every objective.

    Gradients are averaged over processes, unscaled, clipped, filtered and applied, and the
    teacher follows; where one is not finite in any process, none of that happens.

    Args:
        model: Its trainable parameters outside ``teacher`` are updated.
        clip: Global norm that gradients are cut to.
        precision: Of the forward passes: ``no``, ``bf16`` or ``fp16``.
        grok_fast: A filter of the gradients, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        clip: float,
        precision: str = "no",
        grok_fast: GrokFastEma | None = None,
    ) -> None:
        self.model, self.clip = model, clip
        self.precision, self.grok_fast = precision, grok_fast

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Scales the loss in fp16; None in other precisions."""
        return torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward passes."""
        dtype = DTYPES.get(self.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss, or of a part of it."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def apply(
        self, optimizer: torch.optim.Optimizer, loss: float, record: TrainingRecord
    ) -> float | None:
        """Step the optimiser over the gradients that :meth:`backward` left, and count the step.

        Args:
            optimizer: Over the model's parameters.
            loss: In this process.
            record: Counts the step as good or as skipped.

        Returns:
            The global norm before clipping; None where a gradient or a loss was not finite in
            any process, and weights, teacher, optimiser and filter are as before.
        """
        named = [
            (name, parameter)
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and not name.startswith("teacher.")
        ]
        parameters = [parameter for _, parameter in named]
        average_gradients(parameters)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        # The gradients are averaged, so their norm decides alike in every process.
        finite = bool(torch.isfinite(norm)) and all(gathered(math.isfinite(loss)))
        if finite and self.grok_fast is not None:
            self.grok_fast.filter_(named)
        if finite and self.scaler is not None:
            self.scaler.step(optimizer)
        elif finite:
            optimizer.step()
        if self.scaler is not None:
            # Its scale falls after a gradient that was not finite.
            self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if not finite:
            record.skip()
            return None
        self._update_teacher(record.step_count)
        record.good_step(loss, float(norm))
        return float(norm)

    def refuse_endless_skips(self, record: TrainingRecord) -> None:
        """Give up after many skipped steps in a row.

        Raises:
            TrainingError: The last 20 steps were all skipped.
        """
        if record.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the gradient was not finite for {MAX_SKIPPED_IN_A_ROW} steps in a row (step "
                f"{record.step_count}). They did not touch the weights. Lower the learning rate "
                f"or the norm that gradients are clipped to ({self.clip:g}), and go on from the "
                "last checkpoint."
            )

    def _update_teacher(self, step: int) -> None:
        model: Any = self.model
        if model.teacher is not None:
            # A shorter average while the run is young, or it would remember the random start.
            model.update_teacher(min(model.config.ema_decay, (1 + step) / (10 + step)))
