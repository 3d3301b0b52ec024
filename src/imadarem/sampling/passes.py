"""One pass: what a network takes beside the canvas, and what is computed of its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.nn import RefinementOutput
from imadarem.nn.joint import JointHead
from imadarem.nn.memory import Retrieved
from imadarem.sampling.best_draws import BestDraws
from imadarem.sampling.draw import Truncation, inverse_cdf, normalized_entropy
from imadarem.sampling.endings import Endings
from imadarem.sampling.joint_draws import JointDraws, StepWeights, steps_in_numpy
from imadarem.sampling.noise import RowNoise, Stream
from imadarem.sampling.policy import PassView
from imadarem.sampling.settings import SamplingSettings

Network = Callable[..., RefinementOutput]


@dataclass(frozen=True)
class PassInputs:
    """What a pass takes beside the canvas: from the last pass, and from a memory.

    Attributes:
        prev_probs: ``(B, L, V)`` beliefs about blanks.
        carry: ``(B, L, D)``.
        memory: Earlier canvases.
    """

    prev_probs: Tensor | None = None
    carry: Tensor | None = None
    memory: Retrieved | None = None

    def read_by(
        self,
        network: Network,
        ids: Tensor,
        attended: Tensor | None,
        first: bool = False,
        condition: Tensor | None = None,
    ) -> RefinementOutput:
        """One pass. Keywords are given only where there is something: a network may know fewer."""
        if first and self.memory is None:
            return forward_unique_rows(network, ids, attended, condition)
        optional = {"carry": self.carry, "memory": self.memory, "condition": condition}
        given: dict[str, Any] = {name: x for name, x in optional.items() if x is not None}
        return network(ids, attended, prev_probs=self.prev_probs, **given)

    def beliefs(self, log_probs: Tensor, about: Tensor, keep: bool) -> Tensor:
        """``(B, L, V)`` probabilities for the next pass, about the positions ``about`` ``(B, L)``.

        Elsewhere they are those of this pass's input (``keep``), or zeros: what the logits of a
        written token say is not trained.
        """
        before = self.prev_probs if keep else None
        return torch.where(about[..., None], log_probs.exp(), 0.0 if before is None else before)

    def rows(self, keep: Tensor, width: int) -> PassInputs:
        """The rows ``keep``, numbers, cropped to ``width`` positions."""
        return PassInputs(
            None if self.prev_probs is None else self.prev_probs[keep, :width],
            None if self.carry is None else self.carry[keep, :width],
            None if self.memory is None else self.memory.rows(keep),
        )


def guided_pass(
    network: Network,
    inputs: PassInputs,
    canvas: Canvas,
    shown: Tensor,
    attended: Tensor | None,
    guidance: float,
    first: bool,
) -> RefinementOutput:
    """One pass over a canvas, or two where it is guided (arXiv:2207.12598).

    The second pass reads the canvas without what it is asked to be like: without the condition
    where the rows have one, else with the given tokens of the prompt blanked (arXiv:2502.09992,
    appendix). The token logits become ``without + guidance · (with - without)``. A joint head adds
    what it reads in the states of the first pass. The gate and the halting head are those of the
    first pass.

    Args:
        network: See :func:`~imadarem.sampling.loop.refine`.
        inputs: What the network reads beside the canvas.
        canvas: The rows, and what they are asked to be like.
        shown: ``(B, L)``, the ids that the network reads.
        attended: ``(B, L)`` bool, the positions that it reads; None where it reads all.
        guidance: Its strength; 1 is one plain pass.
        first: Whether it is the first pass of a run.
    """
    read = inputs.read_by(network, shown, attended, first, canvas.condition)
    if guidance == 1.0:
        return read
    if canvas.condition is None:
        special = canvas.special
        given = canvas.state == int(State.GIVEN)
        # The mark behind a hole of unknown length belongs to the question, not to the prompt.
        if special.nothing is not None:
            given = given & (shown != special.nothing)
        shown = shown.masked_fill(given, special.mask)
    without = inputs.read_by(network, shown, attended, first)
    logits = without.logits + guidance * (read.logits - without.logits)
    joint = None if read.joint is None else replace(read.joint, logits=logits)
    return read._replace(logits=logits, joint=joint)


def progress(blank: Tensor, written: Tensor) -> Tensor:
    """``(B,)`` share that is written of what the model may write; 0 where that is nothing.

    ``(B, L)`` bool both: what is blank, and what the model wrote.
    """
    done = written.sum(dim=1)
    return done / (done + blank.sum(dim=1)).clamp(min=1)


def reads_beliefs(network: Network) -> bool:
    """Whether a network reads the beliefs of its last pass; an unknown one may."""
    config = getattr(network, "config", None)
    return not isinstance(config, ImplicitRefinementConfig) or config.self_conditioning


def forward_unique_rows(
    network: Network, ids: Tensor, attended: Tensor | None, condition: Tensor | None = None
) -> RefinementOutput:
    """A pass whose only input is the canvas; equal rows go through the network once.

    The first pass of a run reads blanks, the same number of them in many rows; copies of a
    prompt are equal too. Only on a CPU, and only for a network that has ``rows_independent``: no
    row's numbers depend on another row. Any other one is called with all rows.

    Args:
        network: Called as ``network(input_ids, attention_mask, prev_probs=None)``.
        ids: ``(B, L)``.
        attended: ``(B, L)`` bool; None where every position is.
        condition: ``(B, C)`` float32, see :class:`~imadarem.canvas.Canvas`.

    Returns:
        Of all ``B`` rows.
    """

    def forward(rows: Tensor | slice) -> RefinementOutput:
        some = None if attended is None else attended[rows]
        asked = {} if condition is None else {"condition": condition[rows]}
        return network(ids[rows], some, prev_probs=None, **asked)

    alike = getattr(network, "rows_independent", False) and ids.device.type == "cpu"
    if len(ids) == 1 or not alike:
        return forward(slice(None))
    key = ids if attended is None else 2 * ids + attended
    if condition is not None:
        # By their bits: NaN asks for nothing, and equals no number.
        key = torch.cat([key, condition.view(torch.int32).long()], dim=1)
    _, first, which = np.unique(key.numpy(), axis=0, return_index=True, return_inverse=True)
    if len(first) == len(ids):
        return forward(slice(None))
    return forward(torch.from_numpy(first)).spread(torch.from_numpy(which.reshape(-1)))


class LoopView(PassView):
    """A :class:`PassView` of a pass; its costly fields are computed when they are read.

    Attributes:
        output: Of the network.
        teacher: Output of the teacher, where it judges the entropy.
        canvas: Says which tokens may stand where.
        settings: How to draw.
        laid_out: Gives the weights of a joint head for its steps.
        gate_slope: ``(B, 1)``, added to the gate's logits.
    """

    output: RefinementOutput
    teacher: RefinementOutput | None
    canvas: Canvas
    settings: SamplingSettings
    laid_out: Callable[[JointHead], StepWeights]
    gate_slope: Tensor

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)

    @cached_property
    def log_probs_alone(self) -> Tensor:
        """``(B, L, V)`` log-probabilities of each position by itself."""
        if self.endings is None:
            return self.canvas.log_probs(self.output.logits, self._may_end)
        return self.endings.put_into(self.canvas.log_probs(self.output.logits, may_end=False))

    @cached_property
    def endings(self) -> Endings | None:
        """Where rows end, where this pass decides it: the first, save with ``reinject``."""
        how, canvas = self.settings, self.canvas
        if not self._may_end or how.reinject or canvas.special.eos is None:
            return None
        drawn = None if self._joint is None else self._joint.whole()[1]
        return Endings.decided(self.output.logits, canvas, self.noise, how, drawn)

    @property
    def _may_end(self) -> bool:
        return self.settings.may_end and (self.settings.reinject or self.step == 1)

    @cached_property
    def _joint(self) -> JointDraws | BestDraws | None:
        joint, how = self.output.joint, self.settings
        if joint is None:
            return None
        weights = self.laid_out(joint.head) if steps_in_numpy(joint) else None
        draw = partial(
            JointDraws,
            temperature=how.temperature,
            may_end=self._may_end,
            truncation=how.truncation,
            weights=weights,
        )
        # At temperature 0 all draws are alike.
        if how.best_of > 1 and how.temperature > 0:
            return BestDraws(draw, how.best_of, joint, self.canvas, self.noise)
        return draw(joint, self.canvas, self.noise)

    @cached_property
    def _drawn_alone(self) -> Tensor:
        how = self.settings
        eos = self.canvas.special.eos if self._may_end and self.endings is None else None
        return draw_tokens(self.log_probs_alone, self.noise, how.temperature, eos, how.truncation)

    @cached_property
    def log_probs(self) -> Tensor:
        return self.log_probs_alone if self._joint is None else self._joint.whole()[0]

    @cached_property
    def drawn(self) -> Tensor:
        drawn = self._drawn_alone if self._joint is None else self._joint.whole()[1]
        return drawn if self.endings is None else self.endings.written(drawn)

    @cached_property
    def gate(self) -> Tensor:
        return sigmoid(self.output.gate_logits + self.gate_slope)

    @cached_property
    def entropy(self) -> Tensor:
        if self.teacher is None:
            return normalized_entropy(self.log_probs)
        return normalized_entropy(self.canvas.log_probs(self.teacher.logits, self._may_end))

    def at(self, write: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L, V)`` and tokens ``(B, L)``, right at ``write`` at least.

        Drawing jointly ends with the last position that any row writes.
        """
        if self._joint is None:
            return self.log_probs_alone, self._drawn_alone
        positions = torch.arange(1, write.shape[1] + 1, device=write.device)
        log_probs, drawn = self._joint.upto(int((positions * write.any(dim=0)).amax()))
        return log_probs, drawn if self.endings is None else self.endings.written(drawn)


