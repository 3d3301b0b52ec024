"""The settings of a training run over a task; importing them loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from imadarem import checks
from imadarem.training.settings import COUNTS, NONE_OR_MORE

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
        given = vars(self)
        checks.at_least(1, **{name: given[name] for name in COUNTS})
        checks.at_least(0, **{name: given[name] for name in NONE_OR_MORE})
        checks.above_zero(learning_rate=self.learning_rate)
        # Here, not above: a command line that shows these settings need not load torch.
        from imadarem.training.optim import learning_rate_factor

        learning_rate_factor(0, self.steps, self.warmup_steps, self.schedule)

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> TaskTrainingConfig:
        """From plain values.

        Raises:
            ConfigError: A key is unknown; the nearest known one is named.
        """
        checks.known_keys(settings, {field.name for field in fields(cls)}, "training setting")
        return cls(**settings)
