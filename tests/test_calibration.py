"""AUROC and ECE, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.evaluation.calibration import area_under_roc, expected_calibration_error


def test_area_counts_ordered_pairs_and_half_of_the_ties() -> None:
    # Positives .8 and .4, negatives .4 and .1: pairs 1, 1, 1/2, 1 of 4.
    scores = torch.tensor([0.8, 0.4, 0.4, 0.1])
    labels = torch.tensor([True, True, False, False])
    assert area_under_roc(scores, labels) == pytest.approx(3.5 / 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_area_equals_the_count_over_all_pairs(cases: list[tuple[int, bool]]) -> None:
    positives = [s for s, y in cases if y]
    negatives = [s for s, y in cases if not y]
    area = area_under_roc(torch.tensor([s for s, _ in cases]), torch.tensor([y for _, y in cases]))
    if not positives or not negatives:
        assert math.isnan(area)
        return
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert area == pytest.approx(sum(pairs) / len(pairs))


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    # Two bins. Below 1/2: mean .2, one of two right (gap .3). Above: mean .9, all (gap .1).
    probs = torch.tensor([0.1, 0.3, 0.9, 0.9])
    labels = torch.tensor([True, False, True, True])
    error = expected_calibration_error(probs, labels, bins=2)
    assert error == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)


def test_a_calibrated_forecast_has_no_error() -> None:
    probs = torch.full((10,), 0.3)
    assert expected_calibration_error(probs, torch.arange(10) < 3) == pytest.approx(0.0, abs=1e-7)


def test_certainty_falls_into_the_last_bin() -> None:
    assert expected_calibration_error(torch.ones(3), torch.ones(3).bool()) == 0.0
