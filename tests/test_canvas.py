"""The canvas: who may write where, and what freezes."""

from __future__ import annotations

import pytest
import torch
from fakes import SPECIAL
from hypothesis import given
from hypothesis import strategies as st

from imadarem.canvas import Canvas, State
from imadarem.errors import DataError
from imadarem.tokenizers import SpecialIds

G, O, W, F, P = State.GIVEN, State.OPEN, State.WRITTEN, State.FROZEN, State.PAD  # noqa: E741


def test_blank_rows_are_open_up_to_their_length() -> None:
    canvas = Canvas.blank([3, 1], SPECIAL)
    assert canvas.ids.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert canvas.state.tolist() == [[O, O, O], [O, P, P]]


def test_holes_are_open_and_all_else_is_given() -> None:
    canvas = Canvas.with_holes([[5, 1, 6], [1]], SPECIAL)
    assert canvas.state.tolist() == [[G, O, G], [O, P, P]]


def test_a_given_pad_id_is_a_token_not_padding() -> None:
    # pad falls back to id 0, which may be an ordinary token of the user's.
    assert Canvas.with_holes([[0, 1]], SPECIAL).state.tolist() == [[G, O]]


@pytest.mark.parametrize("lengths", [[], [0], [3, -1]])
def test_lengths_below_one_are_refused(lengths: list[int]) -> None:
    with pytest.raises(DataError, match="at least 1"):
        Canvas.blank(lengths, SPECIAL)


def test_writing_a_given_token_is_a_bug_and_stops() -> None:
    canvas = Canvas.with_holes([[5, 1]], SPECIAL)
    with pytest.raises(AssertionError):
        canvas.write(torch.tensor([[True, False]]), torch.full((1, 2), 7))


def test_everything_from_the_first_written_eos_on_is_frozen() -> None:
    canvas = Canvas.blank([5], SPECIAL)
    where = torch.tensor([[True, True, False, True, False]])
    tokens = torch.tensor([[7, 2, 0, 8, 0]])
    frozen = canvas.write(where, tokens).freeze_endings()
    # EOS at 1: itself frozen and kept, the blanks and the token behind it gone.
    assert frozen.state.tolist() == [[W, F, F, F, F]]
    assert frozen.ids.tolist() == [[7, 2, 0, 0, 0]]
    assert [row.tolist() for row in frozen.sequences()] == [[7]]


def test_an_eos_in_the_prompt_freezes_nothing() -> None:
    canvas = Canvas.with_holes([[2, 1]], SPECIAL).freeze_endings()
    assert canvas.state.tolist() == [[G, O]]


def test_an_eos_may_stand_behind_the_last_given_token_only_and_never_first() -> None:
    canvas = Canvas.with_holes([[1, 1, 5, 1], [1, 1, 1, 1]], SPECIAL)
    assert canvas.ending_allowed().tolist() == [
        [False, False, False, True],
        [False, True, True, True],
    ]


def test_rows_are_cropped_to_the_longest_that_stays() -> None:
    canvas = Canvas.blank([4, 2], SPECIAL).rows(torch.tensor([False, True]))
    assert canvas.ids.tolist() == [[1, 1]]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=8), min_size=1, max_size=4))
def test_remask_undoes_write_and_touches_nothing_else(rows: list[list[int]]) -> None:
    canvas = Canvas.with_holes(rows, SPECIAL)
    written = canvas.write(canvas.open, torch.full_like(canvas.ids, 9))
    again = written.remask(written.written)
    assert torch.equal(again.ids, canvas.ids)
    assert torch.equal(again.state, canvas.state)
    given_before = canvas.ids[canvas.state == G]
    assert torch.equal(written.ids[canvas.state == G], given_before)


def test_a_hole_of_unknown_length_is_marked_and_its_spare_blanks_are_optional() -> None:
    # Id 9 is nothing. The blank that must be filled (1) comes first, wherever the prompt has it.
    special = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1, 9), nothing=9)
    canvas = Canvas.with_holes([[3, 9, 1, 9, 4], [5, 1]], special)
    assert canvas.ids.tolist() == [[3, 1, 1, 1, 9, 4], [5, 1, 0, 0, 0, 0]]
    assert canvas.state[0].tolist() == [0, 1, 1, 1, 0, 0]
    assert canvas.optional is not None
    assert canvas.optional.long().tolist() == [[0, 0, 1, 1, 0, 0], [0] * 6]
    # A row that wrote one token and nothing twice.
    filled = canvas.write(canvas.open, torch.tensor([[0, 6, 9, 9, 0, 0], [0, 7, 0, 0, 0, 0]]))
    assert [row.tolist() for row in filled.sequences()] == [[3, 6, 4], [5, 7]]


def test_optional_blanks_stay_with_their_rows_and_positions() -> None:
    special = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1, 9), nothing=9)
    canvas = Canvas.with_holes([[5, 1], [3, 9, 9]], special).padded(6)
    assert canvas.optional is not None and canvas.optional.shape == (2, 6)
    kept = canvas.rows(torch.tensor([1])).optional
    assert kept is not None and kept.tolist() == [[False, True, True, False]]
