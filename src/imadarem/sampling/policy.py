"""What a policy is: what it sees, what it decides; and the policies that are a model's own.

A policy sees one forward pass and answers with a :class:`Decision`. It keeps no state: what
happened before stands on the canvas. The last step fills whatever is still blank. A setting that
is out of range is a ``ConfigError``. The other policies: :mod:`imadarem.sampling.policies`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from imadarem import checks
from imadarem.config import MASK_SCHEDULES, ImplicitRefinementConfig
from imadarem.errors import ConfigError, nearest
from imadarem.sampling.noise import RowNoise, Stream

#: Probability below which a logarithm is not taken.
SMALLEST = 1e-6
#: Nats a token must have lost where it was drawn jointly: it fits what was drawn before it, which
#: need not be the data's. Measured: FCD 10.6 at 1 nat, 6.3 at 3 and without re-masking.
JOINT_DROP = 3.0
#: In which order :class:`Gate` fills blanks.
ORDERS = ("confidence", "left-to-right")

Shape = str | Callable[[float], float] | Sequence[float]
"""A name, ``rate(t / K)``, or the share of the blanks that each step fills."""


def check_shape(shape: Shape, steps: int) -> None:
    """Refuse what is no shape of a schedule of ``steps``."""
    if isinstance(shape, str):
        if shape not in MASK_SCHEDULES:
            raise ConfigError(
                f"unknown schedule {shape!r}{nearest(shape, MASK_SCHEDULES)}. Legal: "
                f"{', '.join(MASK_SCHEDULES)}, a function of t / K, or a share for each step."
            )
    elif not callable(shape) and not (
        len(shape) == steps and min(shape) >= 0 and abs(sum(shape) - 1.0) < 1e-6
    ):
        raise ConfigError(
            f"the schedule {list(shape)} needs {steps} shares, one for each step, of at least 0, "
            "that add up to 1."
        )


@dataclass(frozen=True, slots=True)
class MaskSchedule:
    """How many of the open positions are masked at each time.

    ``linear``: ``mask_rate(t) = 1 - t / K``, as many blanks filled in each step.
    ``cosine``: ``mask_rate(t) = cos(π/2 · t / K)``, few blanks filled at first, while little
    is known, and many at the end (MaskGIT, arXiv:2202.04200).

    Your own: a function of ``t / K`` that falls from 1 to 0, or the share of the blanks that
    each of the ``K`` steps fills.

    Args:
        steps: ``K``, at least 1.
        shape: ``linear``, ``cosine``, a function, or ``K`` shares that add up to 1.
    """

    steps: int
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        checks.at_least(1, steps=self.steps)
        check_shape(self.shape, self.steps)

    def mask_rate(self, t: float) -> float:
        """Share of the open positions that is masked at time ``t`` in ``[0, K]``.

        ``t`` may be fractional; a refinement *step* is the whole number ``t`` after it.
        """
        if not 0 <= t <= self.steps:
            raise ConfigError(f"t={t} lies outside the schedule: legal is 0 to {self.steps}.")
        if callable(self.shape):
            rate = float(self.shape(t / self.steps)) if t < self.steps else 0.0
            if not 0.0 <= rate <= 1.0:
                raise ConfigError(f"the schedule gave {rate} at {t / self.steps}; legal is 0 to 1.")
            return rate
        if not isinstance(self.shape, str):
            whole, part = int(t), t - int(t)
            behind = sum(self.shape[whole:]) - (part * self.shape[whole] if part else 0.0)
            return min(max(behind, 0.0), 1.0) if t < self.steps else 0.0
        if self.shape == "linear":
            return 1.0 - t / self.steps
        # As a sine from the far end, the rate at t = K is exactly 0.
        return math.sin(math.pi / 2 * (self.steps - t) / self.steps)

    def filled_rate(self, t: float) -> float:
        """``1 - mask_rate(t)``: the share that is not masked.

        Raises:
            ConfigError: ``t`` lies outside ``[0, K]``.
        """
        rate = self.mask_rate(t)
        return t / self.steps if self.shape == "linear" else 1.0 - rate

    def remaining(self, step: int, total: Tensor) -> Tensor:
        """Masked positions left after whole ``step`` of rows that began with ``total``.

        ``(B,)`` counts → ``(B,)`` counts, rounded down, so the last step leaves none.
        """
        # Whole-number arithmetic: 1 - t/K in floats rounds some exact counts down by one.
        if self.shape == "linear":
            return total * (self.steps - step) // self.steps
        # The one rational cosine between the ends is cos 60° = 1/2 (Niven's theorem). Any
        # other rate times a count is irrational, so no exact count can be missed by a float.
        if self.shape == "cosine" and 3 * step == 2 * self.steps:
            return total // 2
        # Sums of shares are off by a rounding error, which must not cost a whole blank.
        return (total.double() * self.mask_rate(step) + 1e-9).long()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Fill the most confident blanks by schedule; re-mask a share of what the gate flags.

    In each step but the last, ``fraction`` of the flagged tokens, the worst first, are
    re-masked. A token is flagged if its gate is above 0.5 *and* it has become implausible:
    ``ln p - ln(1 - gate) > drop``, where ``p`` is the probability it was drawn with and
    ``1 - gate`` the one that is left to it now that others stand around it. A rare token is
    "probably not the data's" from the start: re-masking all of those sharpens the samples and
    ruins their distribution (measured: FCD 19.5 against 17.7). As many further blanks are
    filled, so the number of blanks after a step is that of the schedule. A token whose gate is
    ≤ 0.5 is never changed.

    Source: the gate's rule of Imadarem V, with re-masking as in RemeDi (arXiv:2509.23653) and
    PRISM (arXiv:2510.01384); the likelihood ratio is ours.

    Args:
        fraction: Share of the flagged tokens that is re-masked in a step, in [0, 1].
        drop: Nats by which a token must have become less probable; None flags by the gate
            alone.
        gumbel: Scale of the Gumbel noise on the confidence by which blanks are ranked; it
            falls linearly to 0 with the steps. 0 is greedy and costs diversity.
        order: ``confidence``: the most confident blanks are filled first; ``left-to-right``:
            the leftmost, as suits a network with a joint head.
    """

    fraction: float = 0.5
    drop: float | None = 1.0
    gumbel: float = 1.0
    order: str = "confidence"
    refines: bool = True
    uses_teacher: bool = False

    def __post_init__(self) -> None:
        checks.share(fraction=self.fraction)
        if self.drop is not None:
            checks.finite(drop=self.drop)
        checks.finite(gumbel=self.gumbel)
        checks.one_of("order", self.order, ORDERS)

    def __call__(self, view: PassView) -> Decision:
        flagged, ranking = view.written & (view.gate > 0.5), view.gate
        if self.drop is not None and view.drawn_with is not None:
            lost = view.drawn_with - (1.0 - view.gate).clamp(min=SMALLEST).log()
            flagged, ranking = flagged & (lost > self.drop), lost
        share = torch.ceil(self.fraction * flagged.sum(dim=1)).long()
        remask = highest(ranking, flagged, torch.minimum(share, view.remaining))
        fill = view.to_fill + remask.sum(dim=1)
        return Decision(highest(self._ranking(view), view.open, fill), remask)

    def _ranking(self, view: PassView) -> Tensor:
        if self.order == "left-to-right":
            return from_the_left(view)
        return noisy_confidence(view, self.gumbel)


