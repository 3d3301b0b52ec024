"""The state that ``carry`` mode keeps between optimiser steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.orchestrator.batch import Question
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.unroll import Unrolled, UnrollState
from imadarem.tokenizers import SpecialIds
from imadarem.training.step import mean_over_processes

#: Probability of the halting head above which a row makes room for a new one.
HALTED = 0.5


@dataclass(frozen=True)
class Carried:
    """Rows under way, each at a step of its own.

    Attributes:
        question: What they are to answer.
        state: How far they are.
        task_ids: ``(B,)``.
        steps: ``(B,)`` steps taken.
        least: ``(B,)`` steps before which a row may not halt.
        finished: ``(B,)`` bool, rows that the next batch replaces.
    """

    question: Question
    state: UnrollState
    task_ids: Tensor
    steps: Tensor
    least: Tensor
    finished: Tensor

    @classmethod
    def fresh(
        cls,
        question: Question,
        task_ids: Tensor,
        config: OrchestrationConfig,
        generator: torch.Generator,
    ) -> Carried:
        """Rows before their first step; some may not halt before a random step."""
        count = len(task_ids)
        longer = torch.rand(count, generator=generator) < config.halt_exploration
        random_step = torch.randint(1, config.max_steps_train + 1, (count,), generator=generator)
        device = question.labels.device
        zeros = torch.zeros(count, dtype=torch.long, device=device)
        least = torch.where(longer, random_step, torch.ones_like(random_step)).to(device)
        question = replace(question, memory=None)
        return cls(question, UnrollState(question.canvas.ids), task_ids, zeros, least, zeros.bool())

    @classmethod
    def merged(
        cls,
        before: Carried | None,
        question: Question,
        task_ids: Tensor,
        config: OrchestrationConfig,
        generator: torch.Generator,
    ) -> tuple[Carried, int]:
        """Rows under way, the finished ones replaced by the rows of a batch in their places.

        The batch's other rows are not used (as in arXiv:2506.21734). A batch with another
        number of rows starts anew.

        Returns:
            The rows, and how many of them are new.
        """
        new = cls.fresh(question, task_ids, config, generator)
        if before is None or len(before.task_ids) != len(task_ids):
            return new, len(task_ids)
        width = max(question.labels.shape[1], before.question.labels.shape[1])
        old, new = before._widened(width), new._widened(width)
        fresh = before.finished
        return _pick(fresh, new, old), int(fresh.sum())

    @property
    def next_step(self) -> int:
        """Number of the step to come: rows are at steps of their own, and this is their mean."""
        (mean,) = mean_over_processes([float(self.steps.float().mean())])
        return 1 + round(mean)

    def after(self, unrolled: Unrolled, config: OrchestrationConfig) -> Carried:
        """With one step taken; only a row's first step says how much of a surprise it was."""
        assert unrolled.state is not None
        if unrolled.surprise is not None:
            unrolled.surprise[self.steps > 0] = float("nan")
        steps = self.steps + 1
        finished = steps >= config.max_steps_train
        if unrolled.halt is not None:
            finished |= (unrolled.halt > HALTED) & (steps >= self.least)
        return replace(self, state=unrolled.state, steps=steps, finished=finished)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "ids": self.question.canvas.ids,
            "canvas": self.question.canvas.state,
            "labels": self.question.labels,
            "may_end": self.question.may_end,
            "answer": self.state.answer,
            "beliefs": self.state.beliefs,
            "carry": self.state.carry,
            "task_ids": self.task_ids,
            "steps": self.steps,
            "least": self.least,
            "finished": self.finished,
        }

    @classmethod
    def from_state_dict(
        cls, saved: Mapping[str, Any], special: SpecialIds, device: torch.device
    ) -> Carried:
        """The inverse of :meth:`state_dict`."""
        on: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in saved.items()
        }
        canvas = Canvas(on["ids"], on["canvas"], special)
        return cls(
            Question(canvas, on["labels"], on["may_end"]),
            UnrollState(on["answer"], on["beliefs"], on["carry"]),
            saved["task_ids"],
            on["steps"],
            on["least"],
            on["finished"],
        )

    def _widened(self, width: int) -> Carried:
        more = width - self.question.labels.shape[1]
        if more == 0:
            return self
        canvas = self.question.canvas
        pad = canvas.special.pad
        ids = F.pad(canvas.ids, (0, more), value=pad)
        state = F.pad(canvas.state, (0, more), value=int(State.PAD))
        labels = F.pad(self.question.labels, (0, more), value=pad)
        answer, beliefs, carry = self.state
        return replace(
            self,
            question=replace(
                self.question, canvas=replace(canvas, ids=ids, state=state), labels=labels
            ),
            state=UnrollState(
                F.pad(answer, (0, more), value=pad),
                None if beliefs is None else F.pad(beliefs, (0, 0, 0, more)),
                None if carry is None else F.pad(carry, (0, 0, 0, more)),
            ),
        )


def _pick(fresh: Tensor, new: Carried, old: Carried) -> Carried:
    """Rows of ``new`` where ``fresh`` ``(B,)`` holds, else of ``old``; both equally wide."""

    def rows(one: Tensor, other: Tensor) -> Tensor:
        where = fresh.to(one.device).reshape(-1, *[1] * (one.ndim - 1))
        return torch.where(where, one, other)

    def latent(other: Tensor | None) -> Tensor | None:
        # A row that starts has no beliefs and no carry: zeros say the same to the network.
        return None if other is None else rows(torch.zeros_like(other), other)

    a, b = new.question, old.question
    canvas = replace(
        a.canvas,
        ids=rows(a.canvas.ids, b.canvas.ids),
        state=rows(a.canvas.state, b.canvas.state),
    )
    return Carried(
        Question(canvas, rows(a.labels, b.labels), a.may_end),
        UnrollState(
            rows(new.state.answer, old.state.answer),
            latent(old.state.beliefs),
            latent(old.state.carry),
        ),
        rows(new.task_ids, old.task_ids),
        rows(new.steps, old.steps),
        rows(new.least, old.least),
        rows(new.finished, old.finished),
    )
