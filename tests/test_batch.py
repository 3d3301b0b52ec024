"""Batches as users have them: what is refused and why, and data made into questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import SPECIAL
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.config import ImplicitRefinementConfig
from imadarem.data.tasks import Episodes
from imadarem.errors import DataError
from imadarem.orchestrator.batch import Batch, canvas_of, check_ids, corrupted, read_batch

CONFIG = ImplicitRefinementConfig(vocab_size=10, max_seq_len=6)
PAD, MASK, EOS = SPECIAL.pad, SPECIAL.mask, SPECIAL.eos or 0


def read(batch: Any) -> Batch:
    return read_batch(batch, SPECIAL, CONFIG)


def asked(**parts: Any) -> dict[str, Tensor]:
    """One row with a blank in the middle and its answer 7, and what is put in its place."""
    given = {"input_ids": [[5, MASK, 6]], "labels": [[5, 7, 6]], **parts}
    return {name: torch.tensor(value) for name, value in given.items() if value is not None}


# Batches


def test_rows_of_ids_are_data() -> None:
    ids = torch.tensor([[5, 6, 7]])
    batch = read(ids)
    assert not batch.has_answers
    assert torch.equal(batch.inputs, ids) and torch.equal(batch.labels, ids)


def test_a_dictionary_without_labels_is_data_too() -> None:
    batch = read({"input_ids": torch.tensor([[5, 6]], dtype=torch.int32), "labels": None})
    assert not batch.has_answers
    assert batch.inputs.dtype == torch.int64


def test_episodes_are_taken_as_they_are() -> None:
    parts = asked()
    episodes = Episodes(parts["input_ids"], parts["labels"], torch.tensor([41]))
    batch = read(episodes)
    assert batch.has_answers and batch.task_ids.tolist() == [41]
    assert batch.inputs.tolist() == [[5, MASK, 6]] and batch.labels.tolist() == [[5, 7, 6]]


def test_minus_100_counts_for_nothing_where_there_is_no_blank() -> None:
    assert read(asked(labels=[[-100, 7, -100]])).labels.tolist() == [[5, 7, 6]]


def test_minus_100_leaves_a_blank_without_an_answer() -> None:
    with pytest.raises(DataError, match="id 1 at a blank.*Give every blank a label"):
        read(asked(labels=[[5, -100, 6]]))


def test_labels_count_at_blanks_alone() -> None:
    # A label beside a blank is never read, whatever it is.
    assert read(asked(labels=[[9, 7, -1]])).labels.tolist() == [[5, 7, 6]]


def test_what_the_attention_mask_hides_is_padding() -> None:
    batch = read(asked(attention_mask=[[1, 1, 0]]))
    assert batch.inputs.tolist() == [[5, MASK, PAD]]
    # A blank that is hidden needs no answer.
    hidden = read(
        asked(input_ids=[[MASK, MASK, 6]], labels=[[7, -100, 6]], attention_mask=[[1, 0, 1]])
    )
    assert hidden.inputs.tolist() == [[MASK, PAD, 6]]


def test_equal_rows_have_the_same_task_id_and_others_another() -> None:
    ids = torch.tensor([[5, 6], [6, 5], [5, 6]])
    task_ids = read(ids).task_ids.tolist()
    assert task_ids[0] == task_ids[2] != task_ids[1]
    assert read(asked(task_ids=[9])).task_ids.tolist() == [9]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (asked(label=[[1]]), "no 'label'.*did you mean \"labels\".*legal are input_ids"),
        ({}, "needs input_ids; this one has nothing"),
        (asked(input_ids=None), "needs input_ids; this one has labels"),
        (torch.tensor([5, 6]), r"input_ids must be \(B, L\) whole numbers.*\(2,\)"),
        (torch.ones(1, 2), "torch.float32"),
        (torch.ones(0, 2).long(), "B, L ≥ 1"),
        (torch.full((1, 7), 5), "has 7 tokens; the model takes at most max_seq_len=6"),
        (torch.tensor([[5, 10]]), "ids from 5 to 10; legal are 0 to 9"),
        (torch.tensor([[-1, 5]]), "ids from -1 to 5"),
        (asked(attention_mask=[[1, 1]]), r"attention_mask is \(1, 2\) and input_ids \(1, 3\)"),
        (asked(labels=[[5, 7]]), r"labels is \(1, 2\) and input_ids \(1, 3\)"),
        (asked(labels=[[5.0, 7.0, 6.0]]), "labels must be whole numbers; got torch.float32"),
        (asked(labels=None), "1 blanks .id 1. and there are no labels for them"),
        (asked(input_ids=[[5, 7, 6]]), "row 0 of input_ids has no blank .id 1."),
        (
            asked(input_ids=[[MASK, 5], [5, 5]], labels=[[5, 5], [5, 5]]),
            "row 1 of input_ids has no blank",
        ),
        (asked(labels=[[5, MASK, 6]]), "labels asks for id 1 at a blank"),
        (asked(labels=[[5, PAD, 6]]), "labels asks for id 0 at a blank"),
        (asked(labels=[[5, 10, 6]]), "labels asks for id 10 at a blank.*0 to 9"),
        (asked(labels=[[5, -3, 6]]), "labels asks for id -3 at a blank"),
        (asked(task_ids=[1, 2]), r"1 rows need as many task_ids; got \(2,\)"),
    ],
)
def test_a_batch_that_cannot_be_used_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(batch)


def test_an_eos_may_be_asked_for() -> None:
    assert read(asked(input_ids=[[5, 6, MASK]], labels=[[5, 6, EOS]])).has_answers


def test_ids_are_checked_under_the_name_that_they_have() -> None:
    with pytest.raises(DataError, match="^canvases has ids from 3 to 99"):
        check_ids("canvases", torch.tensor([[3, 99]]), CONFIG)
    check_ids("canvases", torch.tensor([[0, 9]]), CONFIG)


def test_a_canvas_has_blanks_pads_wherever_they_stand_and_given_tokens() -> None:
    canvas = canvas_of(torch.tensor([[PAD, 5, MASK, PAD]]), SPECIAL)
    assert canvas.state.tolist() == [[State.PAD, State.GIVEN, State.OPEN, State.PAD]]
    assert canvas.state.dtype == torch.uint8


# Plain data as questions


def question(
    data: list[list[int]], noised: list[list[int]] | None = None, seed: int = 0, **more: Any
) -> tuple[Canvas, Tensor]:
    ids = torch.tensor(data)
    return corrupted(
        ids,
        ids if noised is None else torch.tensor(noised),
        SPECIAL,
        replace(CONFIG, **more),
        torch.Generator().manual_seed(seed),
    )


row = st.lists(st.integers(3, 9), min_size=1, max_size=6)


def padded(rows: list[list[int]]) -> list[list[int]]:
    width = max(map(len, rows))
    return [[*one, *[PAD] * (width - len(one))] for one in rows]


@given(rows=st.lists(row, min_size=1, max_size=4), seed=st.integers(0, 10**6))
def test_at_a_drawn_length_a_question_is_the_data_with_blanks(
    rows: list[list[int]], seed: int
) -> None:
    data = torch.tensor(padded(rows))
    canvas, labels = question(padded(rows), seed=seed, length_mode="drawn")
    assert torch.equal(labels, data)
    assert canvas.open.any(dim=1).all()
    assert torch.equal(canvas.state == State.PAD, data == PAD)
    shown = canvas.state == State.GIVEN
    assert torch.equal(canvas.ids[shown], data[shown])
    assert (canvas.ids[canvas.open] == MASK).all()
    assert not canvas.written.any()  # all that is no blank is given: it never changes


@given(rows=st.lists(row, min_size=1, max_size=4), seed=st.integers(0, 10**6))
def test_with_endings_a_question_is_as_long_as_a_canvas_and_ends_in_eos(
    rows: list[list[int]], seed: int
) -> None:
    canvas, labels = question(padded(rows), seed=seed, length_mode="eos")
    assert labels.tolist() == [[*one, *[EOS] * (6 - len(one))] for one in rows]
    assert canvas.ids.shape == (len(rows), 6)
    assert not canvas.written.any()
    shown = canvas.state == State.GIVEN
    assert torch.equal(canvas.ids[shown], labels[shown])
    assert not (canvas.ids[shown] == EOS).any()  # a visible end is frozen
    assert torch.equal(canvas.ids == MASK, canvas.open)


def test_noise_shows_at_visible_positions_and_never_in_the_labels() -> None:
    data, noised = [[5] * 6] * 40, [[6] * 6] * 40
    canvas, labels = question(data, noised, length_mode="drawn")
    assert (labels == 5).all()
    visible = canvas.state == State.GIVEN
    assert visible.any() and canvas.open.any()
    assert (canvas.ids[visible] == 6).all()
    assert (canvas.ids[canvas.open] == MASK).all()
    clean, _ = question(data, length_mode="drawn")
    assert torch.equal(clean.open, canvas.open)  # the noise draws no other blanks


def test_noise_that_blanks_a_token_makes_it_one_more_to_answer() -> None:
    canvas, labels = question([[5, 6, 7, 8]] * 20, [[MASK, 6, 7, 8]] * 20, length_mode="drawn")
    assert canvas.open[:, 0].all()
    assert (labels[:, 0] == 5).all()
    assert not canvas.open[:, 1].all()


def test_noise_on_a_short_row_leaves_its_ending_alone() -> None:
    canvas, labels = question([[5, 6]] * 20, [[8, 8]] * 20, length_mode="eos")
    assert (labels[:, 2:] == EOS).all()
    given_ids = canvas.ids[canvas.state == State.GIVEN]
    assert (given_ids == 8).all() and len(given_ids) > 0


def test_the_same_generator_draws_the_same_blanks() -> None:
    data = [[5, 6, 7, 8, 9, 3]] * 8
    one, same, other = (question(data, seed=s)[0].ids for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
