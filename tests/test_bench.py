"""The speed table: turns, ratios, rivals of equal size that write what they should; no timing."""

from __future__ import annotations

import math

import pytest

from imadarem.bench.rivals import RIVALS, Size
from imadarem.bench.speed import DENSE, matrix_peak, peak_share, refiners
from imadarem.bench.turns import Contender, crossover, ratios, spread, take_turns
from imadarem.cli.app import run
from imadarem.errors import MissingExtraError
from imadarem.sampling.work import counted

SIZE = Size(vocab=9, layers=2, heads=2, length=7, passes=3, parameters=20_000)


def test_everyone_has_a_turn_in_every_round_and_another_begins():
    order: list[str] = []
    contenders = [Contender(name, lambda name=name: order.append(name)) for name in "abc"]
    found = take_turns("task", "rows", 4.0, contenders, rounds=2)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert [figures.name for figures in found] == ["a", "b", "c"]
    assert [len(figures.per_cpu_second) for figures in found] == [2, 2, 2]


def test_ratios_are_taken_within_a_round():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00–3.00)"


# From 2 to ½ between 4 and 64: on logarithms half way, √(4 · 64) = 16.
@pytest.mark.parametrize(
    ("batches", "ratio", "meets"),
    [([1, 4, 64], [3.0, 2.0, 0.5], 16.0), ([1, 4], [0.9, 0.5], None), ([1, 4], [3.0, 2.0], None)],
)
def test_the_batch_where_two_meet(batches, ratio, meets):
    found = crossover(batches, ratio)
    assert found == meets if meets is None else math.isclose(found, meets)


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_has_as_many_parameters_and_writes_as_many_tokens(name):
    try:
        rival = RIVALS[name](SIZE)
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert abs(rival.parameters - SIZE.parameters) < 0.5 * SIZE.parameters
    ids = rival.sample(3)
    assert ids.shape == (3, SIZE.length)
    if name == "bert":
        assert not (ids == 1).any()


@pytest.mark.slow
def test_the_refiners_rows_write_whole_rows_and_the_back_ends_draw_the_same():
    with refiners(SIZE, 16) as (rows, missing):
        assert missing == []
        ids = {row.name: row.sample(5) for row in rows}
    assert {tuple(drawn.shape) for drawn in ids.values()} == {(5, SIZE.length)}
    assert ids["refiner, ONNX"].equal(ids[DENSE])


# A pass of one layer of width 16 on 7 positions, by hand: queries, keys and values 16 · 48, out
# 16 · 16, feed-forward twice 16 · 64, gate 16 · 16, logits 16 · 9; two operations each.
def test_the_operations_of_a_pass_are_those_of_its_linear_layers():
    size = Size(vocab=9, layers=1, heads=2, length=7, passes=1, parameters=0)
    _, pass_ = peak_share(size, 16, 1)
    linear = 16 * 48 + 16 * 16 + 2 * 16 * 64 + 16 * 16 + 16 * 9
    assert pass_ == 2 * 7 * linear
    _, product = matrix_peak(size, 16, 1)
    assert product == 2 * 7 * 16 * 64


def test_a_wrong_number_is_told_before_anything_is_built(capsys):
    assert run(["bench", "--batch", "0"]) == 2
    assert "--batch" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_prints_a_line_for_everyone(capsys):
    command = ["bench", "--batch", "1", "--length", "5", "--passes", "2", "--rounds", "1"]
    assert run([*command, "--width", "16", "--heads", "2", "--layers", "1"]) == 0
    text = capsys.readouterr().out
    for name in (DENSE, "refiner, scripted gate", "refiner, ONNX", "GPT-2, KV cache", "peak"):
        assert name in text


# Dense: 3 passes over 4 rows, of which one stands for all where all are blank: 1 + 2 · 4.
def test_the_dense_row_is_as_many_passes_as_it_says():
    from imadarem.bench.speed import refiner
    from imadarem.sampling.scripted import ScriptedGate

    model = refiner(SIZE, width=16)
    with counted(model) as work:
        model.sample(4, length=7, policy=ScriptedGate(active=(1.0,), ends=(3, 3)), seed=0)
    assert (work.forwards, work.row_passes) == (3, 9)
