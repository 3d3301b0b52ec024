"""The loop as an unrolled network meets it: the question in every pass, and halting per row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fakes import SPECIAL, grid_model, peaked, shaken, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from imadarem.canvas import Canvas
from imadarem.model import ImplicitRefinementModel
from imadarem.nn import RefinementOutput
from imadarem.orchestrator.batch import Question
from imadarem.orchestrator.edits import Append, Replace, edit_mask
from imadarem.orchestrator.inference import ChosenEdit
from imadarem.orchestrator.memory import Recall
from imadarem.orchestrator.unroll import StepOutput, UnrollState, take_step
from imadarem.sampling.batching import Refined, refine_all
from imadarem.sampling.halting import Halting
from imadarem.sampling.loop import Step, StoppingReason, refine
from imadarem.sampling.noise import row_seeds
from imadarem.sampling.policies import Ancestral, GateInPlace, Policy
from imadarem.sampling.settings import SamplingSettings

V = 10


@dataclass
class Pass:
    """What the network was given in one pass."""

    ids: Tensor
    prev_probs: Tensor | None
    carry: Tensor | None
    memory: Recall | None


class Listening(nn.Module):
    """Writes token ``4 + call`` everywhere and hands on a carry that names its row and call.

    A row is named by its first token, which is given.
    """

    def __init__(self, halt: bool = False) -> None:
        super().__init__()
        self.halt = halt
        self.passes: list[Pass] = []

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        prev_probs: Tensor | None = None,
        carry: Tensor | None = None,
        memory: Recall | None = None,
    ) -> RefinementOutput:
        self.passes.append(Pass(ids, prev_probs, carry, memory))
        call = len(self.passes)
        logits = peaked(torch.full_like(ids, 4 + call % 5), V)
        name = ids[:, :1, None].float().expand(-1, ids.shape[1], -1) + 100 * call
        return RefinementOutput(logits, torch.full(ids.shape, 9.0), None, name)


def run(network: nn.Module, canvas: Canvas, policy: Policy, steps: int, **more: Any) -> list[Step]:
    more = {"temperature": 0.0, "may_end": False, "reinject": True, **more}
    seeds = row_seeds(len(canvas), 0)
    memory = more.pop("memory", None)
    settings = SamplingSettings(policy=policy, steps=steps, **more)
    return list(refine(network, canvas, settings, seeds=seeds, memory=memory))


# What the network is shown


def test_the_network_is_shown_the_question_in_every_pass() -> None:
    canvas = Canvas.with_holes([[5, 1, 1, 6], [7, 1, 8]], SPECIAL)
    network = Listening()
    run(network, canvas, Replace(), steps=3)
    assert len(network.passes) == 3
    assert all(torch.equal(one.ids, canvas.ids) for one in network.passes)


def test_without_reinjection_it_is_shown_its_own_tokens() -> None:
    network = Listening()
    run(network, Canvas.with_holes([[5, 1]], SPECIAL), Replace(), steps=3, reinject=False)
    assert [one.ids.tolist() for one in network.passes] == [[[5, 1]], [[5, 5]], [[5, 6]]]


def test_beliefs_stand_where_the_network_wrote_and_nowhere_else() -> None:
    network = Listening()
    run(network, Canvas.with_holes([[5, 1, 6]], SPECIAL), Replace(), steps=3)
    first, second, third = (one.prev_probs for one in network.passes)
    assert first is None
    # Call 1 was certain of 5, call 2 of 6; what is given has no beliefs.
    assert second is not None and second[0].argmax(-1)[1] == 5
    assert third is not None and third[0].argmax(-1)[1] == 6
    assert third[0].sum(-1).tolist() == pytest.approx([0, 1, 0])


def test_beliefs_are_those_from_when_a_position_was_written() -> None:
    # One blank a step: the first was written by call 1, the second by call 2.
    network = Listening()
    run(network, Canvas.with_holes([[5, 1, 1, 1]], SPECIAL), Append(block=1), steps=4)
    told = network.passes[2].prev_probs
    assert told is not None
    assert told[0].argmax(-1)[1:3].tolist() == [5, 6]
    assert told[0].sum(-1).tolist() == pytest.approx([0, 1, 1, 0])


def test_beliefs_and_carry_are_those_of_the_own_row_as_rows_leave() -> None:
    # Row 6 leaves after step 1, row 8 after step 2, row 7 stays.
    leave = {6: 1, 8: 2, 7: 9}

    def gone(inputs: Tensor, answers: Tensor) -> Tensor:
        step = answers[:, 1] - 4  # call n wrote token 4 + n
        return torch.tensor([leave[n] for n in inputs[:, 0].tolist()]) <= step

    network = Listening()
    canvas = Canvas.with_holes([[6, 1, 1, 1, 1], [7, 1, 3], [8, 1]], SPECIAL)
    records = run(network, canvas, Replace(), steps=3, halting=Halting(verify=gone))
    assert [step.rows.tolist() for step in records] == [[0, 1, 2], [1, 2], [1]]
    names = [one.carry[:, 0, 0].tolist() for one in network.passes[1:] if one.carry is not None]
    assert names == [[107, 108], [207]]
    # Cropped to the longest row left: three positions, then three.
    assert [one.ids.shape[1] for one in network.passes] == [5, 3, 3]
    assert [one.carry.shape[1] for one in network.passes[1:] if one.carry is not None] == [3, 3]
    told = [one.prev_probs for one in network.passes[1:]]
    assert [probs.shape[:2] for probs in told if probs is not None] == [(2, 3), (1, 3)]


def recall(rows: int, seed: int = 0) -> Recall:
    """Two hits of three tokens for each row; hit 0 begins with the row's number + 3."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 9, (rows, 2, 3), generator=generator)
    ids[:, 0, 0] = torch.arange(rows) + 3
    similarity = torch.rand(rows, 2, generator=generator)
    there = torch.ones(rows, 2)
    return Recall(ids, similarity, there.bool(), torch.ones_like(ids).bool())


