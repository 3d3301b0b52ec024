"""Mask rates and counts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.corruption import MaskSchedule, choose_masked, masked_counts, stratified_rates
from imadarem.errors import ConfigError


def test_mask_rate_is_one_minus_t_over_k() -> None:
    schedule = MaskSchedule(4)
    assert [schedule.mask_rate(t) for t in (0, 1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert schedule.mask_rate(0.5) == 0.875


@pytest.mark.parametrize("t", [-0.1, 4.1])
def test_time_outside_the_schedule_is_refused(t: float) -> None:
    with pytest.raises(ConfigError, match="legal is 0 to 4"):
        MaskSchedule(4).mask_rate(t)


@given(st.integers(1, 64), st.integers(0, 300))
def test_remaining_falls_to_nothing_and_never_rises(steps: int, total: int) -> None:
    left = [int(MaskSchedule(steps).remaining(s, torch.tensor(total))) for s in range(steps + 1)]
    assert left[0] == total
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)


@given(st.integers(1, 50), st.integers(0, 2**32))
def test_stratified_rates_put_one_in_each_stratum(count: int, seed: int) -> None:
    rates = stratified_rates(count, torch.Generator().manual_seed(seed))
    assert ((rates > 0) & (rates <= 1)).all()
    # Stratum j is (j/n, (j+1)/n]; rounding a hair above the edge keeps exact edges in place.
    strata = torch.ceil(rates * count - 1e-9) - 1
    assert strata.sort().values.tolist() == list(range(count))


def test_grid_rates_lie_on_the_grid() -> None:
    rates = MaskSchedule(3).grid_rates(200, torch.Generator().manual_seed(0))
    assert {round(rate, 6) for rate in rates.tolist()} == {1.0, round(2 / 3, 6), round(1 / 3, 6)}


def test_counts_round_up_and_never_reach_zero() -> None:
    rates = torch.tensor([1e-6, 0.5, 0.51, 1.0], dtype=torch.float64)
    assert masked_counts(rates, torch.tensor([4, 4, 4, 4])).tolist() == [1, 2, 3, 4]


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_exactly_the_count_is_chosen_among_the_eligible(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    eligible = torch.rand(3, 9, generator=generator) < 0.6
    chosen = choose_masked(torch.full((3,), count), eligible, generator)
    assert not (chosen & ~eligible).any()
    assert chosen.sum(1).tolist() == [min(count, n) for n in eligible.sum(1).tolist()]
