"""Mask rates and counts."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.config import MASK_SCHEDULES
from imadarem.corruption import (
    Holes,
    choose_masked,
    grid_rates,
    masked_counts,
    stratified_rates,
    with_surplus,
)
from imadarem.errors import ConfigError
from imadarem.sampling.policy import MaskSchedule


def test_mask_rate_is_one_minus_t_over_k() -> None:
    schedule = MaskSchedule(4)
    assert [schedule.mask_rate(t) for t in (0, 1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert schedule.mask_rate(0.5) == 0.875


@pytest.mark.parametrize("t", [-0.1, 4.1])
def test_time_outside_the_schedule_is_refused(t: float) -> None:
    with pytest.raises(ConfigError, match="legal is 0 to 4"):
        MaskSchedule(4).mask_rate(t)


def left(schedule: MaskSchedule, total: int) -> list[int]:
    """Blanks after the steps 0 … K of a row that began with ``total``."""
    counts = (schedule.remaining(s, torch.tensor(total)) for s in range(schedule.steps + 1))
    return [int(count) for count in counts]


@given(st.integers(1, 64), st.integers(0, 300), st.sampled_from(MASK_SCHEDULES))
def test_remaining_falls_to_nothing_and_never_rises(steps: int, total: int, shape: str) -> None:
    counts = left(MaskSchedule(steps, shape), total)
    assert counts[0] == total
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)


def test_the_cosine_fills_few_blanks_at_first_and_many_at_the_end() -> None:
    # cos 30° = .8660, cos 60° = 1/2, cos 90° = 0; in four steps .9239, .7071, .3827, 0.
    assert left(MaskSchedule(3, "cosine"), 100) == [100, 86, 50, 0]
    assert left(MaskSchedule(4, "cosine"), 100) == [100, 92, 70, 38, 0]
    assert left(MaskSchedule(4), 100) == [100, 75, 50, 25, 0]


TINY = Decimal("1e-30")
PI = Decimal("3.14159265358979323846264338327950288419716939937510")


def decimal_cosine(x: Decimal) -> Decimal:
    """Taylor's series."""
    term = total = Decimal(1)
    for n in range(1, 30):
        term *= -x * x / ((2 * n - 1) * (2 * n))
        total += term
    return total


@given(st.integers(1, 64), st.integers(0, 10**9))
def test_the_cosine_rounds_down_exactly(steps: int, total: int) -> None:
    schedule = MaskSchedule(steps, "cosine")
    for step, count in enumerate(left(schedule, total)):
        with localcontext(prec=50):
            exact = total * decimal_cosine(PI * step / (2 * steps))
            # 50 digits of π give 40 of the product; only 0 and halves come closer to a whole.
            assert count <= exact + TINY and exact < count + 1 - TINY


@given(st.integers(1, 64), st.sampled_from(MASK_SCHEDULES), st.data())
def test_masked_and_filled_shares_add_up_to_one(
    steps: int, shape: str, data: st.DataObject
) -> None:
    schedule = MaskSchedule(steps, shape)
    t = data.draw(st.floats(0, steps))
    assert schedule.mask_rate(t) + schedule.filled_rate(t) == pytest.approx(1.0)
    assert schedule.mask_rate(0) == 1.0 and schedule.mask_rate(steps) == 0.0
    # A cosine lies on or above the straight line.
    assert schedule.mask_rate(t) >= MaskSchedule(steps).mask_rate(t) - 1e-12


def test_an_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "cosine"'):
        MaskSchedule(4, "cosin")


def test_a_schedule_of_ones_own_is_a_function_or_a_share_for_each_step() -> None:
    assert left(MaskSchedule(4, lambda share: (1 - share) ** 2), 16) == [16, 9, 4, 1, 0]
    assert left(MaskSchedule(3, [0.1, 0.2, 0.7]), 10) == [10, 9, 7, 0]
    with pytest.raises(ConfigError, match="3 shares"):
        MaskSchedule(3, [0.5, 0.5])
    with pytest.raises(ConfigError, match="gave 2.0"):
        MaskSchedule(3, lambda share: 2.0).mask_rate(1)


