"""The refinement loop: the only one in the project.

A generator that yields one :class:`Step` per refinement step. Sampling, infilling, the
trajectory views, training rollouts, the command line and the server all drain it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.errors import NonFiniteError
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.nn.joint import JointHead
from imadarem.nn.memory import Retrieved
from imadarem.sampling.halting import StoppingReason, Track
from imadarem.sampling.joint_draws import StepWeights
from imadarem.sampling.noise import RowNoise
from imadarem.sampling.passes import (
    LoopView,
    PassInputs,
    guided_pass,
    progress,
    reads_beliefs,
    sigmoid,
)
from imadarem.sampling.policy import Decision, MaskSchedule
from imadarem.sampling.settings import SamplingSettings

__all__ = ["Step", "StoppingReason", "refine"]


@dataclass(frozen=True)
class Step:
    """One refinement step of the rows that were still running.

    Attributes:
        step: 1 … ``K``.
        rows: ``(B,)`` indices of these rows in the batch that entered the loop.
        canvas: The canvas after the step.
        refined: ``(B, L)`` bool, positions that were written in this step.
        remasked: ``(B, L)`` bool, positions that were re-masked.
        changed: ``(B, L)`` bool, positions whose id differs from before.
        gate: ``(B, L)`` probability that the token *before* the step should be refined.
        entropy: ``(B, L)`` normalised entropy in [0, 1].
        confidence: ``(B, L)`` probability of the token drawn in this step.
        changed_fraction: ``(B,)`` share of the row's writable positions that changed.
        forward_passes: Passes each of these rows has cost so far, those of the teacher and of
            guidance included.
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
    judge = teacher if settings.policy.uses_teacher else None
    rows = _Rows.start(canvas, seeds, settings, memory)
    # The weights of a joint head are laid out once a run, not once a pass.
    laid_out = lru_cache(StepWeights.of)
    for number in range(1, settings.steps + 1):
        if len(rows.numbers) == 0:
            return
        last = number == settings.steps
        # 1. One pass reads the canvas: what belongs in the blanks, which tokens look wrong.
        view = rows.read(network, judge, settings, number, laid_out)
        # 2. The policy decides what is written and what is re-masked, and has as many tokens
        #    drawn as it reads; the last step leaves no blank.
        decision = settings.policy(view)
        if last:
            nothing = torch.zeros_like(view.open)
            decision = decision._replace(write=decision.write | view.open, remask=nothing)
        # 3. Tokens are written and re-masked; a row ends at its first EOS.
        if view.endings is not None:
            decision = decision._replace(write=decision.write | view.endings.at)
        step = _LoopStep(rows, view, decision, settings)
        # 4. Rows that are done say why, and leave.
        reasons, track = rows.stopped(step, decision.hold, settings)
        if last:
            reasons = reasons.masked_fill(reasons == 0, int(StoppingReason.MAX_STEPS))
        yield step.finished(reasons, settings.reinject)
        # 5. The others take what this pass found to the next one.
        if not last:
            rows = rows.after(step, track, network, settings)


