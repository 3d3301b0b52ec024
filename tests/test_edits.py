"""The canvas edits: their invariants, on random canvases through the one loop."""

from __future__ import annotations

import pytest
import torch
from fakes import SPECIAL, Scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.errors import ConfigError
from imadarem.orchestrator.edits import (
    EDITS,
    Append,
    Replace,
    available_edits,
    edit_from_name,
    edit_mask,
    unavailable_edits,
)
from imadarem.sampling.loop import Step, refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import GateInPlace, Policy
from imadarem.sampling.settings import SamplingSettings

V = 8
G, O, W, F, P = State.GIVEN, State.OPEN, State.WRITTEN, State.FROZEN, State.PAD  # noqa: E741


@st.composite
def canvases(draw: st.DrawFn) -> Canvas:
    """Rows of given, open and written positions in any order; some end in an EOS, then padding."""
    width = draw(st.integers(1, 9))
    ids, state = [], []
    for _ in range(draw(st.integers(1, 3))):
        body = draw(st.lists(st.sampled_from([G, O, W]), min_size=1, max_size=width))
        tokens = [SPECIAL.mask if kind == O else draw(st.integers(3, V - 1)) for kind in body]
        rest = width - len(body)
        ends = rest > 0 and draw(st.booleans())
        ids.append(tokens + [SPECIAL.eos] * ends + [SPECIAL.pad] * (rest - ends))
        state.append([*body, *[F] * ends, *[F if ends else P] * (rest - ends)])
    return Canvas(torch.tensor(ids), torch.tensor(state, dtype=torch.uint8), SPECIAL)


