"""The joint head: tokens of one pass that are drawn to fit each other."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import SPECIAL, shaken, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.canvas import Canvas
from imadarem.errors import ConfigError
from imadarem.nn.joint import JointHead, gated_recurrence
from imadarem.sampling import joint_draws
from imadarem.sampling.batching import Samples
from imadarem.sampling.best_draws import per_token
from imadarem.sampling.draw import Truncation
from imadarem.sampling.joint_draws import JointDraws, NumpyStepper, TorchStepper
from imadarem.sampling.noise import RowNoise, row_seeds
from imadarem.sampling.policies import LeftToRight
from imadarem.training.objective import Objective


def jointly(seed: int = 0, **given: object) -> ImplicitRefinementModel:
    return shaken(tiny_model(seed, joint_size=6, **given)).eval()


MODEL = jointly()


def ids_of(samples: Samples) -> list[list[int]]:
    return [list(map(int, row.ids)) for row in samples.rows]


def blanks(model: ImplicitRefinementModel, length: int, rows: int = 1) -> Canvas:
    return Canvas.blank([length] * rows, model.special)


def teacher_forced(model: ImplicitRefinementModel, canvas: Canvas, ids: Tensor) -> Tensor:
    logits = model(canvas.ids, targets=ids).joint_logits.float().detach()
    banned = [*model.special.banned, model.special.eos]
    logits[..., banned] = -torch.inf
    return logits.log_softmax(dim=-1)


def test_a_new_head_changes_nothing() -> None:
    model = tiny_model(joint_size=6)
    ids = torch.tensor([[1, 4, 1, 1]])
    output = model(ids, targets=torch.tensor([[5, 4, 3, 6]]))
    torch.testing.assert_close(output.joint_logits, output.logits)


def test_a_token_hears_those_left_of_it_and_no_other() -> None:
    head = JointHead(4, 7, 5, start_id=1)
    torch.nn.init.normal_(head.to_logits.weight)
    state = torch.randn(1, 5, 4)
    before = head(state, torch.tensor([[3, 4, 5, 6, 3]]))
    after = head(state, torch.tensor([[3, 4, 6, 6, 3]]))
    same = (before == after).all(dim=-1)[0].tolist()
    assert same == [True, True, True, False, False]


@given(seed=st.integers(0, 2**32), length=st.integers(1, 8))
def test_drawing_step_by_step_gives_the_logits_of_training_on_what_was_drawn(
    seed: int, length: int
) -> None:
    canvas = blanks(MODEL, length, rows=3)
    noise = RowNoise(row_seeds(3, seed), 1)
    output = MODEL(canvas.ids)
    log_probs, drawn = JointDraws(output.joint, canvas, noise, 1.0, may_end=False).whole()
    at_once = teacher_forced(MODEL, canvas, drawn)
    torch.testing.assert_close(log_probs, at_once, atol=1e-5, rtol=1e-4)


def test_tokens_that_stand_are_heard_in_place_of_what_would_be_drawn_there() -> None:
    canvas = Canvas.with_holes([[1, 4, 1]], MODEL.special)
    output = MODEL(canvas.ids)
    log_probs, drawn = JointDraws(
        output.joint, canvas, RowNoise(row_seeds(1, 0), 1), 0.0, may_end=False
    ).whole()
    standing = torch.tensor([[int(drawn[0, 0]), 4, int(drawn[0, 2])]])
    torch.testing.assert_close(
        log_probs, teacher_forced(MODEL, canvas, standing), atol=1e-5, rtol=1e-4
    )


@pytest.mark.slow
def test_one_pass_samples_have_the_probabilities_of_the_chain() -> None:
    # All strings of two tokens, against 5,000 draws; 4 standard errors each.
    count = 5_000
    canvas = blanks(MODEL, 2)
    tokens = [t for t in range(MODEL.config.vocab_size) if t not in (0, 1, 2)]
    exact = {}
    for pair in itertools.product(tokens, repeat=2):
        log_probs = teacher_forced(MODEL, canvas, torch.tensor([pair]))
        exact[pair] = float(sum(log_probs[0, i, t] for i, t in enumerate(pair)).exp())
    assert sum(exact.values()) == pytest.approx(1.0, abs=1e-4)
    many = blanks(MODEL, 2, rows=count)
    with torch.no_grad():
        output = MODEL(many.ids)
        _, drawn = JointDraws(
            output.joint, many, RowNoise(row_seeds(count, 3), 1), 1.0, may_end=False
        ).whole()
    found = Counter(map(tuple, drawn.tolist()))
    for pair, p in exact.items():
        assert abs(found[pair] / count - p) < 4 * (p * (1 - p) / count) ** 0.5 + 1e-4


def test_each_row_draws_alike_in_any_batch() -> None:
    asked = {"length": 5, "steps": 2, "policy": "left-to-right", "seed": 4}
    assert ids_of(MODEL.sample(6, **asked)) == ids_of(MODEL.sample(6, **asked, batch_size=1))


def test_left_to_right_fills_equal_blocks_from_the_left() -> None:
    trajectory = MODEL.sample(
        1, length=6, steps=3, policy=LeftToRight(), seed=0, return_trajectory=True
    ).trajectory
    assert trajectory is not None
    refined = [[i for i, hit in enumerate(s.refined) if hit] for s in trajectory.rows[0].steps]
    assert refined == [[0, 1], [2, 3], [4, 5]]


@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_it_does_not_matter_in_how_many_parts_one_draws(stops: list[int], seed: int) -> None:
    canvas = Canvas.with_holes([[1, 4, 1, 1, 5], [1, 6, 1, 4, 3]], MODEL.special)
    how = (MODEL(canvas.ids).joint, canvas, RowNoise(row_seeds(2, seed), 1), 1.0, False)
    draws = JointDraws(*how)
    for stop in stops:
        draws.upto(stop)
    for part, whole in zip(draws.upto(5), JointDraws(*how).whole(), strict=True):
        assert part.equal(whole)


# 6 blanks in 3 passes from the left, 2 in each: the head runs to position 2, 4 and 6; where
# a record is looked at, it runs to the end in every pass.
def test_the_head_runs_as_far_as_a_pass_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    step, reached = NumpyStepper.step, []

    def counting(self: NumpyStepper, position: int, previous: np.ndarray) -> np.ndarray:
        reached.append(position)
        return step(self, position, previous)

    monkeypatch.setattr(NumpyStepper, "step", counting)
    asked = {"length": 6, "steps": 3, "policy": "left-to-right", "seed": 0}
    quick = MODEL.sample(5, **asked)
    assert reached == [*range(2), *range(4), *range(6)]
    reached.clear()
    seen = MODEL.sample(5, **asked, on_step=lambda numbers, step: step.entropy)
    assert len(reached) == 18
    assert ids_of(seen) == ids_of(quick)
    assert [row.quality for row in seen.rows] == [row.quality for row in quick.rows]


# float32 on a CPU draws in NumPy, anything else in torch; written tokens that nobody hears, the
# truncation and temperatures included.
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("truncation", [None, Truncation(top_k=3, top_p=0.8)])
@torch.no_grad()
def test_both_ways_to_draw_draw_the_same(
    monkeypatch: pytest.MonkeyPatch, temperature: float, truncation: Truncation | None
) -> None:
    canvas = Canvas.with_holes([[1, 4, 1, 1, 5, 4]] * 20, MODEL.special)
    canvas = canvas.write(canvas.open & (torch.arange(6) == 2), torch.full((20, 6), 3))
    how = (canvas, RowNoise(row_seeds(20, 5), 1), temperature, False, truncation)
    ours = JointDraws(MODEL(canvas.ids).joint, *how).whole()
    monkeypatch.setattr(joint_draws, "steps_in_numpy", lambda joint: False)
    theirs = JointDraws(MODEL(canvas.ids).joint, *how).whole()
    assert ours[1].equal(theirs[1])
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-4)


def test_temperature_0_takes_the_likeliest_token_given_the_left() -> None:
    canvas = blanks(MODEL, 3)
    output = MODEL(canvas.ids)
    log_probs, drawn = JointDraws(
        output.joint, canvas, RowNoise(row_seeds(1, 9), 1), 0.0, may_end=False
    ).whole()
    assert drawn.tolist() == log_probs.argmax(-1).tolist()


def test_the_likeliest_of_several_draws_is_used() -> None:
    prompts = ["[C]<mask><mask>[O]<mask>", "<mask><mask>"] * 6
    how = {"steps": 1, "temperature": 1.0, "policy": "left-to-right", "seed": 3}
    one, several = (MODEL.infill(prompts, best_of=n, **how) for n in (1, 8))
    apart = [MODEL.infill([p], best_of=8, **{**how, "seed": 3}).texts[0] for p in prompts[:2]]
    assert several.texts[:1] == apart[:1]
    assert ids_of(MODEL.infill(prompts, best_of=8, batch_size=5, **how)) == ids_of(several)
    better = chain_log_probs(MODEL, prompts, several) - chain_log_probs(MODEL, prompts, one)
    assert (better >= -1e-5).all() and better.mean() > 0.3
    MODEL.config.infill_best_of = 8
    try:
        assert MODEL.infill(prompts, **how).texts == several.texts
        drafts = {**how, "length": 5}
        assert MODEL.sample(5, **drafts).texts == MODEL.sample(5, best_of=1, **drafts).texts
    finally:
        MODEL.config.infill_best_of = 1


def chain_log_probs(model: ImplicitRefinementModel, prompts: list[str], filled: Samples) -> Tensor:
    """``(N,)``, of the tokens in the blanks given the prompt and all tokens on their left."""
    found = []
    for prompt, row in zip(prompts, filled.rows, strict=True):
        canvas = Canvas.with_holes([model.encode_prompt(prompt)], model.special)
        log_probs = teacher_forced(model, canvas, row.ids[None])
        each = log_probs.gather(-1, row.ids[None, :, None]).squeeze(-1)
        found.append(each[canvas.open].sum())
    return torch.stack(found)


def test_what_is_drawn_behind_an_end_does_not_count() -> None:
    special = replace(SPECIAL, eos=2)
    canvas = Canvas.blank([3, 3], special)
    drawn = torch.tensor([[4, 2, 5], [4, 5, 2]])
    log_probs = torch.tensor([-1.0, -2.0, -4.0]).view(1, 3, 1).expand(2, 3, 8)
    assert per_token(log_probs, drawn, canvas).tolist() == [-3.0 / 2, -7.0 / 3]
    # Nor does *nothing* count as a token.
    canvas = Canvas.blank([3, 3], replace(special, nothing=5))
    assert per_token(log_probs, drawn, canvas).tolist() == [-3.0 / 2, -7.0 / 2]


def test_comparing_draws_needs_a_joint_head() -> None:
    with pytest.raises(ConfigError, match="joint_size=0"):
        tiny_model().sample(1, length=3, best_of=2)
    with pytest.raises(ConfigError, match="best_of='4' must be a whole number"):
        MODEL.sample(1, length=3, best_of="4")
    with pytest.raises(ConfigError, match="infill_best_of=2"):
        replace(tiny_model().config, infill_best_of=2)


def test_no_blank_and_no_ending_out_of_place_is_drawn() -> None:
    samples = jointly(length_mode="eos").sample(64, steps=2, seed=1, temperature=3.0)
    for ids in ids_of(samples):
        assert not set(ids) & {0, 1, 2}


def test_the_loss_trains_the_head_and_the_logits_of_each_blank_by_itself() -> None:
    model = shaken(tiny_model(joint_size=6))
    ids = torch.tensor([[3, 4, 5, 6], [6, 5, 4, 3]])
    terms = model.loss(ids, on_policy_share=0.0, generator=torch.Generator().manual_seed(0))
    terms.total.backward()
    assert model.network.joint is not None
    for parameter in (*model.network.joint.parameters(), model.network.backbone.to_logits.weight):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert terms.total > terms.token


def test_a_head_learns_what_independent_draws_cannot() -> None:
    # Two tokens that must be equal: one pass, half of the vocabulary right by chance.
    def equal_share(**settings: object) -> float:
        model = tiny_model(0, length_mode="drawn", **settings)
        optimizer = torch.optim.AdamW(model.student_parameters(), lr=3e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            token = torch.randint(3, 5, (16, 1), generator=generator)
            model.loss(
                token.expand(-1, 2), on_policy_share=0.0, generator=generator
            ).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        samples = model.eval().sample(200, length=2, steps=1, temperature=1.0, seed=0)
        return sum(first == second for first, second in ids_of(samples)) / 200

    assert equal_share(joint_size=6) > 0.95
    assert equal_share() < 0.7


def test_a_saved_head_comes_back(tmp_path: Path) -> None:
    MODEL.save_pretrained(tmp_path)
    again = ImplicitRefinementModel.from_pretrained(tmp_path)
    assert ids_of(MODEL.sample(3, length=4, seed=0)) == ids_of(again.sample(3, length=4, seed=0))


def test_targets_without_a_head_are_refused() -> None:
    with pytest.raises(ConfigError, match="joint_size > 0"):
        tiny_model()(torch.tensor([[1, 1]]), targets=torch.tensor([[3, 3]]))
    with pytest.raises(ConfigError, match="joint_size=-1"):
        ImplicitRefinementConfig(vocab_size=9, joint_size=-1)


def test_a_suffix_share_of_1_hides_ends_alone() -> None:
    config = ImplicitRefinementConfig(vocab_size=9, length_mode="drawn", max_seq_len=8)
    objective = Objective(config=config, special=SPECIAL, suffix_share=1.0)
    ids = torch.randint(3, 9, (16, 8), generator=torch.Generator().manual_seed(0))
    batch = objective.corrupt(ids, None, torch.Generator().manual_seed(0))
    hidden = batch.canvas.open
    assert hidden[:, -1].all() and (hidden.long().diff(dim=1) >= 0).all()
    with pytest.raises(ConfigError, match="suffix_share=2"):
        Objective(config=config, special=SPECIAL, suffix_share=2)


def test_the_recurrence_is_torchs_own_and_so_is_its_gradient() -> None:
    unit = torch.nn.GRU(5, 4, batch_first=True).double()
    weight_in, weight, bias_in, bias = unit.all_weights[0]
    given = torch.randn(3, 7, 5, dtype=torch.float64)
    wanted, _ = unit(given)
    said = torch.nn.functional.linear(given, weight_in, bias_in).transpose(0, 1)
    found = gated_recurrence(said, weight, bias).transpose(0, 1)
    torch.testing.assert_close(found, wanted)
    inputs = (said.detach().requires_grad_(), weight, bias)
    assert torch.autograd.gradcheck(gated_recurrence, inputs)


def test_rows_that_share_a_state_read_it_as_their_own() -> None:
    head = JointHead(8, 6, 5, start_id=0)
    torch.nn.init.normal_(head.to_logits.weight)
    state, tokens = torch.randn(2, 7, 8), torch.randint(1, 6, (4, 7))
    rows = torch.tensor([1, 0, 1, 1])
    torch.testing.assert_close(head(state, tokens, rows), head(state[rows], tokens))


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("spread", [False, True])
def test_both_steppers_add_the_same_logits(rows: int, spread: bool) -> None:
    joint = MODEL(torch.randint(1, 9, (rows, 5))).joint
    if spread:
        joint, rows = joint.spread(torch.arange(2 * rows) % rows), 2 * rows
    in_numpy, in_torch = NumpyStepper(joint), TorchStepper(joint)
    previous = torch.ones(rows, dtype=torch.int64)
    for position in range(5):
        ours = torch.from_numpy(in_numpy.step(position, previous.numpy()))
        torch.testing.assert_close(ours, in_torch.step(position, previous), atol=1e-5, rtol=1e-4)
        previous = torch.randint(3, 9, (rows,))


@torch.no_grad()
@pytest.mark.parametrize("stepper", [NumpyStepper, TorchStepper])
def test_a_step_rounds_a_row_the_same_in_every_batch(stepper: type) -> None:
    model = shaken(tiny_model(joint_size=256, max_seq_len=16)).eval()
    tokens = torch.randint(3, 9, (16, 85))
    joint = model(torch.full((85, 16), 1)).joint

    def added(rows: int) -> Tensor:
        steps, found = stepper(joint.spread(torch.arange(rows))), []
        for position, previous in enumerate(tokens[:, :rows]):
            given = previous.numpy() if stepper is NumpyStepper else previous
            found.append(torch.as_tensor(steps.step(position, given)).clone())
        return torch.stack(found)

    whole = added(85)
    for rows in (1, 2, 3, 7, 12, 15, 16, 17, 31, 48, 84):
        assert added(rows).equal(whole[:, :rows])
