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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.nn import RefinementOutput
from imadarem.nn.memory import Retrieved
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.sampling.draw import forbid


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
        beliefs = None if self.beliefs is None else self.beliefs.detach()
        carry = None if self.carry is None else self.carry.detach()
        return UnrollState(self.answer, beliefs, carry)


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


@dataclass(frozen=True)
class Plan:
    """Which steps are taken, which have a graph, and where it is cut.

    Attributes:
        weights: Step → its share of the loss; sums to 1.
        graph: Steps that run with a graph.
        cuts: Steps after which there is a backward pass and the graph starts anew.
    """

    weights: Mapping[int, float]
    graph: frozenset[int]
    cuts: frozenset[int]

    @property
    def steps(self) -> Iterator[int]:
        """Numbers of the steps, from 1."""
        return iter(self.weights)

    @classmethod
    def of(cls, config: OrchestrationConfig, has_answers: bool) -> Plan:
        """The plan of the settings.

        Where the data has no separate answer, the first step has at least
        ``base_loss_share`` of the loss, in every mode.
        """
        mode, steps = config.gradient_mode, config.max_steps_train
        window = config.backprop_truncate_steps
        if mode == "carry":
            return cls({1: 1.0}, frozenset({1}), frozenset({1}))
        weights = dict(enumerate(config.step_weights(steps), start=1))
        graph, cuts = set(weights), {steps}
        if mode == "window":
            cuts |= set(range(window, steps, window))
        if mode == "last_k":
            graph = {step for step in weights if step > steps - window}
            weights = {step: w if step in graph else 0.0 for step, w in weights.items()}
            total = sum(weights.values())
            if total == 0:
                raise ConfigError(
                    f"step_weighting gives no weight to the last {window} steps, and "
                    "unroll_mode='last_k' trains no other. Weigh one of them."
                )
            weights = {step: w / total for step, w in weights.items()}
        if not has_answers and weights[1] < config.base_loss_share:
            left = (1.0 - config.base_loss_share) / (1.0 - weights[1])
            weights = {step: w * left for step, w in weights.items()} | {1: config.base_loss_share}
            if 1 not in graph:
                graph, cuts = graph | {1}, cuts | {1}
        return cls(weights, frozenset(graph), frozenset(cuts))


class StepLoss(NamedTuple):
    """Terms of one step in nats; ``None`` where a term does not apply.

    Attributes:
        token: ``(B,)`` mean cross-entropy of a row's blanks.
        gate: Scalar.
        halt: ``(B,)``.
    """

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
    before = 0.0 if state.beliefs is None else state.beliefs
    beliefs = torch.where(rewrite[..., None], log_probs.exp(), before)
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
    plan: Plan,
    choose: ChooseEdit,
) -> Iterator[tuple[int, StepOutput]]:
    """Take the steps of a plan, yielding each.

    At a step in ``plan.cuts`` the caller runs the backward pass before asking for the next
    one, whose graph starts anew.
    """
    for step in plan.steps:
        with torch.set_grad_enabled(step in plan.graph):
            output = take_step(network, question, state, step, choose)
        yield step, output
        state = output.state.detach() if step in plan.cuts else output.state


def score_step(output: StepOutput, question: Question) -> StepLoss:
    """The loss terms of one step.

    *token*: cross-entropy of the blanks, averaged over a row's blanks.
    *gate*: binary cross-entropy of "the token that stood here is not the label".
    *halt*: binary cross-entropy of "the answer after this step is entirely right"; 0 for a row
    without a blank, which was right from the start.
    """
    blanks, labels = question.blanks, question.labels
    share = blanks / blanks.sum(dim=1, keepdim=True).clamp(min=1)
    chosen = output.log_probs.gather(-1, labels[..., None]).squeeze(-1)
    # A label that the model may not write there has log-probability -inf; it is no blank.
    token = -(chosen.masked_fill(~blanks, 0.0) * share).sum(dim=1)
    gate = halt = None
    if bool(output.judged.any()):
        wrong = (output.before != labels)[output.judged].float()
        gate = F.binary_cross_entropy_with_logits(output.gate_logits[output.judged].float(), wrong)
    if output.halt_logits is not None:
        right = exact_match(output.state.answer, question).float()
        halt = F.binary_cross_entropy_with_logits(
            output.halt_logits.float(), right, reduction="none"
        )
        halt = halt * blanks.any(dim=1)
    return StepLoss(token, gate, halt)


def exact_match(answer: Tensor, question: Question) -> Tensor:
    """``(B,)`` bool: every blank holds its label."""
    return ((answer == question.labels) | ~question.blanks).all(dim=1)


def token_accuracy(answer: Tensor, question: Question) -> float:
    """Share of all blanks of the batch that hold their label."""
    right = ((answer == question.labels) & question.blanks).sum()
    return float(right) / max(int(question.blanks.sum()), 1)
