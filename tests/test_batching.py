"""The engine: batches change the speed and no result; the work is counted, not timed."""

from __future__ import annotations

import pytest
import torch
from fakes import records, uneven_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGate

from imadarem import ImplicitRefinementConfig, ImplicitRefinementModel
from imadarem.errors import ConfigError
from imadarem.nn import RefinementOutput
from imadarem.sampling.batching import GROUP, Widths, batches
from imadarem.sampling.passes import forward_unique_rows
from imadarem.sampling.work import count_work

# ---------------------------------------------------------------- the same in every batch


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["gate", "gate-adaptive", "entropy-bound"])
@pytest.mark.parametrize("mode", ["drawn", "eos"])
def test_every_figure_of_a_row_is_the_same_bit_for_bit_in_every_batch(mode, policy):
    refiner = uneven_model(length_mode=mode)
    whole = records(refiner, 14, seed=3, policy=policy)
    for size in (1, 5):
        assert records(refiner, 14, seed=3, policy=policy, batch_size=size) == whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "asked"), [("selfies", {}), ("smiles", {"steps": 1, "policy": "left-to-right"})]
)
def test_the_models_in_the_package_round_a_row_the_same_in_every_batch(name, asked):
    refiner = ImplicitRefinementModel.from_pretrained(name)
    whole = records(refiner, 12, seed=0, **asked)
    for size in (1, 5):
        assert records(refiner, 12, seed=0, batch_size=size, **asked) == whole


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 30), st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**63))
def test_a_run_may_start_anywhere_and_gives_the_same_rows(first, n, size, seed):
    refiner = uneven_model()
    whole = refiner.sample(first + n, seed=seed)
    part = refiner.sample(n, first=first, seed=seed, batch_size=size)
    assert [row.ids.tolist() for row in part.rows] == [
        row.ids.tolist() for row in whole.rows[first:]
    ]


# ---------------------------------------------------------------- rows that show the same


@pytest.mark.parametrize("joint_size", [0, 16])
@pytest.mark.parametrize("mode", ["drawn", "eos"])
def test_running_equal_rows_once_changes_no_bit(monkeypatch, mode, joint_size):
    refiner = uneven_model(length_mode=mode, joint_size=joint_size, halting=True, carry=True)
    quick = records(refiner, 24, seed=3, policy="gate")
    monkeypatch.setattr(ImplicitRefinementModel, "rows_independent", False)
    assert records(refiner, 24, seed=3, policy="gate") == quick


def test_copies_of_a_prompt_are_run_once_in_whatever_order_they_come(monkeypatch):
    refiner = uneven_model(joint_size=16)
    blank, one, two = [1] * 20, [4, *[1] * 18, 5], [*[1] * 10, 6, *[1] * 12]
    prompts = [one, two, blank, one, blank, two, two, one]

    def filled():
        with count_work(refiner) as work:
            samples = refiner.infill(prompts, steps=1, policy="ancestral", seed=0)
        return work.row_passes, [row.ids.tolist() for row in samples.rows]

    passes, rows = filled()
    assert passes == 3
    monkeypatch.setattr(ImplicitRefinementModel, "rows_independent", False)
    assert filled() == (8, rows)


def test_a_network_of_ones_own_is_shown_every_row():
    seen = []

    def network(ids, attended, **told):
        seen.append((len(ids), told))
        return RefinementOutput(torch.zeros(*ids.shape, 12), torch.zeros(ids.shape))

    forward_unique_rows(network, torch.ones(5, 4, dtype=torch.long), None)
    assert seen == [(5, {"prev_probs": None})]


# ---------------------------------------------------------------- batches


# Three of one group of 16 (16, 18, 31), one of two (33); at most 2 rows, at most 40 positions.
def test_batches_hold_rows_of_as_many_groups_and_no_more_than_they_may():
    widths = torch.tensor([33, 31, 16, 18])
    found = [numbers.tolist() for numbers in batches(widths, rows=2, positions=40)]
    assert found == [[2, 3], [1], [0]]