def restless(seed: int) -> Scripted:
    """Any token, an EOS among them, is as likely as its noise; the gate flags about half."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        luck = torch.Generator().manual_seed(1000 * seed + call)
        logits = torch.randn(*ids.shape, V, generator=luck)
        return logits, 3 * torch.randn(ids.shape, generator=luck)

    return Scripted(answer)


def run(
    canvas: Canvas, policy: Policy, *, seed: int = 0, steps: int = 4, may_end: bool = True
) -> list[tuple[Canvas, Step]]:
    """Each step with the canvas that it started from, rows and columns aligned."""
    seeds = row_seeds(len(canvas), seed)
    pairs, before = [], canvas.rows(canvas.open.any(dim=1))
    settings = SamplingSettings(policy=policy, steps=steps, may_end=may_end)
    for step in refine(restless(seed), canvas, settings, seeds=seeds):
        pairs.append((before, step))
        before = step.canvas.rows(step.reasons == 0)
    return pairs


def reached(step: Step) -> Tensor:
    """Positions at or before the end of their row: behind a fresh EOS all is cut off."""
    ends = (step.canvas.ids == SPECIAL.eos) & step.refined
    return ends.long().cumsum(dim=1) - ends.long() == 0


def kept(before: Canvas, step: Step) -> Tensor:
    """Positions that are byte for byte as before, id and state."""
    return (step.canvas.ids == before.ids) & (step.canvas.state == before.state)


some = settings(max_examples=20)  # each runs the loop: enough to fail, quick enough to run
anything = given(canvases(), st.integers(0, 99), st.booleans())


@pytest.mark.parametrize("edit", [*EDITS.values(), Append(block=1), Append(block=3)], ids=repr)
@some
@anything
def test_no_edit_touches_what_is_given_frozen_or_padding(edit, canvas, seed, may_end):
    for before, step in run(canvas, edit, seed=seed, may_end=may_end):
        mine = before.open | before.written
        assert not (step.refined & ~mine).any()
        assert not step.remasked.any()
        assert (mine | kept(before, step))[reached(step)].all()
        given = before.state == G
        assert (kept(before, step) | ~given).all()


@some
@anything
def test_replace_rewrites_every_position_that_may_be_written(canvas, seed, may_end):
    for before, step in run(canvas, Replace(), seed=seed, may_end=may_end):
        wanted = (before.open | before.written) & reached(step)
        assert torch.equal(step.refined & reached(step), wanted)
        assert not step.canvas.open.any()


@some
@anything
def test_patch_leaves_every_unflagged_token_byte_for_byte(canvas, seed, may_end):
    for before, step in run(canvas, GateInPlace(), seed=seed, may_end=may_end):
        unflagged = before.written & (step.gate <= 0.5)
        assert (kept(before, step) | ~unflagged)[reached(step)].all()
        wanted = before.open | (before.written & ~unflagged)
        assert torch.equal(step.refined & reached(step), wanted & reached(step))
        assert not step.canvas.open.any()


@some
@given(canvases(), st.integers(0, 99), st.booleans(), st.sampled_from([None, 1, 2, 5]))
def test_append_leaves_the_prefix_and_every_standing_token(canvas, seed, may_end, block):
    for before, step in run(canvas, Append(block), seed=seed, may_end=may_end):
        length = before.open.long().argmax(dim=1, keepdim=True)  # the first blank
        place = torch.arange(before.ids.shape[1])
        # The prefix is whole whatever ends behind it; no mask for a fresh EOS here.
        assert (kept(before, step) | (place >= length)).all()
        assert (kept(before, step) | before.open)[reached(step)].all()
        if block is not None and step.step < 4:
            end = step.canvas.ids == SPECIAL.eos  # the first pass may end the row anywhere
            assert not (step.refined & ~end & (place >= length + block)).any()
        assert step.refined.any(dim=1).all()


@pytest.mark.parametrize("edit", [GateInPlace(), Append(block=2)], ids=repr)
@some
@given(canvases(), st.integers(0, 99))
def test_without_an_ending_nothing_but_the_mask_changes(edit, canvas, seed):
    # No EOS, no cut: what the mask leaves out is as it was, to the last position.
    for before, step in run(canvas, edit, seed=seed, may_end=False):
        assert (kept(before, step) | step.refined).all()


@pytest.mark.parametrize("name", EDITS)
@some
@given(canvases(), st.integers(0, 99))
def test_a_policy_writes_what_the_mask_says(name, canvas, seed):
    for before, step in run(canvas, EDITS[name], seed=seed, steps=1):
        mask = edit_mask(name, before.open, before.written, step.gate)
        assert torch.equal(step.refined & reached(step), mask & reached(step))


def row(*states: State) -> tuple[Tensor, Tensor]:
    state = torch.tensor([states])
    return state == O, state == W


# Gates beside the states: W .9 is flagged, W .5 is not (the rule is "above"), O and G do not ask.
@pytest.mark.parametrize(
    ("name", "block", "expected"),
    [
        ("replace", None, [0, 1, 1, 1, 0, 1, 0]),
        ("patch", None, [0, 1, 0, 1, 0, 1, 0]),
        ("append", None, [0, 0, 0, 1, 0, 1, 0]),
        # Current length 3: block 1 reaches place 3, block 2 the given 4, block 3 place 5.
        ("append", 1, [0, 0, 0, 1, 0, 0, 0]),
        ("append", 2, [0, 0, 0, 1, 0, 0, 0]),
        ("append", 3, [0, 0, 0, 1, 0, 1, 0]),
    ],
)
def test_the_masks_worked_by_hand(name, block, expected):
    open, written = row(G, W, W, O, G, O, F)
    gate = torch.tensor([[0.9, 0.9, 0.5, 0.1, 0.9, 0.9, 0.9]])
    assert edit_mask(name, open, written, gate, block=block).long().tolist() == [expected]


def test_a_row_without_blanks_has_nothing_to_append():
    open, written = row(G, W, W)
    assert not edit_mask("append", open, written, None).any()
    assert not edit_mask("append", open, written, None, block=2).any()


def test_an_unsure_gate_of_nan_flags_nothing():
    open, written = row(W, O)
    gate = torch.full((1, 2), float("nan"))
    assert edit_mask("patch", open, written, gate).tolist() == [[False, True]]


def test_append_writes_block_by_block_and_is_then_filled():
    canvas = Canvas.with_holes([[4, 1, 1, 1, 1, 1]], SPECIAL)
    pairs = run(canvas, Append(block=2), steps=9, may_end=False)
    wrote = [step.refined[0].nonzero().flatten().tolist() for _, step in pairs]
    assert wrote == [[1, 2], [3, 4], [5]]


def test_append_without_a_block_shares_the_blanks_among_the_steps():
    canvas = Canvas.with_holes([[4, 1, 1, 1, 1, 1, 1]], SPECIAL)
    pairs = run(canvas, Append(), steps=3, may_end=False)
    wrote = [step.refined[0].nonzero().flatten().tolist() for _, step in pairs]
    assert wrote == [[1, 2], [3, 4], [5, 6]]


def test_a_length_that_is_fixed_leaves_append_out_and_says_why():
    names = ("append", "replace", "patch")
    assert available_edits(names, length_fixed=True, has_gate=True) == ("replace", "patch")
    assert "length" in unavailable_edits(names, length_fixed=True, has_gate=True)["append"]


def test_a_model_without_a_gate_cannot_patch():
    names = ("patch", "append", "replace")
    assert available_edits(names, length_fixed=False, has_gate=False) == ("append", "replace")
    assert "gate" in unavailable_edits(names, length_fixed=False, has_gate=False)["patch"]
    open, written = row(W, O)
    with pytest.raises(ConfigError, match="no gate"):
        edit_mask("patch", open, written, None)


def test_nothing_left_to_choose_from_is_an_error_with_the_reasons():
    with pytest.raises(ConfigError, match=r"append: .*length.*'replace' can always"):
        available_edits(["append", "patch"], length_fixed=True, has_gate=False)
    with pytest.raises(ConfigError, match="none was named"):
        available_edits([], length_fixed=False, has_gate=True)


def test_an_unknown_edit_names_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "replace"'):
        edit_from_name("replaces")
    with pytest.raises(ConfigError, match='did you mean "patch"'):
        available_edits(["path"], length_fixed=False, has_gate=True)
    with pytest.raises(ConfigError, match="Legal: replace, patch, append"):
        edit_mask("insert", *row(O), None)
    assert edit_from_name("patch") == GateInPlace()


def test_a_block_below_one_is_refused():
    with pytest.raises(ConfigError, match="block=0"):
        Append(block=0)
