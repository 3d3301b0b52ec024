"""The loop: who leaves when, and what can never happen on a canvas."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import SPECIAL, Scripted, peaked
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.canvas import Canvas, State
from imadarem.nn import EmaTeacher, RefinementOutput
from imadarem.sampling.loop import Step, StoppingReason, refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import (
    POLICIES,
    AdaptiveGate,
    Ancestral,
    Confidence,
    Decision,
    EntropyThreshold,
    Gate,
    GateInPlace,
    PassView,
    Policy,
    Remask,
)
from imadarem.sampling.settings import SamplingSettings

V = 8


def always(token: int, gate: float = 9.0) -> Scripted:
    """Certain of one token everywhere; the gate's logit is ``gate``."""
    return Scripted(
        lambda ids, call: (peaked(torch.full_like(ids, token), V), torch.full(ids.shape, gate))
    )


def alternating(gate: float = 9.0) -> Scripted:
    """Token 4 in odd calls, 5 in even ones: every redraw changes every token."""
    return Scripted(
        lambda ids, call: (
            peaked(torch.full_like(ids, 4 + (call + 1) % 2), V),
            torch.full(ids.shape, gate),
        )
    )


def run(
    network: Scripted, canvas: Canvas, policy: Policy, steps: int, **more: object
) -> list[Step]:
    seeds = row_seeds(len(canvas), 0)
    teacher = more.pop("teacher", None)
    settings = SamplingSettings(policy=policy, steps=steps, **more)  # type: ignore[arg-type]
    return list(refine(network, canvas, settings, seeds=seeds, teacher=teacher))  # type: ignore[arg-type]


def reasons(records: list[Step]) -> list[str]:
    return [StoppingReason(r).label for r in records[-1].reasons.tolist()]


def test_a_schedule_fills_a_share_in_each_step_and_stops_when_full() -> None:
    records = run(always(4), Canvas.blank([6], SPECIAL), Ancestral(), steps=3)
    assert [int(step.canvas.open.sum()) for step in records] == [4, 2, 0]
    assert reasons(records) == ["filled"]


def test_a_cosine_leaves_more_blanks_than_the_straight_line() -> None:
    # cos 30° · 6 = 5.2, cos 60° · 6 = 3, in the last step none.
    canvas = Canvas.blank([6], SPECIAL)
    for policy in (Ancestral(), Confidence(), Gate(), Remask(eta=1.0)):
        records = run(always(4, gate=-9.0), canvas, policy, steps=3, schedule="cosine")
        assert [int(step.canvas.open.sum()) for step in records] == [5, 3, 0]


def test_a_row_shorter_than_the_steps_takes_no_idle_pass() -> None:
    network = always(4)
    records = run(network, Canvas.blank([2], SPECIAL), Confidence(), steps=10)
    assert network.calls == len(records) == 2


def test_no_flagged_token_ends_the_row_as_settled() -> None:
    # Pass 1 writes all, pass 2 finds every gate below one half.
    network = Scripted(
        lambda ids, call: (peaked(torch.full_like(ids, 4), V), torch.full(ids.shape, -3.0))
    )
    records = run(network, Canvas.blank([5], SPECIAL), GateInPlace(), steps=9)
    assert reasons(records) == ["settled"]
    assert [step.forward_passes for step in records] == [1, 2]


def test_few_changes_end_the_row_as_unchanged() -> None:
    records = run(
        always(4), Canvas.blank([5], SPECIAL), GateInPlace(), steps=9, stop_threshold=0.02
    )
    # Everything is flagged and redrawn in pass 2, but nothing becomes another token.
    assert len(records) == 2
    assert records[-1].changed_fraction.tolist() == [0.0]
    assert reasons(records) == ["unchanged"]


def test_a_sure_row_takes_one_pass_to_fill_and_one_to_judge() -> None:
    canvas = Canvas.blank([6], SPECIAL)
    records = run(always(4, gate=-9.0), canvas, AdaptiveGate(), steps=8)
    assert [int(step.canvas.open.sum()) for step in records] == [0, 0]
    assert reasons(records) == ["settled"]
    assert records[-1].forward_passes == 2
    # The plain gate follows the schedule: one blank a pass, and a seventh pass to judge.
    assert len(run(always(4, gate=-9.0), canvas, Gate(), steps=8)) == 7


def flagging(wrong: int, calls: int) -> Scripted:
    """Certain of token 4; flags position ``wrong`` in the first ``calls`` passes."""

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        gate = torch.full(ids.shape, -9.0)
        gate[:, wrong] = 9.0 if call <= calls else -9.0
        return peaked(torch.full_like(ids, 4), V), gate

    return Scripted(answer)


