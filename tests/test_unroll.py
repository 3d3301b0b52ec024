"""The unroll: which steps have a gradient, what a step leaves, what is held in memory."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fakes import SPECIAL, Scripted, shaken, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.batch import Question
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.edits import edit_mask
from imadarem.orchestrator.unroll import (
    Plan,
    StepOutput,
    Unrolled,
    UnrollObjective,
    UnrollState,
    score_step,
    take_step,
    unroll,
)

MODES = ("full", "window", "last_k", "carry")


def plan(mode: str, has_answers: bool = True, **settings: Any) -> Plan:
    return Plan.of(OrchestrationConfig(unroll_mode=mode, **settings), has_answers)


# Which steps have a graph, and where it is cut


@pytest.mark.parametrize(
    ("mode", "graph", "cuts"),
    [
        ("full", range(1, 17), {16}),
        ("window", range(1, 17), {8, 16}),
        ("last_k", range(9, 17), {16}),
        ("carry", [1], {1}),
    ],
)
def test_sixteen_steps_in_windows_of_eight(mode: str, graph: Any, cuts: set[int]) -> None:
    made = plan(mode)
    assert made.graph == set(graph) and made.cuts == cuts
    assert list(made.weights) == ([1] if mode == "carry" else list(range(1, 17)))


def test_a_last_window_may_be_shorter() -> None:
    made = plan("window", max_steps_train=10, backprop_truncate_steps=4)
    assert made.cuts == {4, 8, 10}


def test_only_steps_with_a_graph_share_the_loss() -> None:
    # Linear weights of the steps 9 to 16 sum to 100.
    weights = plan("last_k").weights
    assert [weights[step] for step in range(1, 9)] == [0.0] * 8
    assert [weights[step] for step in range(9, 17)] == pytest.approx(
        [step / 100 for step in range(9, 17)]
    )


def test_without_truncation_there_is_one_graph() -> None:
    for mode in MODES:
        assert plan(mode, truncated_backprop=False) == plan("full")


weightings = st.sampled_from(["uniform", "linear", "last"]) | st.just(lambda s, n: s**0.5)


@given(
    mode=st.sampled_from(MODES),
    steps=st.integers(8, 16),
    window=st.integers(1, 20),
    weighting=weightings,
    share=st.floats(0, 1),
    has_answers=st.booleans(),
)
def test_what_holds_in_every_plan(
    mode: str, steps: int, window: int, weighting: Any, share: float, has_answers: bool
) -> None:
    made = plan(
        mode,
        has_answers,
        max_steps_train=steps,
        backprop_truncate_steps=window,
        step_weighting=weighting,
        base_loss_share=share,
    )
    assert math.isclose(sum(made.weights.values()), 1.0)
    assert all(weight >= 0 for weight in made.weights.values())
    assert all(weight == 0 for step, weight in made.weights.items() if step not in made.graph)
    # Every graph ends in a backward pass.
    assert made.cuts <= made.graph and max(made.weights) in made.cuts
    if not has_answers:
        assert made.weights[1] >= share - 1e-12
        assert share == 0 or 1 in made.graph


def test_plain_data_keeps_its_base_loss_where_early_steps_have_no_graph() -> None:
    made = plan("last_k", False)
    # Step 1 has a graph of its own, cut off at once; the rest share the other half.
    assert made.weights[1] == 0.5
    assert made.graph == {1, *range(9, 17)} and made.cuts == {1, 16}
    assert made.weights[16] == pytest.approx(0.5 * 0.16)


def test_a_first_step_that_weighs_more_keeps_its_weight() -> None:
    assert plan("full", False, step_weighting=lambda s, n: float(s == 1)).weights[1] == 1.0


def test_steps_without_a_graph_cannot_have_all_the_weight() -> None:
    with pytest.raises(ConfigError, match="no weight to the last 8 steps"):
        plan("last_k", step_weighting=lambda s, n: float(s == 1))


# One step


V = 8


def asked(row: list[int], labels: list[int], may_end: bool = False) -> Question:
    return Question(Canvas.with_holes([row], SPECIAL), torch.tensor([labels]), may_end)


def says(*tokens: int, gate: list[float] | None = None, p: float = 0.75) -> Scripted:
    """Probability ``p`` on these tokens, the rest on token 7; with these gate logits."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        probs = torch.full((*ids.shape, V), 1e-30)
        probs[..., 7] = 1 - p
        probs[0, torch.arange(len(tokens)), torch.tensor(tokens)] = p
        return probs.log(), torch.tensor([gate or [0.0] * len(tokens)])

    return Scripted(answer)


def by(name: str) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    return lambda step, open, written, gate: edit_mask(name, open, written, gate)


