"""The heads on a backbone's states: the refine gate, the halting head and the joint head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.nn.recurrence import gated_recurrence

#: Bias of the halting head at initialisation: a canvas is wrong until training says otherwise.
HALT_BIAS = -5.0


class RefineGate(nn.Module):
    """Logit that the token standing at a position should be predicted again.

    LayerNorm, Linear, GELU, Linear: ``(B, L, D)`` → ``(B, L)``. The bias starts at
    ``bias_init`` (+2.0) and the last weights at zero: refine by default.
    """

    def __init__(self, hidden_size: int, bias_init: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.activation = nn.GELU()
        self.score = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, bias_init)

    def forward(self, x: Tensor) -> Tensor:
        # A product and a sum: a matrix product with one column rounds by the size of the batch.
        hidden = self.activation(self.hidden(self.norm(x)))
        return (hidden * self.score.weight[0]).sum(dim=-1) + self.score.bias


class HaltingHead(nn.Module):
    """Logit that the answer of this pass is entirely right, one per row.

    Linear, GELU, then mean and maximum over the attended positions (one wrong token must
    not drown in the mean), Linear: ``(B, L, D)`` → ``(B,)``. The bias starts at -5 and the
    last weights at zero, as in HRM and TRM (arXiv:2506.21734, arXiv:2510.04871).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.activation = nn.GELU()
        self.score = nn.Linear(2 * hidden_size, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.constant_(self.score.bias, HALT_BIAS)

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, L, D)`` states and the attended positions ``(B, L)`` → ``(B,)``."""
        return (self.pooled(x, attended) * self.score.weight[0]).sum(dim=-1) + self.score.bias

    def pooled(self, x: Tensor, attended: Tensor | None) -> Tensor:
        """``(B, 2 D)``, what the score is a weighted sum of."""
        hidden = self.activation(self.hidden(x))
        if attended is None:
            mean, most = hidden.mean(dim=1), hidden.amax(dim=1)
        else:
            there = attended[..., None]
            mean = (hidden * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
            most = hidden.masked_fill(~there, float("-inf")).amax(dim=1)
        return torch.cat([mean, most], dim=-1)


class JointHead(nn.Module):
    """Draws the blanks of one pass jointly, from left to right, by a small recurrence.

    Blanks that are filled in the same pass are otherwise drawn independently, and tokens that
    depend on each other do not fit. Here the distribution of a token also depends on the tokens
    that now stand left of it: ``GRU(state_i, x_(i-1))`` is what to add to the logits of position
    ``i``, so that they become those of ``p(x_i | canvas, x_<i)``. The transformer still runs once
    a pass; the head runs once a token and costs about as much as a layer. It is zero at
    initialisation: until it is trained, tokens are drawn independently.

    Source: a network whose last part is causal over the tokens of a pass is that of
    self-speculative masked diffusion (arXiv:2510.03929) and Discrete Copula Diffusion
    (arXiv:2410.01949); a recurrence in its place is ours.

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
        """Whether :class:`~imadarem.sampling.joint_draws.NumpyStepper` can read it."""
        head = self.head
        tensors = (self.states, *head.weights, head.tokens.weight, head.to_logits.weight)
        return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