@pytest.mark.parametrize("stop_threshold", [0.0, 0.9])
def test_a_flagged_token_keeps_a_row_going_however_little_changes(stop_threshold: float) -> None:
    # Pass 1 fills six blanks. Pass 2 takes position 2 back, pass 3 fills it again: 1/6 changed.
    # Pass 4 still flags it, pass 5 fills it, pass 6 flags nothing.
    records = run(
        flagging(2, calls=5), Canvas.blank([6], SPECIAL), AdaptiveGate(), steps=12,
        stop_threshold=stop_threshold,
    )  # fmt: skip
    back = [step.remasked[0].nonzero().flatten().tolist() for step in records]
    assert back == [[], [2], [], [2], [], []]
    # In pass 3 nothing that stood was flagged, but what it wrote had not been judged.
    assert reasons(records) == ["settled"]


def test_a_row_with_a_high_mean_gate_waits_for_the_cap() -> None:
    # A gate of sigmoid(-.4) = .40 flags nothing, and is no content either.
    records = run(always(4, gate=-0.4), Canvas.blank([4], SPECIAL), AdaptiveGate(), steps=5)
    assert reasons(records) == ["max_steps"]
    assert not any(step.remasked.any() for step in records)
    calm = run(
        always(4, gate=-0.4),
        Canvas.blank([4], SPECIAL),
        AdaptiveGate(stop_below_mean_gate=0.5),
        steps=5,
    )
    assert reasons(calm) == ["settled"]


def test_rows_take_as_many_passes_as_each_needs() -> None:
    # Row 0 is of token 4 and certain; row 1 is uniform over 4 to 7 and goes by the schedule.
    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        logits = peaked(torch.full_like(ids, 4), V)
        logits[ids[:, 0] == 6] = peaked(torch.tensor(4), V)[None] * 0.0
        return logits, torch.full(ids.shape, -9.0)

    canvas = Canvas.with_holes([[5, 1, 1, 1, 1], [6, 1, 1, 1, 1]], SPECIAL)
    records = run(Scripted(answer), canvas, AdaptiveGate(gamma=0.1), steps=4)
    ended = {int(row): s.step for s in records for row in s.rows[s.reasons != 0]}
    assert ended == {0: 2, 1: 4}


def test_the_other_policies_stop_below_the_threshold_even_where_the_gate_flags() -> None:
    # What the threshold has always done: all is flagged, redrawn, and nothing changes.
    records = run(
        always(4, gate=9.0), Canvas.blank([5], SPECIAL), GateInPlace(), steps=9, stop_threshold=0.02
    )
    assert (records[-1].gate > 0.5).all()
    assert reasons(records) == ["unchanged"]


def test_the_cap_ends_a_row_that_keeps_changing() -> None:
    records = run(
        alternating(), Canvas.blank([5], SPECIAL), GateInPlace(), steps=4, stop_threshold=0.02
    )
    assert len(records) == 4
    assert reasons(records) == ["max_steps"]


def test_a_blank_left_keeps_a_row_going_however_little_changes() -> None:
    # 100 blanks in 100 steps: 1 % changes per step, below the threshold of 2 %.
    records = run(
        always(4), Canvas.blank([100], SPECIAL), Gate(fraction=0.0), steps=100, stop_threshold=0.02
    )
    assert len(records) == 100
    assert not records[-1].canvas.open.any()


def test_done_rows_leave_the_batch() -> None:
    # Row 0 has one blank and is full after the first pass; row 1 needs three.
    canvas = Canvas.with_holes([[4, 1, 4], [1, 1, 1]], SPECIAL)
    records = run(always(5), canvas, Ancestral(), steps=3)
    assert [step.rows.tolist() for step in records] == [[0, 1], [1], [1]]


def test_the_teacher_judges_the_entropy_mode_and_its_passes_are_counted() -> None:
    student = alternating()
    # The teacher is certain of everything, so after the first draft nothing is uncertain.
    teacher = EmaTeacher(always(4), decay=0.9)
    records = run(
        student, Canvas.blank([3], SPECIAL), EntropyThreshold(0.1), steps=5, teacher=teacher
    )
    assert [step.forward_passes for step in records] == [2, 4]
    assert reasons(records) == ["settled"]
    alone = run(always(4), Canvas.blank([3], SPECIAL), EntropyThreshold(0.1), steps=5)
    assert [step.forward_passes for step in alone] == [1, 2]