def test_a_first_step_writes_every_blank() -> None:
    question = asked([1, 5, 1], [3, 5, 4])
    output = take_step(says(3, 3, 6), question, UnrollState(question.canvas.ids), 1, by("replace"))
    assert output.state.answer.tolist() == [[3, 5, 6]]
    assert output.before.tolist() == [[1, 5, 1]]
    assert not output.judged.any()
    beliefs = output.state.beliefs
    assert beliefs is not None
    assert beliefs[0, 0, 3].item() == pytest.approx(0.75)
    assert beliefs[0, 1].sum() == 0  # given: nothing to believe


def test_a_patch_rewrites_the_flagged_and_keeps_the_beliefs_of_the_rest() -> None:
    question = asked([1, 5, 1], [3, 5, 4])
    first = take_step(says(3, 3, 6), question, UnrollState(question.canvas.ids), 1, by("replace"))
    second = take_step(
        says(4, 4, 4, gate=[-1.0, 9.0, 1.0], p=0.9), question, first.state, 2, by("patch")
    )
    assert second.state.answer.tolist() == [[3, 5, 4]]
    assert second.judged.tolist() == [[True, False, True]]
    beliefs = second.state.beliefs
    assert beliefs is not None
    assert beliefs[0, 0, 3].item() == pytest.approx(0.75)
    assert beliefs[0, 2, 4].item() == pytest.approx(0.9)


def test_a_step_is_shown_the_question_and_never_its_own_tokens() -> None:
    seen: list[list[int]] = []
    inner = says(3, 3, 6)

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        seen.append(ids[0].tolist())
        return inner.answer(ids, call)

    question = asked([1, 5, 1], [3, 5, 4])
    network = Scripted(answer)
    state = UnrollState(question.canvas.ids)
    for step in (1, 2):
        state = take_step(network, question, state, step, by("replace")).state
    assert seen == [[1, 5, 1], [1, 5, 1]]


def test_the_token_loss_is_the_mean_over_the_blanks_of_a_row() -> None:
    question = asked([1, 5, 1], [3, 5, 7])
    output = take_step(says(3, 3, 6), question, UnrollState(question.canvas.ids), 1, by("replace"))
    loss = score_step(output, question)
    # p(3) = 0.75 and p(7) = 0.25: (0.287682 + 1.386294) / 2.
    assert loss.token.tolist() == pytest.approx([0.836988], abs=1e-5)
    assert loss.gate is None and loss.halt is None


def test_the_gate_is_scored_on_what_stood_there_before_the_step() -> None:
    question = asked([1, 5, 1], [3, 5, 4])
    first = take_step(says(3, 3, 6), question, UnrollState(question.canvas.ids), 1, by("replace"))
    second = take_step(
        says(4, 4, 4, gate=[0.0, 50.0, 2.0]), question, first.state, 2, by("replace")
    )
    gate = score_step(second, question).gate
    # 3 was right, so the logit 0 costs ln 2; 6 was wrong, so 2 costs ln(1 + e^-2) = 0.126928.
    # The given 5 in the middle is nobody's mistake.
    assert gate is not None
    assert gate.item() == pytest.approx((math.log(2) + 0.126928) / 2, abs=1e-5)


def test_halting_is_right_where_every_blank_holds_its_label_after_the_step() -> None:
    canvas = Canvas.with_holes([[1, 5], [1, 5]], SPECIAL)
    question = Question(canvas, torch.tensor([[3, 5], [4, 5]]))
    state = UnrollState(torch.tensor([[3, 5], [3, 5]]), torch.zeros(2, 2, V))
    zeros = torch.zeros(2, 2)
    output = StepOutput(
        torch.zeros(2, 2, V), zeros, torch.tensor([2.0, 2.0]), zeros.bool(), canvas.ids, state
    )
    halt = score_step(output, question).halt
    assert halt is not None
    # ln(1 + e^-2) where it is right; 2 more where it is wrong.
    assert halt.tolist() == pytest.approx([0.126928, 2.126928], abs=1e-5)
    assert question.exact(state.answer).tolist() == [True, False]
    assert question.accuracy(state.answer) == 0.5


def test_a_row_without_a_blank_teaches_the_halting_head_nothing() -> None:
    canvas = Canvas.with_holes([[4, 5], [1, 5]], SPECIAL)
    question = Question(canvas, torch.tensor([[4, 5], [3, 5]]))
    state = UnrollState(torch.tensor([[4, 5], [3, 5]]), torch.zeros(2, 2, V))
    zeros, halting = torch.zeros(2, 2), torch.tensor([2.0, 2.0], requires_grad=True)
    output = StepOutput(torch.zeros(2, 2, V), zeros, halting, zeros.bool(), canvas.ids, state)
    halt = score_step(output, question).halt
    assert halt is not None
    # Both rows are right, and only the second had a blank: ln(1 + e^-2), -sigmoid(-2).
    assert halt.tolist() == pytest.approx([0.0, 0.126928], abs=1e-5)
    halt.sum().backward()
    assert halting.grad is not None
    assert halting.grad.tolist() == pytest.approx([0.0, -0.119203], abs=1e-5)


