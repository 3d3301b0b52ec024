"""The grid: how its cells lie in rows, columns and boxes, and how it is written as text.

A grid is a flat sequence of N² digits, row by row; 0 is a blank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from imadarem.errors import ConfigError, DataError

Grid = tuple[int, ...]
"""``size²`` digits, row by row; 0 is a blank."""

BLANKS = ".0_"
"""Characters that stand for a blank."""

# size → (rows of a box, columns of a box)
_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
SIZES = tuple(_BOXES)
_CELLS = {size * size: size for size in SIZES}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which cell lies where.

    Attributes:
        size: N: digits, rows, columns, boxes.
        box_height: Rows of a box.
        box_width: Columns of a box.
        rows: The row of each of the N² cells.
        columns: The column of each cell.
        boxes: The box of each cell, counted row by row.
    """

    size: int
    box_height: int
    box_width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    boxes: tuple[int, ...]

    @property
    def cells(self) -> int:
        """N²: 16, 36 or 81."""
        return self.size * self.size

    @property
    def square_boxes(self) -> bool:
        """Whether a transposed grid is a grid again."""
        return self.box_height == self.box_width


@cache
def geometry(size: int) -> Geometry:
    """The geometry of a grid of ``size`` × ``size`` cells.

    Raises:
        ConfigError: ``size`` is none of 4 (2x2 boxes), 6 (boxes 2 high, 3 wide), 9 (3x3).
    """
    if size not in _BOXES:
        raise ConfigError(
            f"a sudoku of size {size} is not known. Legal: 4 (boxes 2x2), 6 (boxes 2 high and "
            "3 wide), 9 (boxes 3x3)."
        )
    height, width = _BOXES[size]
    rows = tuple(cell // size for cell in range(size * size))
    columns = tuple(cell % size for cell in range(size * size))
    across = size // width
    boxes = tuple(
        row // height * across + column // width for row, column in zip(rows, columns, strict=True)
    )
    return Geometry(size, height, width, rows, columns, boxes)


def relations(size: int) -> list[list[int]]:
    """Rows, columns and boxes as partitions: three lists of N² group numbers.

    Raises:
        ConfigError: ``size`` is none of 4, 6, 9.
    """
    layout = geometry(size)
    return [list(layout.rows), list(layout.columns), list(layout.boxes)]


def size_of(grid: Sequence[int]) -> int:
    """The size N of a grid with N² cells.

    Raises:
        DataError: The grid has neither 16, 36 nor 81 cells.
    """
    if len(grid) not in _CELLS:
        raise DataError(_wrong_length(len(grid)))
    return _CELLS[len(grid)]


def parse_grid(text: str, size: int | None = None, *, check: bool = True) -> Grid:
    """Read the cells of one grid: digits, with ``.``, ``0`` or ``_`` for a blank.

    White space and the lines of a drawn grid (``|``, ``-``, ``+``) are passed over.

    Args:
        text: One grid.
        size: The size that it must have; None takes it from the number of cells.
        check: Also refuse what :func:`check_grid` refuses.

    Raises:
        DataError: A character is no cell, there are too few or too many cells, a digit
            exceeds the size, or two givens contradict each other.
    """
    cells = [character for character in text if character not in " \t\r\n|-+"]
    for character in cells:
        if character not in BLANKS and character not in "123456789":
            raise DataError(
                f"{character!r} is no cell of a sudoku. Legal: the digits 1 to 9, and "
                f"{', '.join(BLANKS)} for a blank."
            )
    if len(cells) not in _CELLS or size not in (None, _CELLS[len(cells)]):
        raise DataError(_wrong_length(len(cells), size))
    grid = tuple(0 if character in BLANKS else int(character) for character in cells)
    if check:
        check_grid(grid)
    return grid


def check_grid(grid: Sequence[int]) -> None:
    """Refuse a grid with a digit beyond its size or with the same digit twice in a group."""
    size = size_of(grid)
    for cell, digit in enumerate(grid):
        if not 0 <= digit <= size:
            raise DataError(
                f"the digit {digit} in {place(cell, size)} is too large for a sudoku of "
                f"{size}x{size}. Legal: 1 to {size}."
            )
    found = clash(grid)
    if found is not None:
        raise DataError(f"the givens contradict each other: {found}. Correct one of them.")


def clash(grid: Sequence[int]) -> str | None:
    """Which row, column or box has a digit twice, in words; None where none has."""
    size = size_of(grid)
    for kind, groups in zip(("row", "column", "box"), relations(size), strict=True):
        seen: dict[tuple[int, int], int] = {}
        for cell, (group, digit) in enumerate(zip(groups, grid, strict=True)):
            first = seen.setdefault((group, digit), cell)
            if digit and first != cell:
                return (
                    f"{kind} {group + 1} has the digit {digit} twice, in {place(first, size)} "
                    f"and {place(cell, size)}"
                )
    return None


def broken_cells(grid: Sequence[int]) -> list[int]:
    """The cells of a filled grid that break a rule, in order; none in a solved grid.

    A cell does if it holds no digit of the size, or one that stands twice in its row,
    column or box; then so does the other.
    """
    size = size_of(grid)
    broken = {cell for cell, digit in enumerate(grid) if not 1 <= digit <= size}
    for groups in relations(size):
        seen: dict[tuple[int, int], list[int]] = {}
        for cell, key in enumerate(zip(groups, grid, strict=True)):
            seen.setdefault(key, []).append(cell)
        broken.update(cell for cells in seen.values() if len(cells) > 1 for cell in cells)
    return sorted(broken)


def place(cell: int, size: int) -> str:
    """``row 2, column 5`` of a cell number, both counted from 1."""
    return f"row {cell // size + 1}, column {cell % size + 1}"


def format_grid(grid: Sequence[int], blank: str = ".") -> str:
    """The grid as text with lines around its boxes.

    Raises:
        DataError: The grid has neither 16, 36 nor 81 cells.
    """
    layout = geometry(size_of(grid))
    rule = "+".join(["-" * (2 * layout.box_width + 1)] * (layout.size // layout.box_width))
    lines: list[str] = []
    for row in range(layout.size):
        if row and row % layout.box_height == 0:
            lines.append(rule)
        lines.append("|".join(_parts(grid, row, layout, blank)))
    return "\n".join(lines)


def _parts(grid: Sequence[int], row: int, layout: Geometry, blank: str) -> Iterator[str]:
    digits = [str(digit) if digit else blank for digit in grid]
    start = row * layout.size
    for first in range(start, start + layout.size, layout.box_width):
        yield f" {' '.join(digits[first : first + layout.box_width])} "


def _wrong_length(cells: int, size: int | None = None) -> str:
    legal = (
        "16 cells (4x4), 36 (6x6) or 81 (9x9)"
        if size is None
        else f"{size * size} cells ({size}x{size})"
    )
    return f"the grid has {cells} cells. Legal: {legal}, row by row, with . for a blank."