@dataclass(frozen=True, slots=True)
class GateInPlace:
    """The literal rule of Imadarem V: every token with gate > 0.5 is redrawn in place.

    All blanks are written in the first step. Measured as the worst rule: tokens that depend on
    each other are redrawn at once from each other.
    """

    refines: bool = True
    uses_teacher: bool = False

    def __call__(self, view: PassView) -> Decision:
        flagged = view.written & (view.gate > 0.5)
        return Decision(view.open | flagged, torch.zeros_like(flagged))


@dataclass(frozen=True, slots=True)
class EntropyThreshold:
    """Uncertainty threshold of Imadarem V: redraw tokens whose entropy is high.

    Args:
        threshold: Normalised entropy in [0, 1] above which a token is drawn again.
    """

    threshold: float = 0.1
    refines: bool = True
    uses_teacher: bool = True

    def __post_init__(self) -> None:
        checks.share(threshold=self.threshold)

    def __call__(self, view: PassView) -> Decision:
        uncertain = view.written & (view.entropy > self.threshold)
        return Decision(view.open | uncertain, torch.zeros_like(uncertain))


def own_policy(config: ImplicitRefinementConfig) -> Policy:
    """The model's own mode: by its gate, or by the entropy of its teacher."""
    if config.use_refine_gate:
        return gate_policy(config)
    return EntropyThreshold(config.min_refine_uncertainty)


def gate_policy(config: ImplicitRefinementConfig) -> Policy:
    """The gate's rule with the settings of a model."""
    if config.refine_fraction == 1.0:
        return GateInPlace()
    if config.joint_size:
        return Gate(fraction=config.refine_fraction, drop=JOINT_DROP, order="left-to-right")
    return Gate(fraction=config.refine_fraction)
