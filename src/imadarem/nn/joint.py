"""A recurrent head that draws the blanks of one pass jointly, from left to right.

Blanks that are filled in the same pass are otherwise drawn independently, each from its own
distribution, and tokens that depend on each other do not fit. Here the distribution of a
token also depends, through a small recurrence, on the tokens that now stand left of it:
``p(x_i | canvas, x_<i)``. The transformer still runs once a pass; the head runs once a token
and costs about as much as a layer.

Source: a network whose last part is causal over the tokens of a pass is that of
self-speculative masked diffusion (arXiv:2510.03929) and Discrete Copula Diffusion
(arXiv:2410.01949); a recurrence in its place is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.recurrence import gated_recurrence

__all__ = ["JointHead", "JointLogits", "wider_joint_head"]


class JointHead(nn.Module):
    """``GRU(state_i, x_(i-1))`` → what to add to the logits of position ``i``.

    Zero at initialisation: until it is trained, tokens are drawn independently.

    Args:
        width: ``D`` of the states.
        vocab_size: ``V``.
        size: Hidden units ``H`` of the recurrence.
        start_id: Stands left of the first position; the id of a blank.
    """

    def __init__(self, width: int, vocab_size: int, size: int, start_id: int) -> None:
        super().__init__()
        self.start_id = start_id
        self.tokens = nn.Embedding(vocab_size, width)
        self.recurrence = nn.GRU(width, size, batch_first=True)
        self.to_logits = nn.Linear(size, vocab_size, bias=False)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        nn.init.zeros_(self.to_logits.weight)

    def forward(self, states: Tensor, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """All positions at once, given the tokens of the data.

        Args:
            states: ``(B, L, D)``.
            tokens: ``(R, L)`` ids.
            rows: ``(R,)``, which row of ``states`` each row of ``tokens`` stands on; None
                pairs them as they come.

        Returns:
            ``(R, L, V)``.
        """
        previous = F.pad(tokens[:, :-1], (1, 0), value=self.start_id)
        if states.device.type != "cpu":
            paired = states if rows is None else states[rows]
            hidden, _ = self.recurrence(paired + self.tokens(previous))
            logits: Tensor = self.to_logits(hidden)
            return logits
        # The product with the input weights is taken once for each distinct state and token.
        _, weight, _, bias = self.weights
        inputs = self.state_inputs(states).transpose(0, 1)
        inputs = inputs if rows is None else inputs[:, rows]
        inputs = inputs + F.embedding(previous.t(), self.token_inputs())
        logits = self.to_logits(gated_recurrence(inputs, weight, bias)).transpose(0, 1)
        return logits

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``weight_ih (3H, D)``, ``weight_hh (3H, H)``, ``bias_ih (3H,)``, ``bias_hh (3H,)``."""
        weight_in, weight, bias_in, bias = self.recurrence.all_weights[0]
        return weight_in, weight, bias_in, bias

    def state_inputs(self, states: Tensor) -> Tensor:
        """``(..., D)`` states → ``(..., 3H)``, their part of the gates' inputs, with the bias."""
        weight_in, _, bias_in, _ = self.weights
        return F.linear(states, weight_in, bias_in)

    def token_inputs(self) -> Tensor:
        """``(V, 3H)``: the part of the gates' inputs that the token on the left gives."""
        return F.linear(self.tokens.weight, self.weights[0])


@dataclass(frozen=True)
class JointLogits:
    """The logits of one pass, to be read from left to right as tokens are drawn.

    Attributes:
        head: Reads the tokens on the left.
        logits: ``(B, L, V)``, of each position by itself.
        states: ``(R, L, D)``.
        rows: ``(B,)``, which row of ``states`` each row of ``logits`` reads; None pairs them.
    """

    head: JointHead
    logits: Tensor
    states: Tensor
    rows: Tensor | None = None

    def spread(self, which: Tensor) -> Self:
        """``(B,)`` row numbers → those rows; the states are not copied."""
        rows = which if self.rows is None else self.rows[which]
        return replace(self, logits=self.logits[which], rows=rows)

    def steps_in_numpy(self) -> bool:
        """Whether :class:`~imadarem.nn.joint_stepper.NumpyStepper` can read it."""
        head = self.head
        tensors = (self.states, *head.weights, head.tokens.weight, head.to_logits.weight)
        return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)


def wider_joint_head(
    trained: Mapping[str, Tensor], fresh: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of a trained joint head put into those of a larger one.

    The units that are new read the old ones, and nothing reads them yet: the head computes
    the same.

    Args:
        trained: State with a joint head of ``H`` hidden units.
        fresh: State of a new joint head alone with ``H' > H``, by the same names.

    Returns:
        The weights whose shapes differ.
    """
    wider = {}
    for name, new in fresh.items():
        old = trained[name]
        if old.shape == new.shape:
            continue
        # A recurrence stacks three gates over its units; the readout's columns are units.
        gates = 3 if "recurrence" in name else 1
        grown, known = new.clone().unflatten(0, (gates, -1)), old.unflatten(0, (gates, -1))
        rows = known.shape[1]
        if old.dim() == 2:
            grown[:, :rows, known.shape[2] :] = 0.0
            grown[:, :rows, : known.shape[2]] = known
        else:
            grown[:, :rows] = known
        wider[name] = grown.flatten(0, 1)
    return wider
