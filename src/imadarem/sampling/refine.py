"""The refinement loop: the only one in the project.

A generator that yields one :class:`Step` per refinement step. Sampling, infilling, the
trajectory views, training rollouts, the command line and the server all drain it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.corruption import MaskSchedule
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.nn.memory import Retrieved
from imadarem.sampling.draw import (
    Truncation,
    draw_jointly,
    draw_tokens,
    forbid,
    normalized_entropy,
)
from imadarem.sampling.halting import Halting, StoppingReason, Track
from imadarem.sampling.noise import RowNoise
from imadarem.sampling.policies import Decision, PassView, Policy

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
    """
    blanks = MaskSchedule(steps, schedule)
    rows = canvas.open.any(dim=1).nonzero().squeeze(1)
    canvas, seeds = canvas.rows(rows), seeds[rows]
    judge = teacher if policy.uses_teacher else None
    question = canvas
    track = Track.start(len(rows), seeds.device)
    known = _Known(memory=_rows_of(memory, rows))
    drawn_with = torch.zeros(canvas.ids.shape, device=seeds.device)
    passes = 0
    for step in range(1, steps + 1):
        if len(rows) == 0:
            return
        # 1. One pass reads the canvas: what belongs in the blanks, which tokens look wrong.
        shown = canvas.ids.masked_fill(canvas.written & reinject, canvas.special.mask)
        arguments = known.arguments()
        output: RefinementOutput = network(shown, canvas.attention_mask, **arguments)
        # Where the network sees a blank, whatever may stand in a blank may stand.
        asked = canvas.reopened() if reinject else canvas
        alone = log_probs = forbid(output.logits, asked, may_end)
        # 2. Draw a token everywhere, from noise that belongs to the row.
        noise = RowNoise(seeds, step)
        eos = canvas.special.eos if may_end else None
        if output.joint is None:
            drawn = draw_tokens(log_probs, noise, temperature, eos, truncation)
        else:
            log_probs, drawn = draw_jointly(
                output.joint, asked, noise, temperature, may_end, truncation
            )
        judged = log_probs
        if judge is not None:
            seen: RefinementOutput = judge(shown, canvas.attention_mask, **arguments)
            judged = forbid(seen.logits, asked, may_end)
        passes += 1 if judge is None else 2
        written = progress(canvas.open, canvas.written)
        writable = canvas.open | canvas.written
        count = writable.sum(dim=1)
        view = PassView(
            step=step,
            steps=steps,
            open=canvas.open,
            written=canvas.written,
            log_probs=log_probs,
            drawn=drawn,
            gate=_sigmoid(output.gate_logits + gate_slope * written[:, None]),
            entropy=normalized_entropy(judged),
            remaining=blanks.remaining(step, count),
            noise=noise,
            schedule=schedule,
            drawn_with=drawn_with,
        )
        # 3. The policy decides; the last step leaves no blank.
        decision = policy(view)
        if step == steps:
            nothing = torch.zeros_like(view.open)
            decision = decision._replace(write=decision.write | view.open, remask=nothing)
        # 4. Write, re-mask, freeze what lies at or behind an EOS (a question asked again may
        #    still end elsewhere: its row is frozen when it leaves).
        edited = canvas.write(decision.write, view.drawn).remask(decision.remask)
        ended = edited.freeze_endings()
        if not reinject:
            edited = ended
        changed = edited.ids != canvas.ids
        # An end in the first blank leaves nothing that could change.
        changed_fraction = changed.sum(dim=1) / count.clamp(min=1)
        quality = _quality(log_probs, ended, writable)
        halt = None if output.halt_logits is None else _sigmoid(output.halt_logits)
        # 5. Rows that are done say why, and leave.
        reasons = _reasons(edited, decision, policy, changed_fraction, stop_threshold)
        track = track.after(quality, changed.any(dim=1))
        if halting is not None:
            full = ~edited.open.any(dim=1)
            found = halting.reasons(question.ids, edited.ids, halt, quality, track)
            reasons = torch.where(full & (found != 0), found, reasons)
        if step == steps:
            reasons = reasons.masked_fill(reasons == 0, int(StoppingReason.MAX_STEPS))
        if reinject:
            edited = edited.freeze_endings(reasons != 0)
        yield Step(
            step=step,
            rows=rows,
            canvas=edited,
            refined=decision.write,
            remasked=decision.remask,
            changed=changed,
            gate=view.gate,
            entropy=view.entropy,
            confidence=view.confidence.exp(),
            changed_fraction=changed_fraction,
            forward_passes=passes,
            reasons=reasons,
            quality=quality,
            halt=halt,
            edit=decision.edit,
        )
        # Numbers, not a mask: the host waits once for them and not at every use.
        going = (reasons == 0).nonzero().squeeze(1)
        canvas = edited.rows(going)
        rows, seeds, track = rows[going], seeds[going], track.rows(going)
        width = canvas.ids.shape[1]
        question = question.rows(going, width)
        drawn_with = torch.where(decision.write, view.confidence, drawn_with)[going, :width]
        # Beliefs about blanks only: what a written token's logits say is not trained, save
        # where the network is shown a blank in its place.
        told = decision.write if reinject else view.open
        kept = known.prev_probs if reinject else None
        beliefs = torch.where(told[..., None], alone.exp(), 0.0 if kept is None else kept)
        known = _Known(beliefs, output.carry, known.memory).rows(going, width)


def progress(blank: Tensor, written: Tensor) -> Tensor:
    """``(B,)`` share that is written of what the model may write; 0 where that is nothing.

    ``(B, L)`` bool both: what is blank, and what the model wrote.
    """
    done = written.sum(dim=1)
    return done / (done + blank.sum(dim=1)).clamp(min=1)


@dataclass(frozen=True)
class _Known:
    """What the network is told beside the canvas: by its last pass, and by a memory."""

    prev_probs: Tensor | None = None
    carry: Tensor | None = None
    memory: Retrieved | None = None

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments: those alone that there are, for networks that know fewer."""
        optional = {"carry": self.carry, "memory": self.memory}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"prev_probs": self.prev_probs, **given}

    def rows(self, keep: Tensor, width: int) -> _Known:
        """The rows ``keep``, a mask or numbers, cropped to ``width`` positions."""
        return _Known(
            None if self.prev_probs is None else self.prev_probs[keep, :width],
            None if self.carry is None else self.carry[keep, :width],
            _rows_of(self.memory, keep),
        )


def _rows_of(memory: Retrieved | None, which: Tensor) -> Retrieved | None:
    return None if memory is None else memory.rows(which)


def _sigmoid(logits: Tensor) -> Tensor:
    """Written out: torch's own rounds the last elements of a batch in another way."""
    return 1.0 / (1.0 + (-logits.float()).exp())


def _quality(log_probs: Tensor, canvas: Canvas, writable: Tensor) -> Tensor:
    """``(B,)`` mean probability of what stands on the writable positions, a blank as 0."""
    standing = log_probs.gather(-1, canvas.ids[..., None]).squeeze(-1).exp()
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
