"""Commands under torchrun: any number of processes writes the same bytes, a killed one resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import COUNTS, MOLECULES, shaken, tiny_model

from imadarem.cli import run

SOURCE = Path(__file__).parent.parent / "src"
RANKS = Path(__file__).parent / "ranks.py"
COUNT = 3000


def torchrun(processes, *command):
    """Start a command in several processes, as a user starts it."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    return started(*launch, processes, "-m", "imadarem", *command)


def ranks(processes, *command):
    """The same with the libraries loaded once."""
    return started(RANKS, processes, *command)


def started(*command):
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    settings = {"max_seq_len": len(COUNTS) - 1, "length_counts": COUNTS, "length_mode": "drawn"}
    shaken(tiny_model(**settings)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_killed_with_two_processes_and_resumed_with_three_the_file_is_that_of_one(model, tmp_path):
    def command(file):
        given = ("--model", model, "-n", COUNT, "--steps", 3, "--batch-size", 64, "--device", "cpu")
        return ("sample", *given, "--resume", "--out", tmp_path / file)

    assert run([str(token) for token in command("alone.csv")]) == 0
    killed = ranks(2, *command("shared.csv"))
    file = tmp_path / "shared.csv"
    while not (file.is_file() and file.read_bytes().count(b"\n") > 500):
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.02)
    # The first process holds the lock of the file; the others do not outlive it.
    os.kill(int((tmp_path / ".shared.csv.lock").read_text()), signal.SIGKILL)
    killed.communicate(timeout=120)
    assert killed.returncode != 0 and file.read_bytes().count(b"\n") <= COUNT
    resumed = ranks(3, *command("shared.csv"))
    printed, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, printed
    assert "continuing behind them" in printed and printed.count("samples in") == 1
    assert file.read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.slow
def test_repair_and_its_errors_are_those_of_one_process(model, tmp_path):
    broken = tmp_path / "broken.smi"
    broken.write_text("\n".join(MOLECULES) + "\n")
    given = ("repair", "--file", broken, "--model", model, "--check", "builtins:len", "--json")
    shared = torchrun(2, *given, "--out", tmp_path / "shared.smi")
    printed, _ = shared.communicate(timeout=120)
    assert shared.returncode == 0 and printed.count('"row"') == len(MOLECULES), printed
    assert run([*map(str, given), "--out", str(tmp_path / "alone.smi")]) == 0
    assert (tmp_path / "shared.smi").read_bytes() == (tmp_path / "alone.smi").read_bytes()
