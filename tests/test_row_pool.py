"""Commands in several processes: any number of them writes the same bytes, a killed one resumes."""

from __future__ import annotations

import os
import signal

import pytest
from fakes import COUNTS, MOLECULES, shaken, tiny_model
from processes import errors, finish, start, start_command_ranks, wait_until

from imadarem.cli import run
from imadarem.cli.sample_file import count_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    settings = {"max_seq_len": len(COUNTS) - 1, "length_counts": COUNTS, "length_mode": "drawn"}
    shaken(tiny_model(**settings)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_killed_with_two_processes_and_resumed_with_three_the_file_is_that_of_one(model, tmp_path):
    def command(file, count):
        given = ("--model", model, "-n", count, "--steps", 2, "--batch-size", 64, "--device", "cpu")
        return ("sample", *given, "--resume", "--out", tmp_path / file)

    file, printed = tmp_path / "shared.csv", tmp_path / "killed"
    killed = start_command_ranks(2, *command("shared.csv", 1_000_000), output=printed)
    wait_until(lambda: file.is_file() and count_rows(file)[0], *killed, output=printed)
    # The first process holds the lock of the file.
    os.kill(int((tmp_path / ".shared.csv.lock").read_text()), signal.SIGKILL)
    assert finish(*killed) != 0
    # Another block and a part of one.
    count, printed = count_rows(file)[0] + 600, tmp_path / "resumed"
    assert finish(*start_command_ranks(3, *command("shared.csv", count), output=printed)) == 0
    told = printed.read_text() + errors(printed)
    assert "continuing behind them" in told and told.count("samples in") == 1
    assert run([str(token) for token in command("alone.csv", count)]) == 0
    assert file.read_bytes() == (tmp_path / "alone.csv").read_bytes()


def torchrun(*arguments: str) -> None:
    from torch.distributed.run import main

    main(arguments)


@pytest.mark.slow
def test_repair_under_torchrun_writes_the_file_of_one_process(model, tmp_path):
    broken = tmp_path / "broken.smi"
    broken.write_text("\n".join(MOLECULES) + "\n")
    given = ("repair", "--file", broken, "--model", model, "--check", "builtins:len", "--json")
    line = ["--standalone", "--nproc_per_node", "2", "-m", "imadarem", *map(str, given)]
    printed, file = tmp_path / "printed", tmp_path / "shared.smi"
    assert finish(start(torchrun, *line, "--out", str(file), output=printed)) == 0, errors(printed)
    assert printed.read_text().count('"row"') == len(MOLECULES)
    assert run([*map(str, given), "--out", str(tmp_path / "alone.smi")]) == 0
    assert file.read_bytes() == (tmp_path / "alone.smi").read_bytes()
