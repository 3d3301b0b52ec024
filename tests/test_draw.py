"""Noise that belongs to a row, and drawing from it."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import SPECIAL
from hypothesis import given
from hypothesis import strategies as st

from imadarem.canvas import Canvas
from imadarem.sampling.draw import draw_tokens, forbid, normalized_entropy
from imadarem.sampling.noise import RowNoise, Stream, row_seeds


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


def test_special_tokens_are_ruled_out_and_the_rest_is_renormalised() -> None:
    canvas = Canvas.blank([2], SPECIAL)
    log_probs = forbid(torch.zeros(1, 2, 6), canvas, may_end=True)
    # Position 0 may not end the row: tokens 3, 4, 5 with 1/3 each; position 1 may: 1/4.
    assert torch.allclose(log_probs[0, 0].exp(), torch.tensor([0, 0, 0, 1, 1, 1]) / 3)
    assert torch.allclose(log_probs[0, 1].exp(), torch.tensor([0, 0, 1, 1, 1, 1]) / 4)
    never = forbid(torch.zeros(1, 2, 6), canvas, may_end=False)
    assert never[0, 1, 2] == -math.inf


def test_forbid_leaves_the_networks_own_logits_alone() -> None:
    logits = torch.zeros(1, 2, 6)
    forbid(logits, Canvas.blank([2], SPECIAL), may_end=True)
    assert (logits == 0).all()


def test_normalised_entropy_of_known_distributions() -> None:
    # Uniform over 8 of 8: 1. Over 2 of 8: ln 2 / ln 8 = 1/3. Certain: 0.
    rows = torch.full((1, 3, 8), -math.inf)
    rows[0, 0] = math.log(1 / 8)
    rows[0, 1, :2] = math.log(1 / 2)
    rows[0, 2, 0] = 0.0
    assert torch.allclose(normalized_entropy(rows), torch.tensor([[1.0, 1 / 3, 0.0]]))
