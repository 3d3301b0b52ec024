"""The loss of an unroll: terms and their weights, the record of the steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import SPECIAL, Scripted, peaked, shaken, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.errors import DataError
from imadarem.orchestrator.batch import Question
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.unroll import Unrolled, UnrollObjective, UnrollState

V = 8
MODEL = shaken(tiny_model(halting=True, carry=True, length_mode="drawn")).train()


def asked(rows: list[list[int]], labels: list[list[int]], may_end: bool = False) -> Question:
    return Question(Canvas.with_holes(rows, SPECIAL), torch.tensor(labels), may_end)


QUESTION = asked([[1, 5, 1], [1, 1, 4]], [[3, 5, 4], [6, 3, 4]])


def run(
    network: nn.Module = MODEL,
    question: Question = QUESTION,
    state: UnrollState | None = None,
    choose: Any = None,
    first_step: int = 1,
    **settings: Any,
) -> tuple[Unrolled, list[Tensor]]:
    """What came of it, and what the backward passes were given."""
    losses: list[Tensor] = []
    config = OrchestrationConfig(**{"unroll_mode": "full", "max_steps_train": 8, **settings})
    result = UnrollObjective(config, network).run(
        question,
        state,
        choose=choose or (lambda step, scores: "replace"),
        backward=losses.append,
        first_step=first_step,
    )
    return result, losses


# Terms


@settings(max_examples=15)
@given(
    weights=st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.3, 1.0, 2.0]) for name in ("token", "gate", "halt")}
    ),
    mode=st.sampled_from(["full", "window", "last_k", "carry"]),
    weighting=st.sampled_from(["uniform", "linear", "last"]),
)
def test_the_loss_is_the_weighted_sum_of_its_terms(
    weights: dict[str, float], mode: str, weighting: str
) -> None:
    result, losses = run(
        step_loss_weights=weights,
        unroll_mode=mode,
        step_weighting=weighting,
        backprop_truncate_steps=3,
    )
    expected = sum(weights[name] * (result.terms[name] or 0.0) for name in weights)
    assert result.loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert sum(float(loss.detach()) for loss in losses) == pytest.approx(result.loss, abs=1e-6)


def test_a_term_that_weighs_nothing_is_not_reported() -> None:
    result, _ = run(step_loss_weights={"gate": 0.0, "halt": 0.0})
    assert result.terms["gate"] is None and result.terms["halt"] is None
    assert result.terms["memory"] is None  # its default weight


def test_a_term_that_the_network_lacks_is_not_reported() -> None:
    plain = shaken(tiny_model(length_mode="drawn")).train()
    result, _ = run(plain)
    assert result.terms["halt"] is None and result.halt is None
    # In the first step nothing stands that the gate could judge.
    assert run(plain, unroll_mode="carry")[0].terms["gate"] is None


@pytest.mark.parametrize("mode", ["full", "window", "last_k", "carry"])
def test_the_memory_costs_how_far_it_is_open_once_in_every_mode(mode: str) -> None:
    model = shaken(tiny_model(memory=True, length_mode="drawn")).train()
    with torch.no_grad():
        model.network.backbone.memory.gate.fill_(-0.5)
    with_cost, losses = run(
        model, unroll_mode=mode, backprop_truncate_steps=3, step_loss_weights={"memory": 2.0}
    )
    without, _ = run(model, unroll_mode=mode, backprop_truncate_steps=3)
    # |tanh(-0.5)| = 0.462117, at weight 2; the steps' shares of it sum to 1.
    assert with_cost.terms["memory"] == pytest.approx(0.462117, abs=1e-5)
    assert with_cost.loss - without.loss == pytest.approx(0.924234, abs=1e-4)
    model.zero_grad()
    sum(losses).backward()  # type: ignore[union-attr]
    # d/dg 2·|tanh g| = -2·(1 - tanh² g) at -0.5.
    assert model.network.backbone.memory.gate.grad.item() == pytest.approx(-2 * 0.786448, abs=1e-4)


# The record of the steps


def scripted(*answers: list[list[int]]) -> Scripted:
    """Call n answers ``answers[n - 1]``, the last one from then on."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor(answers[min(call, len(answers)) - 1])
        return peaked(tokens, V).float(), torch.zeros(ids.shape)

    return Scripted(answer)


