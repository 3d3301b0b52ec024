"""The state that lives on between optimiser steps: who stays, who is replaced, what is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import SPECIAL, grid_model, shaken, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.checkpoint import load_state, save_state
from imadarem.model import ImplicitRefinementModel
from imadarem.orchestrator.batch import Question
from imadarem.orchestrator.carried import Carried
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.edits import edit_mask
from imadarem.orchestrator.unroll import StepOutput, Unrolled, UnrollState, take_step

CONFIG = OrchestrationConfig(unroll_mode="carry", max_steps_train=8, halt_exploration=0.0)
MODEL = shaken(tiny_model(carry=True, halting=True, length_mode="drawn"))


def asked(rows: list[list[int]]) -> Question:
    canvas = Canvas.with_holes(rows, SPECIAL)
    return Question(canvas, canvas.ids.masked_fill(canvas.open, 7))


def numbers(*of: int) -> Tensor:
    return torch.tensor(of)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fresh(rows: list[list[int]], config: OrchestrationConfig = CONFIG) -> Carried:
    return Carried.fresh(asked(rows), torch.arange(len(rows)), config, rng())


def stepped(carried: Carried, model: ImplicitRefinementModel = MODEL) -> StepOutput:
    with torch.no_grad():
        return take_step(
            model,
            carried.question,
            carried.state,
            1,
            lambda step, open, written, gate: edit_mask("replace", open, written, gate),
        )


def after(
    carried: Carried, halt: list[float] | None = None, config: OrchestrationConfig = CONFIG
) -> Carried:
    """With a step of the model taken, and the halting head saying ``halt``."""
    said = None if halt is None else torch.tensor(halt)
    return carried.after(Unrolled(state=stepped(carried).state, halt=said), config)


# Who is finished


def test_rows_begin_before_their_first_step() -> None:
    rows = fresh([[1, 5], [1, 6]])
    assert rows.steps.tolist() == [0, 0] and not rows.finished.any()
    assert rows.state.beliefs is None and rows.state.carry is None
    assert torch.equal(rows.state.answer, rows.question.canvas.ids)


def test_a_row_is_finished_where_the_halting_head_says_so() -> None:
    rows = after(fresh([[1, 5], [1, 6], [1, 7]]), [0.4, 0.5, 0.6])
    assert rows.finished.tolist() == [False, False, True]
    assert rows.steps.tolist() == [1, 1, 1]


def test_a_row_is_finished_after_the_last_step() -> None:
    rows = fresh([[1, 5]])
    for step in range(1, 9):
        rows = after(rows)
        assert rows.finished.tolist() == [step == 8]


def test_a_row_told_to_stay_does_not_halt_before_its_step() -> None:
    rows = replace(fresh([[1, 5], [1, 6]]), least=numbers(3, 1))
    finished = []
    for _ in range(3):
        rows = after(rows, [0.9, 0.9])
        finished.append(rows.finished.tolist())
    assert finished == [[False, True], [False, True], [True, True]]


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 1, 1), (1.0, 1, 8)])
def test_exploring_rows_are_told_to_stay_for_a_random_time(
    share: float, low: int, high: int
) -> None:
    rows = fresh([[1, 5]] * 300, replace(CONFIG, halt_exploration=share))
    assert (int(rows.least.min()), int(rows.least.max())) == (low, high)


def test_a_share_of_the_rows_explores() -> None:
    rows = fresh([[1, 5]] * 4000, replace(CONFIG, halt_exploration=0.4))
    # 0.4 draw one of 1 … 8, of which 7 in 8 are above 1: 0.35, give or take 3 · 0.0075.
    assert (rows.least > 1).float().mean().item() == pytest.approx(0.35, abs=0.023)


# Who is replaced


def merged(before: Carried | None, rows: list[list[int]], first: int = 100) -> tuple[Carried, int]:
    task_ids = torch.arange(first, first + len(rows))
    return Carried.merged(before, asked(rows), task_ids, CONFIG, rng(1))


def test_finished_rows_are_replaced_in_place_and_the_others_go_on() -> None:
    before = after(fresh([[1, 5], [1, 6], [1, 3]]), [0.9, 0.1, 0.9])
    now, replaced = merged(before, [[8, 1], [4, 1], [3, 1]])
    assert replaced == 2
    assert now.question.canvas.ids.tolist() == [[8, 1], [1, 6], [3, 1]]
    assert now.question.labels.tolist() == [[8, 7], [7, 6], [3, 7]]
    assert now.task_ids.tolist() == [100, 1, 102]
    assert now.steps.tolist() == [0, 1, 0]
    assert not now.finished.any()
    # New rows begin with blanks and without a past; the old one keeps what it has.
    assert now.state.answer[[0, 2]].tolist() == [[8, 1], [3, 1]]
    assert torch.equal(now.state.answer[1], before.state.answer[1])
    for part, old in (
        (now.state.beliefs, before.state.beliefs),
        (now.state.carry, before.state.carry),
    ):
        assert part is not None and old is not None
        assert part[0].abs().sum() == part[2].abs().sum() == 0
        assert torch.equal(part[1], old[1]) and part[1].abs().sum() > 0


def test_where_nobody_is_finished_the_batch_is_not_used() -> None:
    before = after(fresh([[1, 5], [1, 6]]), [0.1, 0.1])
    now, replaced = merged(before, [[8, 1], [4, 1]])
    assert replaced == 0
    assert torch.equal(now.state.answer, before.state.answer)
    assert torch.equal(now.question.canvas.state, before.question.canvas.state)


def test_nothing_under_way_or_another_number_of_rows_starts_anew() -> None:
    for before in (None, after(fresh([[1, 5]] * 3))):
        now, replaced = merged(before, [[8, 1], [4, 1]])
        assert replaced == 2 and now.task_ids.tolist() == [100, 101]
        assert now.steps.tolist() == [0, 0] and now.state.beliefs is None


def test_a_new_row_takes_its_first_step_as_it_would_alone() -> None:
    before = after(fresh([[1, 5, 1], [1, 6, 6]]), [0.1, 0.9])
    now, _ = merged(before, [[8, 1, 1], [4, 1, 1]])
    alone = fresh([[4, 1, 1]])
    together, single = stepped(now), stepped(alone)
    assert torch.allclose(together.log_probs[1], single.log_probs[0], atol=1e-5)
    assert together.state.answer[1].tolist() == single.state.answer[0].tolist()


# Rows of other widths


@given(
    seed=st.integers(0, 10**6),
    old=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    data=st.data(),
)
def test_rows_of_another_width_change_nothing_for_the_others(
    seed: int, old: list[int], data: Any
) -> None:
    new = data.draw(st.lists(st.integers(1, 8), min_size=len(old), max_size=len(old)))
    done = data.draw(st.lists(st.booleans(), min_size=len(old), max_size=len(old)))
    generator = rng(seed)

    def rows(lengths: list[int]) -> list[list[int]]:
        made = [torch.randint(3, 9, (n,), generator=generator) for n in lengths]
        return [[1, *row.tolist()[1:]] for row in made]

    one, other = rows(old), rows(new)
    before = after(fresh(one), [0.9 if end else 0.1 for end in done])
    now, replaced = merged(before, other)
    assert replaced == sum(done)
    width = max(max(old), max(new))
    assert now.question.labels.shape == now.state.answer.shape == (len(old), width)
    together = stepped(now)
    plain = stepped(before)
    for i, end in enumerate(done):
        length = new[i] if end else old[i]
        assert (now.question.canvas.state[i] != State.PAD).sum() == length
        assert (now.question.canvas.ids[i, length:] == SPECIAL.pad).all()
        alone = stepped(fresh([other[i]])) if end else None
        expected = plain.log_probs[i] if alone is None else alone.log_probs[0]
        assert torch.allclose(together.log_probs[i, :length], expected[:length], atol=1e-4)


def test_grids_of_two_sizes_replace_each_other() -> None:
    model = shaken(grid_model(sizes=(4, 6), carry=True, halting=True))
    small, large = [1, *[3] * 15], [1, *[4] * 35]
    rows = fresh([small, small])
    rows = rows.after(
        Unrolled(state=stepped(rows, model).state, halt=torch.tensor([0.1, 0.9])), CONFIG
    )
    now, _ = merged(rows, [large, large])
    together = stepped(now, model).log_probs
    assert torch.allclose(together[0, :16], stepped(rows, model).log_probs[0], atol=1e-4)
    assert torch.allclose(together[1], stepped(fresh([large]), model).log_probs[0], atol=1e-4)


# Saving


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_what_is_saved_comes_back_to_the_bit(steps: int, tmp_path: Path) -> None:
    rows = fresh([[1, 5, 6], [1, 1], [3, 1]], replace(CONFIG, halt_exploration=1.0))
    for _ in range(steps):
        rows = after(rows, [0.2, 0.9, 0.3])
    saved = rows.state_dict()
    save_state(saved, tmp_path / "carried")
    again = Carried.from_state_dict(load_state(tmp_path / "carried"), SPECIAL, torch.device("cpu"))
    found = again.state_dict()
    assert found.keys() == saved.keys()
    assert all(same(found[name], saved[name]) for name in saved)
    # And goes on the same way.
    one, other = merged(rows, [[8, 1], [4, 1], [3, 1]]), merged(again, [[8, 1], [4, 1], [3, 1]])
    assert one[1] == other[1]
    assert torch.equal(stepped(one[0]).log_probs, stepped(other[0]).log_probs)


def test_a_model_without_a_carry_hands_on_its_beliefs() -> None:
    model = shaken(tiny_model(length_mode="drawn"))
    rows = fresh([[1, 5], [1, 6]])
    state: UnrollState = stepped(rows, model).state
    rows = rows.after(Unrolled(state=state), CONFIG)
    now, _ = merged(rows, [[8, 1], [4, 1]])
    assert now.state.carry is None and now.state.beliefs is not None
    saved = Carried.from_state_dict(rows.state_dict(), SPECIAL, torch.device("cpu"))
    assert saved.state.carry is None
