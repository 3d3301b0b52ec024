"""Policies by name: the model's own of :mod:`imadarem.sampling.policy`, and all others."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from imadarem import checks
from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError, nearest
from imadarem.sampling.noise import Stream
from imadarem.sampling.policy import (
    Decision,
    EntropyThreshold,
    Gate,
    GateInPlace,
    MaskSchedule,
    PassView,
    Policy,
    from_the_left,
    gate_policy,
    highest,
    noisy_confidence,
)

__all__ = [
    "POLICIES",
    "AdaptiveGate",
    "Ancestral",
    "Blocks",
    "Confidence",
    "Decision",
    "EntropyBound",
    "EntropyThreshold",
    "Gate",
    "GateInPlace",
    "LeftToRight",
    "Margin",
    "PassView",
    "Policy",
    "Remask",
    "policy_from_name",
]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveGate:
    """As many passes as a row needs: fill what is certain at once, stop when nothing is flagged.

    Three rules, each row by itself:

    - *Fill* blanks as :class:`EntropyBound` does, but at least as many as the schedule asks;
      what the budget does not cover is ranked as :class:`Gate` ranks it.
    - *Re-mask* a share of what the gate flags; while a step is left, one token may be re-masked
      even where the schedule leaves no blank.
    - *Stop* once nothing is blank, nothing is flagged and the mean gate over the model's
      tokens is below ``stop_below_mean_gate``, whatever changed.

    A row without a blank is judged by the pass after the one that filled it, so two passes are
    the least. A row with no flagged token whose mean gate is too high runs to the cap, which
    helps a network with a carry and costs passes with any other.

    Source: filling from EB-sampler (arXiv:2505.24857), re-masking as in :class:`Gate`; when to
    stop is ours.

    Args:
        gamma: Entropy budget per row and step, in nats; ``0`` leaves it to the schedule.
        fraction: Share of the flagged tokens that is re-masked in a step, above 0.
        gumbel: As in :class:`Gate`; for the blanks that the budget does not cover.
        stop_below_mean_gate: In (0, 1]; from 0.5 on the flags alone decide.
    """

    gamma: float = 0.1
    fraction: float = 0.5
    gumbel: float = 1.0
    stop_below_mean_gate: float = 0.3
    refines: bool = True
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        checks.at_least(0.0, gamma=self.gamma)
        checks.finite(gumbel=self.gumbel)
        shares = {name: getattr(self, name) for name in ("fraction", "stop_below_mean_gate")}
        checks.share(**shares)
        checks.above_zero(**shares)

    def __call__(self, view: PassView) -> Decision:
        flagged = view.written & (view.gate > 0.5)
        share = torch.ceil(self.fraction * flagged.sum(dim=1)).long()
        room = view.remaining.clamp(min=int(view.step < view.steps))
        remask = highest(view.gate, flagged, torch.minimum(share, room))
        certain = _within_budget(view, self.gamma)
        missing = view.to_fill + remask.sum(dim=1) - certain.sum(dim=1)
        ranking = noisy_confidence(view, self.gumbel)
        write = certain | highest(ranking, view.open & ~certain, missing)
        doubt = (view.gate * view.written).sum(dim=1) / view.written.sum(dim=1).clamp(min=1)
        # A token written just now has not been judged yet.
        unjudged = write.any(dim=1)
        hold = unjudged | flagged.any(dim=1) | (doubt >= self.stop_below_mean_gate)
        return Decision(write, remask, hold=hold)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyBound:
    """Fill the blanks of lowest entropy while their joint entropy stays small.

    Positions are taken from lowest entropy upwards as long as the entropies of all
    *earlier* picks sum to at most ``gamma``. A joint entropy is at least its largest
    marginal, so that sum bounds the dependence ignored by sampling the picks
    independently. The position of lowest entropy is always filled: no step is idle.

    Source: EB-sampler, arXiv:2505.24857.

    Args:
        gamma: Entropy budget per row and step, in nats. ``0`` commits one position (more
            only after certain ones); ``inf`` commits them all.
    """

    gamma: float = 1.0
    refines: bool = False
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        checks.at_least(0.0, gamma=self.gamma)

    def __call__(self, view: PassView) -> Decision:
        return Decision(_within_budget(view, self.gamma), torch.zeros_like(view.open))


@dataclass(frozen=True, slots=True, kw_only=True)
class Remask:
    """Fill in random order, and re-mask a random share of the written tokens.

    The re-masking probability of step ``s`` is the capped schedule
    ``min(eta, remaining_rate / filled_rate)``, zero in the last step; what it frees is
    filled elsewhere so that the number of blanks follows the schedule.

    Source: ReMDM, arXiv:2503.00307 ("cap" schedule).

    Args:
        eta: Cap on the probability that a written token is re-masked in a step, in [0, 1].
    """

    eta: float = 0.1
    refines: bool = True
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        checks.share(eta=self.eta)

    def __call__(self, view: PassView) -> Decision:
        length = view.open.shape[1]
        schedule = MaskSchedule(view.steps, view.schedule)
        filled_rate = schedule.filled_rate(view.step - 1)  # α_t of the paper, before this step
        remaining_rate = schedule.mask_rate(view.step)
        sigma = min(self.eta, remaining_rate / filled_rate) if filled_rate else 0.0
        coin = view.noise.uniform(Stream.COIN, length)
        chosen = view.written & (coin < sigma)
        remask = highest(-coin, chosen, torch.minimum(chosen.sum(dim=1), view.remaining))
        fill = view.to_fill + remask.sum(dim=1)
        order = view.noise.uniform(Stream.ORDER, length)
        return Decision(highest(order, view.open, fill), remask)


POLICIES: dict[str, type[Policy]] = {
    "gate": Gate,
    "gate-adaptive": AdaptiveGate,
    "gate-in-place": GateInPlace,
    "entropy": EntropyThreshold,
    "ancestral": Ancestral,
    "left-to-right": LeftToRight,
    "blocks": Blocks,
    "confidence": Confidence,
    "margin": Margin,
    "entropy-bound": EntropyBound,
    "remask": Remask,
}


def policy_from_name(name: str, config: ImplicitRefinementConfig) -> Policy:
    """The named policy with the settings of ``config``."""
    if name not in POLICIES:
        raise ConfigError(
            f"unknown policy {name!r}{nearest(name, POLICIES)}. Legal: {', '.join(POLICIES)}."
        )
    if name == "gate":
        return gate_policy(config)
    if name == "gate-adaptive":
        return AdaptiveGate(fraction=config.refine_fraction)
    if name == "entropy":
        return EntropyThreshold(config.min_refine_uncertainty)
    return POLICIES[name]()


def _within_budget(view: PassView, gamma: float) -> Tensor:
    """``(B, L)`` bool: the open positions of lowest entropy whose sum stays within ``gamma``."""
    nats = view.entropy.double() * math.log(max(view.log_probs.shape[-1], 2))
    nats = nats.masked_fill(~view.open, math.inf)
    sorted_nats, order = nats.sort(dim=1, stable=True)
    # Subtract before comparing: the position of lowest entropy must always pass.
    spent = sorted_nats.nan_to_num(posinf=0.0).cumsum(1) - sorted_nats.nan_to_num(posinf=0.0)
    within = torch.zeros_like(view.open).scatter(1, order, spent <= gamma)
    return within & view.open