def test_memory_is_that_of_the_own_row_as_rows_leave() -> None:
    # Row 1 has no blank and never enters; rows 0 and 2 leave by their first token.
    def gone(inputs: Tensor, answers: Tensor) -> Tensor:
        return inputs[:, 0] == 6

    network = Listening()
    canvas = Canvas.with_holes([[6, 1], [5, 5], [7, 1]], SPECIAL)
    run(network, canvas, Replace(), 2, halting=Halting(verify=gone), memory=recall(3))
    memories = [one.memory for one in network.passes]
    assert [m.ids[:, 0, 0].tolist() for m in memories if m is not None] == [[3, 5], [5]]


# Training and inference take the same steps


def undecided(model: ImplicitRefinementModel, scale: float, loud: float) -> ImplicitRefinementModel:
    """With random weights that change their mind: beliefs and state speak up, gates differ."""
    model = shaken(model, scale)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.network.backbone.to_logits.bias.zero_()
        if model.network.backbone.self_condition is not None:
            model.network.backbone.self_condition.weight *= loud
        model.network.gate.score.weight *= 10
        ids = torch.randint(3, model.config.vocab_size, (8, 16), generator=generator)
        ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.5, SPECIAL.mask)
        first = model(ids)
        carry = {} if first.carry is None else {"carry": first.carry}
        second = model(ids, prev_probs=first.logits.softmax(-1), **carry)
        model.network.gate.score.bias -= second.gate_logits[ids == SPECIAL.mask].median()
    return model


def builder(kind: str) -> ImplicitRefinementModel:
    common: dict[str, object] = {"halting": True, "length_mode": "drawn"}
    if kind == "grid":
        return undecided(grid_model(4, (4, 6), inner_steps=2, carry=True, **common), 0.4, 1.0)
    extra: dict[str, dict[str, object]] = {
        "beliefs": {},
        "no beliefs": {"self_conditioning": False, "carry": True},
        "carry": {"carry": True, "inner_steps": 2},
        "memory": {"memory": True, "carry": True},
    }
    return undecided(tiny_model(max_seq_len=36, **common, **extra[kind]), 0.5, 20.0)


model_of = cache(builder)
KINDS = ["beliefs", "no beliefs", "carry", "memory", "grid"]


def question(kind: str, seed: int, lengths: list[int]) -> Question:
    """Random blanks among random tokens, at least one blank a row."""
    model = model_of(kind)
    generator = torch.Generator().manual_seed(seed)
    if kind == "grid":
        lengths = [(16, 36)[n % 2] for n in lengths]
    rows = []
    for n in lengths:
        row = torch.randint(3, model.config.vocab_size, (n,), generator=generator)
        blank = torch.rand(n, generator=generator) < 0.6
        blank[int(torch.randint(n, (), generator=generator))] = True
        rows.append(row.masked_fill(blank, SPECIAL.mask).tolist())
    canvas = Canvas.with_holes(rows, model.special)
    memory = recall(len(rows), seed) if kind == "memory" else None
    return Question(canvas, canvas.ids, may_end=False, memory=memory)


