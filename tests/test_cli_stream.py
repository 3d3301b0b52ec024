"""``imadarem sample --out FILE --resume``: a run that is killed is continued."""

from __future__ import annotations

import csv
import os
import signal

import pytest
from cli_parts import SIXTY, records, saved_model
from processes import finish, start_command, wait_until

from imadarem.cli import streaming
from imadarem.cli.app import run
from imadarem.cli.sample_file import count_rows
from imadarem.data.molecules import canonical
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


def test_the_summary_tells_the_file_from_what_was_drawn_now(molecules, tmp_path, capsys):
    path = tmp_path / "molecules.smi"
    command = ["sample", "--model", molecules, "--out", str(path), "--resume", "--json"]
    for count in ("20", "30", "30"):
        assert run([*command, "-n", count]) == 0
    found = records(capsys.readouterr().out)
    assert [(r["samples"], r["drawn"]) for r in found] == [(20, 20), (30, 10), (30, 0)]
    valid = [canonical(line) is not None for line in path.read_text().splitlines()]
    assert [r["valid"] for r in found] == [sum(valid[:20]) / 20, sum(valid[20:]) / 10, None]
    assert found[2]["samples_per_second"] == 0
    assert len(valid) == 30


def test_wrong_uses_are_told_before_any_work(molecules, tmp_path, capsys):
    assert run(["sample", "--resume"]) == 2
    assert "name it with --out" in capsys.readouterr().err
    path = str(tmp_path / "a.smi")
    command = ["sample", "--model", molecules, "--out", path, "--resume"]
    assert run([*command, "-n", "5"]) == 0
    assert run([*command, "-n", "9", "--seed", "4"]) == 2
    assert "seed = 0, and now it is 4" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_continues_without_a_gap_and_without_a_repetition(molecules, tmp_path, capsys):
    path, printed = tmp_path / "molecules.smi", tmp_path / "printed"

    def drawing(count, file):
        return [*f"sample -n {count} --model {molecules} --steps 2 --resume --out {file}".split()]

    child = start_command(*drawing(1_000_000, path), output=printed)
    wait_until(lambda: path.is_file() and count_rows(path)[0], child, output=printed)
    # A second run beside the first is refused, and changes nothing.
    os.kill(child.pid, signal.SIGSTOP)
    assert run(drawing(1_000_000, path)) == 2
    assert f"is being written by process {child.pid}" in capsys.readouterr().err
    os.kill(child.pid, signal.SIGKILL)
    assert finish(child) == -signal.SIGKILL
    count, straight = count_rows(path)[0] + 100, tmp_path / "straight.smi"
    assert run(drawing(count, path)) == 0
    assert run(drawing(count, straight)) == 0
    assert path.read_bytes() == straight.read_bytes()
