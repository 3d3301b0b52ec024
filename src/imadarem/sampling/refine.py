"""The refinement loop: the only one in the project.

A generator that yields one :class:`Step` per refinement step. Sampling, infilling, the
trajectory views, training rollouts, the command line and the server all drain it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.config import ImplicitRefinementConfig
from imadarem.corruption import MaskSchedule
from imadarem.errors import ConfigError
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.nn.memory import Retrieved
from imadarem.nn.packed import packed
from imadarem.nn.sparse import Kept, sparse_passes
from imadarem.sampling.alike import once
from imadarem.sampling.draw import (
    JointDraws,
    Truncation,
    draw_tokens,
    forbid,
    normalized_entropy,
)
from imadarem.sampling.halting import Halting, StoppingReason, Track
from imadarem.sampling.late import Late
from imadarem.sampling.noise import RowNoise
from imadarem.sampling.policies import FORESEEING, Decision, Foreseeing, PassView, Policy
from imadarem.sampling.sparsity import Sparsity

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
        halt: ``(B,)`` probability of the halting head that the answer is entirely right;
            None where the network has no such head.
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
    *,
    policy: Policy,
    steps: int,
    seeds: Tensor,
    temperature: float = 1.0,
    stop_threshold: float = 0.0,
    may_end: bool = True,
    teacher: EmaTeacher | None = None,
    halting: Halting | None = None,
    reinject: bool = False,
    memory: Retrieved | None = None,
    schedule: str = "linear",
    truncation: Truncation | None = None,
    gate_slope: float = 0.0,
    sparse: Sparsity | None = None,
) -> Iterator[Step]:
    """Refine a batch of canvases, one record per step; done rows leave the batch.

    The network is used as it is: put it in evaluation mode first.

    Args:
        network: Called as ``network(input_ids, attention_mask, prev_probs=...)``.
        canvas: Where to start; rows without a blank take no step.
        policy: Decides what is written and what goes back to blank.
        steps: ``K``, the hard cap.
        seeds: ``(B,)`` int64; a row's draws depend on its own seed alone.
        temperature: Divides the logits before a token is drawn.
        stop_threshold: A row without blanks stops once a smaller share of it changed.
        may_end: Whether an EOS may be written.
        teacher: Judges the entropy if the policy asks for it, at one more pass a step.
        halting: Further rules by which a row without blanks stops.
        reinject: Show the network the question in every pass, blanks where it wrote, and what
            it wrote as beliefs (and as its carry): the way that an unrolled network learned.
            Without it the network reads its own tokens as it reads those of the data.
        memory: Earlier canvases for the network to look at, one set for each row.
        schedule: ``linear`` or ``cosine``: how many blanks a step leaves, for the policies
            that ask; see :class:`~imadarem.corruption.MaskSchedule`.
        truncation: Cuts the tail of what is drawn from. Policies and records see the
            network's own probabilities, without it and before the temperature.
        gate_slope: Added to the gate's logits times each row's :func:`progress`; the fitted
            ``gate_progress_slope`` of the config.
        sparse: Leave positions out of passes; None leaves none out. Not with ``reinject``.

    Raises:
        ConfigError: ``sparse`` with a network or a policy that cannot, or with ``reinject``.
    """
    if sparse is not None and reinject:
        raise ConfigError(
            "reinject shows the network other blanks in every pass, so a sparse pass would leave "
            "none out. Leave one of the two out."
        )
    network = packed(network) if sparse is None else sparse_passes(network)
    foresees = None if sparse is None else _foresight(policy)
    blanks = MaskSchedule(steps, schedule)
    rows = canvas.open.any(dim=1).nonzero().squeeze(1)
    canvas, seeds = canvas.rows(rows), seeds[rows]
    judge = teacher if policy.uses_teacher else None
    question = canvas
    track = Track.start(len(rows), seeds.device)
    known = _Known(memory=_rows_of(memory, rows))
    drawn_with = torch.zeros(canvas.ids.shape, device=seeds.device)
    passes, before = 0, None
    for step in range(1, steps + 1):
        if len(rows) == 0:
            return
        # 1. One pass reads the canvas: what belongs in the blanks, which tokens look wrong.
        open, written = canvas.open, canvas.written
        # Noise belongs to the row.
        noise = RowNoise(seeds, step)
        writable = open | written
        count = writable.sum(dim=1)
        facts = {
            "step": step,
            "steps": steps,
            "open": open,
            "written": written,
            "remaining": blanks.remaining(step, count),
            "noise": noise,
            "schedule": schedule,
            "drawn_with": drawn_with,
        }
        if sparse is not None and foresees is not None and before is not None:
            wanted = foresees(_View.of(before.said, **facts)) | before.changed
            # A last step writes whatever is blank.
            wanted = wanted | open if step == steps else wanted
            known = replace(known, asked=sparse.asked(wanted, step))
        shown = canvas.ids.masked_fill(written, canvas.special.mask) if reinject else canvas.ids
        arguments = known.arguments()
        if step == 1 and known.memory is None:
            output = once(network, shown, canvas.attention_mask)
        else:
            output = network(shown, canvas.attention_mask, **arguments)
        seen: RefinementOutput | None = None
        if judge is not None:
            seen = judge(shown, canvas.attention_mask, **arguments)
        passes += 1 if judge is None else 2
        # 2. Draw tokens, when and as far as one is asked for.
        # Where the network sees a blank, whatever may stand in a blank may stand.
        asked = canvas.reopened() if reinject else canvas
        reading = _Reading(output, seen, asked, noise, temperature, may_end, truncation)
        slope = gate_slope * progress(open, written)[:, None] if gate_slope else 0.0
        view = _View.of(
            {
                "log_probs": reading.log_probs,
                "drawn": reading.drawn,
                "gate": partial(_gate, output.gate_logits, slope),
                "entropy": reading.entropy,
            },
            **facts,
        )
        # 3. The policy decides; the last step leaves no blank.
        decision = policy(view)
        if step == steps:
            nothing = torch.zeros_like(open)
            decision = decision._replace(write=decision.write | open, remask=nothing)
        # 4. Write, re-mask, freeze what lies at or behind an EOS (a question asked again may
        #    still end elsewhere: its row is frozen when it leaves).
        log_probs, drawn = reading.of(decision.write)
        edited = canvas.write(decision.write, drawn).remask(decision.remask)
        ended = edited.freeze_endings()
        if not reinject:
            edited = ended
        changed = edited.ids != canvas.ids
        # An end in the first blank leaves nothing that could change.
        changed_fraction = changed.sum(dim=1) / count.clamp(min=1)
        quality = partial(_quality, reading, ended, writable)
        halt = None if output.halt_logits is None else _sigmoid(output.halt_logits)
        # 5. Rows that are done say why, and leave.
        reasons = _reasons(edited, decision, policy, changed_fraction, stop_threshold)
        if halting is not None:
            track = track.after(quality(), changed.any(dim=1))
            full = ~edited.open.any(dim=1)
            found = halting.reasons(question.ids, edited.ids, halt, quality(), track)
            reasons = torch.where(full & (found != 0), found, reasons)
        if step == steps:
            reasons = reasons.masked_fill(reasons == 0, int(StoppingReason.MAX_STEPS))
        if reinject:
            edited = edited.freeze_endings(reasons != 0)
        yield _Record.of(
            {
                "gate": partial(getattr, view, "gate"),
                "entropy": partial(getattr, view, "entropy"),
                "confidence": partial(_confidence, view),
                "quality": quality,
            },
            step=step,
            rows=rows,
            canvas=edited,
            refined=decision.write,
            remasked=decision.remask,
            changed=changed,
            changed_fraction=changed_fraction,
            forward_passes=passes,
            reasons=reasons,
            halt=halt,
            edit=decision.edit,
        )
        if step == steps:
            return
        # Numbers, not a mask: the host waits once for them and not at every use.
        going = (reasons == 0).nonzero().squeeze(1)
        canvas = edited.rows(going)
        rows, seeds, track = rows[going], seeds[going], track.rows(going)
        width = canvas.ids.shape[1]
        question = question.rows(going, width)
        confidence = log_probs.gather(-1, drawn[..., None]).squeeze(-1)
        drawn_with = torch.where(decision.write, confidence, drawn_with)[going, :width]
        # Beliefs about blanks only: what a written token's logits say is not trained, save
        # where the network is shown a blank in its place.
        beliefs = None
        if _listens(network):
            told = decision.write if reinject else open
            kept = known.prev_probs if reinject else None
            probs = reading.alone.exp()
            beliefs = torch.where(told[..., None], probs, 0.0 if kept is None else kept)
        known = _Known(beliefs, output.carry, known.memory, output.kept).rows(going, width)
        if foresees is not None:
            before = _Before(view.of_rows(going, width), changed[going, :width])


class _View(Late, PassView):
    """What a policy looks at; it is computed when the policy does."""

    def of_rows(self, which: Tensor, width: int) -> dict[str, Callable[[], Tensor]]:
        """What the pass said, of these rows and so many positions, for a view of a later step."""

        def part(name: str) -> Tensor:
            found: Tensor = getattr(self, name)[which, :width]
            return found

        return {name: partial(part, name) for name in ("log_probs", "drawn", "gate", "entropy")}


@dataclass(frozen=True)
class _Before:
    """The step before, of the rows that go on.

    Attributes:
        said: What its pass said, for a view.
        changed: ``(B, L)`` bool, positions whose id differs since.
    """

    said: dict[str, Callable[[], Tensor]]
    changed: Tensor


class _Record(Late, Step):
    """A step; what describes it is computed for those who read it."""


@dataclass(frozen=True)
class _Reading:
    """What a pass says about its canvas, worked out as far as somebody asks.

    Attributes:
        output: Of the network.
        seen: Of the teacher, where it judges the entropy.
        canvas: Which tokens may stand where.
        noise: Of the step.
        temperature: Divides the logits before a token is drawn.
        may_end: Whether an EOS may be drawn.
        truncation: Cuts the tail of what is drawn from.
    """

    output: RefinementOutput
    seen: RefinementOutput | None
    canvas: Canvas
    noise: RowNoise
    temperature: float
    may_end: bool
    truncation: Truncation | None

    @cached_property
    def alone(self) -> Tensor:
        """``(B, L, V)`` log-probabilities of each position by itself."""
        return forbid(self.output.logits, self.canvas, self.may_end)

    @cached_property
    def _joint(self) -> JointDraws | None:
        joint, how = self.output.joint, (self.temperature, self.may_end, self.truncation)
        return None if joint is None else JointDraws(joint, self.canvas, self.noise, *how)

    @cached_property
    def _each(self) -> Tensor:
        eos = self.canvas.special.eos if self.may_end else None
        return draw_tokens(self.alone, self.noise, self.temperature, eos, self.truncation)

    def drawn(self) -> Tensor:
        """``(B, L)`` tokens."""
        return self._each if self._joint is None else self._joint.whole()[1]

    def log_probs(self) -> Tensor:
        """``(B, L, V)``, over what the tokens were drawn from, before the temperature."""
        return self.alone if self._joint is None else self._joint.whole()[0]

    def entropy(self) -> Tensor:
        """``(B, L)``, normalised; the teacher's where it judges."""
        if self.seen is None:
            return normalized_entropy(self.log_probs())
        return normalized_entropy(forbid(self.seen.logits, self.canvas, self.may_end))

    def of(self, write: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(B, L, V)`` and tokens ``(B, L)``, right at ``write`` at least.

        Drawing jointly ends with the last position that any row writes.
        """
        if self._joint is None:
            return self.alone, self._each
        positions = torch.arange(1, write.shape[1] + 1, device=write.device)
        return self._joint.upto(int((positions * write.any(dim=0)).amax()))


def progress(blank: Tensor, written: Tensor) -> Tensor:
    """``(B,)`` share that is written of what the model may write; 0 where that is nothing.

    ``(B, L)`` bool both: what is blank, and what the model wrote.
    """
    done = written.sum(dim=1)
    return done / (done + blank.sum(dim=1)).clamp(min=1)


@dataclass(frozen=True)
class _Known:
    """What the network is told beside the canvas: by its last pass, and by a memory.

    Attributes:
        prev_probs: ``(B, L, V)`` beliefs about blanks.
        carry: ``(B, L, D)``.
        memory: Earlier canvases.
        kept: What a sparse pass takes from the last one.
        asked: ``(B, L)`` bool, positions that it runs.
    """

    prev_probs: Tensor | None = None
    carry: Tensor | None = None
    memory: Retrieved | None = None
    kept: Kept | None = None
    asked: Tensor | None = None

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments: those alone that there are, for networks that know fewer."""
        names = ("carry", "memory", "kept", "asked")
        optional = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"prev_probs": self.prev_probs, **given}

    def rows(self, keep: Tensor, width: int) -> _Known:
        """The rows ``keep``, numbers, cropped to ``width`` positions."""
        return _Known(
            None if self.prev_probs is None else self.prev_probs[keep, :width],
            None if self.carry is None else self.carry[keep, :width],
            _rows_of(self.memory, keep),
            None if self.kept is None else self.kept.rows(keep, width),
        )


