"""Noise that belongs to a row, and drawing from it."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import SPECIAL
from hypothesis import given
from hypothesis import strategies as st

from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.sampling.draw import Truncation, normalized_entropy
from imadarem.sampling.noise import RowNoise, Stream, _on_cpu, _on_device, row_seeds
from imadarem.sampling.passes import draw_tokens


def splitmix64(x: int) -> int:
    """The finaliser in whole Python numbers, as published."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 100), st.integers(0, 20))
def test_noise_equals_the_published_hash_in_whole_numbers(seed: int, step: int, at: int) -> None:
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    stream = (step * len(Stream) + Stream.ORDER) * golden
    key = splitmix64((splitmix64((seed + golden) & mask) + stream) & mask)
    bits = splitmix64((key + (at + 1) * golden) & mask)
    expected = ((bits >> 11) + 0.5) * 2.0**-53
    noise = RowNoise(torch.tensor([seed]), step).uniform(Stream.ORDER, at + 1)
    assert noise[0, at].item() == expected


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 70),
)
def test_noise_is_the_same_on_every_device(seeds: list[int], salt: int, length: int) -> None:
    rows = torch.tensor(seeds, dtype=torch.int64)
    here = torch.from_numpy(_on_cpu(rows.numpy(), salt, length))
    assert here.equal(_on_device(rows, salt, length))


@given(st.integers(0, 2**63 - 1), st.integers(1, 9))
def test_a_rows_noise_does_not_depend_on_its_neighbours(seed: int, length: int) -> None:
    alone = RowNoise(torch.tensor([seed]), 3).uniform(Stream.TOKEN, length)
    crowd = RowNoise(torch.tensor([1, seed, 2]), 3).uniform(Stream.TOKEN, length + 4)
    assert torch.equal(alone[0], crowd[1, :length])


def test_noise_is_uniform_and_streams_and_steps_are_unrelated() -> None:
    seeds = row_seeds(400, seed=0)
    streams = [RowNoise(seeds, s).uniform(k, 100).flatten() for s in (1, 2) for k in Stream]
    for values in streams:
        # 40,000 uniforms: the mean's standard error is 0.0014, the tails are 5 sigma.
        assert abs(values.mean().item() - 0.5) < 0.0072
        assert 0 < values.min() and values.max() < 1
    correlation = torch.corrcoef(torch.stack(streams)) - torch.eye(len(streams))
    assert correlation.abs().max() < 0.03


@given(st.integers(0, 1000))
def test_run_seeds_share_no_row(seed: int) -> None:
    first, second = row_seeds(50, seed), row_seeds(50, seed + 1)
    assert len(set(first.tolist() + second.tolist())) == 100


def test_more_rows_keep_the_first_ones() -> None:
    assert torch.equal(row_seeds(3, 7), row_seeds(5, 7)[:3])


def test_tokens_are_drawn_with_their_probabilities() -> None:
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    noise = RowNoise(row_seeds(300, 0), 1)
    tokens = draw_tokens(probs.log().expand(300, 100, 4), noise, temperature=1.0)
    counts = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    assert counts[1] == 0
    # 30,000 draws: standard error at most 0.0029.
    assert torch.allclose(counts, probs, atol=0.012)


def test_temperature_zero_takes_the_likeliest_and_a_high_one_flattens() -> None:
    log_probs = torch.tensor([0.7, 0.3]).log().expand(200, 50, 2)
    noise = RowNoise(row_seeds(200, 0), 1)
    assert (draw_tokens(log_probs, noise, 0.0) == 0).all()
    # At T = 2: sqrt(.7) / (sqrt(.7) + sqrt(.3)) = 0.604.
    share = (draw_tokens(log_probs, noise, 2.0) == 0).double().mean().item()
    assert share == pytest.approx(0.604, abs=0.025)


def test_parallel_endings_have_exactly_the_models_lengths() -> None:
    # p_i(EOS) = P(length <= i): lengths 1, 2, 3 with probabilities .2, .5, .3. Independent
    # draws would end at length 1 with .2, but at length 2 with .8 * .7 = .56.
    cdf = torch.tensor([0.0, 0.2, 0.7, 1.0])
    probs = torch.zeros(2000, 4, 4)
    probs[..., 2], probs[..., 3] = cdf, 1 - cdf
    tokens = draw_tokens(probs.log(), RowNoise(row_seeds(2000, 0), 1), 1.0, eos=2)
    lengths = (tokens == 2).double().argmax(dim=1)
    shares = torch.bincount(lengths, minlength=4) / 2000
    assert torch.allclose(shares, torch.tensor([0.0, 0.2, 0.5, 0.3]), atol=0.045)


# Ranked .4 (id 3), .3 (1), .2 (0), .1 (2): running sums .4, .7, .9, 1. Of the two likeliest,
# .4 / .7 = .571 is the share of the first.
@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        (Truncation(top_k=1), {3}),
        (Truncation(top_k=3), {3, 1, 0}),
        (Truncation(top_k=9), {3, 1, 0, 2}),
        (Truncation(top_p=0.1), {3}),
        (Truncation(top_p=0.5), {3, 1}),
        (Truncation(top_p=0.8), {3, 1, 0}),
        (Truncation(top_p=1.0), {3, 1, 0, 2}),
        (Truncation(top_k=2, top_p=0.5), {3}),
        (Truncation(top_k=2, top_p=0.6), {3, 1}),
        (Truncation(), {3, 1, 0, 2}),
    ],
)
def test_what_is_kept_is_drawn_in_its_old_proportions(
    truncation: Truncation, kept: set[int]
) -> None:
    probs = torch.tensor([0.2, 0.3, 0.1, 0.4])
    noise = RowNoise(row_seeds(200, 0), 1)
    tokens = draw_tokens(probs.log().expand(200, 100, 4), noise, 1.0, truncation=truncation)
    counts = torch.bincount(tokens.flatten(), minlength=4) / tokens.numel()
    expected = torch.tensor([p if i in kept else 0.0 for i, p in enumerate(probs.tolist())])
    assert {i for i in range(4) if counts[i] > 0} == kept
    # 20,000 draws: standard error at most 0.0035.
    assert torch.allclose(counts, expected / expected.sum(), atol=0.015)


