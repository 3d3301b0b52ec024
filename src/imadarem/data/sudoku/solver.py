"""The solver: every candidate of a grid is one bit of one whole number.

Bit ``(d-1)·N² + cell`` says that digit d may still stand in the cell. Four families of
groups must each hold exactly one candidate at the end: a cell (one digit), and a digit in
a row, in a column, in a box (one cell). Python adds and shifts numbers of 729 bits as one
operation, so all N² groups of a family are searched for single candidates at once: a
round of naked and hidden singles takes about 15 µs for 9x9.

Packages were considered first. ``py-sudoku`` 2.0 and ``dokusan`` 0.1 know all three sizes
and take 20 times as long (3.2 and 2.8 ms for 9x9 with 32 givens, against 0.15); a generator
solves some sixty grids for one puzzle. SAT solvers are heavy for 81 cells.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from imadarem.data.sudoku.grid import Grid, check_grid, geometry, place, size_of
from imadarem.errors import DataError


@dataclass(frozen=True, slots=True)
class Family:
    """N² groups of N candidates each, all of one shape.

    Attributes:
        heads: The first candidate of each group, as bits.
        offsets: Distance of each of the N candidates of a group from its head.
        spread: ``groups * spread`` turns heads into all the candidates of their groups.
    """

    heads: int
    offsets: tuple[int, ...]
    spread: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """The bits of a size.

    Attributes:
        size: N.
        cells: N².
        all: Every candidate of an empty grid.
        keep: For each candidate, those that remain when it is chosen (it is one of them).
        families: Cells, and digits in rows, columns and boxes.
    """

    size: int
    cells: int
    all: int
    keep: tuple[int, ...]
    families: tuple[Family, ...]


@cache
def candidates(size: int) -> Candidates:
    """The bit layout for 4x4, 6x6 or 9x9.

    Raises:
        ConfigError: ``size`` is none of 4, 6, 9.
    """
    layout = geometry(size)
    cells, digits = layout.cells, range(size)
    corners = [
        box_row * size + box_column
        for box_row in range(0, size, layout.box_height)
        for box_column in range(0, size, layout.box_width)
    ]
    inside = [r * size + c for r in range(layout.box_height) for c in range(layout.box_width)]
    shapes = (
        (range(cells), [d * cells for d in digits]),
        ([d * cells + r * size for d in digits for r in range(size)], list(range(size))),
        ([d * cells + c for d in digits for c in range(size)], [r * size for r in range(size)]),
        ([d * cells + corner for d in digits for corner in corners], inside),
    )
    families = tuple(
        Family(_bits(heads), tuple(offsets), _bits(offsets)) for heads, offsets in shapes
    )
    every = (1 << size * cells) - 1
    peers = [0] * (size * cells)
    for heads, offsets in shapes:
        for head in heads:
            group = _bits(head + offset for offset in offsets)
            for offset in offsets:
                peers[head + offset] |= group
    keep = tuple(every & ~group | 1 << bit for bit, group in enumerate(peers))
    return Candidates(size, cells, every, keep, families)


def solutions(grid: Sequence[int], limit: int = 2) -> list[Grid]:
    """Up to ``limit`` solutions; fewer than that are all there are.

    Args:
        grid: N² digits, 0 for a blank.
        limit: Stop after so many. 2 tells no, one and several solutions apart.

    Raises:
        DataError: The grid has neither 16, 36 nor 81 cells.
    """
    space = candidates(size_of(grid))
    found: list[Grid] = []
    for state in _search(opening(grid, space), space):
        if len(found) >= limit:
            break
        found.append(_read(state, space))
    return found


def solve(grid: Sequence[int]) -> Grid:
    """The one solution of a puzzle.

    Raises:
        DataError: The givens contradict each other, there is no solution, or there are
            several; the message shows where two of them differ.
    """
    check_grid(grid)
    found = solutions(grid)
    if not found:
        raise DataError(
            "the puzzle has no solution, although no row, column or box has a digit twice. "
            "Compare the givens with where they were copied from."
        )
    if len(found) > 1:
        raise DataError(_ambiguous(grid, *found))
    return found[0]


def has_solution(state: int, space: Candidates) -> bool:
    """Whether the candidates ``state`` still hold a solution."""
    return next(_search(state, space), None) is not None


def opening(grid: Sequence[int], space: Candidates) -> int:
    """The candidates that the givens of a grid leave, before any singles are sought."""
    state = space.all
    for cell, digit in enumerate(grid):
        if digit:
            state &= space.keep[(digit - 1) * space.cells + cell]
    return state


def complete(size: int, rng: random.Random) -> Grid:
    """A random solved grid. Every one can come; they are not exactly equally likely."""
    space = candidates(size)
    # Its first row is free, and a known row saves most of the guesses.
    row = rng.sample(range(1, size + 1), size)
    state = opening(row + [0] * (space.cells - size), space)
    return _read(next(_search(state, space, rng)), space)


def _search(state: int, space: Candidates, rng: random.Random | None = None) -> Iterator[int]:
    """Depth first over the cells with fewest candidates; solved states as they are found."""
    stack, order = [state], list(range(space.cells))
    if rng is not None:
        rng.shuffle(order)
    while stack:
        reached = _propagate(stack.pop(), space)
        if reached is None:
            continue
        if reached.bit_count() == space.cells:
            yield reached
            continue
        choices = list(_each(_fewest(reached, space, order)))
        if rng is not None:
            rng.shuffle(choices)
        stack.extend(reached & space.keep[bit] for bit in choices)


def _propagate(state: int, space: Candidates) -> int | None:
    """Choose naked and hidden singles until there are none; None for a contradiction."""
    keep, cells, chosen = space.keep, space.cells, 0
    while True:
        singles = 0
        for family in space.families:
            heads, once, twice = family.heads, 0, 0
            for offset in family.offsets:
                present = (state >> offset) & heads
                twice |= once & present
                once |= present
            if once != heads:
                return None
            singles |= (once ^ twice) * family.spread & state
        news = singles & ~chosen
        if not news:
            return state
        chosen |= news
        while news:
            lowest = news & -news
            state &= keep[lowest.bit_length() - 1]
            news ^= lowest
        if state.bit_count() < cells:
            return None


def _fewest(state: int, space: Candidates, order: Sequence[int]) -> int:
    """The candidates of a group of two, or else of a cell with as few as any.

    A digit with two places left in a row is as good a guess as a cell with two digits left;
    without these, puzzles that have no solution can take hours to refute.
    """
    for family in space.families:
        heads, once, twice, thrice = family.heads, 0, 0, 0
        for offset in family.offsets:
            present = (state >> offset) & heads
            thrice |= twice & present
            twice |= once & present
            once |= present
        pairs = twice ^ thrice
        if pairs:
            return (pairs & -pairs) * family.spread & state
    column, best, fewest = space.families[0].spread, 0, space.size + 1
    for cell in order:
        here = state & column << cell
        count = here.bit_count()
        if 1 < count < fewest:
            best, fewest = here, count
    return best


def _read(state: int, space: Candidates) -> Grid:
    grid = [0] * space.cells
    for bit in _each(state):
        grid[bit % space.cells] = bit // space.cells + 1
    return tuple(grid)


def _ambiguous(grid: Sequence[int], one: Grid, other: Grid) -> str:
    size, givens = size_of(grid), len(grid) - list(grid).count(0)
    differ = [cell for cell, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    shown = "; ".join(
        f"{place(cell, size)} can be {one[cell]} or {other[cell]}" for cell in differ[:2]
    )
    return (
        f"the puzzle has more than one solution ({givens} givens): {shown}. Add givens until "
        "one solution is left."
    )


def _each(state: int) -> Iterator[int]:
    while state:
        lowest = state & -state
        yield lowest.bit_length() - 1
        state ^= lowest


def _bits(numbers: Iterator[int] | Sequence[int] | range) -> int:
    return sum(1 << number for number in numbers)
