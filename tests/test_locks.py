"""One writer at a time, and no lock that outlives its holder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imadarem.errors import BusyError, CheckpointError
from imadarem.locks import exclusive

HOLD = """
import sys
from imadarem.locks import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def test_the_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    first = holder(tmp_path)
    with pytest.raises(BusyError, match=f"written by process {first.pid}; wait for it"):
        with exclusive(tmp_path):
            pass
    end(first)
    with exclusive(tmp_path):
        pass


def test_a_refused_writer_does_not_take_the_holders_name_away(tmp_path: Path) -> None:
    with exclusive(tmp_path / "rows.csv"):
        for _ in range(2):
            with pytest.raises(BusyError) as refused, exclusive(tmp_path / "rows.csv"):
                pass
            assert refused.value.pid == os.getpid()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    first = holder(tmp_path / "rows.csv")
    first.kill()
    end(first)
    with exclusive(tmp_path / "rows.csv"):
        pass


def test_a_link_to_a_file_has_the_lock_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "rows.csv")
    with exclusive(tmp_path / "rows.csv"):
        with pytest.raises(BusyError), exclusive(tmp_path / "link.csv"):
            pass


def test_other_files_are_free_and_no_lock_file_stays(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a.csv"), exclusive(tmp_path / "b.csv"):
        assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_not_said_to_be_written_by_others() -> None:
    with pytest.raises(CheckpointError, match="could not be locked"), exclusive("/proc/rows.csv"):
        pass
