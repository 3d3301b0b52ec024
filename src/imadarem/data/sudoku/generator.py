"""The generator: puzzles with one solution, dug out of random solved grids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from imadarem.data.sudoku.grid import Grid, size_of
from imadarem.data.sudoku.solver import candidates, complete, has_solution
from imadarem.errors import ConfigError
from imadarem.workers import Progress, Workers

TRIES = 50
"""Solved grids that are dug before a number of givens is called out of reach."""


class Puzzle(NamedTuple):
    """A question with exactly one answer.

    Attributes:
        clues: N² digits, 0 for a blank.
        solution: N² digits.
    """

    clues: Grid
    solution: Grid


def generate(size: int, givens: int | None = None, seed: int = 0) -> Puzzle:
    """A puzzle with exactly one solution, a pure function of its arguments.

    Args:
        size: 4, 6 or 9.
        givens: How many cells are given; None for a *minimal* puzzle, none of whose givens
            can be spared. Minimal ones have about 5 (4x4), 10 (6x6) and 24 (9x9).
        seed: Any whole number.

    Raises:
        ConfigError: The size is unknown, ``givens`` is out of range, or so few givens were
            not reached in :data:`TRIES` solved grids.
    """
    cells = candidates(size).cells
    if givens is not None and not 0 < givens <= cells:
        raise ConfigError(
            f"givens is {givens}; a sudoku of {size}x{size} has 1 to {cells} givens, or None "
            "for a minimal puzzle."
        )
    rng = random.Random(f"sudoku/{size}/{givens}/{seed}")
    fewest = cells
    for _ in range(TRIES):
        solution = complete(size, rng)
        clues = dig(solution, givens, rng)
        count = cells - clues.count(0)
        if givens is None or count == givens:
            return Puzzle(clues, solution)
        fewest = min(fewest, count)
    raise ConfigError(
        f"{givens} givens of {size}x{size} were not reached in {TRIES} tries: with fewer than "
        f"{fewest}, each had several solutions. Ask for {fewest} or more, or None for minimal."
    )


def generate_kind(size: int, kind: tuple[int | None, int]) -> Puzzle:
    """:func:`generate` of ``(givens, seed)``; a worker process that runs it needs no torch."""
    return generate(size, *kind)


def dig(solution: Sequence[int], givens: int | None, rng: random.Random) -> Grid:
    """Blank cells in random order as long as one solution is left and givens are to spare.

    A given that could not be spared earlier cannot be spared later, when there are fewer
    others; so one pass over the cells is enough for a minimal puzzle.

    Args:
        solution: A solved grid.
        givens: Stop at so many; None goes on to a minimal puzzle.
        rng: Draws the order.

    Returns:
        The clues; more than ``givens`` of them where this order got stuck.
    """
    space = candidates(size_of(solution))
    chosen = [(digit - 1) * space.cells + cell for cell, digit in enumerate(solution)]
    order = rng.sample(range(space.cells), space.cells)
    left, clues = space.cells if givens is None else space.cells - givens, list(solution)
    for cell in order:
        if left == 0:
            break
        # Unique without this given, exactly if no solution has another digit in the cell.
        state = space.all & ~(1 << chosen[cell])
        for other, bit in enumerate(chosen):
            if clues[other] and other != cell:
                state &= space.keep[bit]
        if not has_solution(state, space):
            clues[cell] = 0
            left -= 1
    return tuple(clues)


def generate_many(
    count: int,
    size: int,
    givens: int | None = None,
    seed: int = 0,
    processes: int | None = None,
    progress: Progress | None = None,
) -> list[Puzzle]:
    """``count`` puzzles: number i is ``generate(size, givens, seed · 2³² + i)``.

    So a longer list of the same seed begins with the shorter one, in any number of
    processes.

    Args:
        count: How many.
        size: 4, 6 or 9.
        givens: See :func:`generate`.
        seed: Of the list.
        processes: Worker processes; None works in this one.
        progress: Told how many are done.

    Raises:
        ConfigError: See :func:`generate`.
    """
    kinds = [(givens, (seed << 32) + number) for number in range(count)]
    with Workers(processes, progress) as workers:
        return workers.map(f"sudoku {size}x{size}", partial(generate_kind, size), kinds)
