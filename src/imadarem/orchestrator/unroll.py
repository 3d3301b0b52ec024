"""The training unroll: many steps of one network on one question, a loss at every step.

Every step is shown the question again, with what it wrote last as beliefs and, where the
network has one, its carry. The graph is cut as the mode says:

===========  ==============================================================
``full``     one graph over all ``T`` steps
``window``   a backward pass every ``K`` steps; every step keeps its loss
``last_k``   no graph, and no loss, before the last ``K`` steps
``carry``    one step; the state lives on in the next optimiser step
===========  ==============================================================

Memory is that of the steps in one graph. Detaching outputs after the unroll would save
nothing: the activations are held until the backward pass either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.nn import RefinementOutput
from imadarem.nn.memory import Retrieved
from imadarem.sampling.draw import forbid

__all__ = ["Question", "StepOutput", "UnrollState", "score_step", "take_step", "unroll"]


@dataclass(frozen=True)
class Question:
    """What is unrolled: a canvas with blanks, and what belongs into them.

    Attributes:
        canvas: ``(B, L)``, blanks OPEN, the rest GIVEN or PAD.
        labels: ``(B, L)`` ids.
        may_end: Whether an EOS may be written.
        memory: Earlier canvases to look at.
    """

    canvas: Canvas
    labels: Tensor
    may_end: bool = False
    memory: Retrieved | None = None

    @property
    def blanks(self) -> Tensor:
        """``(B, L)`` bool, the positions that count."""
        return self.canvas.open


class UnrollState(NamedTuple):
    """What a step hands on.

    Attributes:
        answer: ``(B, L)`` ids as they stand; the mask id before the first step.
        beliefs: ``(B, L, V)`` probabilities from when each position was written; None before.
        carry: ``(B, L, D)``, where the network has one.
    """

    answer: Tensor
    beliefs: Tensor | None = None
    carry: Tensor | None = None

    def detach(self) -> UnrollState:
        """The same values without their history."""
        return UnrollState(*(None if part is None else part.detach() for part in self))


@dataclass(frozen=True)
class StepOutput:
    """One step of the unroll.

    Attributes:
        log_probs: ``(B, L, V)`` over the tokens that may stand there, nats.
        gate_logits: ``(B, L)``, of the tokens that stood there before the step.
        halt_logits: ``(B,)``, where the network has the head.
        judged: ``(B, L)`` bool, tokens that stood there before the step; the gate's rows.
        before: ``(B, L)`` ids before the step.
        state: What the next step is given.
    """

    log_probs: Tensor
    gate_logits: Tensor
    halt_logits: Tensor | None
    judged: Tensor
    before: Tensor
    state: UnrollState

    def detach(self) -> StepOutput:
        """The same values without their history."""
        return replace(
            self,
            log_probs=self.log_probs.detach(),
            gate_logits=self.gate_logits.detach(),
            halt_logits=None if self.halt_logits is None else self.halt_logits.detach(),
            state=self.state.detach(),
        )


class StepLoss(NamedTuple):
    """Terms of one step, scalars in nats; ``None`` where a term does not apply."""

    token: Tensor
    gate: Tensor | None
    halt: Tensor | None


#: ``choose(step, open, written, gate) -> (B, L)`` bool, the positions a step rewrites.
ChooseEdit = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def start(question: Question) -> UnrollState:
    """Before the first step: blanks."""
    return UnrollState(question.canvas.ids)


def take_step(
    network: nn.Module, question: Question, state: UnrollState, step: int, choose: ChooseEdit
) -> StepOutput:
    """One pass, and the edit of the answer that it leads to."""
    canvas = question.canvas
    arguments: dict[str, Any] = {}
    if state.carry is not None:
        arguments["carry"] = state.carry
    if question.memory is not None:
        arguments["memory"] = question.memory
    output: RefinementOutput = network(
        canvas.ids, canvas.attention_mask, prev_probs=state.beliefs, **arguments
    )
    log_probs = forbid(output.logits, canvas, question.may_end)
    written = canvas.open & (state.answer != canvas.special.mask)
    rewrite = choose(step, canvas.open & ~written, written, output.gate_logits.detach().sigmoid())
    answer = torch.where(rewrite, log_probs.detach().argmax(dim=-1), state.answer)
    kept = 0.0 if state.beliefs is None else state.beliefs
    beliefs = torch.where(rewrite[..., None], log_probs.exp(), kept)
    return StepOutput(
        log_probs=log_probs,
        gate_logits=output.gate_logits,
        halt_logits=output.halt_logits,
        judged=written,
        before=state.answer,
        state=UnrollState(answer, beliefs, output.carry),
    )


def unroll(
    network: nn.Module,
    question: Question,
    state: UnrollState,
    steps: range,
    choose: ChooseEdit,
    *,
    window: int | None = None,
    graph_from: int = 1,
) -> Iterator[tuple[int, StepOutput]]:
    """Take several steps, yielding each; the caller runs the backward pass.

    Args:
        network: In training mode.
        question: What to answer.
        state: Where to start.
        steps: Numbers of the steps, such as ``range(1, 17)``.
        choose: Which positions each step rewrites.
        window: Cut the graph after every so many steps.
        graph_from: Steps before this one run without a graph.
    """
    for step in steps:
        with torch.set_grad_enabled(step >= graph_from and torch.is_grad_enabled()):
            output = take_step(network, question, state, step, choose)
        state = output.state
        if window is not None and (step - steps.start + 1) % window == 0:
            state = state.detach()
        yield step, output


def score_step(output: StepOutput, question: Question) -> StepLoss:
    """The loss terms of one step.

    *token*: cross-entropy of the blanks, averaged over a row's blanks and then over rows.
    *gate*: binary cross-entropy of "the token that stood here is not the label".
    *halt*: binary cross-entropy of "the answer after this step is entirely right".
    """
    blanks, labels = question.blanks, question.labels
    share = blanks / blanks.sum(dim=1, keepdim=True).clamp(min=1) / len(blanks)
    chosen = output.log_probs.gather(-1, labels[..., None]).squeeze(-1)
    # A label that the model may not write there has log-probability -inf; it is no blank.
    token = -(chosen.masked_fill(~blanks, 0.0) * share).sum()
    gate = halt = None
    if bool(output.judged.any()):
        wrong = (output.before != labels)[output.judged].float()
        gate = F.binary_cross_entropy_with_logits(output.gate_logits[output.judged].float(), wrong)
    if output.halt_logits is not None:
        right = entirely_right(output.state.answer, question).float()
        halt = F.binary_cross_entropy_with_logits(output.halt_logits.float(), right)
    return StepLoss(token, gate, halt)


def entirely_right(answer: Tensor, question: Question) -> Tensor:
    """``(B,)`` bool: every blank holds its label."""
    return ((answer == question.labels) | ~question.blanks).all(dim=1)


def token_accuracy(answer: Tensor, question: Question) -> float:
    """Share of all blanks of the batch that hold their label."""
    right = ((answer == question.labels) & question.blanks).sum()
    return float(right) / max(int(question.blanks.sum()), 1)
