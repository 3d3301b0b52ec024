"""The refinement loop: the only one in the project.

A generator that yields one :class:`Step` per refinement step. Sampling, infilling, the
trajectory views, training rollouts, the command line and the server all drain it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.corruption import MaskSchedule
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.sampling.draw import draw_tokens, forbid, normalized_entropy
from imadarem.sampling.noise import RowNoise
from imadarem.sampling.policies import Decision, PassView, Policy

__all__ = ["Step", "StoppingReason", "refine"]


class StoppingReason(enum.IntEnum):
    """Why a row took no further step."""

    RUNNING = 0
    #: No blank is left and the policy never changes a written token.
    FILLED = 1
    #: No blank is left and the policy found no token to refine.
    SETTLED = 2
    #: No blank is left and less than ``stop_threshold`` of the tokens changed.
    UNCHANGED = 3
    #: The hard cap on steps was reached.
    MAX_STEPS = 4

    @property
    def label(self) -> str:
        """The reason as it is printed, such as ``max_steps``."""
        return self.name.lower()


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


@torch.no_grad()
def refine(
    network: nn.Module,
    canvas: Canvas,
    *,
    policy: Policy,
    steps: int,
    seeds: Tensor,
    temperature: float = 1.0,
    stop_threshold: float = 0.0,
    may_end: bool = True,
    teacher: EmaTeacher | None = None,
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
    """
    schedule = MaskSchedule(steps)
    rows = canvas.open.any(dim=1).nonzero().squeeze(1)
    canvas, seeds = canvas.rows(rows), seeds[rows]
    judge = teacher if policy.uses_teacher else None
    prev_probs: Tensor | None = None
    passes = 0
    for step in range(1, steps + 1):
        if len(rows) == 0:
            return
        # 1. One pass reads the canvas: what belongs in the blanks, which tokens look wrong.
        output: RefinementOutput = network(canvas.ids, canvas.attention_mask, prev_probs=prev_probs)
        log_probs = forbid(output.logits, canvas, may_end)
        judged = log_probs
        if judge is not None:
            seen: RefinementOutput = judge(canvas.ids, canvas.attention_mask, prev_probs=prev_probs)
            judged = forbid(seen.logits, canvas, may_end)
        passes += 1 if judge is None else 2
        # 2. Draw a token everywhere, from noise that belongs to the row.
        noise = RowNoise(seeds, step)
        writable = (canvas.open | canvas.written).sum(dim=1)
        eos = canvas.special.eos if may_end else None
        view = PassView(
            step=step,
            steps=steps,
            open=canvas.open,
            written=canvas.written,
            log_probs=log_probs,
            drawn=draw_tokens(log_probs, noise, temperature, eos),
            gate=output.gate_logits.float().sigmoid(),
            entropy=normalized_entropy(judged),
            remaining=schedule.remaining(step, writable),
            noise=noise,
        )
        # 3. The policy decides; the last step leaves no blank.
        decision = policy(view)
        if step == steps:
            nothing = torch.zeros_like(view.open)
            decision = Decision(decision.write | view.open, nothing)
        # 4. Write, re-mask, freeze what lies at or behind an EOS.
        edited = canvas.write(decision.write, view.drawn).remask(decision.remask)
        edited = edited.freeze_endings()
        changed = edited.ids != canvas.ids
        changed_fraction = changed.sum(dim=1) / writable
        # 5. Rows that are done say why, and leave.
        reasons = _reasons(edited, decision, policy, changed_fraction, stop_threshold)
        if step == steps:
            reasons = reasons.masked_fill(reasons == 0, int(StoppingReason.MAX_STEPS))
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
        )
        going = reasons == 0
        canvas = edited.rows(going)
        rows, seeds = rows[going], seeds[going]
        # Beliefs about blanks only: what a written token's logits say is not trained.
        beliefs = log_probs.exp() * view.open[..., None]
        prev_probs = beliefs[going, : canvas.ids.shape[1]]


def _reasons(
    canvas: Canvas,
    decision: Decision,
    policy: Policy,
    changed_fraction: Tensor,
    stop_threshold: float,
) -> Tensor:
    """``(B,)`` stopping reasons; a row with a blank always goes on."""
    full = ~canvas.open.any(dim=1)
    idle = ~decision.write.any(dim=1)
    reasons = torch.zeros_like(full, dtype=torch.long)
    reasons[full & (changed_fraction < stop_threshold)] = int(StoppingReason.UNCHANGED)
    reasons[full & idle] = int(StoppingReason.SETTLED)
    if not policy.refines:
        reasons[full] = int(StoppingReason.FILLED)
    return reasons
