"""The loss of an unroll: terms and their weights, the record of the steps, PonderNet by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fakes import SPECIAL, Scripted, peaked, shaken, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.errors import DataError
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.objective import Unrolled, UnrollObjective, ponder_loss
from imadarem.orchestrator.unroll import Question, UnrollState
from imadarem.refiner import ImplicitRefinementModel

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
        model.memory.gate.fill_(-0.5)
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
    assert model.memory.gate.grad.item() == pytest.approx(-2 * 0.786448, abs=1e-4)


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


# PonderNet


def test_three_steps_by_hand() -> None:
    # λ = ½, ½, and 1 in the last step, whatever its logit: p = ½, ¼, ¼.
    losses = torch.tensor([[1.0], [2.0], [4.0]])
    logits = torch.tensor([[0.0], [0.0], [-7.0]])
    token, divergence = ponder_loss(losses, logits, prior=0.5)
    # ½·1 + ¼·2 + ¼·4 = 2.
    assert token.item() == pytest.approx(2.0)
    # The prior ½, ¼, ⅛, normalised: 4/7, 2/7, 1/7.
    # ½ ln(7/8) + ¼ ln(7/8) + ¼ ln(7/4) = -0.100148 + 0.139904.
    assert divergence.item() == pytest.approx(0.039756, abs=1e-5)


def test_rows_are_averaged() -> None:
    losses, logits = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.zeros(2, 2)
    # ½·1 + ½·3 = 2 and 5.
    assert ponder_loss(losses, logits, 0.2)[0].item() == pytest.approx(3.5)


logit = st.floats(-30, 30)


@given(
    logits=st.integers(1, 3).flatmap(
        lambda rows: st.lists(st.lists(logit, min_size=rows, max_size=rows), min_size=1, max_size=9)
    ),
    prior=st.floats(0.01, 0.99),
)
def test_the_halting_distribution_sums_to_one_and_diverges_from_none(
    logits: list[list[float]], prior: float
) -> None:
    given_logits = torch.tensor(logits, requires_grad=True)
    total, divergence = ponder_loss(torch.ones(given_logits.shape), given_logits, prior)
    assert total.item() == pytest.approx(1.0, abs=1e-5)
    assert divergence.item() >= -1e-5
    divergence.backward()
    assert given_logits.grad is not None and given_logits.grad.isfinite().all()


@given(steps=st.integers(1, 8), prior=st.floats(0.05, 0.95))
def test_halting_as_the_prior_does_costs_nothing(steps: int, prior: float) -> None:
    p = [prior * (1 - prior) ** n for n in range(steps)]
    # λ_n is the share of what is left: p_n over the sum from n on. The last one is 1.
    rates = [p[n] / sum(p[n:]) for n in range(steps)]
    logits = torch.tensor([[math.log(r / max(1 - r, 1e-9))] for r in rates])
    assert ponder_loss(torch.ones(steps, 1), logits, prior)[1].item() == pytest.approx(0, abs=1e-5)


def test_ponder_mode_weighs_losses_by_the_halting_distribution() -> None:
    result, losses = run(halting_loss="ponder", ponder_weight=0.1, step_loss_weights={"gate": 0.0})
    (loss,) = losses
    halting: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, *args: Any, **more: Any) -> Any:
            output = MODEL(*args, **more)
            halting.append(output.halt_logits.detach())
            return output

    again, _ = run(Watched(), halting_loss="ponder", step_loss_weights={"gate": 0.0})
    # By the definition: p_n = λ_n Π (1 - λ_m), for each row; λ of the last step is 1.
    rates = torch.stack(halting).sigmoid()
    rates[-1] = 1.0
    left, expected = torch.ones(2), 0.0
    per_row = _token_losses()
    for rate, own in zip(rates, per_row, strict=True):
        expected = expected + (left * rate * own).mean()
        left = left * (1 - rate)
    divergence = result.terms["halt"]
    assert divergence is not None and divergence > 0
    assert float(loss.detach()) == pytest.approx(float(expected) + 0.1 * divergence, rel=1e-4)
    assert again.loss == pytest.approx(float(expected) + 0.01 * divergence, rel=1e-4)


def _token_losses() -> list[Tensor]:
    """``(B,)`` of each of eight steps: the surprise of one step at a time."""
    losses, state = [], None
    for _ in range(8):
        result, _ = run(state=state, unroll_mode="carry")
        assert result.surprise is not None
        losses.append(result.surprise)
        state = result.state
    return losses


def test_pondering_trains_the_halting_head() -> None:
    model: ImplicitRefinementModel = shaken(tiny_model(halting=True, length_mode="drawn")).train()
    _, (loss,) = run(model, halting_loss="ponder")
    loss.backward()
    assert model.halt is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.halt.parameters())
