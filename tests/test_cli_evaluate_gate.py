"""``imadarem evaluate --calibration`` and ``--likelihood`` on tiny models."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from cli_parts import SIXTY, WORDS, records, saved_model

from imadarem.evaluation.gate_report import gate_report
from imadarem.evaluation.likelihood import likelihood_bound
from imadarem.evaluation.ordered_likelihood import ordered_log_likelihood
from imadarem.model import ImplicitRefinementModel
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer


@pytest.fixture(scope="session")
def molecules(tmp_path_factory):
    """The folder of a model that writes SELFIES."""
    folder = tmp_path_factory.mktemp("selfies")
    return saved_model(folder, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """The folder of a model that writes text and decides where it ends."""
    folder = tmp_path_factory.mktemp("char")
    settings = {"length_mode": "eos", "length_counts": None, "max_seq_len": 14}
    return saved_model(folder, CharTokenizer.from_corpus(WORDS), WORDS, **settings)


pytestmark = pytest.mark.usefixtures("elsewhere")


def test_the_gate_is_reported_step_by_step(said, molecules):
    line = ("evaluate", "--model", molecules, "--calibration", "--rows", 30, "--steps", 4)
    code, out, _ = said(*line)
    assert code == 0
    header, _, *table = out.splitlines()[2:]
    assert header.split() == "step judged AUROC ECE mean gate wrong flagged".split()
    assert [row.split()[0] for row in table[:4]] == ["2", "3", "4", "all"]
    assert "at most 4 steps" in out
    code, out, _ = said(*line, "--json")
    (record,) = records(out)
    assert code == 0
    assert (record["kind"], record["data"], record["max_steps"]) == (
        "calibration",
        "moses-sample",
        4,
    )
    assert [step["step"] for step in record["steps"]] == [2, 3, 4]
    judged = [step["judged"] for step in record["steps"]]
    assert record["pooled"]["judged"] == sum(judged) > 0


def test_a_judge_is_reported_by_kind_of_row(said, monkeypatch):
    monkeypatch.setattr("imadarem.cli.held_out.JUDGED_BATCHES", 1)
    monkeypatch.setattr("imadarem.training.judge_report.ROWS", 150)
    line = ("evaluate", "--model", "smiles", "--calibration", "--rows", 20, "--steps", 2)
    code, out, _ = said(*line, "--json")
    (record,) = records(out)
    assert code == 0
    found = {(f["output"], f["kind"]): f for f in record["judge"]["figures"]}
    assert found["wrong", "edits"]["auroc"] > 0.8
    assert found["right", "refilled"]["auroc"] > 0.6
    assert record["judge"]["unflagged"] > 0.9
    monkeypatch.setattr("imadarem.training.judge_report.ROWS", 20)
    _, out, _ = said(*line)
    assert "nothing flagged in " in out and "the judge on rows with known errors" in out


def test_the_defaults_are_the_models_own_settings(said, molecules):
    Path("held.smi").write_text("\n".join(SIXTY))
    line = ("evaluate", "--model", molecules, "--calibration", "--likelihood", "--data", "held.smi")
    code, out, _ = said(*line, "--rows", 60, "--json")
    calibration, likelihood = records(out)
    assert code == 0
    model = ImplicitRefinementModel.from_pretrained(molecules)
    texts = random.Random(0).sample(SIXTY, 60)
    rows = [model.tokenizer.encode(text) for text in texts]
    report = gate_report(
        model,
        rows,
        model.special,
        settings=model.sampling_settings(),
    )
    assert calibration["pooled"] == report.to_dict()["pooled"]
    bound = likelihood_bound(model, rows, model.special)
    assert likelihood["nats_per_token"] == pytest.approx(bound.nats_per_token, rel=1e-6)
    assert likelihood["canvases"] == 8


def test_a_likelihood_has_an_interval_and_says_what_is_averaged(said, molecules):
    line = ("evaluate", "--model", molecules, "--likelihood", "--rows", 20, "--canvases", 2)
    code, out, _ = said(*line)
    assert code == 0
    nats = float(re.search(r"^nats per token +(\d\.\d+)$", out, re.MULTILINE)[1])
    low, high = map(
        float, re.search(r"^95 % interval +(\S+) to (\S+)$", out, re.MULTILINE).groups()
    )
    assert low < nats < high
    assert "20 rows" in out and "all nats divided by all tokens" in out
    _, out, _ = said(*line, "--json")
    (record,) = records(out)
    assert record["nats_per_token"] == pytest.approx(nats, abs=1e-4)
    assert (record["kind"], record["rows"], record["canvases"]) == ("likelihood", 20, 2)


def test_an_order_adds_its_exact_likelihood(said, molecules):
    Path("held.smi").write_text("\n".join(SIXTY[:20]))
    line = ("evaluate", "--model", molecules, "--likelihood", "--data", "held.smi")
    code, out, _ = said(*line, "--order", "left-to-right", "--json")
    (record,) = records(out)
    assert code == 0
    model = ImplicitRefinementModel.from_pretrained(molecules)
    rows = [model.tokenizer.encode(text) for text in SIXTY[:20]]
    nats = -ordered_log_likelihood(model, rows, model.special, "left-to-right").sum().item()
    ordered = record["ordered"]
    assert (ordered["order"], ordered["exact"], ordered["rows"]) == ("left-to-right", True, 20)
    assert ordered["nats_per_token"] == pytest.approx(nats / sum(map(len, rows)), rel=1e-6)
    # The bound of random order stands beside it, as without the flag.
    _, out, _ = said(*line, "--json")
    assert records(out) == [{k: v for k, v in record.items() if k != "ordered"}]
    code, out, _ = said(*line, "--order", "confidence")
    assert "in the order confidence (exact)" in out


def test_where_the_end_is_the_models_only_left_to_right_is_exact(said, words):
    Path("held.txt").write_text("the dog sat\na cat ran\n")
    line = ("evaluate", "--model", words, "--likelihood", "--data", "held.txt", "--json")
    exact = {}
    for order in ("left-to-right", "margin"):
        _, out, _ = said(*line, "--order", order)
        exact[order] = records(out)[0]["ordered"]["exact"]
    assert exact == {"left-to-right": True, "margin": False}


def test_rows_that_cannot_be_used_are_counted_and_told(said, molecules):
    # Uranium is no token of this model; a chain of 90 carbons is too long; C1CC is none.
    Path("some.smi").write_text("CCO\nCCN\n[U]\n" + "C" * 90 + "\nC1CC\n")
    line = ("evaluate", "--model", molecules, "--likelihood", "--data", "some.smi")
    code, out, err = said(*line, "--json")
    (record,) = records(out)
    assert code == 0
    assert record["rows"] == 2
    assert [record["left_out"][reason] for reason in ("no molecule", "cannot be encoded")] == [1, 1]
    assert sum(record["left_out"].values()) == 3
    assert re.search(r"left out of some.smi: 1 no molecule, 1 cannot be encoded, 1 longer", err)


def test_texts_of_open_length_are_measured_with_their_ends(said, words):
    Path("held.txt").write_text("the dog sat\na cat ran\n")
    line = ("evaluate", "--model", words, "--data", "held.txt", "--json")
    code, out, _ = said(*line, "--likelihood", "--calibration", "--steps", 5)
    calibration, likelihood = records(out)
    assert code == 0
    assert likelihood["tokens"] == (11 + 1) + (9 + 1)
    assert calibration["rows"] == 2
    code, _, err = said("evaluate", "--model", words, "--likelihood")
    assert code == 2
    assert "--data FILE" in err


@pytest.mark.slow
def test_the_reliability_diagram_is_drawn(said, molecules):
    line = ("evaluate", "--model", molecules, "--calibration", "--rows", 10)
    code, _, err = said(*line, "--plot", "gate.png")
    assert code == 0
    assert Path("gate.png").read_bytes().startswith(b"\x89PNG")
    assert "drew the reliability diagram in gate.png" in err


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (("--rows", "5"), "--rows has no effect without --calibration"),
        (("--calibration", "--canvases", "4"), "--canvases has no effect without --likelihood"),
        (("--calibration", "--order", "margin"), "--order has no effect without --likelihood"),
        (
            ("--likelihood", "--rows", "5", "--order", "left"),
            "--order='left' is not one of confidence",
        ),
        (("--likelihood", "--canvases", "0"), "--canvases. Give a whole number"),
        (("--likelihood", "--plot", "a.png"), "add --calibration"),
        (("--calibration", "--plot", "a.jpg"), "must end in .png"),
        (("--calibration", "--rows", "0"), "--rows. Give a whole number"),
        (("--calibration", "--steps", "1"), "steps=1"),
        (("--calibration", "--temperature", "-1"), "--temperature. Give a number from 0"),
        (("--calibration", "-n", "5"), "--count has no effect"),
        (("--calibration", "--fcd"), "--fcd has no effect"),
        (("--likelihood", "--policy", "margin"), "--policy has no effect on --likelihood"),
        (("--likelihood", "--column", "x"), "--column"),
        (("--calibration", "--policy", "gat"), 'did you mean "gate"'),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(said, molecules, tokens, reason):
    code, out, err = said("evaluate", "--model", molecules, *tokens)
    assert (code, out) == (2, "")
    assert reason in err


def test_a_file_has_no_gate(said):
    Path("a.smi").write_text("CCO\n")
    code, _, err = said("evaluate", "a.smi", "--calibration")
    assert code == 2
    assert "give --model NAME" in err


def test_a_model_without_a_gate_is_not_judged_by_it(said, tmp_path):
    model = saved_model(
        tmp_path / "m", SelfiesTokenizer.from_corpus(SIXTY), SIXTY, use_refine_gate=False
    )
    code, _, err = said("evaluate", "--model", model, "--calibration")
    assert code == 2
    assert "trained without a gate" in err
    assert said("evaluate", "--model", model, "--likelihood", "--rows", 5)[0] == 0
