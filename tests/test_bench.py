"""The speed table: turns, ratios, rivals of equal size that write what they should; no timing."""

from __future__ import annotations

import json
import math
import re

import pytest

from imadarem.bench.memory import peak_memory
from imadarem.bench.picture import draw_growth
from imadarem.bench.rivals import RIVALS, Rival, Size
from imadarem.bench.speed import DENSE, REFINERS, matrix_peak, peak_share
from imadarem.bench.table import ROWS, Table, build
from imadarem.bench.turns import Contender, Figures, crossover, ratios, spread, take_turns
from imadarem.cli.app import run
from imadarem.cli.bench import bench
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
def test_the_refiners_rows_write_whole_rows():
    rows, missing = build(SIZE, 16, tuple(REFINERS))
    assert missing == []
    ids = {name: row.sample(5) for name, row in rows.items()}
    assert {tuple(drawn.shape) for drawn in ids.values()} == {(5, SIZE.length)}


def test_rows_keep_the_order_of_the_table_whatever_is_asked_for():
    rows, _ = build(SIZE, 16, ["char-rnn", "scripted", "dense"])
    assert list(rows) == ["dense", "scripted", "char-rnn"]
    assert list(ROWS) == [*REFINERS, *RIVALS]


def made_up(length: int, rates: dict[str, float]) -> Table:
    """A table of one round at batches of 1 and 64, the same rates at both."""
    size = Size(vocab=9, layers=1, heads=1, length=length, passes=3, parameters=0)
    figures = {name: Figures("", name, "rows", [rate], [rate]) for name, rate in rates.items()}
    rows = {name: Rival(name.upper(), 0, lambda rows: None) for name in rates}
    return Table(size, rows, {1: figures, 64: figures}, {1: 1.0, 64: 1.0})


def test_ratios_are_to_gpt2_and_without_it_to_the_first_row():
    assert made_up(5, {"dense": 6.0, "gpt2": 2.0}).ratios("dense", 1) == [3.0]
    assert made_up(5, {"dense": 6.0, "bert": 2.0}).ratios("bert", 1) == [1 / 3]


# 4 rows a second of 5 tokens each: 20 tokens a second, 50 ms each.
def test_what_a_token_costs():
    assert made_up(5, {"dense": 4.0}).milliseconds("dense", 64) == [50.0]


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(32, 64), (32,)])
def test_growth_is_drawn_against_the_length_or_else_the_batch(tmp_path, lengths):
    path = tmp_path / "growth.png"
    draw_growth([made_up(length, {"dense": 4.0, "gpt2": 2.0}) for length in lengths], path)
    assert path.read_bytes().startswith(b"\x89PNG")


# A gigabyte that this process holds is none of the other's: an interpreter with torch and a model
# of 3,000 parameters has 100 MB at least, and much less than a gigabyte.
@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    held = bytearray(b"1") * 2**30
    taken = peak_memory("dense", SIZE, 16, 2)
    assert taken is None or 1e8 < taken < len(held)


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


def test_a_wrong_row_is_told_with_the_nearest_right_one(capsys):
    assert run(["bench", "--only", "dense", "gpt"]) == 2
    said = capsys.readouterr().err
    assert "gpt2" in said
    assert "joint-left-sparse" in said


def test_a_picture_of_one_point_is_refused_before_anything_is_measured(capsys):
    assert run(["bench", "--batch", "1", "--plot", "growth.png"]) == 2
    assert "--length" in capsys.readouterr().err


def test_the_help_names_every_row():
    said = re.search(r"only: (.*?); default", bench.__doc__ or "", re.DOTALL)
    assert said is not None
    named = re.sub(r"\s+", " ", said[1]).removeprefix("Rows of the table, of ").split(", ")
    assert named == list(ROWS)


SMALL = ["--length", "5", "--passes", "2", "--rounds", "1"]
SMALL += ["--width", "16", "--heads", "2", "--layers", "1"]


@pytest.mark.slow
def test_the_command_prints_a_line_for_everyone(capsys):
    assert run(["bench", "--batch", "1", "--no-memory", *SMALL]) == 0
    text = capsys.readouterr().out
    for name in (DENSE, "refiner, scripted gate", "GPT-2, KV cache", "peak"):
        assert name in text


@pytest.mark.slow
def test_the_command_tells_a_choice_of_rows_and_their_memory(capsys):
    command = ["bench", "--only", "dense", "char-rnn", "--batch", "1", "2", "--json"]
    assert run([*command, *SMALL]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    speed = [(line["row"], line["batch"]) for line in told if line["kind"] == "speed"]
    assert speed == [("dense", 1), ("char-rnn", 1), ("dense", 2), ("char-rnn", 2)]
    weighed = [(line["row"], line["batch"]) for line in told if line["kind"] == "memory"]
    assert weighed in ([("dense", 1), ("dense", 2)], [])


# Dense: 3 passes over 4 rows, of which one stands for all where all are blank: 1 + 2 · 4.
def test_the_dense_row_is_as_many_passes_as_it_says():
    from imadarem.bench.speed import refiner
    from imadarem.sampling.scripted import ScriptedGate

    model = refiner(SIZE, width=16)
    with counted(model) as work:
        model.sample(4, length=7, policy=ScriptedGate(active=(1.0,), ends=(3, 3)), seed=0)
    assert (work.forwards, work.row_passes) == (3, 9)
