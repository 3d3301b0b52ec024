"""A list of words as a checker of text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from imadarem.data.text import iter_lines

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


@dataclass(frozen=True)
class WordList:
    """Says of a text whether every word of it stands in a list.

    A word with a capital letter may stand there without, and a possessive without its ``'s``.

    Attributes:
        words: The list.
    """

    words: frozenset[str]

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """A list of these words."""
        return cls(frozenset(words))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The words of a file, one per line.

        Raises:
            DataError: The file cannot be read.
        """
        return cls.of(text.strip() for _, text in iter_lines(path) if text.strip())

    def __call__(self, text: str) -> bool:
        """Whether every word of a text stands in the list."""
        return all(map(self.knows, WORD.findall(text)))

    def knows(self, word: str) -> bool:
        """Whether a word stands in the list."""
        plain = word.replace("’", "'").removesuffix("'s")
        return not self.words.isdisjoint((word, word.lower(), plain, plain.lower()))
