"""One training step: its randomness, what processes share of it, and a guarded update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from imadarem.errors import TrainingError
from imadarem.training.grokfast import GrokFastEma

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: Non-finite steps in a row after which training gives up.
MAX_SKIPPED_IN_A_ROW = 20
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
        """Add the gradient of the loss, or of a part of it.

        A loss that no trainable weight has a part in adds none: the heads of a frozen backbone
        have nothing to learn from some batches.
        """
        if not loss.requires_grad:
            return
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def apply(
        self, optimizer: torch.optim.Optimizer, loss: float, record: TrainingRecord
    ) -> float | None:
        """Step the optimiser over the gradients that :meth:`backward` left, and count the step.

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
        """Give up after many skipped steps in a row."""
        if record.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"the gradient was not finite for {MAX_SKIPPED_IN_A_ROW} steps in a row (step "
                f"{record.step_count}). They did not touch the weights. Lower the learning rate "
                f"or the norm that gradients are clipped to ({self.clip:g}), and resume from the "
                "last checkpoint."
            )

    def _update_teacher(self, step: int) -> None:
        model: Any = self.model
        if model.teacher is not None:
            # A shorter average while the run is young, or it would remember the random start.
            model.update_teacher(min(model.config.ema_decay, (1 + step) / (10 + step)))


def world_size() -> int:
    """Processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def step_generator(seed: int, step: int) -> torch.Generator:
    """All randomness of a step from (seed, step, rank): torch's own is seeded, for dropout.

    Returns:
        A generator on the CPU for everything else.
    """
    state = np.random.SeedSequence([seed, step, rank()]).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    return torch.Generator().manual_seed(int(state[1] >> np.uint64(1)))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes; none counts as zero.

    Where no process has one, there is none afterwards: to a filter or an optimiser a zero
    is a first gradient like any other.

    Once per optimiser step, after all backward passes of it: a window's own backward pass
    must not wait for the others.
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([*(g.flatten() for g in gradients), present.to(gradients[0])])
    dist.all_reduce(flat)
    flat /= world_size()
    sizes = [parameter.numel() for parameter in parameters]
    *means, anywhere = flat.split([*sizes, len(parameters)])
    for parameter, mean, found in zip(parameters, means, anywhere.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter).clone() if found else None


@torch.no_grad()
def share_first(parameters: Iterable[Tensor]) -> None:
    """Give every process the first one's values."""
    if world_size() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)


def mean_over_processes(values: list[float]) -> list[float]:
    """Element-wise mean; every process gives as many values."""
    if world_size() == 1 or not values:
        return values
    return [sum(column) / world_size() for column in zip(*gathered(values), strict=True)]


def gathered(value: Any) -> list[Any]:
    """What every process gave, in the order of ranks, in every process."""
    if world_size() == 1:
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone
