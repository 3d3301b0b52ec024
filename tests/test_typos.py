"""Typing errors that a corrector of spelling is trained on."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from imadarem.tokenizers import CharTokenizer

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def typos(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module("typos")


# One letter to the left comes with a change: "c" of "cei", "m" of "mm", "^" for the start.
@pytest.mark.parametrize(
    ("wrong", "right", "change"),
    [
        ("recieve", "receive", ("cei", "cie")),
        ("comon", "common", ("mm", "m")),
        ("nife", "knife", ("^k", "^")),
        ("untill", "until", ("l", "ll")),
    ],
)
def test_a_change_is_what_differs_and_the_letter_before_it(
    typos: object, wrong: str, right: str, change: tuple[str, str]
) -> None:
    assert typos.change_between(wrong, right) == change  # type: ignore[attr-defined]


def test_one_word_is_misspelt_as_it_or_others_were(typos: object) -> None:
    text = "we receive it"
    tokenizer = CharTokenizer.from_corpus([text, "abcdefghijklmnopqrstuvwxyz"])
    errors = typos.TypingErrors(tokenizer, [("recieve", "receive")])  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    rows = {tokenizer.decode(errors(tokenizer.encode(text), rng)) for _ in range(60)}
    assert "we recieve it" in rows
    # Of three words one is misspelt at a time.
    assert all(sum(a in row.split() for a in text.split()) >= 2 for row in rows)
    # The change is seen in another word.
    found = {errors.by_change("ceiling", rng) for _ in range(5)}
    assert found == {"cieling"}
    assert errors.by_change("of", rng) is None
