"""The judge: which tokens are wrong, where some are missing, and whether a row is right."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.config import ImplicitRefinementConfig
from imadarem.nn.block import Block
from imadarem.nn.heads import HaltingHead

__all__ = ["JudgeHead", "JudgeLogits", "Platt"]

#: Bias at initialisation: nearly every token of the data is right.
RARE = -4.0


class JudgeLogits(NamedTuple):
    """What a judge says of rows of tokens.

    Attributes:
        wrong: ``(B, L)``, logit that a token is not the data's.
        missing: ``(B, L + 1)``, logit that tokens are missing before a position; the one
            behind a row's last token is of its end.
        right: ``(B,)``, logit that a row is right.
    """

    wrong: Tensor
    missing: Tensor
    right: Tensor


class JudgeHead(nn.Module):
    """One block of its own on the states of a network, and three outputs.

    The network is trained to predict blanks, and what its states say of the tokens that stand
    there is little: the block compares them with their neighbours. A gap is judged from both
    sides of it.

    Args:
        config: Of the network.
    """

    def __init__(self, config: ImplicitRefinementConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.fit = nn.Parameter(torch.zeros(2, width))
        self.block = Block(config)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 3)
        self.right = HaltingHead(width)
        nn.init.zeros_(self.score.weight)
        with torch.no_grad():
            self.score.bias.copy_(torch.tensor([RARE, RARE / 2, RARE / 2]))
            self.right.score.bias.zero_()

    def forward(
        self, states: Tensor, logits: Tensor, ids: Tensor, attended: Tensor | None
    ) -> JudgeLogits:
        """Judge the tokens that the network has read.

        Args:
            states: ``(B, L, D)``.
            logits: ``(B, L, V)`` of the same pass, given the tokens left of a position where the
                network has a joint head.
            ids: ``(B, L)``.
            attended: ``(B, L)`` bool, or None for all.
        """
        log_probs = logits.log_softmax(dim=-1)
        own = log_probs.gather(-1, ids[..., None])
        best = log_probs.amax(dim=-1, keepdim=True)
        x = states + own * self.fit[0] + best * self.fit[1]
        x = self.norm(self.block(x, attended, None))
        hidden = F.gelu(self.hidden(x))
        # Products and sums: a matrix product of three columns rounds by the size of the batch.
        wrong, before, after = (
            (hidden * weight).sum(dim=-1) + bias
            for weight, bias in zip(self.score.weight, self.score.bias, strict=True)
        )
        if attended is not None:
            before, after = before * attended, after * attended
        missing = F.pad(before, (0, 1)) + F.pad(after, (1, 0))
        return JudgeLogits(wrong, missing, self.right(x, attended))

    @torch.no_grad()
    def calibrate(self, wrong: Platt, missing: Platt, right: Platt) -> None:
        """Fold the fits of the three outputs into their last weights."""
        # A gap inside a row adds two of the terms up.
        halves = Platt(missing.slope, missing.offset / 2)
        for row, fit in enumerate((wrong, halves, halves)):
            self.score.weight[row] *= fit.slope
            self.score.bias[row] = fit.slope * self.score.bias[row] + fit.offset
        self.right.score.weight *= right.slope
        self.right.score.bias.copy_(right.slope * self.right.score.bias + right.offset)


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
