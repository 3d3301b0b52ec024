"""Drawing the blanks of one pass jointly, from left to right, by a joint head.

Two ways with one interface, the same numbers up to rounding. On a CPU each operation of torch
costs microseconds before it computes anything, and a step has a dozen of them: there the step is
NumPy over buffers made once, with one matrix product for the recurrence and the logits together.
A row's numbers are the same in every batch: batches are filled up to whole tiles of rows, because
matrix products round a few rows otherwise than many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.nn.joint import JointHead, gated_recurrence
from imadarem.nn.network import JointLogits
from imadarem.sampling.draw import Truncation, inverse_cdf
from imadarem.sampling.noise import RowNoise, Stream

#: Batches are filled up to a multiple of it. Measured on Intel and AMD processors, with one thread
#: and two: products with a matrix laid out by columns round a row alike in 4, 8, 12, … rows.
TILE = 4
#: The same of products with a transposed matrix.
TORCH_TILE = 16
#: Columns of the product are filled up to a multiple of it (a vector of 16 floats).
COLUMNS = 16

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
        alone = canvas.allowed(joint.logits.detach(), may_end)
        # Where some row has a blank, the tokens to its right depend on what is drawn there.
        drawn_at, read = torch.stack([canvas.open, canvas.attended]).any(dim=1).tolist()
        self._drawn_at: list[bool] = drawn_at
        #: Positions up to the last that some row reads.
        self.length = max((i + 1 for i, is_read in enumerate(read) if is_read), default=0)
        self._logits, self._log_probs = torch.zeros_like(alone), torch.zeros_like(alone)
        self._drawn = torch.zeros_like(canvas.ids)
        uniform = noise.uniform(Stream.TOKEN, alone.shape[1])
        task = _Task(canvas, alone, uniform, temperature, truncation, self._logits, self._drawn)
        self._draws: _NumpyDraws | _TorchDraws
        if steps_in_numpy(joint):
            self._draws = _NumpyDraws(joint, task, weights)
        else:
            self._draws = _TorchDraws(joint, task)
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
                self._draws.advance(position, self._drawn_at[position])
            self._log_probs[:, start:end] = self._logits[:, start:end].log_softmax(dim=-1)
            given = [p for p in range(start, end) if not self._drawn_at[p]]
            if given:
                self._draws.draw_at(given)
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


class _TorchDraws:
    """Reads and draws position by position, in torch."""

    def __init__(self, joint: JointLogits, task: _Task) -> None:
        self._stepper, self._task = TorchStepper(joint), task
        self._previous = torch.full_like(task.canvas.ids[:, 0], joint.head.start_id)

    def advance(self, position: int, draws: bool) -> None:
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


class _NumpyDraws:
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

    def advance(self, position: int, draws: bool) -> None:
        """As :meth:`_TorchDraws.advance`."""
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
        """As :meth:`_TorchDraws.draw_at`."""
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


class TorchStepper:
    """In torch, on any device.

    Args:
        joint: Of the pass.
    """

    def __init__(self, joint: JointLogits) -> None:
        head = joint.head
        self._head, self._rows = head, joint.rows
        self._state_inputs = head.state_inputs(joint.states)
        self._token_inputs = head.token_inputs()
        self._batch = len(joint.logits)
        self._hidden = joint.states.new_zeros(
            _filled(self._batch, TORCH_TILE), head.recurrence.hidden_size
        )

    def step(self, position: int, previous: Tensor) -> Tensor:
        """What the head adds to the logits of a position, ``(B, V)``.

        Args:
            position: From 0 on, in order.
            previous: ``(B,)`` int64, ids of the tokens at the position before.
        """
        inputs = self._state_inputs[:, position]
        if self._rows is not None:
            inputs = inputs[self._rows]
        inputs = inputs + self._token_inputs[previous]
        inputs = F.pad(inputs, (0, 0, 0, len(self._hidden) - self._batch))
        _, weight, _, bias = self._head.recurrence.all_weights[0]
        self._hidden = gated_recurrence(inputs[None], weight, bias, self._hidden)[0]
        logits: Tensor = self._head.to_logits(self._hidden)[: self._batch]
        return logits


def steps_in_numpy(joint: JointLogits) -> bool:
    """Whether :class:`NumpyStepper` can read it: single precision on a CPU."""
    head = joint.head
    weights = (*head.recurrence.all_weights[0], head.tokens.weight, head.to_logits.weight)
    return all(
        t.dtype == torch.float32 and t.device.type == "cpu" for t in (joint.states, *weights)
    )


class StepWeights(NamedTuple):
    """The weights of a joint head, laid out for steps in NumPy; made once for many passes.

    With ``2 σ(x) = tanh(x / 2) + 1`` one tanh serves the reset and the update gate: the inputs
    of both, and what they multiply, are halved beforehand. Halving is exact.

    Attributes:
        product: ``(H, N)``: the recurrence's weights halved, those of the logits, and zeros.
        token_gates: ``(V, 2H)``, the part of both gates' inputs that a token gives, halved.
        token_new: ``(V, H)``, its part of the new value's.
    """

    product: Tensor
    token_gates: Tensor
    token_new: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, head: JointHead) -> StepWeights:
        """A copy: later changes of the head are not seen."""
        weight_in, weight, _, _ = head.recurrence.all_weights[0]
        used, gates = len(weight) + len(head.to_logits.weight), 2 * weight.shape[1]
        product = weight.new_zeros(weight.shape[1], -(-used // COLUMNS) * COLUMNS)
        torch.mul(weight.t(), 0.5, out=product[:, : len(weight)])
        product[:, len(weight) : used] = head.to_logits.weight.t()
        tokens = head.tokens.weight
        halved = 0.5 * F.linear(tokens, weight_in[:gates])
        return cls(product, halved, F.linear(tokens, weight_in[gates:]))


class NumpyStepper:
    """In NumPy, for float32 on a CPU.

    Args:
        joint: Of the pass.
        weights: Of its head; None lays them out now.
    """

    @torch.no_grad()
    def __init__(self, joint: JointLogits, weights: StepWeights | None = None) -> None:
        head, self._batch = joint.head, len(joint.logits)
        size, vocab = head.recurrence.hidden_size, len(head.tokens.weight)
        weight_in, _, bias_in, bias = head.recurrence.all_weights[0]
        weights = StepWeights.of(head) if weights is None else weights
        self._product = weights.product
        states = joint.states.transpose(0, 1).contiguous()
        # The recurrence's bias of the reset and the update gate may be added beforehand.
        gates, new = slice(0, 2 * size), slice(2 * size, 3 * size)
        self._gates = _GateInputs(
            0.5 * F.linear(states, weight_in[gates], bias_in[gates] + bias[gates]),
            weights.token_gates,
            joint.rows,
            self._batch,
        )
        self._new = _GateInputs(
            F.linear(states, weight_in[new], bias_in[new]),
            weights.token_new,
            joint.rows,
            self._batch,
        )
        self._half_bias: Array = (0.5 * bias[new]).numpy()
        self._hidden = torch.zeros(_filled(self._batch, TILE), size)
        self._recurrent = torch.zeros(len(self._hidden), self._product.shape[1])
        # Views of buffers that every step writes anew.
        self._reset, self._update = np.split(self._gates.buffer, 2, axis=1)
        recurrent = self._recurrent.numpy()[: self._batch]
        self._recurrent_gates, self._recurrent_new = recurrent[:, gates], recurrent[:, new]
        self._added: Array = recurrent[:, 3 * size : 3 * size + vocab]

    def step(self, position: int, previous: Array) -> Array:
        """As :meth:`TorchStepper.step`; good until the next call."""
        gates = self._gates.at(position, previous)
        gates += self._recurrent_gates
        np.tanh(gates, out=gates)
        gates += 1.0
        recurrent = self._recurrent_new
        recurrent += self._half_bias
        recurrent *= self._reset
        new, hidden = self._new.at(position, previous), self._hidden.numpy()[: self._batch]
        new += recurrent
        np.tanh(new, out=new)
        # new + σ · (hidden − new)
        hidden -= new
        hidden *= self._update
        hidden *= 0.5
        hidden += new
        torch.mm(self._hidden, self._product, out=self._recurrent)
        return self._added


class _GateInputs:
    """The inputs of a gate from state and token together, in one buffer.

    Args:
        states: ``(L, R, N)``, the part of each state.
        tokens: ``(V, N)``, the part of each token.
        rows: ``(B,)``, which of the ``R`` each row reads; None, and one for all, pairs them.
        batch: ``B``.
    """

    def __init__(self, states: Tensor, tokens: Tensor, rows: Tensor | None, batch: int) -> None:
        self._states, self._tokens = states.numpy(), tokens.numpy()
        self.buffer: Array = np.empty((batch, tokens.shape[1]), dtype=np.float32)
        self._rows: Array | None = None
        if rows is not None and states.shape[1] > 1:
            self._rows, self._paired = rows.numpy(), np.empty_like(self.buffer)

    def at(self, position: int, previous: Array) -> Array:
        """``(B, N)``, good until the next call."""
        np.take(self._tokens, previous, axis=0, out=self.buffer, mode="clip")
        states = self._states[position]
        if self._rows is not None:
            states = np.take(states, self._rows, axis=0, out=self._paired, mode="clip")
        self.buffer += states
        return self.buffer


def _filled(rows: int, tile: int) -> int:
    """``rows`` filled up to whole tiles."""
    return -(-rows // tile) * tile
