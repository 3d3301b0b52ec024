"""A joint head read token by token on a CPU, in NumPy over torch's memory.

One row takes some 25 operations a token, drawing included, and what they cost is their overhead:
0.7 microseconds each in NumPy and 2 in torch. So all but the product runs in NumPy, in buffers made
once; the product is torch's, one for the recurrence and the logits together. What reset and
update are told is halved beforehand: ``2 σ(x) = tanh(x / 2) + 1`` makes one tanh of both, and
what they multiply is halved too. Halving is exact. Same figures as those of
:class:`~imadarem.nn.joint.JointHead` up to rounding, and a row's are the same in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.joint import JointHead

__all__ = ["JointWalk", "PackedHead", "PackedJoint", "Parts"]

#: Rows from which on torch's product with a matrix that is laid out by columns rounds each row
#: alike: one row is a product of another kind.
LEAST_ROWS = 2
#: Columns of the product are filled up to a multiple of it (a vector of 16 floats).
COLUMNS = 16

Array = npt.NDArray[Any]


class Parts(NamedTuple):
    """What is said to the gates, each part in memory of its own.

    Attributes:
        gates: ``(..., 2H)``, to reset and update, halved.
        new: ``(..., H)``, to the new value.
    """

    gates: Tensor
    new: Tensor

    @classmethod
    def of(cls, said: Tensor, size: int) -> Parts:
        """Of ``(..., 3H)``."""
        said = said.detach()
        return cls(0.5 * said[..., : 2 * size], said[..., 2 * size :].contiguous())


@dataclass(frozen=True)
class PackedHead:
    """The weights of a joint head, laid out for steps.

    Attributes:
        said: ``(2H, D)`` and ``(H, D)``, of what a state says.
        bias: ``(2H,)`` and ``(H,)`` of it; that of the recurrence is in the first.
        heard: ``(V, 2H)`` and ``(V, H)``, what a token says.
        product: ``(H, N)``, of the hidden units: ``3H`` columns for the gates, halved all, ``V``
            for the logits, zeros.
        new_bias: ``(H,)``, halved, of the third gate, which the reset multiplies.
        start_id: Stands left of the first position.
    """

    said: Parts
    bias: Parts
    heard: Parts
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
            used = 3 * size + len(weight)
            product = torch.zeros(size, -(-used // COLUMNS) * COLUMNS)
            torch.mul(kept.t(), 0.5, out=product[:, : 3 * size])
            product[:, 3 * size : used] = head.to_logits.weight.t()
            return cls(
                Parts(0.5 * said[: 2 * size], said[2 * size :].detach()),
                Parts.of(bias + _of_the_gates(kept_bias), size),
                Parts.of(F.linear(weight, said), size),
                product,
                0.5 * kept_bias[2 * size :],
                head.start_id,
            )

    def read(self, state: Tensor, logits: Tensor) -> PackedJoint:
        """Of the states ``(B, L, D)`` and independent logits ``(B, L, V)`` of a pass."""
        return PackedJoint(self, logits, self.says(state.transpose(0, 1).contiguous()), None)

    @property
    def sizes(self) -> tuple[int, int]:
        """``2H`` and ``H``: columns of what a state says."""
        return len(self.bias.gates), len(self.bias.new)

    def says(self, state: Tensor) -> Parts:
        """``(..., D)`` → ``(..., 2H)`` and ``(..., H)``."""
        return Parts(*(F.linear(state, *told) for told in zip(self.said, self.bias, strict=True)))


@dataclass(frozen=True)
class PackedJoint:
    """The logits of one pass, as :class:`~imadarem.nn.joint.JointLogits` has them.

    Attributes:
        head: What hears the tokens on the left.
        logits: ``(B, L, V)``, before it has heard any.
        inputs: ``(L, B, 2H)`` and ``(L, B, H)``, what the states say.
        rows: ``(B,)``, which row of ``inputs`` each row of ``logits`` reads; None pairs them.
    """

    head: PackedHead
    logits: Tensor
    inputs: Parts
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
        self._gates = _Told(head.heard.gates, joint.inputs.gates, joint.rows, batch)
        self._new = _Told(head.heard.new, joint.inputs.new, joint.rows, batch)
        self._new_bias = head.new_bias.numpy()
        # Views of what every step writes anew.
        self._reset, self._update = np.split(self._gates.now, 2, axis=1)
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
        gates = self._gates.at(position, previous)
        gates += self._kept_gates
        np.tanh(gates, out=gates)
        gates += 1.0
        heard = self._kept_new
        heard += self._new_bias
        heard *= self._reset
        new, hidden = self._new.at(position, previous), self._hidden
        new += heard
        np.tanh(new, out=new)
        # new + σ · (hidden − new)
        hidden -= new
        hidden *= self._update
        hidden *= 0.5
        hidden += new
        torch.mm(self._units, self._product, out=self._kept)


class _Told:
    """What state and token say together, in one buffer.

    Args:
        heard: ``(V, N)``.
        inputs: ``(L, R, N)``.
        rows: ``(B,)``, which of the ``R`` each row reads; None, and one for all, pairs them.
        batch: ``B``.
    """

    def __init__(self, heard: Tensor, inputs: Tensor, rows: Tensor | None, batch: int) -> None:
        self._heard, self._inputs = heard.numpy(), inputs.detach().numpy()
        self.now: Array = np.empty((batch, heard.shape[1]), dtype=np.float32)
        self._rows: Array | None = None
        if rows is not None and inputs.shape[1] > 1:
            self._rows, self._paired = rows.numpy(), np.empty_like(self.now)

    def at(self, position: int, previous: Array) -> Array:
        """``(B, N)``, good until the next call."""
        np.take(self._heard, previous, axis=0, out=self.now, mode="clip")
        said = self._inputs[position]
        if self._rows is not None:
            said = np.take(said, self._rows, axis=0, out=self._paired, mode="clip")
        self.now += said
        return self.now


def _of_the_gates(bias: Tensor) -> Tensor:
    """``(3H,)`` of the recurrence: what may be added beforehand, to reset and update."""
    found = bias.detach().clone()
    found[2 * len(found) // 3 :] = 0.0
    return found
