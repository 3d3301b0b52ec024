"""Files that are whole or not there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import finish, start, wait_until

from imadarem.checkpoint import load_state, load_tensors, save_state, save_tensors
from imadarem.errors import CheckpointError
from imadarem.files import load_json, save_json, write_atomically, write_text

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(-9.0, 9.0),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)  # fmt: skip


@given(state=plain)
def test_nested_state_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, state: object
) -> None:
    stem = tmp_path_factory.mktemp("state") / "optimizer"
    save_state(state, stem)
    assert load_state(stem) == state


def test_an_optimisers_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.randn(3, 2)
    optimizer.step()
    save_state(optimizer.state_dict(), tmp_path / "o")
    loaded = load_state(tmp_path / "o")
    for key, value in optimizer.state_dict()["state"][0].items():
        assert torch.equal(loaded["state"][0][key], value)
        assert loaded["state"][0][key].dtype == value.dtype
    assert loaded["param_groups"] == optimizer.state_dict()["param_groups"]


def test_state_that_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state.a.0 is a set"):
        save_state({"a": [{1}]}, tmp_path / "o")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text("old", path)

    def half(aside: Path) -> None:
        aside.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left.*unchanged"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        write_text("x", tmp_path / "file" / "below" / "note.txt")


@pytest.mark.parametrize("load", [load_json, load_tensors])
def test_missing_and_damaged_files_are_refused(load: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file"):
        load(tmp_path / "none")  # type: ignore[operator]
    (tmp_path / "bad").write_bytes(b"\x00\x01garbage")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "bad")  # type: ignore[operator]


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    save_json([1], tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_a_file_is_on_the_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed first, a file could be empty after a power cut: the name is written, the text not."""
    calls: list[str] = []
    flush, move = os.fsync, os.replace

    def fsync(handle: int) -> None:
        (draft,) = tmp_path.iterdir()
        assert os.path.samestat(os.fstat(handle), draft.stat())
        calls.append(f"flush {draft.read_text()}")
        flush(handle)

    def replace(source: Path, target: Path) -> None:
        calls.append("move")
        move(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_text("all of it", tmp_path / "note.txt")
    assert calls == ["flush all of it", "move"]


def write_for_ever(path: Path) -> None:
    for count in range(10**6):
        save_tensors({"x": torch.full((200_000,), float(count))}, path)


@pytest.mark.slow
def test_killing_a_writer_never_leaves_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors({"x": torch.zeros(10)}, path)
    writer = start(write_for_ever, path, output=tmp_path / "printed")
    # The first of its writes is done.
    wait_until(lambda: len(load_tensors(path)["x"]) > 10, writer, output=tmp_path / "printed")
    time.sleep(0.1)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    assert finish(writer) == -signal.SIGKILL
    values = load_tensors(path)["x"]
    # One whole write or another, never a mixture.
    assert len(values) == 200_000 and (values == values[0]).all()
