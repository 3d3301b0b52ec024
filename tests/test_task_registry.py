"""The registry: every name loads its task, and a wrong name or setting names the nearest."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from imadarem.data.task_registry import TASKS, load_task, task_settings
from imadarem.errors import ConfigError

#: The smallest useful settings of each task.
SMALL = {
    "sudoku": {"sizes": (4,), "n": 20, "valid": 5},
    "arc": {"max_grid": 5, "n_demonstrations": 1},
    "modular": {"p": 5},
    "addition": {"digits": 1, "n": 20, "valid": 5},
    "text": {"source": ["a first text", "a second text", "a third text"]},
    "molecules": {"rows": 12},
}


def test_the_tasks_of_the_library_are_these():
    # Of tests/test_reasoning.py: its questions come from a package that others exclude.
    assert list(TASKS) == [*SMALL, "reasoning"]


@pytest.mark.parametrize("name", SMALL)
def test_every_task_keeps_the_contract(name, tmp_path, monkeypatch):
    monkeypatch.setenv("IMADAREM_CACHE", str(tmp_path))
    task = load_task(name, **SMALL[name])
    assert task.name == name
    vocabulary = len(task.tokenizer)
    for side in (task.train, task.valid):
        assert side.inputs.dtype == side.labels.dtype == side.task_ids.dtype == torch.int64
        blank = side.inputs == task.tokenizer.mask_token_id
        assert blank.any(1).all() and not blank.all(1).any()
        assert side.inputs[~blank].equal(side.labels[~blank])
        assert 0 <= int(side.labels.min()) and int(side.labels.max()) < vocabulary
        assert not (side.labels == task.tokenizer.mask_token_id).any()
        assert (side.task_ids >= 0).all()
        if task.verify is not None:
            assert task.verify(side.inputs, side.labels).all()
            assert not task.verify(side.inputs, side.inputs).any()
        for relation in [r for group in task.relations or [] for r in group]:
            assert len(relation) <= side.inputs.shape[1]
    assert not set(task.train.task_ids.tolist()) & set(task.valid.task_ids.tolist())
    # The run's record is JSON.
    json.dumps(task.settings)


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown task 'sudoko' .did you mean \"sudoku\""):
        load_task("sudoko")


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("sudoku", "size", "sizes"),
        ("arc", "max_grids", "max_grid"),
        ("modular", "trainshare", "train_share"),
        ("text", "hole_shares", "hole_share"),
    ],
)
def test_an_unknown_setting_names_the_nearest(name, wrong, right):
    with pytest.raises(ConfigError, match=f'no setting {wrong!r} .did you mean "{right}"'):
        load_task(name, **{wrong: 1})


def test_a_setting_without_default_has_to_be_given():
    assert task_settings("text")["source"] is inspect.Parameter.empty
    with pytest.raises(ConfigError, match=r"needs the setting 'source'.*source=\.\.\."):
        load_task("text", length=8)


def test_settings_come_with_their_defaults():
    assert task_settings("modular")["p"] == 97 and "sizes" in task_settings("sudoku")
