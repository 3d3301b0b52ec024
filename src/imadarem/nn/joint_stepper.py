"""A joint head, position by position: what drawing tokens from left to right runs.

Two steppers with one interface, the same numbers up to rounding. On a CPU each operation of
torch costs microseconds before it computes anything, and a step has a dozen of them: there the
step is NumPy over buffers made once, with one matrix product for the recurrence and the logits
together. A row's numbers are the same in every batch: batches are filled up to whole tiles of
rows, because matrix products round a few rows otherwise than many.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem.nn.joint import JointHead, JointLogits
from imadarem.nn.recurrence import gated_recurrence

__all__ = ["NumpyStepper", "StepWeights", "TorchStepper"]

#: Batches are filled up to a multiple of it. Measured on Intel and AMD processors, with one thread
#: and two: products with a matrix laid out by columns round a row alike in 4, 8, 12, … rows.
TILE = 4
#: The same of products with a transposed matrix.
TORCH_TILE = 16
#: Columns of the product are filled up to a multiple of it (a vector of 16 floats).
COLUMNS = 16

Array = npt.NDArray[Any]


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
        _, weight, _, bias = self._head.weights
        self._hidden = gated_recurrence(inputs[None], weight, bias, self._hidden)[0]
        logits: Tensor = self._head.to_logits(self._hidden)[: self._batch]
        return logits


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
        weight_in, weight, _, _ = head.weights
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
        weight_in, _, bias_in, bias = head.weights
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
