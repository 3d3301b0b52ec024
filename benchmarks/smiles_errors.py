"""Errors in SMILES whose truth is known, by kind.

Each kind changes the tokens of a molecule at one place; a kind that finds no place there gives
None. ``broken`` mixes kinds until the row is so many edits away from the molecule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

Tokens = list[str]
#: Tokens, the vocabulary and a generator → the tokens with an error, or None.
Kind = Callable[[Tokens, Sequence[str], np.random.Generator], Tokens | None]
#: Atoms that a reader or a person takes for each other.
SIMILAR = {
    "O": "NCS", "N": "OCS", "C": "NOS", "S": "NOC", "F": ["Cl", "Br", "O"], "Cl": ["F", "Br", "C"],
    "Br": ["Cl", "F"], "c": "no", "n": "cso", "o": "csn", "s": "cno", "=": "#-", "#": "=",
}  # fmt: skip
CASES = {"C": "c", "N": "n", "O": "o", "S": "s", "c": "C", "n": "N", "o": "O", "s": "S"}


def replaced(row: Tokens, vocabulary: Sequence[str], rng: np.random.Generator) -> Tokens | None:
    at = int(rng.integers(len(row)))
    return [*row[:at], str(rng.choice(vocabulary)), *row[at + 1 :]]


def inserted(row: Tokens, vocabulary: Sequence[str], rng: np.random.Generator) -> Tokens | None:
    at = int(rng.integers(len(row) + 1))
    return [*row[:at], str(rng.choice(vocabulary)), *row[at:]]


def swapped(row: Tokens, vocabulary: Sequence[str], rng: np.random.Generator) -> Tokens | None:
    at = int(rng.integers(max(len(row) - 1, 1)))
    return [*row[:at], *row[at : at + 2][::-1], *row[at + 2 :]]


def cut(row: Tokens, vocabulary: Sequence[str], rng: np.random.Generator) -> Tokens | None:
    return row[: -int(rng.integers(1, 4))]


def lost(which: Callable[[str], bool]) -> Kind:
    """A kind that leaves out one of these tokens."""
    return changed(which, lambda token, vocabulary, rng: [])


def changed(
    which: Callable[[str], bool],
    into: Callable[[str, Sequence[str], np.random.Generator], Tokens],
) -> Kind:
    """A kind that puts other tokens in the place of one of these."""

    def kind(row: Tokens, vocabulary: Sequence[str], rng: np.random.Generator) -> Tokens | None:
        places = [at for at, token in enumerate(row) if which(token)]
        if not places:
            return None
        at = int(rng.choice(places))
        return [*row[:at], *into(row[at], vocabulary, rng), *row[at + 1 :]]

    return kind


def added(tokens: str) -> Kind:
    """A kind that puts in one of these tokens."""
    return lambda row, vocabulary, rng: inserted(row, list(tokens), rng)


def is_ring(token: str) -> bool:
    return token.isdigit() or token.startswith("%")


def another_ring(token: str, vocabulary: Sequence[str], rng: np.random.Generator) -> Tokens:
    return [str(rng.choice([other for other in "123456" if other != token]))]


KINDS: dict[str, Kind] = {
    "any token replaced": replaced,
    "any token inserted": inserted,
    "token doubled": changed(lambda token: True, lambda token, *_: [token, token]),
    "token lost": lost(lambda token: True),
    "two swapped": swapped,
    "ring digit lost": lost(is_ring),
    "ring digit changed": changed(is_ring, another_ring),
    "ring digit added": added("123"),
    "bracket lost": lost(lambda token: token in "()"),
    "bracket added": added("()"),
    "case changed": changed(CASES.__contains__, lambda token, *_: [CASES[token]]),
    "atom or bond mistaken": changed(
        SIMILAR.__contains__, lambda token, _, rng: [str(rng.choice(list(SIMILAR[token])))]
    ),
    "bond lost": lost(lambda token: token in "=#"),
    "bond added": added("=#"),
    "end cut off": cut,
}


class Errors:
    """Makes errors in rows of token ids of a model.

    Args:
        model: Its vocabulary and its longest row.
        seed: Of everything drawn.
    """

    def __init__(self, model: Any, seed: int) -> None:
        self.tokenizer, self.longest = model.tokenizer, model.config.max_seq_len
        special = set(model.tokenizer.all_special_ids)
        ids = [n for n in range(len(model.tokenizer)) if n not in special]
        self.vocabulary = model.tokenizer.convert_ids_to_tokens(ids)
        self.ids = dict(zip(self.vocabulary, ids, strict=True))
        self.rng = np.random.default_rng(seed)

    def one(self, row: Sequence[int], kind: str, tries: int = 20) -> list[int] | None:
        """The row with one error of a kind; None where that kind has no place in it."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(row))
        for _ in range(tries):
            found = KINDS[kind](tokens, self.vocabulary, self.rng)
            if found and set(found) <= self.ids.keys() and found != tokens:
                if len(found) <= self.longest:
                    return [self.ids[token] for token in found]
        return None

    def at_distance(self, row: Sequence[int], distance: int) -> list[int]:
        """The row with errors of random kinds, so many edits of a token away from it."""
        while True:
            found = list(row)
            for _ in range(distance):
                found = self.one(found, str(self.rng.choice(list(KINDS))), 1) or found
                if (now := Levenshtein.distance(found, list(row))) >= distance:
                    if now == distance:
                        return found
                    break
