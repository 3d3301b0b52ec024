"""Heads that judge: whether an answer is right, which tokens are wrong, where some are missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.transformer import Block

#: Bias of the halting head at initialisation: a canvas is wrong until training says otherwise.
HALT_BIAS = -5.0
#: Bias at initialisation: nearly every token of the data is right.
RARE = -4.0
#: Log-probabilities are cut here: a token that may not stand somewhere has none.
LEAST_LOG_PROB = -15.0


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


class JudgeLogits(NamedTuple):
    """What a judge says of rows of tokens.

    Attributes:
        wrong: ``(B, L)``, logit that a token is not the data's.
        missing: ``(B, L + 1)``, logit that tokens are missing before a position; the one
            behind a row's last token is of its end.
        right: ``(B, 2)``, logits that a row is data: beside as many rows that the network wrote
            from nothing, and beside as many with holes that it filled.
    """

    wrong: Tensor
    missing: Tensor
    right: Tensor


class JudgeHead(nn.Module):
    """One block of its own on the states of a network, and three outputs.

    The network is trained to predict blanks, and what its states say of the tokens that stand
    there is little. So the judge starts from four numbers of each position: the log-probability
    of its token and that of the likeliest one, by the position itself and given the tokens left
    of it. They reach the outputs directly, and the block, which compares a position with its
    neighbours. A gap is judged from both sides of it.

    Args:
        config: Of the network.
    """

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.fit = nn.Parameter(torch.zeros(4, width))
        self.direct = nn.Parameter(torch.zeros(4, 3))
        self.block = Block(config)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 3)
        self.right = Verdicts(width)
        nn.init.zeros_(self.score.weight)
        with torch.no_grad():
            self.score.bias.copy_(torch.tensor([RARE, RARE / 2, RARE / 2]))
            # Surprise: the likeliest token's log-probability less that of the token itself.
            self.direct[2:, 0] = torch.tensor([-0.5, 0.5])

    def forward(
        self,
        states: Tensor,
        logits: Tensor,
        joint_logits: Tensor,
        ids: Tensor,
        attended: Tensor | None,
    ) -> JudgeLogits:
        """Judge the tokens that the network has read.

        Args:
            states: ``(B, L, D)``.
            logits: ``(B, L, V)`` of the same pass.
            joint_logits: ``(B, L, V)``, given the tokens left of a position; the same as
                ``logits`` for a network without a joint head.
            ids: ``(B, L)``.
            attended: ``(B, L)`` bool, or None for all.
        """
        alone, given = logits.log_softmax(dim=-1), joint_logits.log_softmax(dim=-1)
        odds = [_own_and_best(alone, ids), _own_and_best(given, ids)]
        numbers = torch.cat(odds, dim=-1).clamp(min=LEAST_LOG_PROB)
        x = self.norm(self.block(states + _mixed(numbers, self.fit), attended, None))
        hidden = F.gelu(self.hidden(x))
        # Products and sums: a matrix product of three columns rounds by the size of the batch.
        scores = [(hidden * weight).sum(dim=-1) for weight in self.score.weight]
        sums = torch.stack(scores, dim=-1) + self.score.bias + _mixed(numbers, self.direct)
        wrong, before, after = sums.unbind(dim=-1)
        if attended is not None:
            before, after = before * attended, after * attended
        missing = F.pad(before, (0, 1)) + F.pad(after, (1, 0))
        return JudgeLogits(wrong, missing, self.right(x, attended))

    @torch.no_grad()
    def calibrate(self, wrong: Platt, missing: Platt, right: Sequence[Platt]) -> None:
        """Fold the fits of the outputs into their last weights; ``right`` has two."""
        # A gap inside a row adds two of the terms up.
        halves = Platt(missing.slope, missing.offset / 2)
        for row, fit in enumerate((wrong, halves, halves)):
            self.score.weight[row] *= fit.slope
            self.direct[:, row] *= fit.slope
            self.score.bias[row] = fit.slope * self.score.bias[row] + fit.offset
        score = self.right.score
        for row, fit in enumerate(right):
            score.weight[row] *= fit.slope
            score.bias[row] = fit.slope * score.bias[row] + fit.offset


class Verdicts(HaltingHead):
    """Logits that a row is data, beside two kinds of rows: ``(B, L, D)`` → ``(B, 2)``."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.score = nn.Linear(2 * hidden_size, 2)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor, attended: Tensor | None) -> Tensor:
        pooled = self.pooled(x, attended)
        scores = [(pooled * weight).sum(dim=-1) for weight in self.score.weight]
        return torch.stack(scores, dim=-1) + self.score.bias


def _own_and_best(log_probs: Tensor, ids: Tensor) -> Tensor:
    """``(B, L, 2)`` log-probabilities of the token that stands there and of the likeliest."""
    own = log_probs.gather(-1, ids[..., None])
    return torch.cat([own, log_probs.amax(dim=-1, keepdim=True)], dim=-1)


def _mixed(numbers: Tensor, weights: Tensor) -> Tensor:
    """``(B, L, N)`` numbers and ``(N, C)`` weights → ``(B, L, C)``, without a matrix product."""
    parts = (numbers[..., n : n + 1] * row for n, row in enumerate(weights))
    return sum(parts, start=numbers.new_zeros(()))


class Platt(NamedTuple):
    """A calibrated logit is ``slope · logit + offset`` (Platt scaling)."""

    slope: float
    offset: float

    @classmethod
    def fitted(cls, logits: Tensor, labels: Tensor) -> Platt:
        """The fit that minimises the cross-entropy of ``(N,)`` labels, bool."""
        fit = torch.tensor([1.0, 0.0], requires_grad=True)
        optimizer = torch.optim.LBFGS([fit], max_iter=50, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(logits * fit[0] + fit[1], labels.float())
            loss.backward()
            return loss

        optimizer.step(closure)
        slope, offset = fit.tolist()
        return cls(slope, offset)
