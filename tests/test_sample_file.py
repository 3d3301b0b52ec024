"""A file of samples: none twice, none missing, whenever a process dies or another comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imadarem.cli.sample_file import SampleFile, count_rows, sample_file
from imadarem.errors import BusyError, CheckpointError, ConfigError, DataError
from imadarem.locks import exclusive

SEED = {"seed": 1}


def text(start: int, stop: int, suffix: str = ".txt") -> str:
    if suffix == ".txt":
        return "".join(f"sample {number} ü\n" for number in range(start, stop))
    # Every third cell has a line break and quotes: a row of a table need not be a line.
    head = "text,valid\n" if start == 0 else ""
    cells = (f'"a\n""{n}"""' if n % 3 == 0 else f"b{n}" for n in range(start, stop))
    return head + "".join(f"{cell},1\n" for cell in cells)


def grow(file: SampleFile, stop: int, block: int) -> None:
    while file.rows < stop:
        n = min(block, stop - file.rows)
        file.append(text(file.rows, file.rows + n, file.path.suffix), n)


def begun(path: Path, rows: int = 3, wanted: int = 5) -> Path:
    with sample_file(path, SEED, wanted, resume=False) as file:
        grow(file, rows, 2)
    return path


# A process may die within a block, and a machine may leave NUL bytes where it crashed.
@given(
    st.lists(
        st.tuples(st.integers(1, 7), st.integers(0, 9), st.integers(0, 60), st.booleans()),
        max_size=5,
    ),
    st.sampled_from([".txt", ".csv"]),
)
def test_whatever_a_dying_process_left_behind_the_file_is_that_of_one_run(
    tmp_path_factory, deaths, suffix
):
    path = tmp_path_factory.mktemp("run") / f"samples{suffix}"
    for block, written, left, crash in deaths:
        with sample_file(path, SEED, 30, resume=True) as file:
            grow(file, min(file.rows + written, 30), block)
            ahead = text(file.rows, min(file.rows + 9, 30), suffix).encode()[:left]
        with path.open("ab") as unfinished:
            unfinished.write(bytes(left) + ahead if crash else ahead)
    with sample_file(path, SEED, 30, resume=True) as file:
        grow(file, 30, 4)
        file.check()
    assert path.read_bytes() == text(0, 30, suffix).encode()


def test_a_finished_file_may_be_made_longer_but_not_shorter(tmp_path):
    path = begun(tmp_path / "samples.txt", 3, 3)
    with sample_file(path, SEED, 5, resume=True) as file:
        grow(file, 5, 2)
    assert path.read_text("utf-8") == text(0, 5)
    with (
        pytest.raises(ConfigError, match="holds 5 samples already"),
        sample_file(path, SEED, 4, resume=True),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "resume", "message"),
    [
        ({"seed": 2}, True, "begun with seed = 1, and now it is 2"),
        ({}, True, "begun with seed = 1, and now it is None"),
        (SEED, False, "holds 3 of 5 samples.*--resume"),
    ],
)
def test_what_would_spoil_a_file_is_refused_and_changes_nothing(tmp_path, given, resume, message):
    path = begun(tmp_path / "samples.txt")
    with pytest.raises(ConfigError, match=message), sample_file(path, given, 5, resume=resume):
        pass
    assert path.read_text("utf-8") == text(0, 3)


def test_a_finished_file_is_replaced_without_resume(tmp_path):
    path = begun(tmp_path / "samples.txt", 3, 3)
    with sample_file(path, {"seed": 2}, 2, resume=False) as file:
        grow(file, 2, 2)
    assert path.read_text("utf-8") == text(0, 2)
    assert json.loads((tmp_path / "samples.txt.json").read_text())["settings"] == {"seed": 2}


@pytest.mark.parametrize("content", ["mine\n", "mine", "\0"])
def test_a_file_without_a_record_is_not_continued(tmp_path, content):
    path = tmp_path / "samples.txt"
    path.write_text(content)
    with pytest.raises(ConfigError, match="no record"), sample_file(path, SEED, 3, resume=True):
        pass
    assert path.read_text() == content


def test_an_interruption_before_the_first_row_leaves_nothing_to_agree_with(tmp_path):
    path = tmp_path / "samples.csv"
    with sample_file(path, {"seed": 7}, 5, resume=True):
        pass
    path.write_text("text,valid\n")
    with sample_file(path, SEED, 3, resume=True) as file:
        grow(file, 3, 3)
    assert path.read_text() == text(0, 3, ".csv")


def test_the_second_writer_is_refused_with_the_process_id_of_the_first(tmp_path):
    path = begun(tmp_path / "samples.txt")
    holder = "import sys, pathlib; from imadarem.cli.sample_file import sample_file\n"
    holder += "with sample_file(pathlib.Path(sys.argv[1]), {'seed': 1}, 5, resume=True):\n"
    holder += "    print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"held\n"
        with (
            pytest.raises(BusyError, match=f"process {child.pid}"),
            sample_file(path, SEED, 5, resume=True),
        ):
            pass
        child.kill()
    # A killed holder leaves no lock.
    with sample_file(path, SEED, 5, resume=True) as file:
        grow(file, 5, 2)
    assert path.read_text("utf-8") == text(0, 5)


def test_temporary_files_of_killed_writers_are_removed_and_no_others(tmp_path):
    path = begun(tmp_path / "samples.txt")
    left, other = tmp_path / ".samples.txt.json.ab12cd34.tmp", tmp_path / ".mine.tmp"
    for file in (left, other):
        file.write_text("x")
    with exclusive(path):
        pass
    assert not left.exists()
    assert other.exists()


def test_a_file_that_another_program_changed_is_no_success(tmp_path):
    path = tmp_path / "samples.txt"
    with sample_file(path, SEED, 3, resume=True) as file:
        grow(file, 3, 3)
        path.write_text("sample\n")
        with pytest.raises(CheckpointError, match="holds 1 samples, and 3 were written"):
            file.check()
        path.unlink()
        with pytest.raises(CheckpointError, match="holds 0 samples"):
            file.check()


def test_a_sample_of_two_lines_goes_into_a_table_only(tmp_path):
    with sample_file(tmp_path / "samples.txt", SEED, 3, resume=True) as file:
        file.append("a\n", 1)
        with pytest.raises(DataError, match="line break.*csv"):
            file.append("b\nc\n", 1)
    assert count_rows(tmp_path / "samples.txt")[0] == 1


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(CheckpointError, match="nowhere"),
        sample_file(tmp_path / "nowhere" / "samples.txt", SEED, 5, resume=False),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_says_to_free_space_and_resume(tmp_path, monkeypatch):
    path = begun(tmp_path / "samples.txt")
    with sample_file(path, SEED, 5, resume=True) as file:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, file._file.fileno())
        os.close(full)
        with pytest.raises(CheckpointError, match="holds 3 samples; free space.*--resume"):
            grow(file, 5, 2)

    def no_space(*given, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imadarem.files.tempfile.mkstemp", no_space)
    with (
        pytest.raises(CheckpointError, match="json could not be written.*Free space.*--resume"),
        sample_file(path, SEED, 5, resume=True),
    ):
        pass
    assert path.read_text("utf-8") == text(0, 3)
