"""Questions that their data scores, as reasoning-gym's generators give them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from imadarem.data.reasoning import questions_task
from imadarem.data.task_registry import load_task
from imadarem.errors import DataError, MissingExtraError


class Halves:
    """Two numbers that add up to the one asked for: many answers are right."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(2, 40):
            text = f"Split {number} in two."
            yield {"question": text, "answer": f"{number // 2} {number - number // 2}", "n": number}

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        parts = (answer or "").split()
        return float(len(parts) == 2 and sum(map(int, parts)) == entry["n"])


def test_the_datas_own_rule_judges_answers_and_shared_words_are_left_out() -> None:
    task = questions_task("halves", Halves())
    assert (task.settings["begin"], task.settings["end"]) == ("Split ", " in two.")
    # "2" to "39", a line break, and answers as long as "19 20".
    assert task.train.inputs.shape[1] == 2 + 1 + 5
    assert task.verify is not None and task.verify(task.train.inputs, task.train.labels).all()
    spell = task.tokenizer.encode
    question = torch.tensor([spell("39\n", add_special_tokens=False) + [1] * 5])
    other, wrong = (torch.tensor([spell(f"39\n{text}")]) for text in ("9 30 ", "19 21"))
    assert task.verify(question, other).tolist() == [True]
    assert task.verify(question, wrong).tolist() == [False]


def test_questions_that_are_too_long_are_counted_and_none_left_is_an_error() -> None:
    # Questions below 10 take 1 + 1 + 5 characters.
    task = questions_task("halves", Halves(), max_length=7 + 3)
    assert task.settings["left_out"] == 0
    with pytest.raises(DataError, match=r"max_length=4.*Raise it"):
        questions_task("halves", Halves(), max_length=4)


def test_without_the_package_the_message_names_the_extra(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"imadarem\[tasks\]"):
        load_task("reasoning", generator="gcd")