def test_ties_are_cut_by_id_so_that_the_count_is_exact() -> None:
    # Four equal tokens. Half of the mass is two of them; 0.5 is reached, so no third.
    weights = torch.full((4,), 0.25, dtype=torch.float64)
    assert Truncation(top_k=2)(weights).nonzero().flatten().tolist() == [0, 1]
    assert Truncation(top_p=0.5)(weights).nonzero().flatten().tolist() == [0, 1]
    assert Truncation(top_p=0.51)(weights).nonzero().flatten().tolist() == [0, 1, 2]


def test_the_nucleus_is_taken_after_the_temperature() -> None:
    # .7 and .3 become .604 and .396 at temperature 2, so 0.65 takes both; at 1 the first alone.
    log_probs = torch.tensor([0.7, 0.3]).log().expand(50, 40, 2)
    noise = RowNoise(row_seeds(50, 0), 1)
    nucleus = Truncation(top_p=0.65)
    assert (draw_tokens(log_probs, noise, 1.0, truncation=nucleus) == 0).all()
    assert (draw_tokens(log_probs, noise, 2.0, truncation=nucleus) == 1).any()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any),
    st.none() | st.integers(1, 14),
    st.none() | st.floats(0, 1, exclude_min=True),
)
def test_the_kept_tokens_are_the_fewest_likeliest_that_suffice(
    numbers: list[int], top_k: int | None, top_p: float | None
) -> None:
    weights = torch.tensor(numbers, dtype=torch.float64)
    kept = Truncation(top_k=top_k, top_p=top_p)(weights)
    alive = kept > 0
    assert alive.any()
    assert torch.equal(kept[alive], weights[alive])
    # No token that was cut is likelier than one that was kept.
    assert weights[~alive].max() <= kept[alive].min() if (~alive).any() else True
    best = sorted((n for n in numbers if n), reverse=True)[:top_k]
    count = int(alive.sum())
    if top_p is None:
        assert count == len(best)
    else:
        # Whole numbers add up exactly, so these comparisons have no slack but the product's.
        assert sum(best[: count - 1]) < top_p * sum(best) * (1 + 1e-12)
        assert sum(best[:count]) >= top_p * sum(best) * (1 - 1e-12)


def test_truncation_leaves_the_lengths_alone() -> None:
    # As above: lengths 1, 2, 3 with probabilities .2, .5, .3, from an EOS that is never among
    # the likeliest two at position 1.
    cdf = torch.tensor([0.0, 0.2, 0.7, 1.0])
    probs = torch.zeros(2000, 4, 5)
    probs[..., 2], probs[..., 3], probs[..., 4] = cdf, 0.6 * (1 - cdf), 0.4 * (1 - cdf)
    noise = RowNoise(row_seeds(2000, 0), 1)
    cut = Truncation(top_k=1, top_p=0.5)
    plain, truncated = (draw_tokens(probs.log(), noise, 1.0, 2, t) for t in (None, cut))
    assert torch.equal(plain == 2, truncated == 2)
    # Where the row goes on, the likeliest token stands.
    assert set(truncated[truncated != 2].tolist()) == {3}
    assert set(plain[plain != 2].tolist()) == {3, 4}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_k": True}, "top_k=True"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": math.nan}, "top_p=nan"),
    ],
)
def test_a_truncation_out_of_range_is_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Truncation(**settings)  # type: ignore[arg-type]


def test_special_tokens_are_ruled_out_and_the_rest_is_renormalised() -> None:
    canvas = Canvas.blank([2], SPECIAL)
    log_probs = canvas.log_probs(torch.zeros(1, 2, 6), may_end=True)
    # Position 0 may not end the row: tokens 3, 4, 5 with 1/3 each; position 1 may: 1/4.
    assert torch.allclose(log_probs[0, 0].exp(), torch.tensor([0, 0, 0, 1, 1, 1]) / 3)
    assert torch.allclose(log_probs[0, 1].exp(), torch.tensor([0, 0, 1, 1, 1, 1]) / 4)
    never = canvas.log_probs(torch.zeros(1, 2, 6), may_end=False)
    assert never[0, 1, 2] == -math.inf


def test_forbid_leaves_the_networks_own_logits_alone() -> None:
    logits = torch.zeros(1, 2, 6)
    Canvas.blank([2], SPECIAL).log_probs(logits, may_end=True)
    assert (logits == 0).all()


def test_normalised_entropy_of_known_distributions() -> None:
    # Uniform over 8 of 8: 1. Over 2 of 8: ln 2 / ln 8 = 1/3. Certain: 0.
    rows = torch.full((1, 3, 8), -math.inf)
    rows[0, 0] = math.log(1 / 8)
    rows[0, 1, :2] = math.log(1 / 2)
    rows[0, 2, 0] = 0.0
    assert torch.allclose(normalized_entropy(rows), torch.tensor([[1.0, 1 / 3, 0.0]]))
