"""Holes of unknown length: from the prompt to the output."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import gap_model, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from imadarem.errors import DataError
from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import load_tokenizer
from imadarem.tokenizers.prompts import LONGEST_GAP

MODEL = gap_model()
NOTHING = MODEL.special.nothing


def test_a_gap_is_a_hole_of_up_to_sixteen_tokens_and_bounds_say_otherwise() -> None:
    carbon = MODEL.tokenizer.encode_notation("[C]")
    assert LONGEST_GAP == 16
    assert MODEL.encode_prompt("[C]<gap>") == [*carbon, *[NOTHING] * 16]
    assert MODEL.encode_prompt("<gap:1-3>[C]") == [1, NOTHING, NOTHING, *carbon]
    assert MODEL.encode_prompt("<gap:2-2><mask>") == [1, 1, 1]


@given(st.integers(0, 2**32), st.integers(0, 3), st.integers(1, 6), st.booleans())
def test_a_gap_gets_as_many_tokens_as_its_bounds_allow(
    seed: int, least: int, further: int, stepwise: bool
) -> None:
    prompt = f"[C]<gap:{least}-{least + further}>[O]<mask>"
    carbon, oxygen = MODEL.tokenizer.encode_notation("[C][O]")
    drawn = MODEL.infill([prompt] * 4, seed=seed, steps=3 if stepwise else 1)
    for row in drawn.rows:
        ids = row.ids.tolist()
        assert ids[0] == carbon and oxygen in ids
        # [C], the hole, [O] and one blank that must be filled.
        assert least <= len(ids) - 3 <= least + further
        assert not set(ids) & set(MODEL.special.banned)


def test_both_fewer_and_more_tokens_are_drawn() -> None:
    rows = MODEL.infill(["[C]<gap:0-6>"] * 64, seed=0, steps=1).rows
    lengths = {len(row.ids) - 1 for row in rows}
    assert len(lengths) > 3


def test_a_blank_that_stands_for_one_token_never_stays_empty() -> None:
    rows = MODEL.infill(["[C]<mask><mask><mask>"] * 64, seed=0, steps=1).rows
    assert {len(row.ids) for row in rows} == {4}
    assert {len(row.ids) for row in MODEL.sample(32, length=5, seed=0).rows} == {5}


def test_a_row_with_a_gap_depends_on_its_seed_alone() -> None:
    prompts = ["[C]<gap>[O]", "[C]<mask>", "[C][O]<gap:1-4>[C]"]
    together = MODEL.infill(prompts, seed=3, batch_size=3).texts
    assert MODEL.infill(prompts, seed=3, batch_size=1).texts == together


@pytest.mark.parametrize("text", ["<gap:3>", "<gap:4-2>", "<gap:0-0>", "<gap:a-b>"])
def test_bounds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="Write <gap:3-8>"):
        MODEL.encode_prompt(text)


def test_a_model_without_such_holes_says_so() -> None:
    with pytest.raises(DataError, match="trained without such holes"):
        tiny_model().infill("[C]<gap>")


def test_the_token_for_nothing_is_saved_and_read_again(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    again = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert again.special == MODEL.special and again.config.nothing_token_id == NOTHING
    assert again.infill("[C]<gap>[O]", seed=1).texts == MODEL.infill("[C]<gap>[O]", seed=1).texts
    tokenizer = load_tokenizer(tmp_path)
    assert NOTHING is not None
    assert tokenizer.decode([3, NOTHING]) == tokenizer.decode([3])