def test_what_is_no_blank_is_never_wrong() -> None:
    question = asked([1, 5], [3, 9])
    assert question.exact(torch.tensor([[3, 5]])).tolist() == [True]
    assert question.accuracy(torch.tensor([[3, 5]])) == 1.0


# Gradients


def network(seed: int = 0) -> ImplicitRefinementModel:
    return shaken(
        tiny_model(seed, carry=True, halting=True, inner_steps=2, length_mode="drawn")
    ).train()


def some_question(rows: int = 3, length: int = 6, seed: int = 0) -> Question:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, 9, (rows, length), generator=generator)
    blank = torch.rand(labels.shape, generator=generator) < 0.5
    blank[:, 0] = True
    canvas = Canvas.with_holes(labels.masked_fill(blank, SPECIAL.mask).tolist(), SPECIAL)
    return Question(canvas, labels)


NET = network()
QUESTION = some_question()
Gradients = dict[str, Tensor]


def alternate(step: int, scores: Tensor | None) -> str:
    return "replace" if step % 2 else "patch"


def trained(
    mode: str,
    state: UnrollState | None = None,
    has_answers: bool = True,
    first_step: int = 1,
    **settings: Any,
) -> tuple[Unrolled, Gradients, list[float]]:
    """What came of it, the gradients, and the loss of each backward pass."""
    NET.zero_grad()
    passes: list[float] = []

    def backward(loss: Tensor) -> None:
        passes.append(float(loss.detach()))
        loss.backward()

    given = {"max_steps_train": 8, "backprop_truncate_steps": 4, **settings}
    config = OrchestrationConfig(unroll_mode=mode, **given)
    objective = UnrollObjective(config, NET, has_answers)
    result = objective.run(
        QUESTION, state, choose=alternate, backward=backward, first_step=first_step
    )
    grads = {n: p.grad.clone() for n, p in NET.named_parameters() if p.grad is not None}
    return result, grads, passes


def close(one: Gradients, other: Gradients) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[n], other[n], rtol=1e-4, atol=1e-6) for n in one
    )


def test_full_is_one_backward_pass_of_the_weighted_sum() -> None:
    config = OrchestrationConfig(max_steps_train=8, unroll_mode="full")
    NET.zero_grad()
    total, state = torch.zeros(()), UnrollState(QUESTION.canvas.ids)
    for step in range(1, 9):
        name = alternate(step, None)
        output = take_step(NET, QUESTION, state, step, by(name))
        loss, weight = score_step(output, QUESTION), step / 36
        total = total + weight * loss.token.mean()
        if loss.gate is not None:
            total = total + 0.5 * weight * loss.gate
        assert loss.halt is not None
        total = total + 0.5 * weight * loss.halt.mean()
        state = output.state
    total.backward()
    expected = {n: p.grad.clone() for n, p in NET.named_parameters() if p.grad is not None}
    assert config.term_weights == {"token": 1.0, "gate": 0.5, "halt": 0.5, "memory": 0.0}
    result, found, passes = trained("full")
    assert close(found, expected)
    assert passes == [result.loss] == [pytest.approx(total.item(), rel=1e-5)]


@pytest.mark.parametrize("window", [8, 9])
def test_a_window_over_all_steps_is_full_to_the_bit(window: int) -> None:
    full, grads, _ = trained("full")
    result, found, passes = trained("window", backprop_truncate_steps=window)
    assert len(passes) == 1 and result.loss == full.loss
    assert all(torch.equal(found[n], grads[n]) for n in grads)
    _, last, _ = trained("last_k", backprop_truncate_steps=window)
    assert all(torch.equal(last[n], grads[n]) for n in grads)


def test_windows_keep_every_loss_and_cut_the_gradient() -> None:
    full, grads, _ = trained("full")
    result, found, passes = trained("window")
    assert result.step_losses == full.step_losses
    assert result.edits == full.edits
    assert result.loss == pytest.approx(full.loss, rel=1e-6)
    assert sum(passes) == pytest.approx(result.loss)
    assert not close(found, grads)


def reached(steps: int) -> UnrollState:
    """After ``steps`` steps, without history."""
    state = UnrollState(QUESTION.canvas.ids)
    with torch.no_grad():
        for step in range(1, steps + 1):
            state = take_step(NET, QUESTION, state, step, by(alternate(step, None))).state
    return state


