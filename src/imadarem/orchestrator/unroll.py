"""The training unroll: many steps of one network on one question, a loss at every step.

Every step is shown the question again, with what it wrote last as beliefs and, where the
network has one, its carry. The graph is cut as the mode says:

===========  ==============================================================
``full``     one graph over all ``T`` steps
``window``   a backward pass every ``K`` steps; every step keeps its loss
``last_k``   no graph, and no loss, before the last ``K`` steps
``carry``    one step; the state lives on in the next optimiser step
===========  ==============================================================

Memory is that of the steps in one graph: activations are held until the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imadarem.errors import ConfigError, DataError
from imadarem.nn import RefinementOutput
from imadarem.orchestrator.batch import Question
from imadarem.orchestrator.config import LOSS_TERMS, OrchestrationConfig
from imadarem.orchestrator.edits import edit_mask

ILLEGAL_LABEL = (
    "a label asks for a token that may not stand there (an EOS in the first place, before a given "
    "token, or where the length is fixed). Correct the labels."
)


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


#: ``choose(step, scores (B,)) -> name`` of the edit of a step.
ChooseName = Callable[[int, Tensor | None], str]
#: ``choose(step, open, written, gate) -> (B, L)`` bool, the positions a step rewrites.
ChooseEdit = Callable[[int, Tensor, Tensor, Tensor], Tensor]


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
    log_probs = canvas.log_probs(output.logits, question.may_end)
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
    for step in plan.weights:
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
        right = question.exact(output.state.answer).float()
        halt = F.binary_cross_entropy_with_logits(
            output.halt_logits.float(), right, reduction="none"
        )
        halt = halt * blanks.any(dim=1)
    return StepLoss(token, gate, halt)


@dataclass
class Unrolled:
    """What came of one unroll; plain numbers but for the state.

    Attributes:
        loss: Weighted sum of all terms of all steps, nats.
        terms: ``token``, ``gate``, ``halt``, ``memory``: means over steps by their weights,
            without the term's own weight; None where a term did not apply.
        steps: Numbers of the steps.
        step_weights: Share of the loss of each.
        graph_cuts: Steps after which the graph was cut.
        step_losses: Token loss of each.
        edits: Edit of each.
        gains: Gain in token accuracy of each.
        token_accuracy: After the last step, over all blanks.
        exact_accuracy: After the last step, share of rows entirely right.
        surprise: ``(B,)`` token loss of the first step, nats per token.
        state: After the last step, without history.
        halt: ``(B,)`` probability of the halting head in the last step.
    """

    loss: float = 0.0
    terms: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(LOSS_TERMS))
    steps: list[int] = field(default_factory=list)
    step_weights: list[float] = field(default_factory=list)
    graph_cuts: list[int] = field(default_factory=list)
    step_losses: list[float] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    token_accuracy: float = 0.0
    exact_accuracy: float = 0.0
    surprise: Tensor | None = None
    state: UnrollState | None = None
    halt: Tensor | None = None

    def add(self, term: str, value: float, weight: float) -> None:
        """Let a step's term count with the step's weight."""
        self.terms[term] = (self.terms[term] or 0.0) + weight * value

    def report(self) -> dict[str, Any]:
        """What ``train_step`` returns of it, by name."""
        return {
            "loss": self.loss,
            **{f"{term}_loss": value for term, value in self.terms.items()},
            "step_losses": self.step_losses,
            "step_weights": self.step_weights,
            "graph_cuts": self.graph_cuts,
            "token_accuracy": self.token_accuracy,
            "exact_accuracy": self.exact_accuracy,
            "edits": list(self.edits),
        }


@dataclass
class UnrollObjective:
    """Unrolls a question and runs the backward passes of its loss.

    Args:
        config: Steps, mode and weights.
        network: In training mode; called as the loop calls it.
        has_answers: Whether the labels are separate answers and not the data itself.
    """

    config: OrchestrationConfig
    network: nn.Module
    has_answers: bool = True

    def __post_init__(self) -> None:
        self.plan = Plan.of(self.config, self.has_answers)
        self.term_weights = self.config.term_weights

    def run(
        self,
        question: Question,
        state: UnrollState | None,
        *,
        choose: ChooseName,
        backward: Callable[[Tensor], None],
        first_step: int = 1,
    ) -> Unrolled:
        """Unroll, calling ``backward`` once for each cut of the graph.

        Args:
            question: What to answer.
            state: Where to start; None starts from blanks.
            choose: Names the edit of a step.
            backward: Given the loss of the steps since the last cut.
            first_step: Number of the first step, for the choice of edits (``carry`` mode).

        Raises:
            DataError: A label cannot be written where it is wanted.
        """
        plan, state = self.plan, state or UnrollState(question.canvas.ids)
        result = Unrolled(
            step_weights=list(plan.weights.values()), graph_cuts=sorted(plan.cuts)[:-1]
        )
        correct = question.accuracy(state.answer)
        scores = None if state.beliefs is None else _scores(state, question)
        names: list[str] = []

        def rewrite(step: int, open: Tensor, written: Tensor, gate: Tensor) -> Tensor:
            now = step + first_step - 1
            names.append(choose(now, scores))
            # As many blanks in each of the steps that are left.
            left = max(self.config.max_steps_train - now + 1, 1)
            fill = -(-open.sum(dim=1) // left)
            return edit_mask(names[-1], open, written, gate, fill=fill)

        pending: Tensor | None = None
        share = 0.0
        for step, output in unroll(self.network, question, state, plan, rewrite):
            loss = score_step(output, question)
            if result.surprise is None:
                # Before any backward pass: an infinite loss would leave NaN in the gradients.
                if bool(torch.isinf(loss.token.detach()).any()):
                    raise DataError(ILLEGAL_LABEL)
                result.surprise = loss.token.detach()
            weight = plan.weights[step]
            if step in plan.graph:
                term = self._weighted(loss, weight, result)
                share += weight
                pending = term if pending is None else pending + term
            if step in plan.cuts and pending is not None:
                pending = pending + self._memory_cost(share, result)
                result.loss += float(pending.detach())
                backward(pending)
                pending, share = None, 0.0
            before, correct = correct, question.accuracy(output.state.answer)
            result.steps.append(step + first_step - 1)
            result.gains.append(correct - before)
            result.step_losses.append(float(loss.token.detach().mean()))
            scores = _scores(output.state, question)
            result.state = output.state.detach()
            if output.halt_logits is not None:
                result.halt = output.halt_logits.detach().float().sigmoid()
        result.edits = names
        result.token_accuracy = correct
        if result.state is not None:
            result.exact_accuracy = float(question.exact(result.state.answer).float().mean())
        return result

    def _weighted(self, loss: StepLoss, weight: float, result: Unrolled) -> Tensor:
        """A step's share of the loss."""
        weights = self.term_weights
        result.add("token", float(loss.token.detach().mean()), weight)
        total = weights["token"] * weight * loss.token.mean()
        if loss.gate is not None and weights["gate"] > 0:
            total = total + weights["gate"] * weight * loss.gate
            result.add("gate", float(loss.gate.detach()), weight)
        if loss.halt is not None and weights["halt"] > 0:
            total = total + weights["halt"] * weight * loss.halt.mean()
            result.add("halt", float(loss.halt.detach().mean()), weight)
        return total

    def _memory_cost(self, share: float, result: Unrolled) -> Tensor | float:
        """How far the memory's gate is open, weighed as the steps since the last cut are."""
        memory = getattr(self.network, "memory", None)
        weight = self.term_weights["memory"]
        if memory is None or weight == 0:
            return 0.0
        opening: Tensor = memory.gate.tanh().abs()
        result.terms["memory"] = float(opening.detach())
        return weight * share * opening


def _scores(state: UnrollState, question: Question) -> Tensor:
    """``(B,)`` mean probability of the answer's tokens from when they were written."""
    assert state.beliefs is not None
    standing = state.beliefs.detach().gather(-1, state.answer[..., None]).squeeze(-1)
    blanks = question.blanks
    return (standing * blanks).sum(dim=1) / blanks.sum(dim=1).clamp(min=1)