def unrolled(kind: str, asked: Question, names: list[str]) -> list[StepOutput]:
    """The steps that training takes."""
    state, outputs = UnrollState(asked.canvas.ids), []
    with torch.no_grad():
        for step, name in enumerate(names, start=1):
            outputs.append(
                take_step(
                    model_of(kind),
                    asked,
                    state,
                    step,
                    lambda step, open, written, gate, name=name: edit_mask(  # type: ignore[misc]
                        name, open, written, gate
                    ),
                )
            )
            state = outputs[-1].state
    return outputs


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    names=st.lists(st.sampled_from(["replace", "patch"]), min_size=1, max_size=6),
)
def test_the_loop_takes_the_steps_that_the_unroll_trains(
    kind: str, seed: int, lengths: list[int], names: list[str]
) -> None:
    asked = question(kind, seed, lengths)
    trained = unrolled(kind, asked, names)
    policy = ChosenEdit(lambda step, scores: names[step - 1])
    records = run(model_of(kind), asked.canvas, policy, len(names), memory=asked.memory)
    assert len(records[0].rows) == len(lengths)
    for record, output in zip(records, trained, strict=False):
        rows, width = record.rows, record.canvas.ids.shape[1]
        answer = output.state.answer[rows]
        assert torch.equal(record.canvas.ids, answer[:, :width])
        # Nothing but padding lay behind.
        assert (answer[:, width:] == SPECIAL.pad).all()
        rewritten = (output.before[rows] != answer)[:, :width]
        assert torch.equal(record.changed, rewritten)
        assert record.halt is not None and output.halt_logits is not None
        assert torch.allclose(record.halt, output.halt_logits[rows].sigmoid(), atol=1e-5)
    # A row leaves early for one reason: a patch of nothing, which leaves the answer as it is.
    for record in records[:-1]:
        gone = record.reasons != 0
        assert (record.reasons[gone] == StoppingReason.SETTLED).all()
        assert not record.changed[gone].any()
        assert names[record.step - 1] == "patch" or not gone.any()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["replace", "patch"])
def test_they_are_the_same_steps_where_a_row_may_end(name: str, seed: int) -> None:
    asked = replace(question("carry", seed, [5, 9, 7]), may_end=True)
    trained = unrolled("carry", asked, [name] * 5)
    policy = ChosenEdit(lambda step, scores: name)
    records = run(model_of("carry"), asked.canvas, policy, 5, may_end=True)
    for record, output in zip(records, trained, strict=False):
        going = record.reasons == 0
        answer = output.state.answer[record.rows]
        width = record.canvas.ids.shape[1]
        # A row under way is as the unroll has it; one that leaves is cut behind its first EOS.
        assert torch.equal(record.canvas.ids[going], answer[going, :width])
        for left, whole in (
            zip(record.canvas.rows(~going).sequences(), answer[~going], strict=True)
            if bool((~going).any())
            else ()
        ):
            assert left.tolist() == whole[: len(left)].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["replace", "patch"])
def test_the_steps_compared_above_do_change_the_answer(kind: str, name: str) -> None:
    # Or equality would say nothing.
    outputs = [
        o for s in range(6) for o in unrolled(kind, question(kind, s, [9, 7, 8]), [name] * 4)
    ]
    later = [o for o in outputs if o.judged.any()]
    assert any((o.state.answer != o.before).any() for o in later)
    if name == "patch":
        # Of the tokens that stand, some are flagged and some are not.
        flagged = torch.cat([(o.gate_logits > 0)[o.judged] for o in later])
        assert 0.02 < flagged.float().mean() < 0.98


# Halting in the loop


