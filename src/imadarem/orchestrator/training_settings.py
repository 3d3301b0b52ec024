"""The settings of a training run over a task; importing them loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from imadarem.errors import ConfigError, nearest

__all__ = ["TaskTrainingConfig"]


@dataclass(kw_only=True)
class TaskTrainingConfig:
    """Settings of a training run over a task, checked on construction.

    Args:
        steps: Optimiser steps.
        batch_size: Episodes per step, over all processes.
        learning_rate: Peak rate.
        optimizer: ``adamw``, ``muon`` or another name of pytorch_optimizer.
        schedule: ``cosine`` or ``wsd``.
        warmup_steps: Steps of linear warm-up.
        weight_decay: On the matrices of the blocks.
        seed: Of the order of episodes.
        log_every: Steps between two lines of ``metrics.jsonl``.
        eval_every: Steps between two validations.
        save_every: Steps between two checkpoints.
        valid_rows: Held-out episodes used at most in a validation.

    Raises:
        ConfigError: A setting is out of range.
    """

    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 2e-3
    optimizer: str = "adamw"
    schedule: str = "wsd"
    warmup_steps: int = 50
    weight_decay: float = 0.01
    seed: int = 0
    log_every: int = 20
    eval_every: int = 250
    save_every: int = 250
    valid_rows: int = 300

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "eval_every", "save_every", "valid_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("warmup_steps", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 0.")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate={self.learning_rate} must be above 0.")
        # Here, not above: a command line that shows these settings need not load torch.
        from imadarem.training.optim import learning_rate_factor

        learning_rate_factor(0, self.steps, self.warmup_steps, self.schedule)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TaskTrainingConfig:
        """From plain values.

        Raises:
            ConfigError: A key is unknown; the nearest known one is named.
        """
        known = {field.name for field in fields(cls)}
        for key in settings:
            if key not in known:
                raise ConfigError(f"unknown training setting {key!r}{nearest(key, known)}.")
        return cls(**settings)
