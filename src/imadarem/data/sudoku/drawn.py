"""Puzzles that are generated for training and validation, none a symmetric copy of another side."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imadarem.data.sudoku.canonical import HELD_OUT_ONE_IN, canonical_keys, held_out
from imadarem.data.sudoku.generator import Puzzle, generate_kind
from imadarem.data.sudoku.grid import geometry
from imadarem.errors import ConfigError
from imadarem.workers import Workers

Choice = int | str
Givens = Choice | Sequence[Choice]
"""A number of givens, ``"minimal"``, or several of these, of which each puzzle draws one."""

# Half of the 9x9 puzzles at 32 givens, the others easier or harder.
DEFAULT_GIVENS: Mapping[int, Givens] = {
    4: "minimal",
    6: "minimal",
    9: (32, 32, 32, 32, 28, 30, 36, 40),
}
MINIMAL = "minimal"
FORMAT = 1
# Reveals that are drawn again before a puzzle is left as it is.
REDRAWS = 8
# Puzzles generated without a new held-out one before there are said to be no more.
IN_VAIN = 2_000

Digits = NDArray[np.uint8]


@dataclass(frozen=True)
class PuzzleRows:
    """Puzzles as arrays: ``clues`` and ``solutions``, both ``(n, N²)``, 0 for a blank."""

    clues: Digits
    solutions: Digits

    @classmethod
    def of(cls, puzzles: Sequence[Puzzle], size: int) -> PuzzleRows:
        shape = (len(puzzles), 2, size * size)
        both = np.array(puzzles, dtype=np.uint8).reshape(shape)
        return cls(both[:, 0], both[:, 1])

    def __len__(self) -> int:
        return len(self.clues)

    def rows(self, which: Any) -> PuzzleRows:
        return PuzzleRows(self.clues[which], self.solutions[which])


@dataclass(frozen=True)
class Recipe:
    """Everything that the puzzles of one size depend on."""

    size: int
    train: int
    valid: int
    choices: tuple[Choice, ...]
    fill_share: float
    seed: int

    @property
    def digest(self) -> str:
        key = [FORMAT, HELD_OUT_ONE_IN, self.size, self.train, self.valid, self.choices]
        text = json.dumps([*key, self.fill_share, self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def choices_of(givens: Givens | Mapping[int, Givens] | None, size: int) -> tuple[Choice, ...]:
    """The numbers of givens that puzzles of ``size`` are drawn with; one outside it is refused."""
    cells = geometry(size).cells
    found = givens.get(size) if isinstance(givens, Mapping) else givens
    found = DEFAULT_GIVENS[size] if found is None else found
    named = (found,) if isinstance(found, int | str) else tuple(found)
    for choice in named:
        if choice != MINIMAL and not (isinstance(choice, int) and 0 < choice < cells):
            raise ConfigError(
                f"givens {choice!r} for {size}x{size}: give 1 to {cells - 1}, or {MINIMAL!r}, or "
                "several of these."
            )
    if not named:
        raise ConfigError(f"givens for {size}x{size} is empty; give a number or {MINIMAL!r}.")
    return named


def generated(recipe: Recipe, workers: Workers) -> tuple[PuzzleRows, PuzzleRows]:
    """Both sides of the split.

    Training puzzles are the first of a stream that are not held out; those held out on the
    way are used too, if they have the givens of the held-out set.
    """
    made, sides = [], np.zeros(0, bool)
    first = np.zeros(0, bool)
    while (~sides).sum() < recipe.train:
        missing = recipe.train - int((~sides).sum())
        span = range(
            len(sides), len(sides) + missing * HELD_OUT_ONE_IN // (HELD_OUT_ONE_IN - 1) + 8
        )
        drawn = [_drawn(recipe, index) for index in span]
        made.append(_make(recipe, drawn, "train", span, workers))
        sides = np.append(sides, held_out(canonical_keys(made[-1].clues)))
        first = np.append(first, [choice == recipe.choices[0] for choice in drawn])
    rows = _stacked(made)
    train = np.flatnonzero(~sides)[: recipe.train]
    ahead = np.flatnonzero(sides & first)
    # Only what lies before the last training puzzle: the rest depends on how we step.
    found = rows.rows(ahead[ahead < train[-1]])
    return revealed(rows.rows(train), recipe), held_out_rows(recipe, workers, found)


def held_out_rows(recipe: Recipe, workers: Workers, found: PuzzleRows | None = None) -> PuzzleRows:
    """``recipe.valid`` different held-out puzzles, those already ``found`` first."""
    empty = PuzzleRows(*np.zeros((2, 0, recipe.size**2), np.uint8))
    distinct = _distinct([empty if found is None else found])
    start = in_vain = 0
    while (missing := recipe.valid - len(distinct)) > 0:
        if in_vain >= IN_VAIN:
            raise ConfigError(
                f"{start} generated puzzles of {recipe.size}x{recipe.size} with these givens hold "
                f"only {len(distinct)} different held-out ones; {recipe.valid} were asked for. "
                "Ask for fewer, or for other givens."
            )
        span = range(start, start + min(missing * HELD_OUT_ONE_IN + 16, 20_000))
        batch = _make(recipe, [recipe.choices[0]] * len(span), "valid", span, workers)
        more = _distinct([distinct, batch.rows(held_out(canonical_keys(batch.clues)))])
        start, in_vain = span.stop, 0 if len(more) > len(distinct) else in_vain + len(span)
        distinct = more
    return distinct.rows(slice(recipe.valid))


def _drawn(recipe: Recipe, index: int) -> Choice:
    return random.Random(f"givens/{recipe.seed}/{index}").choice(recipe.choices)


def _make(
    recipe: Recipe, drawn: Sequence[Choice], stream: str, span: range, workers: Workers
) -> PuzzleRows:
    # The two streams of a seed share no puzzle: training counts up from 0, the other down.
    sign = 1 if stream == "train" else -1
    seeds = [(recipe.seed << 32) + sign * (index + (sign < 0)) for index in span]
    stage = f"{stream} {recipe.size}x{recipe.size}"
    counts = [None if isinstance(choice, str) else choice for choice in drawn]
    kinds = list(zip(counts, seeds, strict=True))
    return PuzzleRows.of(
        workers.map(stage, partial(generate_kind, recipe.size), kinds), recipe.size
    )


def revealed(rows: PuzzleRows, recipe: Recipe) -> PuzzleRows:
    """A share of the puzzles with more cells revealed, none of them of a held-out class."""
    rng = np.random.default_rng([recipe.size, abs(recipe.seed), 1])
    clues = rows.clues.copy()
    waiting = np.flatnonzero(rng.random(len(rows)) < recipe.fill_share)
    for _ in range(REDRAWS):
        if len(waiting) == 0:
            break
        some = rows.rows(waiting)
        most = (some.clues == 0).sum(1)
        blanks = np.exp(rng.random(len(some)) * np.log(np.maximum(most, 1))).round().astype(int)
        easier = _reveal(some, blanks, rng)
        leaks = held_out(canonical_keys(easier))
        clues[waiting[~leaks]] = easier[~leaks]
        waiting = waiting[leaks]
    return PuzzleRows(clues, rows.solutions)


def _reveal(rows: PuzzleRows, blanks: NDArray[np.integer], rng: np.random.Generator) -> Digits:
    """Clues in which ``blanks`` ``(n,)`` of the blanks are left, drawn at random."""
    lot = np.where(rows.clues == 0, rng.random(rows.clues.shape), 2.0)
    rank = lot.argsort(1).argsort(1)
    stays = (rank < blanks[:, None]) & (rows.clues == 0)
    return np.where(stays, np.uint8(0), rows.solutions)


def _stacked(parts: Sequence[PuzzleRows]) -> PuzzleRows:
    return PuzzleRows(
        np.concatenate([part.clues for part in parts]),
        np.concatenate([part.solutions for part in parts]),
    )


def _distinct(parts: Sequence[PuzzleRows]) -> PuzzleRows:
    """The first of each puzzle."""
    rows = _stacked(parts)
    seen = {clues.tobytes(): number for number, clues in reversed(list(enumerate(rows.clues)))}
    return rows.rows(sorted(seen.values()))