# Multiples of 8, 16 at least, or all that the network takes. An end that the model writes: whole
# groups of 16.
def test_canvases_are_padded_to_widths_that_round_alike():
    widths = Widths.of(ImplicitRefinementConfig(vocab_size=9, max_seq_len=51))
    assert widths is not None
    lengths = torch.tensor([3, 16, 33, 50, 51])
    assert widths.above(lengths, may_end=False).tolist() == [16, 16, 40, 51, 51]
    assert widths.above(lengths, may_end=True).tolist() == [16, 16, 48, 51, 51]


@given(
    st.lists(st.integers(1, 70), max_size=40),
    st.integers(1, 9),
    st.none() | st.integers(1, 200),
)
def test_every_row_is_in_one_batch(lengths, rows, positions):
    found = [numbers.tolist() for numbers in batches(torch.tensor(lengths), rows, positions)]
    assert sorted(number for batch in found for number in batch) == list(range(len(lengths)))
    for batch in found:
        widest = max(lengths[number] for number in batch)
        assert len(batch) <= rows
        assert positions is None or len(batch) == 1 or len(batch) * widest <= positions
        assert len({lengths[number] // GROUP for number in batch}) == 1


# ---------------------------------------------------------------- counted work


# 10 rows of 20 tokens, padded to 24, in one batch, 4 steps, no row ends early: a pass a step, all
# rows in it but in the first, where all are blank and one stands for them: 1 + 3 · 10.
def test_a_step_is_one_pass_over_the_rows_that_are_left():
    refiner = uneven_model(stop_threshold=0.0)
    with count_work(refiner) as work:
        refiner.sample(10, length=20, steps=4, policy="ancestral")
    assert (work.forwards, work.row_passes, work.positions) == (4, 31, 744)


def test_waits_do_not_grow_with_the_batch_nor_with_the_length():
    refiner = uneven_model(stop_threshold=0.0)

    def waits(n, length, steps):
        with count_work(refiner) as work:
            refiner.sample(n, length=length, steps=steps, policy="ancestral", seed=0)
        return work.host_syncs

    assert waits(3, 20, 6) == waits(60, 20, 6) == waits(60, 31, 6)
    # Two guards of the canvas, one against NaN, the mask of the attention, whether rows are done,
    # which go on and how wide those are.
    assert waits(60, 20, 6) - waits(60, 20, 5) == 7


# Ends 3 to 6 by lot: 4.5 steps in the mean. The mean of 400 lots is within 4 standard errors,
# 4 · sqrt(1.25 / 400) = 0.22.
def test_rows_that_are_done_leave_the_batch():
    refiner = uneven_model(stop_threshold=1.0)
    with count_work(refiner) as work:
        samples = refiner.sample(400, length=16, policy=ScriptedGate(), seed=1)
    took = sum(samples.forward_passes)
    assert abs(took / 400 - 4.5) < 0.22
    # 16 positions a row, 4,096 in a batch: 2 batches, and one row for each in its first pass.
    assert work.row_passes == took - 400 + 2
    assert {row.steps for row in samples.rows} == {3, 4, 5, 6}


# 20 tokens; shares 1, ½, ¼ of them are 20, 10, 5.
def test_a_script_says_how_many_tokens_are_drawn_in_a_step():
    refiner = uneven_model(stop_threshold=1.0)
    drawn: list[list[int]] = []
    refiner.sample(
        7,
        length=20,
        steps=3,
        policy=ScriptedGate(active=(1.0, 0.5, 0.25), ends=(3, 3)),
        on_step=lambda numbers, step: drawn.append(step.refined.sum(dim=1).tolist()),
    )
    assert drawn == [[20] * 7, [10] * 7, [5] * 7]


@pytest.mark.parametrize("given_", [{"active": ()}, {"active": (0.0,)}, {"ends": (4, 3)}])
def test_a_script_that_cannot_be_followed_is_refused(given_):
    with pytest.raises(ConfigError):
        ScriptedGate(**given_)


# Rows end where the model writes an EOS; the first lies far in front of the width of 64.
def test_what_lies_behind_every_end_is_not_computed():
    refiner = uneven_model(length_mode="eos", max_seq_len=64, length_counts=None)
    with torch.no_grad():
        refiner.network.backbone.to_logits.bias[2] = 8.0
    with count_work(refiner) as work:
        refiner.sample(8, steps=8, policy="gate", seed=0)
    assert work.positions < work.row_passes * 64
    assert work.positions % GROUP == 0