def test_the_gradient_of_windows_is_the_sum_over_windows_of_their_own() -> None:
    _, found, _ = trained("window")
    # Steps 1 to 4 weigh 10 of 36, steps 5 to 8 weigh 26 of 36; unroll each on its own.
    with pytest.warns(UserWarning, match="max_steps_train=4"):
        _, early, _ = trained("full", max_steps_train=4)
        _, late, _ = trained(
            "full",
            reached(4),
            max_steps_train=4,
            step_weighting=lambda s, n: s + 4,
            first_step=5,
        )
    expected = {n: early[n] * 10 / 36 + late[n] * 26 / 36 for n in found}
    assert close(found, expected)


def test_the_last_k_have_the_gradient_that_they_have_from_a_detached_state() -> None:
    result, found, passes = trained("last_k")
    with pytest.warns(UserWarning, match="max_steps_train=4"):
        short, expected, _ = trained(
            "full",
            reached(4),
            max_steps_train=4,
            step_weighting=lambda s, n: s + 4,
            first_step=5,
        )
    assert close(found, expected)
    assert result.step_losses[4:] == pytest.approx(short.step_losses)
    assert passes == [pytest.approx(short.loss)]


def test_carry_takes_one_step_from_where_it_stands() -> None:
    state = reached(3)
    result, found, passes = trained("carry", state, first_step=4)
    assert result.steps == [4] and len(passes) == 1 and len(result.step_losses) == 1
    with pytest.warns(UserWarning, match="max_steps_train=1"):
        _, expected, _ = trained("full", state, max_steps_train=1, first_step=4)
    assert close(found, expected)
    assert result.state is not None and result.state.carry is not None
    assert not result.state.carry.requires_grad


@pytest.mark.parametrize(
    ("mode", "answers", "plain"),
    [("full", 1, 1), ("window", 2, 2), ("last_k", 1, 2), ("carry", 1, 1)],
)
def test_how_often_there_is_a_backward_pass(mode: str, answers: int, plain: int) -> None:
    assert len(trained(mode)[2]) == answers
    assert len(trained(mode, has_answers=False)[2]) == plain


def test_plain_data_with_base_loss_alone_trains_the_plain_masked_loss() -> None:
    _, whole, _ = trained("last_k", has_answers=False, base_loss_share=1.0)
    with pytest.warns(UserWarning, match="max_steps_train=1"):
        _, first, _ = trained("full", max_steps_train=1)
    # Later steps weigh nothing, so the parts that only they use have a gradient of zeros.
    assert close(whole, {n: first.get(n, torch.zeros_like(g)) for n, g in whole.items()})


def test_an_unroll_yields_steps_without_history_where_there_is_no_graph() -> None:
    made = plan("last_k", max_steps_train=8, backprop_truncate_steps=3)
    outputs = dict(unroll(NET, QUESTION, UnrollState(QUESTION.canvas.ids), made, by("replace")))
    assert [outputs[s].log_probs.requires_grad for s in range(1, 9)] == [False] * 5 + [True] * 3
    assert not outputs[8].detach().log_probs.requires_grad
    assert not outputs[8].detach().state.beliefs.requires_grad  # type: ignore[union-attr]


# What is held in memory


class Holding:
    """Bytes of activations that graphs hold, each storage counted once."""

    def __init__(self) -> None:
        self.parameters = {p.untyped_storage().data_ptr() for p in NET.parameters()}
        self.held: Counter[int] = Counter()
        self.bytes = self.peak = 0

    def pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        if where in self.parameters:
            return (tensor,)
        box = Box(tensor)
        self.bytes += size * (self.held[where] == 0)
        self.held[where] += 1
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(box, self.drop, where, size)
        return box

    def drop(self, where: int, size: int) -> None:
        self.held[where] -= 1
        self.bytes -= size * (self.held[where] == 0)

    @staticmethod
    def unpack(box: Any) -> Tensor:
        tensor: Tensor = box[0] if isinstance(box, tuple) else box.tensor
        return tensor


class Box:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_bytes(mode: str, window: int = 8) -> int:
    holding = Holding()
    with torch.autograd.graph.saved_tensors_hooks(holding.pack, holding.unpack):
        trained(mode, max_steps_train=16, backprop_truncate_steps=window)
    return holding.peak


def test_windows_hold_the_activations_of_a_window() -> None:
    full = peak_bytes("full")
    assert peak_bytes("window") <= 0.55 * full
    assert peak_bytes("window", 2) <= 0.16 * full
    assert peak_bytes("last_k") <= 0.55 * full
    assert peak_bytes("carry") <= 0.1 * full
