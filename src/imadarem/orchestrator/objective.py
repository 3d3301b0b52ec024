"""The loss of an unroll: terms, steps, and the backward passes between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imadarem.errors import DataError
from imadarem.orchestrator.config import LOSS_TERMS, OrchestrationConfig
from imadarem.orchestrator.edits import edit_mask
from imadarem.orchestrator.unroll import (
    Plan,
    Question,
    StepLoss,
    StepOutput,
    UnrollState,
    exact_match,
    score_step,
    start,
    token_accuracy,
    unroll,
)

ChooseName = Callable[[int, Tensor | None], str]
"""``choose(step, scores (B,)) -> name`` of the edit of a step."""


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


@dataclass(frozen=True)
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
        plan = Plan.of(self.config, self.has_answers)
        state = start(question) if state is None else state
        result = Unrolled(
            step_weights=list(plan.weights.values()), graph_cuts=sorted(plan.cuts)[:-1]
        )
        correct = token_accuracy(state.answer, question)
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
                _check_legal(loss)
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
            before, correct = correct, token_accuracy(output.state.answer, question)
            result.steps.append(step + first_step - 1)
            result.gains.append(correct - before)
            result.step_losses.append(float(loss.token.detach().mean()))
            scores = _scores(output.state, question)
            self._finish(result, output, question)
        result.edits = names
        result.token_accuracy = correct
        return result

    def _weighted(self, loss: StepLoss, weight: float, result: Unrolled) -> Tensor:
        """A step's share of the loss."""
        weights = self.config.term_weights
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
        weight = self.config.term_weights["memory"]
        if memory is None or weight == 0:
            return 0.0
        opening: Tensor = memory.gate.tanh().abs()
        result.terms["memory"] = float(opening.detach())
        return weight * share * opening

    @staticmethod
    def _finish(result: Unrolled, output: StepOutput, question: Question) -> None:
        """Keep what the latest step left."""
        result.state = output.state.detach()
        result.exact_accuracy = float(exact_match(output.state.answer, question).float().mean())
        if output.halt_logits is not None:
            result.halt = output.halt_logits.detach().float().sigmoid()


def _check_legal(loss: StepLoss) -> None:
    if bool(torch.isinf(loss.token.detach()).any()):
        raise DataError(
            "a label asks for a token that may not stand there (an EOS in the first place, before "
            "a given token, or where the length is fixed). Correct the labels."
        )


def _scores(state: UnrollState, question: Question) -> Tensor:
    """``(B,)`` mean probability of the answer's tokens from when they were written."""
    assert state.beliefs is not None
    standing = state.beliefs.detach().gather(-1, state.answer[..., None]).squeeze(-1)
    blanks = question.blanks
    return (standing * blanks).sum(dim=1) / blanks.sum(dim=1).clamp(min=1)
