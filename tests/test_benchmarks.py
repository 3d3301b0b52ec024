"""The benchmarks, run on tiny sizes: each measures what it says, whatever the figures."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes import gap_model, grid_model
from rapidfuzz.distance import Levenshtein

from imadarem import ImplicitRefinementModel
from imadarem.design.scored_table import Scored
from imadarem.repair.sites import Row
from imadarem.tokenizers import SpecialIds

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts find each other as when one of them is run; they set the number of threads."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


SMALL = ["--width", "16", "--heads", "2", "--rounds", "1"]
SAMPLING = [*SMALL, "--layers", "1", "--length", "7", "--passes", "2", "--batch", "1", "2"]


@pytest.mark.slow
def test_every_row_of_the_sampling_table_is_measured_at_every_batch(tmp_path, capsys, monkeypatch):
    script, found = import_module("throughput"), tmp_path / "rates.jsonl"
    plot = tmp_path / "growth.png"
    monkeypatch.setattr(script, "TOKENS_AT_LEAST", 1)
    script.main(["sampling", *SAMPLING, "--no-memory", "--json", str(found), "--plot", str(plot)])
    measured = [r for r in records(found) if r["kind"] == "sampling"]
    assert [(r["row"], r["batch"]) for r in measured] == [
        (row, batch) for batch in (1, 2) for row in script.ROWS
    ]
    assert all(r["per_cpu_second"][0] > 0 for r in measured)
    sizes = {r["row"]: r["parameters"] for r in measured}
    assert all(
        abs(sizes[name] - sizes["dense"]) < 0.2 * sizes["dense"]
        for name in ("gpt2", "bert", "x-transformers", "char-rnn")
    )
    assert capsys.readouterr().out.count("| GPT-2, KV cache |") == 1
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_row_writes_as_many_tokens_as_it_says():
    same_size = import_module("same_size")
    size = same_size.Size(width=16, vocab=9, layers=1, heads=2, length=7, passes=3)
    for name, make in same_size.ROWS.items():
        ids = make(size).sample(3)
        assert ids.shape == (3, 7)
        if name in same_size.OURS or name == "bert":
            assert not (ids == same_size.MASK).any()


@pytest.mark.slow
def test_every_contender_trains_and_memory_is_that_of_a_process(tmp_path, capsys):
    script, found = import_module("throughput"), tmp_path / "rates.jsonl"
    sizes = ["--batch", "4", "--steps", "1", "--rows", "40"]
    script.main(["training", *SMALL, *sizes, "--json", str(found)])
    *trained, peak = records(found)
    assert [r["name"] for r in trained if "refiner" not in r["name"]] == [script.GPT2, script.BERT]
    assert len(trained) == 5 and peak["kind"] == "peak"
    assert all(r["per_cpu_second"][0] > 0 for r in trained)
    capsys.readouterr()
    size = {"width": 16, "vocab": 9, "layers": 1, "heads": 2, "length": 7, "passes": 2}
    script.main(["memory", json.dumps({"size": size, "name": "dense", "batch": 2})])
    # An interpreter with torch has 100 MB at least.
    assert int(capsys.readouterr().out) > 1e8


# A pass of one layer of width 16 on 7 positions, by hand: queries, keys and values 16 · 48, out
# 16 · 16, feed-forward twice 16 · 64, gate 16 · 16, logits 16 · 9; two operations each.
def test_the_operations_of_a_pass_are_those_of_its_linear_layers():
    script = import_module("throughput")
    size = script.Size(width=16, vocab=9, layers=1, heads=2, length=7, passes=1)
    linear = 16 * 48 + 16 * 16 + 2 * 16 * 64 + 16 * 16 + 16 * 9
    assert script.linear_operations(script.refiner(size), 1, 7) == 2 * 7 * linear
    assert script.feed_forward_product(size, 1)[1] == 2 * 7 * 16 * 64


def test_everyone_has_a_turn_in_every_round_and_another_begins():
    turns, order = import_module("turns"), []
    contenders = [turns.Contender(name, lambda name=name: order.append(name)) for name in "abc"]
    found = turns.take_turns(4.0, contenders, rounds=2)
    assert "".join(order) == "abc" + "bca" + "cab"
    assert [len(rates.per_cpu_second) for rates in found] == [2, 2, 2]
    assert turns.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    # From 2 to ½ between 4 and 64: on logarithms half way, √(4 · 64) = 16.
    assert turns.crossover([1, 4, 64], [3.0, 2.0, 0.5]) == pytest.approx(16.0)
    assert turns.crossover([1, 4], [0.9, 0.5]) is None


@pytest.mark.slow
def test_every_contender_meets_the_puzzles_at_every_cap(tmp_path, capsys):
    pareto, sudoku = import_module("pareto"), import_module("pareto_sudoku")
    model, out, plot = tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "curves.png"
    grid_model().save_pretrained(model)
    line = f"--task sudoku --model {model} --sizes 4 --n 5 --passes 1 3 --json {out} --plot {plot}"
    pareto.main(line.split())
    rows = records(out)
    assert len(rows) == 2 * len(sudoku.CONTENDERS)
    assert {row["count"] for row in rows} == {5}
    assert all(row["mean_passes"] <= row["passes"] for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "than the intervals" in (told := capsys.readouterr().out) or "no policy" in told


def test_infilling_blanks_what_its_kinds_say():
    script = import_module("infilling")
    for seed in range(200):
        rng = random.Random(seed)
        length = rng.randint(8, 30)
        count = rng.randint(2, length - 4)
        found = {kind: sorted(script.KINDS[kind](length, count, rng)) for kind in script.KINDS}
        runs = {kind: 1 + sum(b - a > 1 for a, b in pairwise(f)) for kind, f in found.items()}
        assert all(len(hidden) == count for hidden in found.values())
        assert found["end"] == list(range(length - count, length))
        assert (runs["window"], runs["two windows"]) == (1, 2)
        for kind in ("window", "two windows"):
            assert found[kind][0] > 0 and found[kind][-1] < length - 1


def test_infilling_fills_a_gap_where_the_window_was():
    script, model = import_module("infilling"), gap_model()
    texts = ["CCOC(C)=O", "C1CCCCC1"]
    windows = list(script.prompts(model, texts, "window", 0.3, 0))
    gaps = list(script.prompts(model, texts, "gap", 0.3, 0))
    hole = model.encode_prompt("<gap>")
    for text, (window, length), (gap, _) in zip(texts, windows, gaps, strict=True):
        ids = model.tokenizer.encode(text)
        assert [a for a, b in zip(ids, window, strict=True) if a == b] == [
            token for token in window if token != model.special.mask
        ]
        assert len(ids) == length
        assert len(gap) - len(hole) == sum(token != model.special.nothing for token in gap)
    asked = {"passes": 1, "policy": "left-to-right", "temperature": None, "best_of": None}
    options = SimpleNamespace(**asked, width=2, verify=True)
    row = script.measured("tiny", model, texts, None, "gap", 0.3, options, 0)
    # Every SELFIES is a molecule.
    assert row.valid == 1.0 and row.fcd is None


@pytest.mark.slow
def test_random_infills_keep_what_is_given_and_go_on_where_they_stopped(tmp_path, capsys):
    script, out = import_module("invariants"), tmp_path / "found.jsonl"
    with pytest.raises(SystemExit) as ended:
        script.main(["--quick", "--out", str(out)])
    assert ended.value.code == 0
    assert (
        "48 cases: 0 given changed, 0 not finished, 0 depends on batch" in capsys.readouterr().out
    )
    whole = out.read_text()
    # A run that was killed in the middle of a line does that group again.
    out.write_text(whole[:-9])
    with pytest.raises(SystemExit):
        script.main(["--quick", "--out", str(out)])
    assert out.read_text() == whole


def test_a_row_with_a_fault_is_counted(capsys):
    script, groups = import_module("invariants"), import_module("random_groups")
    special = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1), nothing=3)
    keeps, finished = script.keeps_given, script.is_finished
    assert keeps([5, 1, 6], [5, 9, 6], special) and finished([5, 1, 6], [5, 9, 6], special)
    for changed in ([7, 9, 6], [5, 6], [5, 9, 9, 6], [9, 5, 6]):
        assert not keeps([5, 1, 6], changed, special)
    for unfinished in ([5, 1, 6], [5, 0, 6], [5, 2, 6], [5, 3, 6], [5, 6]):
        assert not finished([5, 1, 6], unfinished, special)
    # A blank of a hole of unknown length may stay empty, one behind it may not.
    assert keeps([5, 3, 1, 6], [5, 9, 6], special) and not keeps([5, 3, 1, 6], [5, 6], special)
    line = {"cases": 20, "given changed": 0, "not finished": 0, "depends on batch": 1}
    assert groups.report([line], script.FAULTS, 0, 0.0) == 1
    assert "FAULT" in capsys.readouterr().out


@pytest.mark.slow
def test_random_repairs_change_nothing_that_is_protected_or_not_suspect(capsys):
    with pytest.raises(SystemExit) as ended:
        import_module("repair_invariants").main(["--quick"])
    assert ended.value.code == 0
    expected = "12 cases: 0 changed, 0 not finished, 0 depends on batch"
    assert expected in capsys.readouterr().out


def test_a_repair_with_a_fault_is_counted():
    keeps = import_module("repair_invariants").keeps
    row = Row([5, 6, 7], [True, True, False])
    everywhere = {(at, gap) for gap in (False, True) for at in range(4)}
    # Protected are 5 and 6: nothing stands between them, and all may stand around them.
    assert all(keeps(row, r, everywhere) for r in ([5, 6], [9, 5, 6, 8, 8], [5, 6, 7]))
    assert not any(keeps(row, r, everywhere) for r in ([5, 9, 6], [6, 5], [5], [5, 8, 7]))
    # The last token alone is suspect.
    assert keeps(row, [5, 6, 9], {(2, False)}) and not keeps(row, [5, 6, 7, 9], {(2, False)})


def test_an_error_in_a_molecule_is_as_far_away_as_was_asked():
    errors = import_module("smiles_errors")
    model = ImplicitRefinementModel.from_pretrained("smiles")
    row = model.tokenizer.encode("CC(=O)Nc1ccc(O)cc1")
    maker = errors.Errors(model, 0)
    for distance in (1, 2, 3):
        assert Levenshtein.distance(maker.at_distance(row, distance), row) == distance
    assert len(maker.one(row, "ring digit lost")) == len(row) - 1
    assert maker.one(model.tokenizer.encode("CCO"), "ring digit lost") is None
    pairs = import_module("repair_rivals").paired
    assert "".join(pairs("CC(O)c1ccc(C2)cc1(O")) == "CC(O)c1ccc(C)cc1(O)"
    assert "".join(pairs("C)C(C(O")) == "CC(C(O))"


# Ten of 0.5, then a 1: the mean of the ten best rises to 0.5, then 0.55. It ends at 12 of 20.
def test_the_area_under_the_ten_best_goes_on_after_the_end_of_a_search():
    pmo = import_module("pmo")
    scores = [0.5] * 10 + [1.0, 0.0]
    rows = [Scored(f"C{k}", score, k, 0, "") for k, score in enumerate(scores, start=1)]
    early = sum(0.05 * k for k in range(1, 11))
    assert pmo.area(rows, 20) == pytest.approx((early + 10 * 0.55) / 20)
