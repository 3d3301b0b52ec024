"""A file of samples that grows: no sample twice, none missing, whenever the process dies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imadarem.errors import CheckpointError, ConfigError
from imadarem.sampling.growing import GrowingFile

SEED = {"seed": 1}


def lines(start: int, stop: int) -> str:
    return "".join(f"sample {number} ü\n" for number in range(start, stop))


def grow(file: GrowingFile, stop: int, block: int) -> None:
    while file.samples < stop:
        n = min(block, stop - file.samples)
        file.append(lines(file.samples, file.samples + n), n, {"valid": n})


# A process may die after a block is on the disk and before the record knows it, or within it.
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(0, 9), st.integers(0, 40)), max_size=5))
def test_whatever_a_dying_process_left_behind_the_record_is_written_once(tmp_path_factory, deaths):
    path = tmp_path_factory.mktemp("run") / "samples.txt"
    for block, written, left in deaths:
        with GrowingFile(path, SEED, 30, resume=True) as file:
            grow(file, min(file.samples + written, 30), block)
            ahead = lines(file.samples, file.samples + 9).encode()[:left]
        with path.open("ab") as unrecorded:
            unrecorded.write(ahead)
    with GrowingFile(path, SEED, 30, resume=True) as file:
        grow(file, 30, 4)
        assert file.tallies == {"valid": 30}
    assert path.read_text("utf-8") == lines(0, 30)


def test_a_finished_file_may_be_made_longer_but_not_shorter(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    with GrowingFile(path, SEED, 3) as file:
        grow(file, 3, 2)
    with GrowingFile(path, SEED, 5, resume=True) as file:
        grow(file, 5, 2)
    assert path.read_text("utf-8") == lines(0, 5)
    with pytest.raises(ConfigError, match="holds 5 samples already"):
        GrowingFile(path, SEED, 4, resume=True)


def test_other_settings_are_refused_by_name_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    with GrowingFile(path, SEED, 5) as file:
        grow(file, 3, 3)
    with pytest.raises(ConfigError, match="begun with seed = 1, and now it is 2"):
        GrowingFile(path, {"seed": 2}, 5, resume=True)
    assert path.read_text("utf-8") == lines(0, 3)


def test_an_interrupted_run_is_not_thrown_away_unasked(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    with GrowingFile(path, SEED, 5) as file:
        grow(file, 3, 3)
    with pytest.raises(ConfigError, match="holds 3 of 5 samples.*--resume"):
        GrowingFile(path, SEED, 5)
    assert path.read_text("utf-8") == lines(0, 3)


def test_a_finished_file_is_replaced_where_it_is_not_to_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    for seed in (1, 2):
        with GrowingFile(path, {"seed": seed}, 3) as file:
            grow(file, 3, 3)
    assert path.read_text("utf-8") == lines(0, 3)
    assert json.loads(file.record.read_text())["settings"] == {"seed": 2}


def test_a_file_without_a_record_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    path.write_text("mine\n")
    with pytest.raises(ConfigError, match="no record"):
        GrowingFile(path, SEED, 3, resume=True)
    assert path.read_text() == "mine\n"


def test_a_file_that_was_cut_behind_our_back_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    with GrowingFile(path, SEED, 5) as file:
        grow(file, 3, 3)
    path.write_text("sample")
    with pytest.raises(CheckpointError, match="6 bytes"):
        GrowingFile(path, SEED, 5, resume=True)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        GrowingFile(tmp_path / "nowhere" / "samples.txt", SEED, 5)
