"""What a policy is; and the policies that fill blanks and change nothing that is written."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from imadarem import checks
from imadarem.corruption import MaskSchedule, Shape
from imadarem.sampling.noise import RowNoise, Stream


@dataclass(frozen=True)
class PassView:
    """What a policy sees: one forward pass over a batch of canvases.

    Attributes:
        step: 1 … ``steps``.
        steps: ``K``, the most steps that are taken.
        open: ``(B, L)`` bool, blanks.
        written: ``(B, L)`` bool, tokens that the model has written and may change.
        log_probs: ``(B, L, V)``, over the tokens that may stand there, in nats.
        drawn: ``(B, L)``, the token drawn at each position.
        gate: ``(B, L)``, probability that the token on the canvas is wrong.
        entropy: ``(B, L)``, of the prediction ÷ ln V, in [0, 1]; from the EMA teacher if
            ``uses_teacher``.
        remaining: ``(B,)``, blanks that the schedule leaves after this step.
        noise: Random numbers of this step, by row.
        schedule: How many blanks each step fills: a name or a function.
        drawn_with: ``(B, L)``, log-probability that the token standing there had when it was
            drawn, nats; 0 where the model did not write. None if it was not recorded.
    """

    step: int
    steps: int
    open: Tensor
    written: Tensor
    log_probs: Tensor
    drawn: Tensor
    gate: Tensor
    entropy: Tensor
    remaining: Tensor
    noise: RowNoise
    schedule: Shape = "linear"
    drawn_with: Tensor | None = None

    @property
    def confidence(self) -> Tensor:
        """``(B, L)`` log-probability of the drawn token, in nats."""
        return self.log_probs.gather(-1, self.drawn[..., None]).squeeze(-1)

    @property
    def to_fill(self) -> Tensor:
        """``(B,)`` blanks to fill by the schedule; at least 1, so that no pass is idle."""
        return (self.open.sum(dim=1) - self.remaining).clamp(min=1)


class Decision(NamedTuple):
    """What a policy decides after a pass: two disjoint ``(B, L)`` bool masks.

    Attributes:
        write: Open or written positions that take the drawn token.
        remask: Written positions that become blanks again.
        edit: What was done, by name, where a policy chooses between edits.
        hold: ``(B,)`` bool, rows that must go on even where nothing is blank and little or
            nothing changed; None holds no row.
    """

    write: Tensor
    remask: Tensor
    edit: str = ""
    hold: Tensor | None = None


class Policy(Protocol):
    """What a policy must be, yours too: an object with one method and two attributes.

    Attributes:
        refines: Whether written tokens may change again. A row whose policy does not
            refine stops as soon as it has no blank.
        uses_teacher: Whether ``entropy`` is to come from the EMA teacher, which costs a
            second forward pass.
    """

    @property
    def refines(self) -> bool: ...

    @property
    def uses_teacher(self) -> bool: ...

    def __call__(self, view: PassView) -> Decision:
        """Decide; positions that are neither open nor written are not yours to name."""
        ...


@dataclass(frozen=True, kw_only=True)
class BySchedule:
    """Fill as many blanks as the schedule asks, those of the highest rank first."""

    refines: bool = False
    uses_teacher: bool = False

    def ranking(self, view: PassView) -> Tensor:
        """``(B, L)``."""
        raise NotImplementedError

    def __call__(self, view: PassView) -> Decision:
        write = highest(self.ranking(view), view.open, view.to_fill)
        return Decision(write, torch.zeros_like(view.open))


@dataclass(frozen=True)
class Ancestral(BySchedule):
    """Fill blanks in random order (MDLM, arXiv:2406.07524)."""

    def ranking(self, view: PassView) -> Tensor:
        return view.noise.uniform(Stream.ORDER, view.open.shape[1])


@dataclass(frozen=True)
class LeftToRight(BySchedule):
    """Fill the leftmost blanks: block by block.

    With a joint head, which draws a block token by token, this is an autoregressive model
    whose transformer runs once a block, not once a token. Without one the tokens of a block
    are drawn independently, as in block diffusion (arXiv:2503.09573) at one step a block.
    """

    def ranking(self, view: PassView) -> Tensor:
        return from_the_left(view)


@dataclass(frozen=True, kw_only=True)
class Confidence(BySchedule):
    """Fill the blanks whose drawn token is likeliest (MaskGIT, arXiv:2202.04200).

    Args:
        gumbel: Scale of the Gumbel noise on the log-probability; it falls linearly to 0
            with the steps.
    """

    gumbel: float = 1.0

    def __post_init__(self) -> None:
        checks.finite(gumbel=self.gumbel)

    def ranking(self, view: PassView) -> Tensor:
        return noisy_confidence(view, self.gumbel)


@dataclass(frozen=True)
class Margin(BySchedule):
    """Fill the blanks with the widest gap between the two likeliest tokens (arXiv:2502.06768)."""

    def ranking(self, view: PassView) -> Tensor:
        top = view.log_probs.exp().topk(min(2, view.log_probs.shape[-1]), dim=-1).values
        return top[..., 0] - top[..., -1]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Fill one block after the other, each in several passes by another policy.

    The blanks of a row are cut into ``count`` blocks of equal length, left to right, and the
    steps into as many parts; the steps that do not divide go to the first blocks. Source:
    semi-autoregressive sampling of masked diffusion (LLaDA, arXiv:2502.09992).

    Args:
        count: Blocks of a row.
        within: Fills a block; it must not re-mask. Default: the most confident tokens first.
    """

    count: int = 4
    within: Policy = field(default_factory=Confidence)
    refines: bool = False
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        checks.whole("count", self.count, 1)

    def __call__(self, view: PassView) -> Decision:
        count = min(self.count, view.steps)
        block = (view.step - 1) * count // view.steps
        first, last = (-(-number * view.steps // count) for number in (block, block + 1))
        mine = view.open | view.written
        rank = mine.cumsum(dim=1) - 1
        reached = mine & (rank * count < (block + 1) * mine.sum(dim=1, keepdim=True))
        size = (reached & (rank * count >= block * mine.sum(dim=1, keepdim=True))).sum(dim=1)
        # What every policy reads is computed once, for this view and for that of the block.
        _ = view.log_probs, view.drawn
        part = copy.copy(view)
        part.__dict__.update(
            open=view.open & reached,
            remaining=MaskSchedule(last - first).remaining(view.step - first, size),
            step=view.step - first,
            steps=last - first,
            schedule="linear",
        )
        return self.within(part)


def from_the_left(view: PassView) -> Tensor:
    """``(B, L)``, higher the further left."""
    return -torch.arange(view.open.shape[1], device=view.open.device).expand(view.open.shape)


def noisy_confidence(view: PassView, scale: float) -> Tensor:
    """Log-probability of the drawn token plus Gumbel noise that falls with the steps."""
    if scale == 0:
        return view.confidence.double()
    noise = view.noise.gumbel(Stream.ORDER, view.open.shape[1])
    return view.confidence.double() + scale * (1.0 - view.step / view.steps) * noise


def highest(ranking: Tensor, eligible: Tensor, counts: Tensor) -> Tensor:
    """The ``counts`` ``(B,)`` eligible positions that rank highest, ``(B, L)`` bool."""
    ranking = ranking.double().masked_fill(~eligible, -math.inf)
    order = ranking.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (ranks < counts[:, None]) & eligible
