"""The likeliest of several joint draws of each row, within one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.nn.network import JointLogits
from imadarem.sampling.joint_draws import JointDraws
from imadarem.sampling.noise import RowNoise, candidate_seeds

#: Run seed under which a row's own seed gives the noise of its further draws.
FURTHER = 0x42455354


class BestDraws:
    """Draws a row several times, and keeps the draw whose tokens are likeliest in the mean.

    A joint head draws from left to right and cannot take a token back: in a hole of given length
    some draws reach a point from where nothing fits the tokens on the right. Such draws are
    unlikely as a whole. The network runs once, the head once for each draw. The mean is over the
    tokens that are written: by the sum the shortest filling of a hole of unknown length would
    win. Source: best-of-n by the log-probability per token, ``best_of`` of the interfaces for
    autoregressive models.

    The interface is that of :class:`~imadarem.sampling.joint_draws.JointDraws`. The first draw
    of a row is the one that it has alone.

    Args:
        draw: Draws rows once; the draws are compared at temperature 1, whatever theirs is.
        count: Draws of each row.
        joint: Of the pass.
        canvas: That the pass has read.
        noise: Of the step.
    """

    def __init__(
        self,
        draw: Callable[[JointLogits, Canvas, RowNoise], JointDraws],
        count: int,
        joint: JointLogits,
        canvas: Canvas,
        noise: RowNoise,
    ) -> None:
        which = torch.arange(len(canvas), device=canvas.ids.device).repeat_interleave(count)
        repeated = canvas.rows(which)
        further = replace(noise, seeds=candidate_seeds(noise.seeds, count, key=FURTHER))
        log_probs, drawn = draw(joint.spread(which), repeated, further).whole()
        best = per_token(log_probs, drawn, repeated).view(-1, count).argmax(dim=1)
        chosen = torch.arange(len(canvas), device=best.device) * count + best
        self._whole = log_probs[chosen], drawn[chosen]

    def whole(self) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L, V)`` given the left side, and tokens ``(B, L)``."""
        return self._whole

    def upto(self, end: int) -> tuple[Tensor, Tensor]:
        """The same: draws are compared as a whole, so none ends before the last position."""
        return self._whole


def per_token(log_probs: Tensor, drawn: Tensor, canvas: Canvas) -> Tensor:
    """``(B,)`` float64, log-probability in nats of what is drawn in a row's blanks, per token."""
    counted = canvas.open
    if canvas.special.eos is not None:
        ends = counted & (drawn == canvas.special.eos)
        counted = counted & (ends.cumsum(dim=1) <= ends)
    each = log_probs.gather(-1, drawn[..., None]).squeeze(-1).double()
    # One after the other: the numbers of a row must not depend on the width of the batch.
    total = each.masked_fill(~counted, 0.0).cumsum(dim=1)[:, -1]
    if canvas.special.nothing is not None:
        counted = counted & (drawn != canvas.special.nothing)
    return total / counted.sum(dim=1).clamp(min=1)
