"""``imadarem sample --out FILE --resume``: a run that is killed goes on where it was."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_parts import SIXTY, records, saved_model

from imadarem.cli import streaming
from imadarem.cli.app import run
from imadarem.tokenizers import SelfiesTokenizer


@pytest.fixture(scope="module")
def molecules(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("molecules")
    return saved_model(folder, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)


def test_a_streamed_file_is_the_one_that_is_written_at_once(molecules, tmp_path, monkeypatch):
    whole, streamed = tmp_path / "whole.csv", tmp_path / "streamed.csv"
    assert run(["sample", "-n", "40", "--model", molecules, "--out", str(whole)]) == 0
    monkeypatch.setattr(streaming, "BLOCK", 7)
    command = ["sample", "-n", "40", "--model", molecules, "--out", str(streamed)]
    assert run([*command, "--resume", "--batch-size", "3"]) == 0
    assert streamed.read_text() == whole.read_text()
    assert len(list(csv.reader(streamed.read_text().splitlines()))) == 41


def test_the_summary_counts_the_whole_file_and_a_finished_run_does_nothing(
    molecules, tmp_path, capsys
):
    path = tmp_path / "molecules.smi"
    command = ["sample", "--model", molecules, "--out", str(path), "--resume", "--json"]
    for count in ("20", "30", "30"):
        assert run([*command, "-n", count]) == 0
    first, second, third = records(capsys.readouterr().out)
    assert [first["samples"], second["samples"], third["samples"]] == [20, 30, 30]
    assert third["samples_per_second"] == 0
    assert second["valid"] == third["valid"]
    assert len(path.read_text().splitlines()) == 30


def test_wrong_uses_are_told_before_any_work(molecules, tmp_path, capsys):
    assert run(["sample", "--resume"]) == 2
    assert "name it with --out" in capsys.readouterr().err
    path = str(tmp_path / "a.smi")
    command = ["sample", "--model", molecules, "--out", path, "--resume"]
    assert run([*command, "-n", "5"]) == 0
    assert run([*command, "-n", "9", "--seed", "4"]) == 2
    assert "seed = 0, and now it is 4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_without_a_gap_and_without_a_repetition(molecules, tmp_path):
    path, count = tmp_path / "molecules.smi", 2_200
    drawing = ["sample", "-n", str(count), "--model", molecules, "--steps", "2"]
    command = [*drawing, "--out", str(path), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-m", "imadarem", *command], env=environment)
    record = Path(f"{path}.json")
    deadline = time.monotonic() + 120
    while not (record.is_file() and 0 < json.loads(record.read_text())["samples"]):
        assert child.poll() is None and time.monotonic() < deadline, "the run never wrote a block"
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = json.loads(record.read_text())["samples"]
    assert 0 < before < count
    assert run(command) == 0
    straight = tmp_path / "straight.smi"
    assert run([*drawing, "--out", str(straight), "--json"]) == 0
    assert path.read_bytes() == straight.read_bytes()
