"""The policies, one forward pass at a time, on logits worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from fakes import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.config import ImplicitRefinementConfig
from imadarem.errors import ConfigError
from imadarem.sampling.draw import normalized_entropy
from imadarem.sampling.noise import RowNoise, Stream, row_seeds
from imadarem.sampling.policies import (
    POLICIES,
    AdaptiveGate,
    Ancestral,
    Blocks,
    Confidence,
    EntropyBound,
    EntropyThreshold,
    Gate,
    GateInPlace,
    Margin,
    PassView,
    Policy,
    Remask,
    policy_from_name,
)
from imadarem.sampling.policy import own_policy


def view(
    open: list[int],
    written: list[int] | None = None,
    *,
    probs: Tensor | None = None,
    gate: list[float] | None = None,
    step: int = 1,
    steps: int = 4,
    remaining: int = 0,
) -> PassView:
    """One row. ``open`` and ``written`` are 0/1 per position; ``probs`` is (L, V)."""
    length = len(open)
    probs = torch.full((length, 4), 0.25) if probs is None else probs
    log_probs = probs.log()[None]
    return PassView(
        step=step,
        steps=steps,
        open=torch.tensor([open]).bool(),
        written=torch.tensor([written or [0] * length]).bool(),
        log_probs=log_probs,
        drawn=log_probs.argmax(-1),
        gate=torch.tensor([gate or [0.0] * length]),
        entropy=normalized_entropy(log_probs),
        remaining=torch.tensor([remaining]),
        noise=RowNoise(row_seeds(1, 0), step),
    )


def uniform_over(*sizes: int, vocab: int = 8) -> Tensor:
    """(L, V) probabilities; position i is uniform over sizes[i] tokens: entropy ln(size)."""
    allowed = torch.arange(vocab) < torch.tensor(sizes)[:, None]
    return allowed / allowed.sum(-1, keepdim=True)


# Entropies ln8, ln2, ln4. Lowest first, sums spent *before* each pick: 0, ln2, 3 ln2.
@pytest.mark.parametrize(
    ("gamma", "committed"),
    [
        (0.0, [False, True, False]),
        (1.5 * math.log(2), [False, True, True]),
        (math.inf, [True, True, True]),
    ],
)
def test_entropy_budget_is_spent_on_the_surest_positions_first(
    gamma: float, committed: list[bool]
) -> None:
    decision = EntropyBound(gamma=gamma)(view([1, 1, 1], probs=uniform_over(8, 2, 4)))
    assert decision.write.tolist() == [committed]


def test_confidence_without_noise_fills_the_likeliest() -> None:
    probs = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.8, 0.2]])
    decision = Confidence(gumbel=0.0)(view([1, 1, 1], probs=probs, remaining=1))
    assert decision.write.tolist() == [[False, True, True]]


def test_margin_ranks_by_the_gap_not_by_the_peak() -> None:
    # Peaks .50 and .45, gaps .02 and .17: margin takes the second, confidence the first.
    probs = torch.tensor([[0.50, 0.48, 0.02], [0.45, 0.28, 0.27]])
    seen = view([1, 1], probs=probs, remaining=1)
    assert Margin()(seen).write.tolist() == [[False, True]]
    assert Confidence(gumbel=0.0)(seen).write.tolist() == [[True, False]]


def test_ancestral_order_is_random_by_seed() -> None:
    seen = replace(view([1] * 6, remaining=3), noise=RowNoise(row_seeds(1, 5), 1))
    first = Ancestral()(seen).write
    assert first.sum() == 3
    others = [
        Ancestral()(replace(seen, noise=RowNoise(row_seeds(1, s), 1))).write for s in range(9)
    ]
    assert any(not torch.equal(first, other) for other in others)


def test_the_literal_gate_redraws_every_flagged_token_and_no_other() -> None:
    seen = view([1, 0, 0, 0], [0, 1, 1, 1], gate=[0.0, 0.51, 0.5, 0.99])
    decision = GateInPlace()(seen)
    # The blank is written whatever its gate; exactly 0.5 is not above 0.5.
    assert decision.write.tolist() == [[True, True, False, True]]
    assert not decision.remask.any()


def test_the_gate_remasks_the_worst_half_of_the_flagged() -> None:
    seen = view(
        [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], gate=[0, 0, 0.6, 0.9, 0.7, 0.2], remaining=2
    )
    decision = Gate(fraction=0.5, gumbel=0.0)(seen)
    # Three flagged, half rounded up is two: 0.9 and 0.7.
    assert decision.remask.tolist() == [[False, False, False, True, True, False]]
    # Two blanks are left after the step, both of them new: the old two are filled.
    assert decision.write.tolist() == [[True, True, False, False, False, False]]


def test_the_gate_never_remasks_more_than_the_schedule_leaves_blank() -> None:
    seen = view([0, 0, 0], [1, 1, 1], gate=[0.9, 0.8, 0.7], remaining=1)
    assert Gate(fraction=1.0)(seen).remask.tolist() == [[True, False, False]]
    last = view([0, 0, 0], [1, 1, 1], gate=[0.9, 0.8, 0.7], remaining=0)
    assert not Gate(fraction=1.0)(last).remask.any()


def test_the_entropy_mode_redraws_above_the_threshold_only() -> None:
    # Normalised entropies over V = 8: 1, 1/3, 0.
    seen = view([0, 0, 0], [1, 1, 1], probs=uniform_over(8, 2, 1))
    assert EntropyThreshold(0.5)(seen).write.tolist() == [[True, False, False]]
    assert EntropyThreshold(0.1)(seen).write.tolist() == [[True, True, False]]


def test_remask_flips_its_coin_with_the_capped_probability() -> None:
    # Step 2 of 4: filled rate 1/4, remaining rate 1/2, so the cap eta = 0.3 decides.
    seen = view([0] * 4000, [1] * 4000, step=2, steps=4, remaining=4000)
    share = Remask(eta=0.3)(seen).remask.double().mean().item()
    assert share == pytest.approx(0.3, abs=0.03)
    # Step 4 of 4: nothing remains to be masked.
    last = view([0] * 50, [1] * 50, step=4, steps=4, remaining=0)
    assert not Remask(eta=1.0)(last).remask.any()


# Entropies ln8, ln2, ln4; the schedule asks for one of three. The budget takes the surest
# whatever it is, and with ln 2 spent it takes the next as well.
@pytest.mark.parametrize(
    ("gamma", "remaining", "written"),
    [
        (0.0, 2, [False, True, False]),
        (1.5 * math.log(2), 2, [False, True, True]),
        (math.inf, 2, [True, True, True]),
        (0.0, 1, [False, True, True]),
        (0.0, 0, [True, True, True]),
    ],
)
def test_the_adaptive_gate_fills_its_budget_and_at_least_the_schedules_share(
    gamma: float, remaining: int, written: list[bool]
) -> None:
    # A drawn token of a position that is uniform over n has probability 1/n: the order of
    # confidence is that of entropy here.
    seen = view([1, 1, 1], probs=uniform_over(8, 2, 4), remaining=remaining)
    assert AdaptiveGate(gamma=gamma, gumbel=0.0)(seen).write.tolist() == [written]


def test_the_adaptive_gate_remasks_as_the_gate_does() -> None:
    gate = [0, 0, 0.6, 0.9, 0.7, 0.2]
    seen = view([1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], gate=gate, remaining=2)
    decision = AdaptiveGate(gamma=0.0, gumbel=0.0)(seen)
    assert torch.equal(decision.remask, Gate(gumbel=0.0)(seen).remask)
    assert torch.equal(decision.write, Gate(gumbel=0.0)(seen).write)


def test_a_flagged_token_goes_back_while_a_step_is_left() -> None:
    # The schedule leaves no blank in a row of three from step 6 of 9 on; the plain gate
    # then cannot re-mask, the adaptive one can until the last step.
    seen = view([0, 0, 0], [1, 1, 1], gate=[0.6, 0.9, 0.1], step=7, steps=9, remaining=0)
    assert not Gate()(seen).remask.any()
    assert AdaptiveGate()(seen).remask.tolist() == [[False, True, False]]
    assert not AdaptiveGate()(replace(seen, step=9)).remask.any()


@pytest.mark.parametrize(
    ("gate", "held"),
    [
        ([0.1, 0.2, 0.3], False),  # none flagged, mean 0.2
        ([0.0, 0.0, 0.51], True),  # one flagged, mean 0.17
        ([0.5, 0.4, 0.3], True),  # none flagged, mean 0.4
        ([0.3, 0.3, 0.3], True),  # the mean must be below 0.3
    ],
)
def test_a_row_is_held_by_a_flag_or_by_the_mean_gate(gate: list[float], held: bool) -> None:
    seen = view([0, 0, 0, 0], [1, 1, 1, 0], gate=[*gate, 0.99])
    # The fourth position is given: its gate counts for nothing.
    decision = AdaptiveGate(stop_below_mean_gate=float(torch.tensor(0.3)))(seen)
    assert decision.hold is not None and decision.hold.tolist() == [held]


def test_a_token_that_was_just_written_holds_its_row_until_it_is_judged() -> None:
    seen = view([1, 0], [0, 1], gate=[0.0, 0.1])
    decision = AdaptiveGate()(seen)
    assert decision.hold is not None and decision.hold.tolist() == [True]


def test_the_coin_of_remask_follows_the_schedule() -> None:
    seen = view([0] * 4000, [1] * 4000, step=5, steps=6, remaining=4000)
    # Linear: (1 - 5/6) / (4/6) = 1/4. Cosine: cos 75° / (1 - cos 60°) = .2588 / .5 = .518.
    assert Remask(eta=1.0)(seen).remask.double().mean().item() == pytest.approx(0.25, abs=0.03)
    cosine = replace(seen, schedule="cosine")
    assert Remask(eta=1.0)(cosine).remask.double().mean().item() == pytest.approx(0.518, abs=0.03)


@given(
    name=st.sampled_from(sorted(POLICIES)),
    cells=st.lists(st.sampled_from(["open", "written", "given"]), min_size=1, max_size=10),
    step=st.integers(1, 5),
    data=st.data(),
)
def test_every_policy_keeps_within_its_rights(
    name: str, cells: list[str], step: int, data: st.DataObject
) -> None:
    gates = data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(cells), max_size=len(cells)))
    writable = sum(cell != "given" for cell in cells)
    seen = view(
        [cell == "open" for cell in cells],
        [cell == "written" for cell in cells],
        gate=gates,
        step=step,
        steps=5,
        remaining=writable * (5 - step) // 5,
    )
    decision = POLICIES[name]()(seen)
    assert not (decision.write & ~(seen.open | seen.written)).any()
    assert not (decision.remask & ~seen.written).any()
    assert not (decision.write & decision.remask).any()
    # No pass is idle while something is blank.
    assert decision.write.any() or not seen.open.any()
    # A token whose gate is at most 0.5 is never touched by the gate's policies.
    if name.startswith("gate"):
        calm = seen.written & (seen.gate <= 0.5)
        assert not (calm & (decision.write | decision.remask)).any()


def test_names_become_policies_with_the_settings_of_the_model() -> None:
    config = ImplicitRefinementConfig(vocab_size=9, min_refine_uncertainty=0.3)
    assert own_policy(config) == Gate(fraction=0.5)
    assert policy_from_name("entropy", config) == EntropyThreshold(0.3)
    adaptive = policy_from_name("gate-adaptive", replace(config, refine_fraction=0.2))
    assert adaptive == AdaptiveGate(fraction=0.2)
    assert own_policy(replace(config, use_refine_gate=False)) == EntropyThreshold(0.3)
    assert own_policy(replace(config, refine_fraction=1.0)) == GateInPlace()


def test_an_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='did you mean "ancestral"'):
        policy_from_name("ancestrl", ImplicitRefinementConfig(vocab_size=9))


@pytest.mark.parametrize(
    "build",
    [
        lambda: EntropyBound(gamma=-1.0),
        lambda: EntropyBound(gamma=math.nan),
        lambda: Gate(fraction=1.1),
        lambda: AdaptiveGate(gamma=-0.1),
        lambda: AdaptiveGate(fraction=0.0),
        lambda: AdaptiveGate(stop_below_mean_gate=0.0),
        lambda: AdaptiveGate(gumbel=math.inf),
        lambda: Confidence(gumbel=-1.0),
        lambda: Remask(eta=2.0),
        lambda: EntropyThreshold(1.5),
    ],
)
def test_settings_of_a_policy_are_checked(build: object) -> None:
    with pytest.raises(ConfigError):
        build()  # type: ignore[operator]


def test_every_policy_keeps_the_protocol() -> None:
    policies: list[Policy] = [kind() for kind in POLICIES.values()]
    assert {p.uses_teacher for p in policies} == {True, False}


def test_a_token_that_was_rare_when_it_was_drawn_is_no_mistake() -> None:
    # Gate 0.9 leaves a tenth. Drawn with 0.8 that is a loss of ln 8 = 2.08 nats; drawn with 0.1,
    # none; drawn with 0.25, ln 2.5 = 0.92. The fourth is below 0.5, whatever it lost.
    seen = replace(
        view([0, 0, 0, 0], [1, 1, 1, 1], gate=[0.9, 0.9, 0.9, 0.45], remaining=4),
        drawn_with=torch.tensor([[0.8, 0.1, 0.25, 1.0]]).log(),
    )

    def remasked(drop: float | None) -> list[bool]:
        return Gate(fraction=1.0, drop=drop)(seen).remask.tolist()[0]

    assert remasked(1.0) == [True, False, False, False]
    assert remasked(0.5) == [True, False, True, False]
    assert remasked(None) == [True, True, True, False]


def test_the_worst_is_what_lost_most() -> None:
    # Losses ln(0.3/0.1) = 1.10 and ln(0.9/0.2) = 1.50, though the first has the higher gate.
    seen = replace(
        view([0, 0], [1, 1], gate=[0.9, 0.8], remaining=1),
        drawn_with=torch.tensor([[0.3, 0.9]]).log(),
    )
    assert Gate()(seen).remask.tolist() == [[False, True]]
    assert Gate(drop=None)(seen).remask.tolist() == [[True, False]]


@pytest.mark.parametrize("drop", [-0.1, math.inf, math.nan])
def test_the_drop_is_a_number_of_nats(drop: float) -> None:
    with pytest.raises(ConfigError, match="drop"):
        Gate(drop=drop)


def test_a_joint_heads_gate_fills_from_the_left_and_flags_what_lost_three_nats() -> None:
    joint = policy_from_name("gate", ImplicitRefinementConfig(vocab_size=9, joint_size=4))
    plain = own_policy(ImplicitRefinementConfig(vocab_size=9))
    assert joint == Gate(fraction=0.5, drop=3.0, order="left-to-right")
    assert plain == Gate(fraction=0.5, drop=1.0, order="confidence")
    with pytest.raises(ConfigError, match="left-to-right"):
        Gate(order="leftmost")


@pytest.mark.parametrize("policy", [Confidence(gumbel=1.0), Gate(gumbel=1.0)])
def test_gumbel_noise_falls_linearly_to_nothing(policy: Policy) -> None:
    """Of two blanks the noise prefers one, by g, and the confidence the other, by 0.45 g.

    The noise of step s of 10 weighs 1 - s / 10: it wins while that is above 0.45, up to step 5.
    """
    for step in range(1, 11):
        asked = view([1, 1], step=step, steps=10, remaining=1)
        noise = asked.noise.gumbel(Stream.ORDER, 2)[0]
        noisy, gap = int(noise.argmax()), float(noise.max() - noise.min())
        log_probs = torch.full((1, 2, 2), -math.inf, dtype=torch.float64)
        log_probs[0, :, 0] = torch.where(torch.arange(2) == noisy, -1.0 - 0.45 * gap, -1.0)
        asked = replace(asked, log_probs=log_probs, drawn=torch.zeros(1, 2, dtype=torch.long))
        picked = int(policy(asked).write[0].long().argmax())
        assert picked == (noisy if step <= 5 else 1 - noisy), step


def test_blocks_are_filled_one_after_the_other_in_several_passes() -> None:
    # Ten blanks in two blocks and four steps: positions 0-4 in two passes, then 5-9 in two.
    model = tiny_model(length_mode="drawn")
    found = model.analyze_refinement_trajectory(
        n=1, length=10, steps=4, seed=0, policy=Blocks(count=2)
    )
    written = [[i for i, yes in enumerate(step.refined) if yes] for step in found[0].steps]
    assert [len(step) for step in written] == [3, 2, 3, 2]
    assert sorted(written[0] + written[1]) == [0, 1, 2, 3, 4]
    assert sorted(written[2] + written[3]) == [5, 6, 7, 8, 9]