def test_an_eos_freezes_the_tail_and_crops_the_canvas() -> None:
    # Position 2 says EOS, all others token 4; the written tail goes, attention ends at 2.
    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        tokens = torch.full_like(ids, 4)
        if ids.shape[1] > 2:
            tokens[:, 2] = SPECIAL.eos or 0
        return peaked(tokens, V), torch.full(ids.shape, 9.0)

    network = Scripted(answer)
    records = run(network, Canvas.blank([6], SPECIAL), GateInPlace(), steps=3)
    first, second = records[0].canvas, records[1].canvas
    assert first.state[0, 2:].tolist() == [State.FROZEN] * 4
    assert second.ids.shape[1] == 2
    assert records[-1].canvas.sequences()[0].tolist() == [4, 4]


def test_a_row_that_ends_at_once_has_changed_nothing_and_is_no_nan() -> None:
    # Token 4 is given and an EOS follows: nothing is left to write, 0 of 0 changed.
    records = run(
        always(SPECIAL.eos or 0), Canvas.with_holes([[4, 1, 1]], SPECIAL), GateInPlace(), steps=3
    )
    assert [step.changed_fraction.tolist() for step in records] == [[1.0], [0.0]]
    assert reasons(records) == ["settled"]


def test_attention_is_masked_only_where_rows_differ() -> None:
    same, mixed = always(4), always(4)
    run(same, Canvas.blank([3, 3], SPECIAL), Ancestral(), steps=1)
    run(mixed, Canvas.blank([3, 2], SPECIAL), Ancestral(), steps=1)
    assert same.masks == [None]
    assert mixed.masks[0] is not None
    assert mixed.masks[0].tolist() == [[True] * 3, [True, True, False]]


@given(
    name=st.sampled_from(sorted(POLICIES)),
    rows=st.lists(
        st.lists(st.sampled_from([1, 4, 5, 6]), min_size=1, max_size=7), min_size=1, max_size=3
    ),
    steps=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    may_end=st.booleans(),
)
def test_what_always_holds(
    name: str, rows: list[list[int]], steps: int, seed: int, may_end: bool
) -> None:
    # A network of noise: another answer at every call.
    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed + call)
        return (
            2 * torch.randn(*ids.shape, V, generator=generator),
            3 * torch.randn(ids.shape, generator=generator),
        )

    canvas = Canvas.with_holes(rows, SPECIAL)
    final = {i: row for i, row in enumerate(rows) if 1 not in row}
    passes = 0
    for step in refine(
        Scripted(answer),
        canvas,
        SamplingSettings(policy=POLICIES[name](), steps=steps, may_end=may_end),
        seeds=row_seeds(len(rows), seed),
    ):
        passes = step.forward_passes
        for i, ids, state, reason in zip(
            step.rows.tolist(), step.canvas.ids, step.canvas.state, step.reasons, strict=True
        ):
            # Given tokens never change; a blank is always open; nothing special is written.
            for position, token in enumerate(rows[i]):
                if token != 1:
                    assert ids[position] == token
                    assert state[position] == State.GIVEN
            assert ((ids == SPECIAL.mask) == (state == State.OPEN)).all()
            assert not torch.isin(ids[state == State.WRITTEN], torch.tensor([0, 1, 2])).any()
            if reason != 0:
                final[i] = step.canvas.rows(step.rows == i).sequences()[0].tolist()
    # Every row ends, within the cap, without a blank; without an EOS it keeps its length.
    assert passes <= steps
    assert set(final) == set(range(len(rows)))
    for i, ids in final.items():
        assert 1 not in ids and len(ids) >= 1
        assert may_end or len(ids) == len(rows[i])


def test_a_row_without_blanks_takes_no_pass() -> None:
    network = always(4)
    assert run(network, Canvas.with_holes([[4, 5]], SPECIAL), Gate(), steps=3) == []
    assert network.calls == 0


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_more_than_one_reason_never_leaves_a_row_running(name: str) -> None:
    records = run(alternating(), Canvas.blank([4, 2, 3], SPECIAL), POLICIES[name](), steps=5)
    done = torch.cat([step.rows[step.reasons != 0] for step in records])
    assert sorted(done.tolist()) == [0, 1, 2]


