"""What more steps buy: every row of a task, after every step of one long run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem.data.tasks import Episodes
from imadarem.errors import ConfigError
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.sampling.halting import Halting


@dataclass(frozen=True)
class Halted:
    """How a stopping rule did, beside running every row to the last step.

    Attributes:
        accuracy: Share of rows right where the rule stopped them.
        fixed_accuracy: Share right after the last step.
        mean_steps: Of the rule.
        oracle_steps: Mean first step after which a row is right; a row that is never right
            takes all steps, for the oracle as for the rule.
        halted_wrong: Share of the rows that are wrong where the rule (and not the cap) stopped
            them.
    """

    accuracy: float
    fixed_accuracy: float
    mean_steps: float
    oracle_steps: float
    halted_wrong: float


@dataclass(frozen=True)
class StepRecord:
    """Rows and steps of one run without early stopping.

    Attributes:
        right: ``(K, N)`` bool, whether a row is entirely right after a step.
        tokens: ``(K, N)`` share of its blanks that are right.
        halt: ``(K, N)`` probability of the halting head, or None.
    """

    right: np.ndarray
    tokens: np.ndarray
    halt: np.ndarray | None

    def exact(self, steps: Sequence[int]) -> dict[int, float]:
        """Share of rows entirely right after each of these steps."""
        return {step: float(self.right[step - 1].mean()) for step in steps}

    def halted(self, threshold: float, steps: int) -> Halted:
        """The halting head's rule at a threshold, with ``steps`` as the cap."""
        if self.halt is None:
            raise ConfigError("this model has no halting head; build it with halting=True.")
        right, confident = self.right[:steps], self.halt[:steps] >= threshold
        rows = np.arange(right.shape[1])
        stops = np.where(confident.any(0), confident.argmax(0), steps - 1)
        first = np.where(right.any(0), right.argmax(0), steps - 1)
        return Halted(
            accuracy=float(right[stops, rows].mean()),
            fixed_accuracy=float(right[-1].mean()),
            mean_steps=float(stops.mean()) + 1,
            oracle_steps=float(first.mean()) + 1,
            halted_wrong=float((confident.any(0) & ~right[stops, rows]).mean()),
        )


def record_steps(
    orchestrator: UnifiedRefinerOrchestrator,
    episodes: Episodes,
    steps: int,
    task_type: str,
    *,
    batch_size: int = 256,
) -> StepRecord:
    """Run episodes for ``steps`` steps, no row stopping early.

    Args:
        orchestrator: Runs the inference.
        episodes: ``N`` rows with labels.
        steps: ``K``.
        task_type: Whose edits are made.
        batch_size: Rows refined together.
    """
    traces: list[Any] = []
    for start in range(0, len(episodes), batch_size):
        part = episodes.inputs[start : start + batch_size]
        found = orchestrator.inference(
            part,
            max_steps_override=steps,
            task_type=task_type,
            halting=Halting(),
            batch_size=batch_size,
            return_traces=True,
        )
        traces.extend(found["traces"])
    right = np.zeros((steps, len(episodes)), dtype=bool)
    tokens = np.zeros((steps, len(episodes)))
    halt = np.full((steps, len(episodes)), np.nan)
    mask = orchestrator.model.special.mask
    for row, trace in enumerate(traces):
        blanks = episodes.inputs[row] == mask
        for step in trace.steps:
            ids = torch.tensor(step.ids)
            same = _same(ids, episodes.labels[row], blanks)
            # A row that settles early stays as it is.
            right[step.step - 1 :, row] = bool(same.all())
            tokens[step.step - 1 :, row] = float(same.float().mean())
            halt[step.step - 1 :, row] = np.nan if step.halt is None else step.halt
    return StepRecord(right, tokens, None if np.isnan(halt).any() else halt)


def _same(ids: Tensor, labels: Tensor, blanks: Tensor) -> Tensor:
    """Per blank, whether it holds its label; what was cut off an answer is wrong."""
    width = min(len(ids), len(labels))
    same = torch.zeros_like(blanks)
    same[:width] = ids[:width] == labels[:width]
    return same[blanks]
