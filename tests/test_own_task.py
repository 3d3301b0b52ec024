"""A task of the user's own: from pairs of texts, loaded by its place, trained and solved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_parts import records

from imadarem.data.pairs import pairs_task
from imadarem.data.task_registry import load_task
from imadarem.errors import ConfigError, DataError

#: Sorting three letters; the module is what a user would write.
SORTING = """
from itertools import product
from imadarem.data.pairs import pairs_task

def sorting(letters="abc"):
    words = ["".join(word) for word in product(letters, repeat=3)]
    pairs = [(f"{word}>", "".join(sorted(word))) for word in words]
    return pairs_task("sorting", pairs, verify=lambda q, a: sorted(q[:3]) == list(a))
"""

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_pair_becomes_a_question_with_blanks_for_its_answer():
    task = pairs_task("copy", [("ab=", "ab"), ("b=", "b"), ("a=", "a")], valid_fraction=0.4)
    both = torch.cat([task.train.inputs, task.valid.inputs])
    assert sorted(map(task.tokenizer.decode, both)) == ["a=", "ab=", "b="]
    blanks = both == task.tokenizer.mask_token_id
    assert sorted(blanks.sum(1).tolist()) == [1, 1, 2]
    with pytest.raises(DataError, match="at least 2"):
        pairs_task("one", [("a", "b")])


def test_a_verifier_of_texts_takes_every_right_answer():
    pairs = [("1", "23"), ("2", "13"), ("3", "12")]
    task = pairs_task("others", pairs, verify=lambda q, a: {q, *a} == set("123"))
    rows = task.train
    assert task.verify is not None and task.verify(rows.inputs, rows.labels).all()
    other_order = torch.cat([rows.labels[:, :1], rows.labels[:, 1:].flip(1)], dim=1)
    assert task.verify(rows.inputs, other_order).all()
    assert not task.verify(rows.inputs, rows.inputs).any()


def test_a_function_is_found_in_a_file_and_in_a_module_beside_it():
    Path("own_tasks.py").write_text(SORTING)
    for name in ("own_tasks.py:sorting", "own_tasks:sorting"):
        task = load_task(name, letters="abcd")
        assert task.name == "sorting" and len(task.train) + len(task.valid) == 64
    with pytest.raises(DataError, match='did you mean "sorting"'):
        load_task("own_tasks.py:sortin")
    with pytest.raises(ConfigError, match="no setting 'letter'"):
        load_task("own_tasks.py:sorting", letter="ab")


def test_an_own_task_is_trained_and_solved_by_the_commands(said):
    Path("own_tasks.py").write_text(SORTING)
    sizes = "--steps 1 --batch-size 4 --hidden-size 16 --num-layers 1 --unroll-steps 8".split()
    code, _, err = said("train", "--task", "own_tasks.py:sorting", *sizes)
    assert code == 0, err
    solve = ["solve", "--task", "own_tasks.py:sorting", "--model", "runs/sorting/model", "--json"]
    _, out, _ = said(*solve)
    *rows, summary = records(out)
    assert summary["questions"] == len(rows) == 3
    assert all(row["verified"] and row["right"] in (True, False) for row in rows)
    assert all(row["question"].endswith("<mask><mask><mask>") for row in rows)
    code, out, _ = said(*solve, "cab><mask><mask><mask>", "--no-check")
    (row, summary) = records(out)
    assert row["question"] == "cab><mask><mask><mask>" and len(row["answer"]) == 3
    assert (code, row["right"], summary["right"]) == (0, None, None)