def test_beliefs_are_passed_on_for_blanks_only_and_follow_their_rows() -> None:
    seen: list[Tensor | None] = []

    class Listening(Scripted):
        def forward(
            self,
            ids: Tensor,
            attention_mask: Tensor | None = None,
            prev_probs: Tensor | None = None,
        ) -> RefinementOutput:
            seen.append(prev_probs)
            return super().forward(ids, attention_mask, prev_probs)

    # Row 0 leaves after the first pass; row 1 has a given token in the middle.
    network = Listening(always(5).answer)
    run(network, Canvas.with_holes([[1, 4, 4], [1, 4, 1]], SPECIAL), Ancestral(), steps=2)
    assert seen[0] is None
    assert seen[1] is not None and seen[1].shape == (1, 3, V)
    # Certain of token 5 where it was blank, nothing where it was given.
    assert seen[1][0, :, 5].tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert seen[1][0, 1].sum() == 0


def test_a_record_that_is_read_late_is_that_of_its_step() -> None:
    # Token 4 in odd passes, 5 in even ones, all but certain: what is read after the run.
    records = run(alternating(), Canvas.blank([3], SPECIAL), GateInPlace(), steps=3)
    assert [step.canvas.ids[0].tolist() for step in records] == [[4] * 3, [5] * 3, [4] * 3]
    for step in records:
        assert step.confidence[0].tolist() == pytest.approx([1.0] * 3)
        assert step.quality.tolist() == pytest.approx([1.0])
        assert step.entropy[0].tolist() == pytest.approx([0.0] * 3)
        assert step.gate[0].tolist() == pytest.approx([1 / (1 + math.exp(-9))] * 3)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = records[0].nonsense


def test_a_policy_is_told_what_each_token_was_drawn_with() -> None:
    # Pass n draws token 4 with probability 1 - 0.1 n, one blank a pass from the left.
    told: list[list[float]] = []

    class LeftToRight:
        refines = uses_teacher = False

        def __call__(self, view: PassView) -> Decision:
            assert view.drawn_with is not None
            told.append(view.drawn_with[0].exp().tolist())
            first = view.open & (view.open.long().cumsum(1) == 1)
            return Decision(first, torch.zeros_like(first))

    def answer(ids: Tensor, call: int) -> tuple[Tensor, Tensor]:
        probs = torch.full((*ids.shape, V), 0.0)
        probs[..., 4], probs[..., 5] = 1 - 0.1 * call, 0.1 * call
        return probs.log(), torch.full(ids.shape, -9.0)

    canvas = Canvas.with_holes([[6, 1, 1, 1]], SPECIAL)
    run(Scripted(answer), canvas, LeftToRight(), steps=3, temperature=0.0)
    expected = [[1.0] * 4, [1.0, 0.9, 1.0, 1.0], [1.0, 0.9, 0.8, 1.0]]
    assert [row == pytest.approx(want) for row, want in zip(told, expected, strict=True)] == [
        True
    ] * 3


class TakesAllBack:
    """Writes every blank and re-masks every written token, in every step."""

    refines, uses_teacher = True, False

    def __call__(self, view: PassView) -> Decision:
        return Decision(view.open, view.written)


class WritesNothing:
    refines, uses_teacher = True, False

    def __call__(self, view: PassView) -> Decision:
        nothing = torch.zeros_like(view.open)
        return Decision(nothing, nothing)


@pytest.mark.parametrize("policy", [TakesAllBack(), WritesNothing()])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_the_last_step_leaves_no_blank_whatever_the_policy_decides(
    policy: Policy, steps: int
) -> None:
    records = run(alternating(), Canvas.blank([5], SPECIAL), policy, steps=steps)
    assert not records[-1].canvas.open.any()
    assert not records[-1].remasked.any()
    assert len(records) == steps


def test_quality_is_the_mean_over_the_tokens_and_the_end_without_what_lies_behind() -> None:
    """Position 1 ends the row: (0.8 + 0.6) / 2; pads behind it have no probability to count."""
    probs = torch.zeros(1, 4, V)
    probs[0, :, 4], probs[0, :, 5] = 0.8, 0.2
    probs[0, 1] = torch.tensor([0, 0, 0.6, 0, 0.4, 0, 0, 0])
    network = Scripted(lambda ids, call: (probs.log(), torch.full(ids.shape, 9.0)))
    records = run(network, Canvas.blank([4], SPECIAL), Ancestral(), steps=1, temperature=0.0)
    assert records[-1].canvas.ids.tolist() == [[4, 2, 0, 0]]
    assert records[-1].quality.tolist() == pytest.approx([0.7])
    # A prompt's given tokens are not the model's, and do not count either.
    canvas = Canvas.with_holes([[5, 1, 5, 5]], SPECIAL)
    records = run(network, canvas, Ancestral(), steps=1, temperature=0.0, may_end=False)
    assert records[-1].quality.tolist() == pytest.approx([1.0])
