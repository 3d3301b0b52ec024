"""Evaluation of puzzles: exact, per token, legal, with Wilson's interval."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.errors import ConfigError, DataError
from imadarem.evaluation.puzzles import evaluate_puzzles, wilson_interval

MASK = 1


def report(inputs, answers, labels, **settings):
    tensors = (torch.tensor(rows) for rows in (inputs, answers, labels))
    return evaluate_puzzles(*tensors, mask_id=MASK, **settings)


def test_shares_are_those_counted_by_hand():
    # Blanks: 2 + 1 + 1. Row 1 all right, row 2 its blank right, row 3 its blank wrong.
    inputs = [[5, 1, 1], [5, 6, 1], [1, 6, 7]]
    labels = [[5, 6, 7], [5, 6, 7], [5, 6, 7]]
    answers = [[5, 6, 7], [5, 6, 7], [6, 6, 7]]
    found = report(inputs, answers, labels)
    assert (found.count, found.exact, found.token_accuracy) == (3, 2 / 3, 3 / 4)
    assert found.legal is None
    assert found.exact_low < 2 / 3 < found.exact_high


def test_a_changed_given_is_not_exact_and_counts_for_no_blank():
    found = report([[5, 1]], [[9, 6]], [[5, 6]])
    assert (found.exact, found.token_accuracy) == (0.0, 1.0)


def test_legal_is_the_share_that_the_verifier_accepts():
    def starts_with_five(inputs, answers):
        return answers[:, 0] == 5

    found = report([[1], [1]], [[5], [6]], [[6], [6]], verify=starts_with_five)
    assert (found.exact, found.legal) == (0.5, 0.5)


def test_without_blanks_there_is_no_token_accuracy():
    assert math.isnan(report([[5]], [[5]], [[5]]).token_accuracy)


def test_wilson_at_nothing_and_at_all():
    # z² = 3.8415: 0 of 10 reaches up to z²/(n + z²) = 3.8415/13.8415 = 0.27754.
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27754), abs=1e-5)
    assert wilson_interval(10, 10) == pytest.approx((1 - 0.27754, 1.0), abs=1e-5)


def test_wilson_in_the_middle():
    # 5 of 10: middle 1/2; half-width z √(1/40 + z²/400) / (1 + z²/10) = .36431 / 1.38415.
    assert wilson_interval(5, 10) == pytest.approx((0.5 - 0.26340, 0.5 + 0.26340), abs=2e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_mirrors(case):
    hits, count = case
    low, high = wilson_interval(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert wilson_interval(count - hits, count) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(hits, count):
    with pytest.raises(ConfigError, match="hits="):
        wilson_interval(hits, count)


def test_shapes_that_differ_are_refused():
    with pytest.raises(DataError, match="must all have one shape"):
        report([[1, 1]], [[1]], [[1, 1]])


def test_no_puzzle_is_refused():
    empty = torch.zeros(0, 3, dtype=torch.long)
    with pytest.raises(DataError, match="no puzzle"):
        evaluate_puzzles(empty, empty, empty, mask_id=MASK)
