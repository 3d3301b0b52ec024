"""Sparse passes: the whole pass where all is asked for, less work and no other rules elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import records, shaken, tiny_model, uneven_model
from hypothesis import given, settings
from hypothesis import strategies as st

from imadarem import ImplicitRefinementModel
from imadarem.canvas import Canvas
from imadarem.cli import run
from imadarem.errors import ConfigError
from imadarem.nn.packed import packed
from imadarem.nn.products import FloatProducts
from imadarem.nn.sparse import Kept, Places, sparse_passes
from imadarem.sampling.engine import refine_all
from imadarem.sampling.policies import FORESEEING, Gate, policy_from_name
from imadarem.sampling.scripted import ScriptedGate
from imadarem.sampling.sparsity import Sparsity
from imadarem.sampling.work import counted


def canvas(refiner: ImplicitRefinementModel, rows: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 9, 8, 7, … attended positions on 9."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(1, refiner.config.vocab_size, (rows, 9), generator=generator)
    return ids, torch.arange(9) < 9 - torch.arange(rows)[:, None]


# ---------------------------------------------------------------- one pass


@torch.no_grad()
@pytest.mark.parametrize(
    "built",
    [
        {},
        {"conv_kernel_size": 5},
        {"conv_kernel_size": 5, "rotary": False},
        {"attention": False, "conv_kernel_size": 3},
        {"positions": False},
        {"self_conditioning": True},
        {"joint_size": 6},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_pass_that_is_asked_for_everything_is_the_whole_pass(built, masked):
    refiner = shaken(tiny_model(**{"conv_kernel_size": 0, **built}))
    ids, inside = canvas(refiner)
    mask = inside if masked else None
    told = torch.rand(*ids.shape, refiner.config.vocab_size).softmax(-1)
    known = told if refiner.config.self_conditioning else None
    whole = packed(refiner)(ids, mask, prev_probs=known)
    sparse = sparse_passes(refiner)
    first = sparse(ids, mask, prev_probs=known)
    # What other tokens left behind must not be seen once every position was asked for again.
    other = sparse(ids.roll(1, dims=0), mask)
    again = sparse(ids, mask, prev_probs=known, kept=other.kept, asked=inside | ~inside)
    read = inside if masked else torch.ones_like(inside)
    for output in (first, again):
        for name in ("logits", "gate_logits"):
            ours, theirs = getattr(output, name)[read], getattr(whole, name)[read]
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_what_is_not_asked_for_stays_as_the_last_pass_said():
    refiner = shaken(tiny_model(conv_kernel_size=3, joint_size=6))
    ids, inside = canvas(refiner)
    sparse = sparse_passes(refiner)
    first = sparse(ids, inside)
    before = [first.logits.clone(), first.gate_logits.clone(), first.joint.inputs.new.clone()]
    changed = ids.clone()
    changed[:, 2] = 3
    asked = torch.zeros_like(inside)
    asked[:, 1:4] = True
    second = sparse(changed, inside, kept=first.kept, asked=asked)
    assert second.logits[~asked].equal(first.logits[~asked])
    assert not second.logits[asked].isclose(first.logits[asked]).all(-1).any()
    # What the first pass gave is not written to: its records may be read later.
    now = [first.logits, first.gate_logits, first.joint.inputs.new]
    assert all(a.equal(b) for a, b in zip(before, now, strict=True))


@torch.no_grad()
def test_a_changed_token_is_heard_by_whoever_is_asked_next():
    refiner = shaken(tiny_model(conv_kernel_size=3))
    ids, _ = canvas(refiner)
    sparse = sparse_passes(refiner)
    changed = ids.clone()
    changed[:, 2] = (ids[:, 2] + 1) % 5 + 3
    only = torch.zeros_like(ids, dtype=torch.bool)
    only[:, 2] = True
    kept = sparse(changed, kept=sparse(ids).kept, asked=only).kept
    far = only.roll(5, dims=1)
    heard = sparse(changed, kept=kept, asked=far)
    deaf = sparse(ids, kept=sparse(ids).kept, asked=far)
    assert not heard.logits[far].isclose(deaf.logits[far], atol=1e-4).all(-1).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 2), st.integers(0, 2**32))
def test_places_are_the_positions_of_the_mask_and_their_neighbours(rows, length, reach, seed):
    generator = torch.Generator().manual_seed(seed)
    attended = torch.rand(rows, length, generator=generator) < 0.8
    where = attended & (torch.rand(rows, length, generator=generator) < 0.5)
    places = Places.of(where, attended, reach)
    named = list(zip(places.rows.tolist(), places.columns.tolist(), strict=True))
    assert set(named) == {tuple(pair) for pair in where.nonzero().tolist()}
    assert where.sum(1).max() <= places.queries < where.sum(1).max() + 8
    if named and places.slots is not None:
        assert len(named) >= 16
        assert (places.slots // places.queries).tolist() == [row for row, _ in named]
        assert len(set(places.slots.tolist())) == len(set(named))
    for offset, numbers in places.neighbours.items():
        for number, (row, column) in zip(numbers.tolist(), named, strict=True):
            there = column + offset
            inside = 0 <= there < length and bool(attended[row, there])
            assert number == (row * length + there if inside else rows * length)


@torch.no_grad()
def test_what_is_kept_of_some_rows_is_what_a_pass_over_them_keeps():
    refiner = shaken(tiny_model(conv_kernel_size=3, joint_size=6))
    ids, _ = canvas(refiner)
    sparse, keep = sparse_passes(refiner), torch.tensor([3, 1])
    part, whole = sparse(ids).kept.rows(keep, 6), sparse(ids[keep]).kept
    for name in ("heard", "told"):
        for ours, theirs in zip(getattr(part, name), getattr(whole, name), strict=True):
            if name == "heard":
                assert not ours[-1].any() and not theirs[-1].any()
                theirs = torch.cat([theirs[:-1].view(2, 9, -1)[:, :6].flatten(0, 1), theirs[-1:]])
                torch.testing.assert_close(ours, theirs)
            else:
                torch.testing.assert_close(ours, theirs[:, :6])
    torch.testing.assert_close(part.logits, whole.logits[:, :6])
    torch.testing.assert_close(part.said.gates, whole.said.gates[:6])


@torch.no_grad()
def test_rows_that_all_stay_are_not_copied():
    kept = sparse_passes(tiny_model().eval())(torch.ones(3, 4, dtype=torch.long)).kept
    assert isinstance(kept, Kept)
    assert kept.rows(torch.arange(3), 4) is kept
    assert kept.rows(torch.tensor([2, 1, 0]), 4) is not kept


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("joint_size", [0, 16])
@pytest.mark.parametrize("mode", ["drawn", "eos"])
@pytest.mark.parametrize("policy", FORESEEING)
def test_every_figure_of_a_row_is_the_same_bit_for_bit_in_every_batch(mode, policy, joint_size):
    refiner = uneven_model(length_mode=mode, joint_size=joint_size)
    whole = records(refiner, 12, seed=3, policy=policy, sparse=True)
    for size in (1, 5):
        assert records(refiner, 12, seed=3, policy=policy, sparse=True, batch_size=size) == whole


@pytest.mark.parametrize("policy", FORESEEING)
def test_no_row_keeps_a_blank_and_no_given_token_changes(policy):
    refiner = uneven_model(joint_size=16, self_conditioning=True)
    prompts = [[4, *[1] * 18, 5], [*[1] * 10, 6, *[1] * 12], [1, 7, 1]]
    filled = refiner.infill(prompts, policy=policy, sparse=True, seed=0)
    for prompt, row in zip(prompts, filled.rows, strict=True):
        for wanted, found in zip(prompt, row.ids.tolist(), strict=True):
            assert found == wanted if wanted != 1 else found >= 2


@pytest.mark.parametrize("policy", ["ancestral", "gate"])
def test_one_pass_has_nothing_to_leave_out(policy):
    refiner = uneven_model(joint_size=16)
    dense = refiner.sample(6, steps=1, policy=policy, seed=0)
    sparse = refiner.sample(6, steps=1, policy=policy, seed=0, sparse=True)
    assert [r.ids.tolist() for r in sparse.rows] == [r.ids.tolist() for r in dense.rows]


def test_a_record_says_the_same_whenever_it_is_read():
    refiner, late, early = uneven_model(joint_size=16), [], []

    def read(step):
        return [getattr(step, name).tolist() for name in ("gate", "entropy", "confidence")]

    refiner.sample(5, policy="gate", sparse=True, seed=0, on_step=lambda _, step: late.append(step))
    refiner.sample(
        5, policy="gate", sparse=True, seed=0, on_step=lambda _, step: early.append(read(step))
    )
    assert [read(step) for step in late] == early


def test_the_default_model_computes_two_positions_a_token_at_most():
    refiner = ImplicitRefinementModel.from_pretrained("default")
    with counted(refiner) as work:
        refiner.sample(64, length=36, seed=0, steps=6, sparse=True)
    assert work.positions <= 2 * 64 * 36
    with counted(refiner) as dense:
        refiner.sample(64, length=36, seed=0, steps=6)
    assert dense.positions > 5 * 64 * 36


def test_a_scripted_gate_reads_what_it_redraws_and_what_changed():
    refiner = uneven_model(stop_threshold=1.0)
    script = ScriptedGate(active=(1.0, 0.5, 0.25), ends=(3, 3))
    with counted(refiner) as work:
        only = Sparsity(reach=0)
        refiner.sample(8, length=40, steps=3, policy=script, sparse=only, seed=0)
    # Once for all rows; every token that was a blank; then at most the half that was redrawn.
    assert 40 + 8 * 40 < work.positions <= 40 + 8 * 40 + 8 * 20


def test_a_gate_foresees_blanks_from_the_left_or_twice_as_many_of_the_surest():
    seen = []

    class Watched(Gate):
        def foresee(self, view):
            found = super().foresee(view)
            seen.append((found & view.open).sum(1) / view.to_fill)
            return found

    for order, share in (("left-to-right", 1), ("confidence", 2)):
        seen.clear()
        policy = Watched(order=order, drop=50.0)
        uneven_model().sample(4, length=40, steps=5, policy=policy, sparse=True, seed=0)
        # The last of them has no more blanks than it fills.
        assert len(seen) == 4
        assert all(bool((ratio == share).all()) for ratio in seen[:-1])


# ---------------------------------------------------------------- its rules


def test_near_positions_are_run_too_and_all_of_them_now_and_then():
    wanted = torch.tensor([[0, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 1]]).bool()
    assert Sparsity(reach=0).asked(wanted, 2).equal(wanted)
    near = torch.tensor([[0, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 1, 1]]).bool()
    rules = Sparsity(reach=1, refresh=3)
    assert rules.asked(wanted, 2).equal(near) and rules.asked(wanted, 4).equal(near)
    assert rules.asked(wanted, 3).all()


def test_a_run_refreshed_in_each_pass_draws_what_a_dense_one_draws():
    refiner = uneven_model(joint_size=16)
    for policy in FORESEEING:
        dense = refiner.sample(12, policy=policy, seed=4)
        fresh = refiner.sample(12, policy=policy, seed=4, sparse=Sparsity(refresh=1))
        assert [r.ids.tolist() for r in fresh.rows] == [r.ids.tolist() for r in dense.rows]


def test_rules_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="reach=-1"):
        Sparsity(reach=-1)
    with pytest.raises(ConfigError, match="refresh=0"):
        Sparsity(refresh=0)


def test_true_stands_for_the_usual_rules():
    assert Sparsity.of(True) == Sparsity() and Sparsity.of(False) is None
    assert Sparsity.of(Sparsity(reach=3)) == Sparsity(reach=3)


# ---------------------------------------------------------------- what it is not for


@pytest.mark.parametrize("policy", ["entropy", "gate-adaptive", "gate-in-place", "entropy-bound"])
def test_a_policy_that_reads_every_token_is_refused_with_the_others_named(policy):
    with pytest.raises(ConfigError, match=r"reads every token.*left-to-right"):
        uneven_model().sample(2, policy=policy, sparse=True, seed=0)


@pytest.mark.parametrize(
    "built", [{"carry": True}, {"halting": True}, {"inner_steps": 2}, {"memory": True}]
)
def test_a_network_that_reads_every_position_is_refused(built):
    with pytest.raises(ConfigError, match=next(iter(built))):
        sparse_passes(tiny_model(**built).eval())


def test_a_question_that_is_asked_anew_in_each_pass_is_refused():
    refiner = uneven_model()
    settings = replace(refiner.sampling_settings(sparse=True), reinject=True)
    canvas = Canvas.blank([4], refiner.special)
    with pytest.raises(ConfigError, match="reinject"):
        refine_all(refiner, canvas, torch.zeros(1, dtype=torch.int64), settings)


def test_a_network_in_double_precision_is_refused():
    with pytest.raises(ConfigError, match="float32"):
        sparse_passes(tiny_model().double().eval())


def test_a_joint_head_that_was_changed_is_refused():
    refiner = tiny_model(joint_size=6).eval()

    class Other(torch.nn.Linear):
        pass

    refiner.joint.to_logits = Other(6, refiner.config.vocab_size, bias=False)
    with pytest.raises(ConfigError, match="joint head"):
        sparse_passes(refiner)


def test_passes_of_other_products_can_be_sparse():
    refiner = shaken(tiny_model(conv_kernel_size=3))
    calls = []

    class Told(FloatProducts):
        def qkv(self, x):
            calls.append(len(x))
            return super().qkv(x)

    from imadarem.nn.packed import Packed

    products = [Told(**vars(FloatProducts.of(block, True))) for block in refiner.blocks]
    sparse_passes(Packed(refiner, products))(torch.ones(4, 5, dtype=torch.long))
    assert calls == [20, 20]


def test_policies_that_foresee_are_those_that_say_so():
    for name in FORESEEING:
        assert hasattr(policy_from_name(name, uneven_model().config), "foresee")
    assert {"gate", "left-to-right", "ancestral", "confidence"} <= set(FORESEEING)


# ---------------------------------------------------------------- where it can be asked for


def test_the_commands_pass_it_on(capsys):
    asked = ["-n", "2", "--policy", "entropy", "--sparse", "--model", "default"]
    for command in ("sample", "evaluate"):
        assert run([command, *asked]) != 0
        assert "EntropyThreshold reads every token" in " ".join(capsys.readouterr().err.split())
    assert run(["evaluate", "--calibration", "--sparse"]) != 0
    assert "--sparse is of sampling" in capsys.readouterr().err
