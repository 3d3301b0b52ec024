"""A recurrent head that draws the blanks of one pass jointly, from left to right.

Blanks that are filled in the same pass are otherwise drawn independently, each from its own
distribution, and tokens that depend on each other do not fit. Here the distribution of a
token also hears, through a small recurrence, the tokens that now stand left of it:
``p(x_i | canvas, x_<i)``. The transformer still runs once a pass; the head runs once a token
and costs about as much as a layer.

Source: a network whose last part is causal over the tokens of a pass is that of
self-speculative masked diffusion (arXiv:2510.03929) and Discrete Copula Diffusion
(arXiv:2410.01949); a recurrence in its place is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.recurrence import gated_recurrence

__all__ = ["JointHead", "JointLogits"]

#: Rows from which on a matrix product rounds each row alike, whatever the batch.
LEAST_ROWS = 16


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

    def forward(self, state: Tensor, tokens: Tensor, rows: Tensor | None = None) -> Tensor:
        """All positions at once, given the tokens of the data.

        Args:
            state: ``(B, L, D)``.
            tokens: ``(R, L)`` ids.
            rows: ``(R,)``, which row of ``state`` each row of ``tokens`` stands on; None
                pairs them as they come.

        Returns:
            ``(R, L, V)``.
        """
        previous = F.pad(tokens[:, :-1], (1, 0), value=self.start_id)
        if state.device.type != "cpu":
            paired = state if rows is None else state[rows]
            hidden, _ = self.recurrence(paired + self.tokens(previous))
            logits: Tensor = self.to_logits(hidden)
            return logits
        # What a state or a token says to the gates is worked out once for each that differs.
        weight_in, weight, bias_in, bias = self.recurrence.all_weights[0]
        said = F.linear(state, weight_in, bias_in).transpose(0, 1)
        said = said if rows is None else said[:, rows]
        heard = F.linear(self.tokens.weight, weight_in)
        hidden = gated_recurrence(said + F.embedding(previous.t(), heard), weight, bias)
        logits = self.to_logits(hidden).transpose(0, 1)
        return logits


@dataclass(frozen=True)
class JointLogits:
    """The logits of one pass, to be read from left to right as tokens are drawn.

    Attributes:
        head: What hears the tokens on the left.
        logits: ``(B, L, V)``, before it has heard any.
        inputs: ``(B, L, 3H)``, what the states say to the recurrence's three gates.
        heard: ``(V, 3H)``, what each token says to them.
        rows: ``(B,)``, which row of ``inputs`` each row of ``logits`` reads; None pairs them.
    """

    head: JointHead
    logits: Tensor
    inputs: Tensor
    heard: Tensor
    rows: Tensor | None

    @classmethod
    def read(cls, head: JointHead, state: Tensor, logits: Tensor) -> JointLogits:
        """Of the states ``(B, L, D)`` and independent logits ``(B, L, V)`` of a pass."""
        weight, _, bias, _ = head.recurrence.all_weights[0]
        return cls.of(head, F.linear(state, weight, bias), logits)

    @classmethod
    def of(cls, head: JointHead, inputs: Tensor, logits: Tensor) -> JointLogits:
        """Of ``inputs`` that another program computed from the states."""
        weight = head.recurrence.all_weights[0][0]
        return cls(head, logits, inputs, F.linear(head.tokens.weight, weight), None)

    def spread(self, which: Tensor) -> Self:
        """``(B,)`` numbers of rows → those rows; what the states say is not copied."""
        rows = which if self.rows is None else self.rows[which]
        return replace(self, logits=self.logits[which], rows=rows)

    def said(self, position: int) -> Tensor:
        """``(B, 3H)``, or ``(1, 3H)`` where all say the same: the inputs of a position."""
        said = self.inputs[:, position]
        return said if self.rows is None or len(said) == 1 else said[self.rows]

    def begin(self) -> tuple[Tensor, Tensor]:
        """Hidden units ``(max(B, 16), H)`` and the token ``(B,)`` left of the first position."""
        batch = len(self.logits)
        # Idle rows fill a small batch up, so that a row's draws do not depend on its size.
        hidden = self.inputs.new_zeros(max(batch, LEAST_ROWS), self.head.recurrence.hidden_size)
        start = torch.full((batch,), self.head.start_id, device=self.logits.device)
        return hidden, start

    def at(self, position: int, hidden: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """One step: logits ``(B, V)`` of ``position`` and the hidden units after it.

        Args:
            position: From 0 on, in order.
            hidden: From the position before.
            previous: ``(B,)`` ids of the tokens at the position before.
        """
        _, weight, _, bias = self.head.recurrence.all_weights[0]
        given = self.said(position) + self.heard[previous]
        batch = len(previous)
        kept = F.linear(hidden, weight, bias)[:batch]
        reset_in, update_in, new_in = given.chunk(3, dim=-1)
        reset_hidden, update_hidden, new_hidden = kept.chunk(3, dim=-1)
        update = (update_in + update_hidden).sigmoid()
        new = (new_in + (reset_in + reset_hidden).sigmoid() * new_hidden).tanh()
        after = torch.lerp(new, hidden[:batch], update)
        hidden = torch.cat([after, hidden[batch:]]) if len(hidden) > batch else after
        return self.logits[:, position] + self.head.to_logits(hidden)[:batch], hidden
