"""One optimiser step that nothing non-finite gets through."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.processes import average_gradients, gathered
from imadarem.training.grokfast import GrokFastEma

__all__ = ["GuardedUpdate"]

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class GuardedUpdate:
    """Average over processes, unscale, clip, filter, step: in this order, or not at all.

    Attributes:
        grok_fast: The gradient filter, where the settings ask for it.
        scaler: Of the loss, in fp16.

    Args:
        config: Clipping, filter and precision.
        device: Of the model.
    """

    def __init__(self, config: OrchestrationConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.grok_fast = (
            GrokFastEma(config.grok_fast_alpha, config.grok_fast_lamb) if config.grok_fast else None
        )
        fp16 = config.mixed_precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.type) if fp16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the forward passes."""
        precision = PRECISIONS.get(self.config.mixed_precision)
        return torch.autocast(self.device.type, precision, enabled=precision is not None)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a part of the loss."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()

    def apply(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: float
    ) -> float | None:
        """Step the optimiser over the gradients that :meth:`backward` left.

        Args:
            model: Its trainable parameters outside ``teacher``.
            optimizer: Over them.
            loss: In this process.

        Returns:
            The global norm before clipping; None where a gradient or a loss was not finite in
            any process, and weights, optimiser and filter are as before.
        """
        named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not name.startswith("teacher.")
        ]
        parameters = [parameter for _, parameter in named]
        average_gradients(parameters)
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip_threshold)
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
        return float(norm) if finite else None
