"""Drawing the blanks of one pass jointly, from left to right, by a joint head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.nn.joint import JointLogits
from imadarem.nn.joint_stepper import NumpyStepper, StepWeights, TorchStepper
from imadarem.sampling.draw import Truncation, allowed_logits, inverse_cdf
from imadarem.sampling.noise import RowNoise, Stream

__all__ = ["JointDraws"]

Array = npt.NDArray[Any]


class JointDraws:
    """Draws from left to right, as far as somebody asks for them.

    Left of a position stand the canvas's own tokens, and the drawn ones where it has a
    blank. At a blank and at temperature 1 a row's draw has the probability
    ``Π_i p(x_i | canvas, x_<i)``. An EOS is a token like any other here: the positions behind
    one read it. What is drawn does not depend on how far, nor in how many parts, one asks.

    Args:
        joint: Of the pass.
        canvas: That the pass has read.
        noise: Of the step.
        temperature: Divides the logits before a token is drawn.
        may_end: Whether an EOS may be drawn.
        truncation: Cuts the tail of what is drawn from.
        weights: Of the head, laid out for steps; None lays them out for this pass.
    """

    @torch.no_grad()
    def __init__(
        self,
        joint: JointLogits,
        canvas: Canvas,
        noise: RowNoise,
        temperature: float,
        may_end: bool,
        truncation: Truncation | None = None,
        weights: StepWeights | None = None,
    ) -> None:
        alone = allowed_logits(joint.logits.detach(), canvas, may_end)
        # Where some row has a blank, the tokens to its right depend on what is drawn there.
        drawn_at, read = torch.stack([canvas.open, canvas.attended]).any(dim=1).tolist()
        self._drawn_at: list[bool] = drawn_at
        #: Positions up to the last that some row reads.
        self.length = max((i + 1 for i, is_read in enumerate(read) if is_read), default=0)
        self._logits, self._log_probs = torch.zeros_like(alone), torch.zeros_like(alone)
        self._drawn = torch.zeros_like(canvas.ids)
        uniform = noise.uniform(Stream.TOKEN, alone.shape[1])
        task = _Task(canvas, alone, uniform, temperature, truncation, self._logits, self._drawn)
        self._walk: _NumpyWalk | _TorchWalk = (
            _NumpyWalk(joint, task, weights) if joint.steps_in_numpy() else _TorchWalk(joint, task)
        )
        self._reached = 0

    @torch.no_grad()
    def upto(self, end: int) -> tuple[Tensor, Tensor]:
        """The positions before ``end``, and others if they were asked for before.

        Returns:
            Log-probabilities ``(B, L, V)`` of each position given what was drawn left of it,
            and the drawn tokens ``(B, L)``; meaningless behind the positions asked for.
        """
        start = self._reached
        if end > start:
            for position in range(start, end):
                self._walk.to(position, self._drawn_at[position])
            self._log_probs[:, start:end] = self._logits[:, start:end].log_softmax(dim=-1)
            given = [p for p in range(start, end) if not self._drawn_at[p]]
            if given:
                self._walk.draw_at(given)
            self._reached = end
        return self._log_probs, self._drawn

    def whole(self) -> tuple[Tensor, Tensor]:
        """All positions that some row reads, as :meth:`upto` returns them."""
        return self.upto(self.length)


@dataclass(frozen=True)
class _Task:
    """What is drawn for, how, and where it is written.

    Attributes:
        canvas: That the pass has read.
        alone: ``(B, L, V)`` logits of each position by itself.
        uniform: ``(B, L)`` float64.
        temperature: Divides the logits; 0 takes the most likely token.
        truncation: Cuts the tail of what is drawn from.
        logits: ``(B, L, V)``, written to: given what was drawn on the left.
        drawn: ``(B, L)``, written to.
    """

    canvas: Canvas
    alone: Tensor
    uniform: Tensor
    temperature: float
    truncation: Truncation | None
    logits: Tensor
    drawn: Tensor


class _TorchWalk:
    """Reads and draws position by position, in torch."""

    def __init__(self, joint: JointLogits, task: _Task) -> None:
        self._stepper, self._task = TorchStepper(joint), task
        self._previous = torch.full_like(task.canvas.ids[:, 0], joint.head.start_id)

    def to(self, position: int, draws: bool) -> None:
        """The next position; a token is drawn there if ``draws``."""
        task, canvas = self._task, self._task.canvas
        added = self._stepper.step(position, self._previous)
        here = task.alone[:, position] + added
        task.logits[:, position] = here
        self._previous = canvas.ids[:, position]
        if draws:
            token = self._draw(here, task.uniform[:, position])
            task.drawn[:, position] = token
            self._previous = torch.where(canvas.open[:, position], token, self._previous)

    def draw_at(self, positions: list[int]) -> None:
        """Draw at positions that have no blank in any row: nothing depends on these tokens."""
        chosen = self._task.logits[:, positions]
        self._task.drawn[:, positions] = self._draw(chosen, self._task.uniform[:, positions])

    def _draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """``(..., V)`` and ``(...)`` → ``(...)`` int64."""
        if self._task.temperature == 0:
            return logits.argmax(dim=-1)
        probs = (logits.double() / self._task.temperature).softmax(dim=-1)
        truncation = self._task.truncation
        return inverse_cdf(probs if truncation is None else truncation(probs), uniform)


class _NumpyWalk:
    """The same in NumPy, over the same memory."""

    def __init__(self, joint: JointLogits, task: _Task, weights: StepWeights | None) -> None:
        self._stepper = NumpyStepper(joint, weights)
        self._temperature, self._truncation = task.temperature, task.truncation
        # Positions first: each step takes one row of these.
        self._alone, self._logits, self._drawn, self._uniform = (
            x.numpy().swapaxes(0, 1)
            for x in (task.alone, task.logits, task.drawn, task.uniform[..., None])
        )
        is_open = task.canvas.open
        self._ids = task.canvas.ids.t().contiguous().numpy()
        self._open = is_open.t().contiguous().numpy()
        self._all_open: list[bool] = is_open.all(dim=0).tolist()
        self._previous = np.full(len(task.alone), joint.head.start_id)

    def to(self, position: int, draws: bool) -> None:
        """As :meth:`_TorchWalk.to`."""
        here = self._logits[position]
        added = self._stepper.step(position, self._previous)
        np.add(self._alone[position], added, out=here)
        if not draws:
            self._previous = self._ids[position]
            return
        token = self._draw(here, self._uniform[position])
        self._drawn[position] = token
        if not self._all_open[position]:
            token = np.where(self._open[position], token, self._ids[position])
        self._previous = token

    def draw_at(self, positions: list[int]) -> None:
        """As :meth:`_TorchWalk.draw_at`."""
        for position in positions:
            self._drawn[position] = self._draw(self._logits[position], self._uniform[position])

    def _draw(self, logits: Array, uniform: Array) -> Array:
        """``(B, V)`` float32 and ``(B, 1)`` → ``(B,)``."""
        if self._temperature == 0:
            return logits.argmax(axis=1)
        weights = logits.astype(np.float64)
        if self._temperature != 1:
            weights /= self._temperature
        weights -= np.maximum.reduce(weights, axis=1, keepdims=True)
        np.exp(weights, out=weights)
        if self._truncation is not None:
            weights = self._truncation(torch.from_numpy(weights)).numpy()
        np.add.accumulate(weights, axis=1, out=weights)
        # The first that exceeds its share of the whole; the last, if rounding leaves none.
        below = weights <= uniform * weights[:, -1:]
        below[:, -1] = False
        return below.argmin(axis=1)
