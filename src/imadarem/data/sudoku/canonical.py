"""A number that all symmetric copies of a puzzle share, so that none of them can leak.

Colour refinement (Weisfeiler and Leman, 1968) on the graph of cells, rows, columns, boxes,
bands, stacks and digits: each has a 64-bit colour, and takes up the colours of those it
touches, without regard to their order, a few times over. Rows and columns are of one kind
where the grid may be transposed. All in wrapping integers, so that the number is the same
on every machine.

Symmetric puzzles share the number with certainty. Different ones almost always differ; two
that do not are merely taken for copies of each other, which leaks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from imadarem.data.sudoku.grid import geometry, size_of

HELD_OUT_ONE_IN = 10
"""One in so many classes of puzzles is never trained on, whatever the run and the seed."""

ROUNDS = 5

Words = NDArray[np.uint64]


def canonical_key(grid: Sequence[int]) -> int:
    """The number (64 bits) of one puzzle's symmetry class; see :func:`canonical_keys`.

    Raises:
        DataError: The grid has neither 16, 36 nor 81 cells.
    """
    size_of(grid)
    return int(canonical_keys(np.asarray([grid]))[0])


def canonical_keys(grids: NDArray[np.integer]) -> Words:
    """``(n, N²)`` digits, 0 for a blank → ``(n,)`` numbers, equal for symmetric puzzles.

    Raises:
        DataError: The grids have neither 16, 36 nor 81 cells.
    """
    size = size_of(range(grids.shape[1]))
    parts = [_keys(grids[start : start + 4096], size) for start in range(0, len(grids), 4096)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def held_out(keys: Words) -> NDArray[np.bool_]:
    """Which classes are for validation: a property of the class alone, in every run."""
    # Mixed once more: the split shall not be a statement about the last digits of a sum.
    return _mix(keys, 99) % np.uint64(HELD_OUT_ONE_IN) == 0


def _keys(grids: NDArray[np.integer], size: int) -> Words:
    layout = geometry(size)
    height, width = layout.box_height, layout.box_width
    n, across, down = len(grids), size // width, size // height
    # Transposition swaps rows with columns and bands with stacks: one kind of node each.
    row, box, digit, band, cell, blank = range(1, 7)
    column = row if layout.square_boxes else 7
    of_digit = grids[:, :, None] == np.arange(1, size + 1)
    given, which = of_digit.any(2), np.maximum(grids.astype(np.int64) - 1, 0)
    company = _company(of_digit, size)
    place = (np.asarray(layout.rows), np.asarray(layout.columns), np.asarray(layout.boxes))

    rows, columns = np.full((n, size), row, np.uint64), np.full((n, size), column, np.uint64)
    boxes, digits = np.full((n, size), box, np.uint64), np.full((n, size), digit, np.uint64)
    cells: Words = np.where(given, np.uint64(cell), np.uint64(blank))
    for _ in range(ROUNDS):
        seen = _mix(cells, cell)
        square = seen.reshape(n, size, size)
        in_box = square.reshape(n, down, height, across, width).sum((2, 4)).reshape(n, size)
        by_digit = np.where(of_digit, seen[:, :, None], np.uint64(0)).sum(1)
        by_company = _mix(digits[:, None, :] + company, digit).sum(2)
        bands = _mix(rows, band).reshape(n, down, height).sum(2).repeat(height, 1)
        stacks = _mix(columns, band).reshape(n, across, width).sum(2).repeat(width, 1)
        rows = _mix(_mix(rows, row) + square.sum(2) + _mix(bands, band), row)
        columns = _mix(_mix(columns, row) + square.sum(1) + _mix(stacks, band), row)
        boxes = _mix(_mix(boxes, box) + in_box, box)
        digits = _mix(_mix(digits, digit) + by_digit + by_company, digit)
        named = np.where(given, np.take_along_axis(digits, which, 1), np.uint64(blank))
        lines = _mix(rows, row)[:, place[0]] + _mix(columns, row)[:, place[1]]
        cells = _mix(seen + lines + _mix(boxes, box)[:, place[2]] + _mix(named, digit), cell)
    return _mix(_mix(cells, cell).sum(1) + _mix(digits, digit).sum(1), size)


def _company(of_digit: NDArray[np.bool_], size: int) -> Words:
    """``(n, N, N)``: a colour of how often two digits share a line of a box.

    In a solved grid every cell looks like every other to plain refinement; which digits
    keep company within the boxes tells such grids apart.
    """
    layout = geometry(size)
    n, across, down = len(of_digit), size // layout.box_width, size // layout.box_height
    blocks = of_digit.reshape(n, down, layout.box_height, across, layout.box_width, size)
    lying = blocks.any(4).reshape(n, -1, size).astype(np.int64)
    standing = blocks.any(2).reshape(n, -1, size).astype(np.int64)
    counts = [lines.transpose(0, 2, 1) @ lines for lines in (lying, standing)]
    weight = 1 if layout.square_boxes else 100
    return _mix((counts[0] + weight * counts[1]).astype(np.uint64), 8)


def _mix(x: Words, kind: int) -> Words:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), another one per kind."""
    x = x + _salt(kind)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _salt(kind: int) -> np.uint64:
    return np.uint64(kind * 0x9E3779B97F4A7C15 % 2**64)
