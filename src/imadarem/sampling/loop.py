"""The refinement loop: the only one in the project.

A generator that yields one :class:`Step` per refinement step. Sampling, infilling, the
trajectory views, training rollouts, the command line and the server all drain it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.corruption import MaskSchedule
from imadarem.errors import NonFiniteError
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.nn.joint import JointHead
from imadarem.nn.joint_stepper import StepWeights
from imadarem.nn.memory import Retrieved
from imadarem.sampling.draw import draw_tokens, forbid, normalized_entropy
from imadarem.sampling.halting import StoppingReason, Track
from imadarem.sampling.joint_draws import JointDraws
from imadarem.sampling.noise import RowNoise
from imadarem.sampling.policies import Decision, PassView, Policy
from imadarem.sampling.settings import SamplingSettings
from imadarem.sampling.unique_rows import forward_unique_rows

__all__ = ["Step", "StoppingReason", "progress", "refine"]


@dataclass(frozen=True)
class Step:
    """One refinement step of the rows that were still running.

    Attributes:
        step: 1 … ``K``.
        rows: ``(B,)`` indices of these rows in the batch that entered the loop.
        canvas: The canvas after the step.
        refined: ``(B, L)`` bool, positions that were written in this step.
        remasked: ``(B, L)`` bool, positions that went back to blank.
        changed: ``(B, L)`` bool, positions whose id differs from before.
        gate: ``(B, L)`` probability that the token *before* the step should be refined.
        entropy: ``(B, L)`` normalised entropy in [0, 1].
        confidence: ``(B, L)`` probability of the token drawn in this step.
        changed_fraction: ``(B,)`` share of the row's writable positions that changed.
        forward_passes: Passes each of these rows has cost so far, teacher included.
        reasons: ``(B,)`` values of :class:`StoppingReason`; 0 goes on.
        quality: ``(B,)`` mean probability of the tokens on the writable positions; a blank
            counts as 0.
        halt: ``(B,)`` probability of the halting head that the answer is right; None where
            the network has no such head.
        edit: Name of the edit that the policy made, where it has one.
    """

    step: int
    rows: Tensor
    canvas: Canvas
    refined: Tensor
    remasked: Tensor
    changed: Tensor
    gate: Tensor
    entropy: Tensor
    confidence: Tensor
    changed_fraction: Tensor
    forward_passes: int
    reasons: Tensor
    quality: Tensor
    halt: Tensor | None = None
    edit: str = ""


@torch.no_grad()
def refine(
    network: Callable[..., RefinementOutput],
    canvas: Canvas,
    settings: SamplingSettings,
    *,
    seeds: Tensor,
    teacher: EmaTeacher | None = None,
    memory: Retrieved | None = None,
) -> Iterator[Step]:
    """Refine a batch of canvases, one record per step; done rows leave the batch.

    The network is used as it is: put it in evaluation mode first.

    Args:
        network: Called as ``network(input_ids, attention_mask, prev_probs=...)``.
        canvas: Where to start; rows without a blank take no step.
        settings: How to refine.
        seeds: ``(B,)`` int64; a row's draws depend on its own seed alone.
        teacher: Judges the entropy if the policy asks for it, at one more pass a step.
        memory: Earlier canvases for the network to look at, one set for each row.

    Raises:
        NonFiniteError: The network gave NaN; the row and the step are named.
    """
    policy, steps, reinject = settings.policy, settings.steps, settings.reinject
    blanks = MaskSchedule(steps, settings.schedule)
    rows = canvas.open.any(dim=1).nonzero().squeeze(1)
    canvas, seeds = canvas.rows(rows), seeds[rows]
    judge = teacher if policy.uses_teacher else None
    question = canvas
    track = Track.start(len(rows), seeds.device)
    inputs = PassInputs(memory=_rows_of(memory, rows))
    drawn_with = torch.zeros(canvas.ids.shape, device=seeds.device)
    # The weights of a joint head are laid out once a run, not once a pass.
    laid_out = lru_cache(StepWeights.of)
    passes = 0
    for step in range(1, steps + 1):
        if len(rows) == 0:
            return
        # 1. One pass reads the canvas: what belongs in the blanks, which tokens look wrong.
        open, written = canvas.open, canvas.written
        writable = open | written
        count = writable.sum(dim=1)
        shown = canvas.ids.masked_fill(written, canvas.special.mask) if reinject else canvas.ids
        output = inputs.read_by(network, shown, canvas.attention_mask, first=step == 1)
        seen = None if judge is None else inputs.read_by(judge, shown, canvas.attention_mask)
        passes += 1 if judge is None else 2
        # 2. Draw tokens, when and as far as one is asked for. Where the network sees a blank,
        #    whatever may stand in a blank may stand.
        noise = RowNoise(seeds, step)
        result = PassResult(
            output, seen, canvas.reopened() if reinject else canvas, noise, settings, laid_out
        )
        view = _LoopView(
            result,
            gate_slope=settings.gate_slope * progress(open, written)[:, None],
            step=step,
            steps=steps,
            open=open,
            written=written,
            remaining=blanks.remaining(step, count),
            noise=noise,
            schedule=settings.schedule,
            drawn_with=drawn_with,
        )
        # 3. The policy decides; the last step leaves no blank.
        decision = policy(view)
        if step == steps:
            nothing = torch.zeros_like(open)
            decision = decision._replace(write=decision.write | open, remask=nothing)
        # 4. Write, re-mask, freeze what lies at or behind an EOS (a question asked again may
        #    still end elsewhere: its row is frozen when it leaves).
        log_probs, drawn = result.at(decision.write)
        confidence = log_probs.gather(-1, drawn[..., None]).squeeze(-1)
        _check_finite(confidence, decision.write, output, rows, step)
        edited = canvas.write(decision.write, drawn).remask(decision.remask)
        ended = edited.freeze_endings()
        if not reinject:
            edited = ended
        changed = edited.ids != canvas.ids
        # An end in the first blank leaves nothing that could change.
        changed_fraction = changed.sum(dim=1) / count.clamp(min=1)
        # 5. Rows that are done say why, and leave.
        record = _LoopStep(
            view,
            ended,
            writable,
            step=step,
            rows=rows,
            refined=decision.write,
            remasked=decision.remask,
            changed=changed,
            changed_fraction=changed_fraction,
            forward_passes=passes,
            halt=None if output.halt_logits is None else _sigmoid(output.halt_logits),
            edit=decision.edit,
        )
        reasons = _reasons(edited, decision, policy, changed_fraction, settings.stop_threshold)
        if settings.halting is not None:
            track = track.after(record.quality, changed.any(dim=1))
            full = ~edited.open.any(dim=1)
            found = settings.halting.reasons(
                question.ids, edited.ids, record.halt, record.quality, track
            )
            reasons = torch.where(full & (found != 0), found, reasons)
        if step == steps:
            reasons = reasons.masked_fill(reasons == 0, int(StoppingReason.MAX_STEPS))
        if reinject:
            edited = edited.freeze_endings(reasons != 0)
        yield record.finished(edited, reasons)
        if step == steps:
            return
        # 6. The others take what this pass found to the next one. Numbers, not a mask: the host
        #    waits once for them and not at every use.
        going = (reasons == 0).nonzero().squeeze(1)
        canvas = edited.rows(going)
        rows, seeds, track = rows[going], seeds[going], track.rows(going)
        width = canvas.ids.shape[1]
        question = question.rows(going, width)
        drawn_with = torch.where(decision.write, confidence, drawn_with)[going, :width]
        beliefs = None
        if _uses_beliefs(network):
            beliefs = _beliefs(result.alone, decision.write, open, inputs, reinject)
        inputs = PassInputs(beliefs, output.carry, inputs.memory).rows(going, width)


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
        network: Callable[..., RefinementOutput],
        ids: Tensor,
        attended: Tensor | None,
        first: bool = False,
    ) -> RefinementOutput:
        """One pass. Keywords are given only where there is something: a network may know fewer."""
        if first and self.memory is None:
            return forward_unique_rows(network, ids, attended)
        optional = {"carry": self.carry, "memory": self.memory}
        given: dict[str, Any] = {name: x for name, x in optional.items() if x is not None}
        return network(ids, attended, prev_probs=self.prev_probs, **given)

    def rows(self, keep: Tensor, width: int) -> PassInputs:
        """The rows ``keep``, numbers, cropped to ``width`` positions."""
        return PassInputs(
            None if self.prev_probs is None else self.prev_probs[keep, :width],
            None if self.carry is None else self.carry[keep, :width],
            _rows_of(self.memory, keep),
        )


@dataclass(frozen=True)
class PassResult:
    """What a pass says about its canvas, computed as far as somebody asks.

    Attributes:
        output: Of the network.
        seen: Of the teacher, where it judges the entropy.
        canvas: Which tokens may stand where.
        noise: Of the step.
        settings: How to draw.
        laid_out: Gives the weights of a joint head for its steps.
    """

    output: RefinementOutput
    seen: RefinementOutput | None
    canvas: Canvas
    noise: RowNoise
    settings: SamplingSettings
    laid_out: Callable[[JointHead], StepWeights]

    @cached_property
    def alone(self) -> Tensor:
        """``(B, L, V)`` log-probabilities of each position by itself."""
        return forbid(self.output.logits, self.canvas, self.settings.may_end)

    @cached_property
    def _joint(self) -> JointDraws | None:
        joint, how = self.output.joint, self.settings
        if joint is None:
            return None
        weights = self.laid_out(joint.head) if joint.steps_in_numpy() else None
        return JointDraws(
            joint, self.canvas, self.noise, how.temperature, how.may_end, how.truncation, weights
        )

    @cached_property
    def _each(self) -> Tensor:
        how = self.settings
        eos = self.canvas.special.eos if how.may_end else None
        return draw_tokens(self.alone, self.noise, how.temperature, eos, how.truncation)

    @property
    def drawn(self) -> Tensor:
        """``(B, L)`` tokens."""
        return self._each if self._joint is None else self._joint.whole()[1]

    @property
    def log_probs(self) -> Tensor:
        """``(B, L, V)``, over what the tokens were drawn from, before the temperature."""
        return self.alone if self._joint is None else self._joint.whole()[0]

    @property
    def entropy(self) -> Tensor:
        """``(B, L)``, normalised; the teacher's where it judges."""
        if self.seen is None:
            return normalized_entropy(self.log_probs)
        return normalized_entropy(forbid(self.seen.logits, self.canvas, self.settings.may_end))

    def at(self, write: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L, V)`` and tokens ``(B, L)``, right at ``write`` at least.

        Drawing jointly ends with the last position that any row writes.
        """
        if self._joint is None:
            return self.alone, self._each
        positions = torch.arange(1, write.shape[1] + 1, device=write.device)
        return self._joint.upto(int((positions * write.any(dim=0)).amax()))


class _LoopView(PassView):
    """A :class:`PassView` whose costly fields are computed when a policy reads them."""

    _result: PassResult
    _gate_slope: Tensor

    def __init__(self, result: PassResult, gate_slope: Tensor, **facts: Any) -> None:
        self.__dict__.update(facts, _result=result, _gate_slope=gate_slope)

    @cached_property
    def log_probs(self) -> Tensor:
        return self._result.log_probs

    @cached_property
    def drawn(self) -> Tensor:
        return self._result.drawn

    @cached_property
    def gate(self) -> Tensor:
        return _sigmoid(self._result.output.gate_logits + self._gate_slope)

    @cached_property
    def entropy(self) -> Tensor:
        return self._result.entropy


class _LoopStep(Step):
    """A :class:`Step` whose costly fields are computed when an observer reads them."""

    _view: _LoopView
    _ended: Canvas
    _writable: Tensor

    def __init__(self, view: _LoopView, ended: Canvas, writable: Tensor, **facts: Any) -> None:
        self.__dict__.update(facts, _view=view, _ended=ended, _writable=writable)

    def finished(self, canvas: Canvas, reasons: Tensor) -> Step:
        """With how the step ended."""
        self.__dict__.update(canvas=canvas, reasons=reasons)
        return self

    @cached_property
    def gate(self) -> Tensor:
        return self._view.gate

    @cached_property
    def entropy(self) -> Tensor:
        return self._view.entropy

    @cached_property
    def confidence(self) -> Tensor:
        return self._view.confidence.exp()

    @cached_property
    def quality(self) -> Tensor:
        ids = self._ended.ids
        standing = self._view.log_probs.gather(-1, ids[..., None]).squeeze(-1).exp()
        # A pad stands behind an ending; a blank has probability 0, as no step may draw one.
        counted = self._writable & (ids != self._ended.special.pad)
        return (standing * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def progress(blank: Tensor, written: Tensor) -> Tensor:
    """``(B,)`` share that is written of what the model may write; 0 where that is nothing.

    ``(B, L)`` bool both: what is blank, and what the model wrote.
    """
    done = written.sum(dim=1)
    return done / (done + blank.sum(dim=1)).clamp(min=1)


def _beliefs(
    probs: Tensor, write: Tensor, open: Tensor, inputs: PassInputs, reinject: bool
) -> Tensor:
    """``(B, L, V)`` log-probabilities of a pass → the probabilities that the next pass is told.

    Of blanks only: what a written token's logits say is not trained, except where the network is
    shown a blank in its place.
    """
    where = write if reinject else open
    before = inputs.prev_probs if reinject else None
    return torch.where(where[..., None], probs.exp(), 0.0 if before is None else before)


def _check_finite(
    confidence: Tensor, write: Tensor, output: RefinementOutput, rows: Tensor, step: int
) -> None:
    bad = (confidence.isnan() & write).any(dim=1)
    if output.halt_logits is not None:
        bad = bad | output.halt_logits.isnan()
    if bool(bad.any()):
        raise NonFiniteError(int(rows[bad][0]), step)


def _rows_of(memory: Retrieved | None, which: Tensor) -> Retrieved | None:
    return None if memory is None else memory.rows(which)


def _sigmoid(logits: Tensor) -> Tensor:
    """Written out: torch's own rounds the last elements of a batch in another way."""
    return 1.0 / (1.0 + (-logits.float()).exp())


def _uses_beliefs(network: Callable[..., RefinementOutput]) -> bool:
    """Whether a network reads the beliefs of its last pass; an unknown one may."""
    config = getattr(network, "config", None)
    return not isinstance(config, ImplicitRefinementConfig) or config.self_conditioning


def _reasons(
    canvas: Canvas,
    decision: Decision,
    policy: Policy,
    changed_fraction: Tensor,
    stop_threshold: float,
) -> Tensor:
    """``(B,)`` stopping reasons; a row with a blank, or one that is held, goes on."""
    full = ~canvas.open.any(dim=1)
    idle = ~decision.write.any(dim=1)
    reasons = torch.zeros_like(full, dtype=torch.long)
    reasons[full & (changed_fraction < stop_threshold)] = int(StoppingReason.UNCHANGED)
    reasons[full & idle] = int(StoppingReason.SETTLED)
    if not policy.refines:
        reasons[full] = int(StoppingReason.FILLED)
    return reasons if decision.hold is None else reasons.masked_fill(decision.hold, 0)
