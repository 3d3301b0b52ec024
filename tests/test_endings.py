"""Where rows end: one law of lengths, whatever the policy."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import SPECIAL, Scripted, shaken, tiny_model
from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.sampling.loop import refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import POLICIES
from imadarem.sampling.settings import SamplingSettings

EOS, VOCAB, WIDTH = 2, 11, 12
#: P(length = n), n = 0 … 11: a quarter each for 2, 4, 6 and 11.
LAW = torch.tensor([0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 1]) / 4


def knows_the_law(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
    """``P(length ≤ i)`` at every blank, given the tokens that are seen; the rest is a guess."""
    positions = torch.arange(ids.shape[1])
    seen = (positions + 1) * (ids > EOS)
    possible = LAW * (torch.arange(len(LAW)) >= seen.amax(dim=1, keepdim=True))
    possible = possible * (torch.arange(len(LAW)) <= ids.shape[1])
    cumulative = (possible.cumsum(1) / possible.sum(1, keepdim=True))[:, : ids.shape[1]]
    probs = ((1 - cumulative) / (VOCAB - 3))[..., None].expand(-1, -1, VOCAB).clone()
    probs[..., :EOS], probs[..., EOS] = 0.0, cumulative
    return probs.log(), torch.zeros(ids.shape)


def lengths(rows: int = 1000, **settings: object) -> Tensor:
    policy = POLICIES[str(settings.pop("policy", "confidence"))]()
    how = SamplingSettings(policy=policy, steps=5, **settings)  # type: ignore[arg-type]
    found = torch.zeros(rows, dtype=torch.long)
    canvas = Canvas.blank([WIDTH] * rows, SPECIAL)
    for step in refine(Scripted(knows_the_law), canvas, how, seeds=row_seeds(rows, 0)):
        found[step.rows] = torch.tensor([len(row) for row in step.canvas.sequences()])
    return found


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_every_policy_keeps_the_lengths_of_the_model(policy: str, temperature: float) -> None:
    drawn = lengths(policy=policy, temperature=temperature).double()
    # Mean 23/4; squares 4, 16, 36 and 121 have the mean 177/4, so the variance is 11.19.
    assert abs(drawn.mean().item() - 5.75) < 2 * math.sqrt(11.19 / len(drawn))
    shares = torch.bincount(drawn.long(), minlength=len(LAW)) / len(drawn)
    assert torch.allclose(shares, LAW, atol=0.05)


def test_at_temperature_zero_rows_have_the_median_length() -> None:
    # P(length ≤ 4) is exactly 1/2, which is not above 1/2: the row ends at the next length.
    assert set(lengths(4, temperature=0.0).tolist()) == {6}


def test_lengths_out_of_bounds_are_ruled_out_and_the_others_keep_their_shares() -> None:
    shares = torch.bincount(lengths(min_length=3, max_length=9)) / 1000
    assert shares.nonzero().flatten().tolist() == [4, 6]
    assert shares[4].item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_free_samples_have_the_lengths_of_the_training_data(policy: str) -> None:
    counts = [0, 0, 30, 0, 10, 0, 0, 0, 60]
    model = shaken(tiny_model(length_mode="eos", length_counts=counts))
    drawn = [len(row.ids) for row in model.sample(400, seed=1, policy=policy, steps=3).rows]
    # Mean .3 · 2 + .1 · 4 + .6 · 8 = 5.8, variance .3 · 4 + .1 · 16 + .6 · 64 - 33.64 = 7.56.
    assert abs(sum(drawn) / 400 - 5.8) < 2 * math.sqrt(7.56 / 400)
    assert set(drawn) == {2, 4, 8}


def test_lengths_that_are_given_are_kept_unless_an_end_is_asked_for() -> None:
    model = shaken(tiny_model(length_mode="eos"))
    with torch.no_grad():
        model.network.backbone.to_logits.bias[model.special.eos] = 30.0
    prompt = "[C][C]" + "<mask>" * 4
    assert len(model.infill(prompt, seed=0).rows[0].ids) == 6
    assert len(model.infill(prompt, seed=0, forbid_end=False).rows[0].ids) == 2
    kept = model.infill(prompt, seed=0, forbid_end=False, min_length=4, max_length=5)
    assert len(kept.rows[0].ids) in (4, 5)
    assert {len(row.ids) for row in model.sample(3, length=5, seed=0).rows} == {5}
    with pytest.raises(ConfigError, match="forbid_end=False"):
        model.infill(prompt, max_length=5)


def test_a_joint_head_ends_rows_within_the_bounds_too() -> None:
    model = shaken(tiny_model(length_mode="eos", joint_size=6))
    bounds = {"min_length": 4, "max_length": 7}
    drawn = {len(row.ids) for row in model.sample(60, seed=0, steps=3, **bounds).rows}
    assert {4} < drawn <= {4, 5, 6, 7}


def test_bounds_choose_among_the_training_lengths() -> None:
    model = tiny_model(length_mode="drawn", length_counts=[0, 1, 1, 1, 0, 1])
    bounded = model.sample(40, seed=0, steps=1, min_length=2, max_length=4)
    assert {len(row.ids) for row in bounded.rows} == {2, 3}
    with pytest.raises(ConfigError, match="they have 1 to 5"):
        model.sample(1, min_length=4, max_length=4)
    with pytest.raises(ConfigError, match="length_mode='drawn'"):
        model.sample(1, forbid_end=False)


def test_suppressed_tokens_are_never_written() -> None:
    model = shaken(tiny_model(length_mode="drawn"))
    carbon = model.tokenizer.encode("C")[0]
    free = model.sample(50, length=6, seed=0)
    assert any(carbon in row.ids for row in free.rows)
    without = model.sample(50, length=6, seed=0, suppress_tokens=[carbon])
    assert not any(carbon in row.ids for row in without.rows)
    with pytest.raises(ConfigError, match="suppress_tokens=99"):
        model.sample(1, length=6, suppress_tokens=[99])