def test_gains_and_accuracies_are_those_of_the_answer() -> None:
    # Labels 3 . 4 and 6 3 . : the first answer has 1 of 4 right, the second 3, the third 4,
    # of which a row alone is entirely right from the second on.
    network = scripted([[3, 5, 7], [7, 7, 4]], [[3, 5, 4], [6, 7, 4]], [[3, 5, 4], [6, 3, 4]])
    result, _ = run(network)
    assert result.gains == pytest.approx([0.25, 0.5, 0.25, 0, 0, 0, 0, 0])
    assert result.token_accuracy == result.exact_accuracy == 1.0
    assert result.steps == list(range(1, 9)) and result.edits == ["replace"] * 8
    half, _ = run(scripted([[3, 5, 4], [6, 7, 4]]))
    assert (half.token_accuracy, half.exact_accuracy) == (0.75, 0.5)


def test_surprise_is_the_token_loss_of_each_row_in_the_first_step() -> None:
    # Logits of 50: a wrong token costs 50 nats, a right one none; two blanks a row.
    network = scripted([[3, 5, 7], [7, 7, 4]], [[3, 5, 4], [6, 3, 4]])
    result, _ = run(network)
    assert result.surprise is not None
    assert result.surprise.tolist() == pytest.approx([25.0, 50.0], abs=0.1)
    assert result.step_losses[:2] == pytest.approx([37.5, 0.0], abs=0.1)


def test_edits_are_chosen_by_step_and_by_how_sure_the_answer_is() -> None:
    told: list[tuple[int, list[float] | None]] = []

    def choose(step: int, scores: Tensor | None) -> str:
        told.append((step, None if scores is None else scores.tolist()))
        return "patch" if step == 3 else "replace"

    result, _ = run(scripted([[3, 5, 4], [6, 3, 4]]), choose=choose)
    assert [step for step, _ in told] == result.steps
    assert told[0][1] is None
    # Certain of every token that it wrote.
    assert told[1][1] == pytest.approx([1.0, 1.0], abs=1e-3)
    assert result.edits[2] == "patch" and result.edits.count("patch") == 1


def test_a_row_that_goes_on_is_told_what_it_has_and_counts_on() -> None:
    told: list[tuple[int, Any]] = []

    def choose(step: int, scores: Tensor | None) -> str:
        told.append((step, scores))
        return "replace"

    first, _ = run(unroll_mode="carry")
    result, _ = run(state=first.state, choose=choose, first_step=5, unroll_mode="carry")
    ((step, scores),) = told
    assert step == 5 and result.steps == [5]
    # Something stands already, so there is something to patch.
    assert scores is not None and scores.shape == (2,) and (scores > 0).all()


def test_the_state_is_left_without_history() -> None:
    result, _ = run()
    assert result.state is not None and result.state.beliefs is not None
    assert not result.state.beliefs.requires_grad
    assert result.state.carry is not None and not result.state.carry.requires_grad
    assert result.halt is not None and result.halt.shape == (2,)
    assert ((result.halt >= 0) & (result.halt <= 1)).all() and not result.halt.requires_grad


@pytest.mark.parametrize("mode", ["full", "window", "last_k", "carry"])
@pytest.mark.parametrize(
    ("row", "labels", "may_end"),
    [
        ([1, 5], [2, 5], True),  # an end in the first place
        ([5, 1, 6], [5, 2, 6], True),  # an end before a given token
        ([5, 1], [5, 2], False),  # an end where the length is fixed
    ],
)
def test_a_label_that_may_not_be_written_is_refused_before_any_backward_pass(
    mode: str, row: list[int], labels: list[int], may_end: bool
) -> None:
    losses: list[Tensor] = []
    config = OrchestrationConfig(unroll_mode=mode, max_steps_train=8, backprop_truncate_steps=2)
    objective = UnrollObjective(config, MODEL)
    # Beside a row without fault.
    question = asked([row, [1] * len(row)], [labels, [3] * len(row)], may_end)
    with pytest.raises(DataError, match="may not stand there"):
        objective.run(question, None, choose=lambda s, x: "replace", backward=losses.append)
    assert losses == []
