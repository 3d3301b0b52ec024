"""Width: candidates of a row, and the choice among them."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from fakes import shaken, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from imadarem.errors import ConfigError
from imadarem.sampling.halting import StoppingReason
from imadarem.sampling.noise import candidate_seeds, row_seeds
from imadarem.sampling.width import SURE_ODDS, accepts, choose

MODEL = shaken(tiny_model(joint_size=6, length_mode="drawn", length_counts=[0, 0, 1, 2, 3, 2, 1]))
JUDGED = shaken(MODEL.with_judge()).eval()


def ids_of(samples) -> list[list[int]]:
    return [row.ids.tolist() for row in samples.rows]


# ---------------------------------------------------------------- seeds and choices


def test_a_row_has_its_own_seed_first_and_others_that_no_row_has() -> None:
    seeds = row_seeds(50, 0)
    found = candidate_seeds(seeds, 4)
    assert found.view(50, 4)[:, 0].equal(seeds)
    assert len(set(found.tolist())) == 200
    assert candidate_seeds(seeds, 1).equal(seeds)
    assert candidate_seeds(seeds[7:8], 4).equal(found[28:32])


# Odds 1 : 3, so the second candidate has 3/4; 4 standard errors of 4,000 draws are 0.027.
def test_candidates_are_drawn_by_their_odds() -> None:
    verdicts = torch.tensor([[0.0, math.log(3.0)]]).expand(4000, 2)
    chosen = choose(verdicts, row_seeds(4000, 1))
    assert chosen.float().mean().item() == pytest.approx(0.75, abs=0.028)
    assert choose(verdicts, row_seeds(4000, 1), most_certain=True).eq(1).all()


def test_a_candidate_that_the_verifier_takes_is_preferred() -> None:
    verdicts = torch.tensor([[9.0, -9.0, 0.0]]).expand(200, 3)
    passes = torch.tensor([[False, True, False]]).expand(200, 3)
    seeds = row_seeds(200, 0)
    for certain in (False, True):
        assert choose(verdicts, seeds, passes=passes, most_certain=certain).eq(1).all()
    # Where it takes none, the verdict decides among all of them.
    nothing = torch.zeros_like(passes)
    assert choose(verdicts, seeds, passes=nothing, most_certain=True).eq(0).all()


# At odds 1 the judge accepts 2 of 3; 4 standard errors of 4,000 draws are 0.03.
def test_a_candidate_is_accepted_in_proportion_to_its_odds() -> None:
    seeds = row_seeds(4000, 1)
    for odds, share in ((1.0, 1 / SURE_ODDS), (0.3, 0.3 / SURE_ODDS), (2 * SURE_ODDS, 1.0)):
        verdicts = torch.full((4000,), math.log(odds))
        accepted = accepts(verdicts, seeds, 0)
        assert accepted.double().mean().item() == pytest.approx(share, abs=0.03)
    first, second = (accepts(torch.zeros(4000), seeds, number) for number in (0, 1))
    assert (first & second).double().mean().item() == pytest.approx(SURE_ODDS**-2, abs=0.03)
    assert not accepts(torch.full((9,), -math.inf), seeds[:9], 0).any()


@given(st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_choice_depends_on_the_row_alone(width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    verdicts, seeds = torch.randn(6, width, generator=generator), row_seeds(6, seed)
    alone = [int(choose(verdicts[i : i + 1], seeds[i : i + 1])) for i in range(6)]
    assert choose(verdicts, seeds).tolist() == alone


# ---------------------------------------------------------------- samples


def test_each_row_is_one_of_its_candidates_in_every_batch() -> None:
    whole = JUDGED.sample(12, seed=3, steps=2, width=3)
    again = JUDGED.sample(12, seed=3, steps=2, width=3, batch_size=1)
    assert ids_of(whole) == ids_of(again)
    part = JUDGED.sample(5, first=7, seed=3, steps=2, width=3)
    assert ids_of(part) == ids_of(whole)[7:]
    # Two passes and one to judge, for each candidate.
    drawn = [row.candidates for row in whole.rows]
    assert whole.forward_passes == [3 * count for count in drawn]
    assert min(drawn) == 1 < max(drawn)
    # Rows that drew fewer than three did so because the judge accepted the last one.
    reasons = {(row.candidates < 3, row.reason == StoppingReason.VERDICT) for row in whole.rows}
    assert (True, False) not in reasons


def test_refused_rows_are_drawn_again_until_the_verifier_takes_them() -> None:
    def has_nitrogen(text: str) -> bool:
        return "N" in text

    once = MODEL.sample(20, seed=3, steps=2)
    again = MODEL.sample(20, seed=3, steps=2, verifier=has_nitrogen, redraws=30)
    assert again.texts == [
        row.texts[0]
        for i in range(20)
        for row in [MODEL.sample(1, first=i, seed=3, steps=2, verifier=has_nitrogen, redraws=30)]
    ]
    assert all("N" in text for text in again)
    assert [len(row.ids) for row in again.rows] == [len(row.ids) for row in once.rows]
    for before, after in zip(once.rows, again.rows, strict=True):
        assert after.forward_passes == 2 * after.candidates
        assert (after.candidates == 1) == (before.ids.tolist() == after.ids.tolist())
    # The candidates of a row that is drawn again are those that a greater width has.
    wide = MODEL.sample(20, seed=3, steps=2, verifier=has_nitrogen, width=31)
    assert ids_of(wide) == ids_of(again)
    # A row that is refused every time stays as drawn first.
    never = MODEL.sample(20, seed=3, steps=2, verifier=lambda text: False, redraws=3)
    assert ids_of(never) == ids_of(once)
    assert {row.candidates for row in never.rows} == {4}
    with pytest.raises(ConfigError, match="redraws=2 needs verifier="):
        MODEL.sample(2, redraws=2)


def test_a_trajectory_is_of_the_row_that_was_kept() -> None:
    samples = MODEL.sample(
        9, seed=3, steps=2, verifier=lambda t: "N" in t, redraws=30, return_trajectory=True
    )
    assert samples.trajectory is not None
    assert [row.text for row in samples.trajectory] == samples.texts


def test_the_verifier_alone_is_enough_to_choose() -> None:
    def has_nitrogen(text: str) -> bool:
        return "N" in text

    plain = MODEL.sample(40, seed=0, steps=1)
    wide = MODEL.sample(40, seed=0, steps=1, width=6, verifier=has_nitrogen)
    taken = [sum(map(has_nitrogen, samples.texts)) for samples in (plain, wide)]
    assert taken[1] > taken[0]
    # A length belongs to its row, and all candidates have it.
    for row, other in zip(plain.rows, wide.rows, strict=True):
        assert len(row.ids) == len(other.ids)


def test_infilling_takes_candidates_too_and_keeps_what_is_given() -> None:
    first = MODEL.special.mask + 2
    rows = JUDGED.infill([[first, 1, 1, first]] * 30, seed=0, width=4, return_trajectory=True)
    assert all(row.ids[0] == first and row.ids[-1] == first for row in rows.rows)
    assert len(Counter(map(tuple, ids_of(rows)))) > 1
    assert rows.trajectory is not None and len(rows.trajectory) == 30


def test_progress_counts_rows() -> None:
    counts: list[int] = []
    JUDGED.sample(10, seed=0, steps=1, width=3, batch_size=4, on_rows=counts.append)
    assert sum(counts) == 10


def test_width_without_anything_that_chooses_is_refused() -> None:
    with pytest.raises(ConfigError, match="width=2 needs something that chooses"):
        MODEL.sample(2, width=2, seed=0)
    with pytest.raises(ConfigError, match="width"):
        JUDGED.sample(2, width=0, seed=0)