def _foresight(policy: Policy) -> Callable[[PassView], Tensor]:
    """What tells which positions a policy may write, before the pass.

    Raises:
        ConfigError: It reads every token in each pass.
    """
    if not isinstance(policy, Foreseeing):
        raise ConfigError(
            f"the policy {type(policy).__name__} reads every token in each pass, so sparse passes "
            f"would leave none out. Leave sparse out, or take one of {', '.join(FORESEEING)}."
        )
    return policy.foresee


def _rows_of(memory: Retrieved | None, which: Tensor) -> Retrieved | None:
    return None if memory is None else memory.rows(which)


def _sigmoid(logits: Tensor) -> Tensor:
    """Written out: torch's own rounds the last elements of a batch in another way."""
    return 1.0 / (1.0 + (-logits.float()).exp())


def _listens(network: Callable[..., RefinementOutput]) -> bool:
    """Whether a network makes something of the beliefs of its last pass; unknown ones may."""
    config = getattr(network, "config", None)
    return not isinstance(config, ImplicitRefinementConfig) or config.self_conditioning


def _gate(logits: Tensor, offset: Tensor | float) -> Tensor:
    return _sigmoid(logits + offset)


def _confidence(view: PassView) -> Tensor:
    return view.confidence.exp()


def _quality(reading: _Reading, canvas: Canvas, writable: Tensor) -> Tensor:
    """``(B,)`` mean probability of what stands on the writable positions, a blank as 0."""
    standing = reading.log_probs().gather(-1, canvas.ids[..., None]).squeeze(-1).exp()
    # A pad stands behind an ending; a blank has probability 0, as no step may draw one.
    counted = writable & (canvas.ids != canvas.special.pad)
    return (standing * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


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
