"""A joint head read token by token on a CPU, in NumPy over torch's memory.

One row takes some twenty operations a token, and what they cost is their overhead: 0.7
microseconds each in NumPy and 2 in torch. So all but the product runs in NumPy, in buffers made
once; the product is torch's, one for the recurrence and the logits together. Its inputs are
scaled beforehand, by powers of two, so that ``2 σ(2x) = tanh(x) + 1`` makes one tanh of both
gates. Same figures as those of :class:`~imadarem.nn.joint.JointHead` up to rounding, and a
row's are the same in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.joint import JointHead

__all__ = ["JointWalk", "PackedHead", "PackedJoint"]

#: Rows from which on torch's product with a matrix that is laid out by columns rounds each row
#: alike: one row is a product of another kind.
LEAST_ROWS = 2
#: Columns of the product are filled up to a multiple of it (a vector of 16 floats).
COLUMNS = 16

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class PackedHead:
    """The weights of a joint head, laid out for steps.

    Attributes:
        said: ``(3H, D)`` and ``(3H,)``: what a state says to the gates, halved for the first
            two; the bias has that of the recurrence in it.
        heard: ``(V, 3H)``, what a token says to them, likewise.
        product: ``(H, N)``, of the hidden units: ``3H`` columns for the gates, halved all, ``V``
            for the logits, zeros.
        new_bias: ``(H,)``, halved, of the third gate, which the reset multiplies.
        start_id: Stands left of the first position.
    """

    said: tuple[Tensor, Tensor]
    heard: Tensor
    product: Tensor
    new_bias: Tensor
    start_id: int

    @classmethod
    def of(cls, head: JointHead | None) -> PackedHead | None:
        """A copy; None without a head, with one that was changed, or not in float32 on a CPU."""
        if head is None or type(head.recurrence) is not nn.GRU:
            return None
        weight = head.tokens.weight
        if weight.dtype != torch.float32 or weight.device.type != "cpu":
            return None
        if type(head.to_logits) is not nn.Linear or type(head.tokens) is not nn.Embedding:
            return None
        with torch.no_grad():
            said, kept, bias, kept_bias = head.recurrence.all_weights[0]
            size = kept.shape[1]
            scale = _halves(size)
            folded = _folded(bias, kept_bias, size)
            weights = said * scale[:, None]
            used = 3 * size + len(weight)
            product = torch.zeros(size, -(-used // COLUMNS) * COLUMNS)
            torch.mul(kept.t(), 0.5, out=product[:, : 3 * size])
            product[:, 3 * size : used] = head.to_logits.weight.t()
            new_bias = 0.5 * kept_bias[2 * size :]
            heard = F.linear(weight, weights)
        return cls((weights, folded * scale), heard, product, new_bias, head.start_id)

    def read(self, state: Tensor, logits: Tensor) -> PackedJoint:
        """Of the states ``(B, L, D)`` and independent logits ``(B, L, V)`` of a pass."""
        return PackedJoint(self, logits, F.linear(state, *self.said), None)

    def told(self, inputs: Tensor, logits: Tensor, head: JointHead) -> PackedJoint:
        """Of ``(B, L, 3H)`` that another program computed from the states by ``head``."""
        _, _, bias, kept_bias = head.recurrence.all_weights[0]
        size = len(self.new_bias)
        extra = (_folded(bias, kept_bias, size) - bias).detach()
        return PackedJoint(self, logits, (inputs + extra) * _halves(size), None)


@dataclass(frozen=True)
class PackedJoint:
    """The logits of one pass, as :class:`~imadarem.nn.joint.JointLogits` has them.

    Attributes:
        head: What hears the tokens on the left.
        logits: ``(B, L, V)``, before it has heard any.
        inputs: ``(B, L, 3H)``, what the states say, scaled as the head's weights are.
        rows: ``(B,)``, which row of ``inputs`` each row of ``logits`` reads; None pairs them.
    """

    head: PackedHead
    logits: Tensor
    inputs: Tensor
    rows: Tensor | None

    def spread(self, which: Tensor) -> PackedJoint:
        """``(B,)`` numbers of rows → those rows; what the states say is not copied."""
        rows = which if self.rows is None else self.rows[which]
        return replace(self, logits=self.logits[which], rows=rows)


class JointWalk:
    """Steps from left to right, in buffers of their own.

    Args:
        joint: Of the pass.
    """

    def __init__(self, joint: PackedJoint) -> None:
        head, batch = joint.head, len(joint.logits)
        size, columns = head.product.shape
        # An idle row fills a batch of one up, so that a row's draws do not depend on its size.
        self._units = torch.zeros(max(batch, LEAST_ROWS), size)
        self._product, self._kept = head.product, torch.zeros(len(self._units), columns)
        self._heard = head.heard.numpy()
        self._inputs = joint.inputs.detach().numpy().swapaxes(0, 1)
        one = joint.rows is None or self._inputs.shape[1] == 1
        self._rows = None if one else _array(joint.rows)
        self._new_bias = head.new_bias.numpy()
        # Views of what every step writes anew.
        self._given = np.empty((batch, 3 * size), dtype=np.float32)
        self._paired = self._given if one else np.empty_like(self._given)
        self._gates, self._new = self._given[:, : 2 * size], self._given[:, 2 * size :]
        self._reset, self._update = self._gates[:, :size], self._gates[:, size:]
        kept = self._kept.numpy()[:batch]
        self._kept_gates, self._kept_new = kept[:, : 2 * size], kept[:, 2 * size : 3 * size]
        #: ``(B, V)``, what the head adds to the logits of the position just read.
        self.added: Array = kept[:, 3 * size : 3 * size + joint.logits.shape[2]]
        self._hidden = self._units.numpy()[:batch]

    def step(self, position: int, previous: Array) -> None:
        """Read one position: :attr:`added` is then what the head adds to its logits.

        Args:
            position: From 0 on, in order.
            previous: ``(B,)`` int64, ids of the tokens at the position before.
        """
        given, gates, new, hidden = self._given, self._gates, self._new, self._hidden
        said = self._inputs[position]
        if self._rows is not None:
            said = np.take(said, self._rows, axis=0, out=self._paired, mode="clip")
        np.take(self._heard, previous, axis=0, out=given, mode="clip")
        given += said
        gates += self._kept_gates
        np.tanh(gates, out=gates)
        gates += 1.0
        heard = self._kept_new
        heard += self._new_bias
        heard *= self._reset
        new += heard
        np.tanh(new, out=new)
        # new + σ · (hidden − new)
        hidden -= new
        hidden *= self._update
        hidden *= 0.5
        hidden += new
        torch.mm(self._units, self._product, out=self._kept)


def _halves(size: int) -> Tensor:
    """``(3H,)``: ½ for reset and update, 1 for the new value."""
    return torch.ones(3 * size).index_fill_(0, torch.arange(2 * size), 0.5)


def _folded(bias: Tensor, kept_bias: Tensor, size: int) -> Tensor:
    """``(3H,)``: both biases of the gates that add them."""
    return torch.cat([(bias + kept_bias)[: 2 * size], bias[2 * size :]])


def _array(tensor: Tensor | None) -> Array:
    assert tensor is not None
    found: Array = tensor.numpy()
    return found