@dataclass(frozen=True)
class _Rows:
    """The rows that are still refined, and what they take from pass to pass.

    Attributes:
        numbers: ``(B,)`` indices in the batch that entered the loop.
        seeds: ``(B,)`` int64.
        question: The canvases before the first step.
        canvas: As they stand now.
        inputs: What the next pass takes beside the canvas.
        drawn_with: ``(B, L)``, see :class:`~imadarem.sampling.policy.PassView`.
        track: Quality so far; None where no halting rule looks at it.
    """

    numbers: Tensor
    seeds: Tensor
    question: Canvas
    canvas: Canvas
    inputs: PassInputs
    drawn_with: Tensor
    track: Track | None

    @classmethod
    def start(
        cls, canvas: Canvas, seeds: Tensor, settings: SamplingSettings, memory: Retrieved | None
    ) -> _Rows:
        """The rows that have a blank."""
        numbers = canvas.open.any(dim=1).nonzero().squeeze(1)
        canvas, seeds = settings.restricted(canvas.rows(numbers)), seeds[numbers]
        inputs = PassInputs(memory=None if memory is None else memory.rows(numbers))
        drawn_with = torch.zeros(canvas.ids.shape, device=seeds.device)
        track = None if settings.halting is None else Track.start(len(numbers), seeds.device)
        return cls(numbers, seeds, canvas, canvas, inputs, drawn_with, track)

    def read(
        self,
        network: Callable[..., RefinementOutput],
        judge: EmaTeacher | None,
        settings: SamplingSettings,
        step: int,
        laid_out: Callable[[JointHead], StepWeights],
    ) -> LoopView:
        """One pass, and one of ``judge`` where it is given."""
        canvas, attended = self.canvas, self.canvas.attention_mask
        open, written = canvas.open, canvas.written
        shown = canvas.ids
        if settings.reinject:
            # Where the network sees a blank, whatever may stand in a blank may stand.
            shown, canvas = shown.masked_fill(written, canvas.special.mask), canvas.reopened()
        schedule = MaskSchedule(settings.steps, settings.schedule)
        view = LoopView(
            output=guided_pass(
                network, self.inputs, canvas, shown, attended, settings.guidance, step == 1
            ),
            teacher=None if judge is None else self.inputs.read_by(judge, shown, attended),
            canvas=canvas,
            settings=settings,
            laid_out=laid_out,
            gate_slope=settings.gate_slope * progress(open, written)[:, None],
            step=step,
            steps=settings.steps,
            open=open,
            written=written,
            remaining=schedule.remaining(step, (open | written).sum(dim=1)),
            noise=RowNoise(self.seeds, step),
            schedule=settings.schedule,
            drawn_with=self.drawn_with,
        )
        if view.endings is not None:
            open = open & view.endings.before
            remaining = schedule.remaining(step, (open | written).sum(dim=1))
            view.__dict__.update(open=open, remaining=remaining)
        return view

    def stopped(
        self, step: _LoopStep, hold: Tensor | None, settings: SamplingSettings
    ) -> tuple[Tensor, Track | None]:
        """``(B,)`` stopping reasons after a step, 0 for a row that goes on; and the track."""
        full = ~step.canvas.open.any(dim=1)
        reasons = torch.zeros_like(full, dtype=torch.long)
        unchanged = step.changed_fraction < settings.stop_threshold
        reasons[full & unchanged] = int(StoppingReason.UNCHANGED)
        reasons[full & ~step.refined.any(dim=1)] = int(StoppingReason.SETTLED)
        if not settings.policy.refines:
            reasons[full] = int(StoppingReason.FILLED)
        if hold is not None:
            reasons = reasons.masked_fill(hold, 0)
        if settings.halting is None or self.track is None:
            return reasons, None
        track = self.track.after(step.quality, step.changed.any(dim=1))
        found = settings.halting.reasons(
            self.question.ids, step.canvas.ids, step.halt, step.quality, track
        )
        return torch.where(full & (found != 0), found, reasons), track

    def after(
        self,
        step: _LoopStep,
        track: Track | None,
        network: Callable[..., RefinementOutput],
        settings: SamplingSettings,
    ) -> _Rows:
        """The rows that go on after a step."""
        # Numbers, not a mask: the host waits once for them and not at every use.
        going = (step.reasons == 0).nonzero().squeeze(1)
        canvas = step.canvas.rows(going)
        width = canvas.ids.shape[1]
        beliefs, view = None, step.view
        if reads_beliefs(network):
            # A network that is shown the question again has its beliefs about what it wrote.
            about = step.refined if settings.reinject else view.open
            beliefs = self.inputs.beliefs(view.log_probs_alone, about, keep=settings.reinject)
        carry = view.output.carry
        if carry is not None and settings.state_noise:
            noise = RowNoise(self.seeds, step.step).of_states(carry.shape[1:])
            carry = carry + settings.state_noise * noise.to(carry)
        inputs = PassInputs(beliefs, carry, self.inputs.memory)
        return _Rows(
            self.numbers[going],
            self.seeds[going],
            self.question.rows(going, width),
            canvas,
            inputs.rows(going, width),
            torch.where(step.refined, step.drawn_with, self.drawn_with)[going, :width],
            None if track is None else track.rows(going),
        )


class _LoopStep(Step):
    """A :class:`Step` whose costly fields are computed when an observer reads them.

    Attributes:
        view: Of the pass.
        drawn_with: ``(B, L)`` log-probability of the drawn token, right where one was written.
    """

    view: LoopView
    drawn_with: Tensor
    _ended: Canvas
    _writable: Tensor

    def __init__(
        self, rows: _Rows, view: LoopView, decision: Decision, settings: SamplingSettings
    ) -> None:
        log_probs, drawn = view.at(decision.write)
        drawn_with = log_probs.gather(-1, drawn[..., None]).squeeze(-1)
        _check_finite(drawn_with, decision.write, view.output, rows.numbers, view.step)
        edited = rows.canvas.write(decision.write, drawn).remask(decision.remask)
        ended = edited.freeze_endings()
        # A question asked again may still end elsewhere: its row is frozen when it leaves.
        canvas = edited if settings.reinject else ended
        changed = canvas.ids != rows.canvas.ids
        writable = rows.canvas.open | view.written
        halt = view.output.halt_logits
        self.__dict__.update(
            step=view.step,
            rows=rows.numbers,
            canvas=canvas,
            refined=decision.write,
            remasked=decision.remask,
            changed=changed,
            # An end in the first blank leaves nothing that could change.
            changed_fraction=changed.sum(dim=1) / writable.sum(dim=1).clamp(min=1),
            forward_passes=view.step * (1 + (view.teacher is not None) + settings.guided),
            halt=None if halt is None else sigmoid(halt),
            edit=decision.edit,
            view=view,
            drawn_with=drawn_with,
            _ended=ended,
            _writable=writable,
        )

    def finished(self, reasons: Tensor, freeze: bool) -> Step:
        """With why rows stop; ``freeze``: the endings of those that do."""
        canvas = self.canvas.freeze_endings(reasons != 0) if freeze else self.canvas
        self.__dict__.update(canvas=canvas, reasons=reasons)
        return self

    @cached_property
    def gate(self) -> Tensor:
        return self.view.gate

    @cached_property
    def entropy(self) -> Tensor:
        return self.view.entropy

    @cached_property
    def confidence(self) -> Tensor:
        return self.view.confidence.exp()

    @cached_property
    def quality(self) -> Tensor:
        ids = self._ended.ids
        standing = self.view.log_probs.gather(-1, ids[..., None]).squeeze(-1).exp()
        # A pad stands behind an ending; a blank has probability 0, as no step may draw one.
        counted = self._writable & (ids != self._ended.special.pad)
        return (standing * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _check_finite(
    drawn_with: Tensor, write: Tensor, output: RefinementOutput, rows: Tensor, step: int
) -> None:
    bad = (drawn_with.isnan() & write).any(dim=1)
    if output.halt_logits is not None:
        bad = bad | output.halt_logits.isnan()
    if bool(bad.any()):
        raise NonFiniteError(int(rows[bad][0]), step)