class Cases(nn.Module):
    """Rows whose first token says which rule is to stop them.

    5 the halting head; 6 sure tokens; 7 tokens that never get surer; 4 and 8 tokens that
    get surer with every call, the verifier stopping 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(
        self,
        ids: Tensor,
        attention_mask: Tensor | None = None,
        prev_probs: Tensor | None = None,
    ) -> RefinementOutput:
        self.calls += 1
        sure = {4: 0.5, 5: 0.5, 6: 0.9, 7: 0.5, 8: 0.5}
        rising = {4: 0.01, 8: 0.01}
        names = ids[:, 0].tolist()
        p = torch.tensor([sure[n] + rising.get(n, 0.0) * self.calls for n in names])
        # Token 3 has probability p, and token 9 the rest.
        probs = torch.zeros(*ids.shape, V)
        probs[..., 3], probs[..., 9] = p[:, None], 1 - p[:, None]
        halt = torch.tensor([3.0 if n == 5 else -3.0 for n in names])
        return RefinementOutput(probs.log(), torch.full(ids.shape, 9.0), halt)


def four(inputs: Tensor, answers: Tensor) -> Tensor:
    return inputs[:, 0] == 4


RULES = Halting(verify=four, confidence=0.9, quality=0.8, patience=2)
CASES = {
    4: ("verified", 1),
    5: ("confidence", 1),
    6: ("quality", 1),
    7: ("patience", 3),
    8: ("max_steps", 5),
}


def told(
    names: list[int], policy: Policy | None = None, halting: Halting | None = RULES, steps: int = 5
) -> list[Refined]:
    canvas = Canvas.with_holes([[name, 1, 1] for name in names], SPECIAL)
    how = SamplingSettings(
        policy=Replace() if policy is None else policy,
        steps=steps,
        temperature=0.0,
        stop_threshold=0.0,
        may_end=False,
        halting=halting,
        reinject=True,
    )
    return refine_all(Cases(), canvas, row_seeds(len(names), 0), how)


@pytest.mark.parametrize("names", [*([name] for name in CASES), list(CASES), [8, 7, 7, 4, 6, 5]])
def test_every_row_says_why_it_stopped_whoever_stands_beside_it(names: list[int]) -> None:
    # p of the patience row is 0.5 in steps 1 to 3: two steps without a gain.
    rows = told(names)
    assert [(row.reason.label, row.steps) for row in rows] == [CASES[name] for name in names]
    assert all(row.steps == row.forward_passes for row in rows)


def test_a_row_reports_the_scores_it_stopped_with() -> None:
    (row,) = told([5])
    # The halting head's logit is 3: 1 / (1 + e^-3) = 0.952574.
    assert row.halt == pytest.approx(0.952574, abs=1e-5)
    assert row.quality == pytest.approx(0.5, abs=1e-5)


def test_a_rule_that_holds_in_the_last_step_goes_before_the_cap() -> None:
    assert [row.reason.label for row in told([5, 8], steps=1)] == ["confidence", "max_steps"]
    assert [row.reason.label for row in told([7, 8], steps=3)] == ["patience", "max_steps"]


def test_without_rules_only_the_cap_stops_a_replacing_row() -> None:
    assert {(row.reason.label, row.steps) for row in told(list(CASES), halting=None)} == {
        ("max_steps", 5)
    }


def test_a_row_with_a_blank_is_never_stopped() -> None:
    # Two blanks, one a step: however sure the head is, it takes two steps.
    assert [(row.reason.label, row.steps) for row in told([4, 5, 6], Append(block=1))] == [
        ("verified", 2),
        ("confidence", 2),
        ("quality", 2),
    ]
    assert told([7], Append(block=1))[0].reason is StoppingReason.FILLED
    assert told([5], Ancestral(), steps=2)[0].steps == 2


class Content(Cases):
    """The same, with no gate above one half: a patch changes nothing more."""

    def forward(self, *given: Any, **more: Any) -> RefinementOutput:
        output = super().forward(*given, **more)
        return output._replace(gate_logits=torch.full_like(output.gate_logits, -9.0))


def test_a_rule_goes_before_settling() -> None:
    canvas = Canvas.with_holes([[4, 1], [7, 1]], SPECIAL)
    rules = Halting(confidence=0.9, quality=0.8, patience=1)
    # In step 2 nothing is flagged, and row 7 has seen one step without a gain.
    records = run(Content(), canvas, GateInPlace(), 5, halting=rules)
    labels = [StoppingReason(r).label for r in records[-1].reasons.tolist()]
    assert labels == ["settled", "patience"]


def reference(kind: str, asked: Question, batch_size: int) -> list[tuple[list[int], str, int]]:
    how = SamplingSettings(
        policy=ChosenEdit(lambda step, scores: ("replace", "patch")[step % 2]),
        steps=6,
        temperature=0.7,
        stop_threshold=0.0,
        may_end=False,
        halting=Halting(confidence=0.8, quality=0.6, patience=2),
        reinject=True,
    )
    # A row keeps its seed wherever it stands.
    seeds = torch.arange(len(asked.canvas))
    found = refine_all(
        model_of(kind), asked.canvas, seeds, how, memory=asked.memory, batch_size=batch_size
    )
    return [(row.ids.tolist(), row.reason.label, row.steps) for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.integers(1, 9), min_size=2, max_size=6))
def test_a_result_is_the_same_alone_and_in_any_batch(
    kind: str, seed: int, lengths: list[int]
) -> None:
    asked = question(kind, seed, lengths)
    alone = reference(kind, asked, batch_size=1)
    assert reference(kind, asked, batch_size=64) == alone
    assert reference(kind, asked, batch_size=2) == alone


def test_a_row_may_stand_on_a_wider_canvas() -> None:
    asked = question("carry", 1, [4, 6])
    canvas = asked.canvas
    wide = Canvas(
        F.pad(canvas.ids, (0, 3), value=SPECIAL.pad), F.pad(canvas.state, (0, 3), value=4), SPECIAL
    )
    assert reference("carry", Question(wide, wide.ids), 64) == reference("carry", asked, 64)