@given(st.integers(1, 50), st.integers(0, 2**32))
def test_stratified_rates_put_one_in_each_stratum(count: int, seed: int) -> None:
    rates = stratified_rates(count, torch.Generator().manual_seed(seed))
    assert ((rates > 0) & (rates <= 1)).all()
    # Stratum j is (j/n, (j+1)/n]; rounding a hair above the edge keeps exact edges in place.
    strata = torch.ceil(rates * count - 1e-9) - 1
    assert strata.sort().values.tolist() == list(range(count))


def test_grid_rates_lie_on_the_grid() -> None:
    rates = grid_rates(200, 3, torch.Generator().manual_seed(0))
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


@given(st.integers(0, 2**32), st.booleans())
def test_windows_hide_as_many_positions_as_asked_in_at_most_two_runs(
    seed: int, empty: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (32,), generator=generator)
    counts = 1 + (torch.rand(32, generator=generator) * lengths).long().clamp(max=11)
    counts = counts.minimum(lengths)
    holes = Holes.windows(counts, lengths, generator, empty)
    hidden = holes.hidden(12)
    assert hidden.sum(dim=1).tolist() == counts.tolist()
    assert not hidden[torch.arange(12) >= lengths[:, None]].any()
    starts = hidden & ~torch.nn.functional.pad(hidden[:, :-1], (1, 0))
    assert (starts.sum(dim=1) <= 2).all()
    sizes = (holes.ends - holes.starts)[holes.present]
    assert (sizes >= (0 if empty else 1)).all()
    assert (holes.ends[:, 0] <= holes.starts[:, 1]).all()


def test_windows_stand_everywhere_alike() -> None:
    # One hidden position of 4: each is hidden in a quarter of the rows, ± 4 standard errors.
    rows = 4000
    counts, lengths = torch.ones(rows, dtype=torch.long), torch.full((rows,), 4)
    hidden = Holes.windows(counts, lengths, torch.Generator().manual_seed(0)).hidden(4)
    assert hidden.float().mean(dim=0).tolist() == pytest.approx([0.25] * 4, abs=0.028)


def test_surplus_blanks_and_their_mark_stand_behind_the_tokens_of_a_hole() -> None:
    # Row 0, "3 4 5 6" with the holes "4" and "6": two blanks too many in the first, none in the
    # second, both marked. Row 1, "7 8" of a canvas of 4, is left alone.
    targets = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    hidden = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]]).bool()
    lengths, ends = torch.tensor([4, 2]), torch.tensor([[2, 4], [1, 2]])
    extra = torch.tensor([[3, 1], [0, 0]])
    found, blank, longer = with_surplus(targets, hidden, lengths, ends, extra, nothing=9)
    assert found.tolist() == [[3, 4, 9, 9, 9, 5, 6, 9], [7, 8, 0, 0, 0, 0, 0, 0]]
    assert blank.long().tolist() == [[0, 1, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
    assert longer.tolist() == [8, 2]


@given(st.integers(0, 2**32))
def test_surplus_changes_no_token_and_no_hole(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 11, (16,), generator=generator)
    inside = torch.arange(10) < lengths[:, None]
    targets = torch.randint(3, 9, (16, 10), generator=generator) * inside
    counts = 1 + (torch.rand(16, generator=generator) * lengths).long()
    holes = Holes.windows(counts.minimum(lengths), lengths, generator, empty=True)
    hidden = holes.hidden(10)
    most = torch.randint(0, 6, (16,), generator=generator)
    extra = holes.surplus(most, generator) + holes.present
    assert (extra.sum(dim=1) - holes.present.sum(dim=1) <= most).all()
    found, blank, longer = with_surplus(targets, hidden, lengths, holes.ends, extra, nothing=9)
    for row in range(16):
        told = found[row, : longer[row]]
        tokens = told[told != 9]
        assert tokens.tolist() == targets[row, : lengths[row]].tolist()
        assert blank[row, : longer[row]][told != 9].tolist() == hidden[row, : lengths[row]].tolist()
        marks = (told == 9) & ~blank[row, : longer[row]]
        assert int(marks.sum()) == int((extra[row] > 0).sum())
