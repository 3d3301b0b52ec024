"""A list of words as a checker of text."""

from __future__ import annotations

import pytest

from imadarem.data.words import WordList

WORDS = WordList.of(["letter", "don't", "Paris", "naïve"])


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("Letter, letter: LETTER!", True),
        ("the letter", False),
        ("letter's", True),
        ("don’t", True),
        ("paris", False),  # "Paris" stands there with a capital letter alone
        ("naïve", True),
        ("123 - 4", True),
    ],
)
def test_every_word_must_stand_in_the_list(text: str, known: bool) -> None:
    assert WORDS(text) is known