def draw_tokens(
    log_probs: Tensor,
    noise: RowNoise,
    temperature: float,
    eos: int | None = None,
    truncation: Truncation | None = None,
) -> Tensor:
    """Draw a token at every position: ``(B, L, V)`` → ``(B, L)`` int64.

    By inversion of the cumulative distribution in float64. Temperature 0 takes the most
    likely token, and then truncation changes nothing.

    Endings are drawn with *one* uniform number per row: position i ends the row iff
    ``p_i(EOS) > u``. Each position's own probability is unchanged, but since the model
    learns ``p_i(EOS) = P(length ≤ i)``, the first EOS of a parallel draw then has exactly
    the model's distribution of lengths; independent draws would end rows far too early.
    Truncation leaves these probabilities alone, or it would cut off the short and the long
    rows; it is about which token stands at a position that does not end the row.
    """
    if temperature == 0:
        return log_probs.argmax(dim=-1)
    probs = log_probs.double()
    # Log-probabilities need no second softmax as long as they are not divided.
    probs = probs.exp() if temperature == 1 else (probs / temperature).softmax(dim=-1)
    uniform, ends = noise.uniform(Stream.TOKEN, probs.shape[1]), None
    if eos is not None:
        ends = probs[..., eos] > noise.uniform(Stream.ENDING, 1)
        # What is left must still be a distribution where an EOS was certain; it is not used there.
        probs[..., eos] = torch.where(probs[..., eos] >= 1.0, 1.0, 0.0)
    drawn = inverse_cdf(probs if truncation is None else truncation(probs), uniform)
    return drawn if ends is None or eos is None else drawn.masked_fill(ends, eos)


def sigmoid(logits: Tensor) -> Tensor:
    """Written out: torch's own rounds the last elements of a batch in another way."""
    return 1.0 / (1.0 + (-logits.float()).exp())
