"""Sudoku of 4x4, 6x6 and 9x9 cells: grids, a solver, a generator, symmetries, the task.

Importing this package loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Puzzle": "imadarem.data.sudoku.generator",
    "format_grid": "imadarem.data.sudoku.grid",
    "generate": "imadarem.data.sudoku.generator",
    "generate_many": "imadarem.data.sudoku.generator",
    "parse_grid": "imadarem.data.sudoku.grid",
    "relations": "imadarem.data.sudoku.grid",
    "solutions": "imadarem.data.sudoku.solver",
}

__all__ = [  # noqa: F822 (resolved by __getattr__)
    "Puzzle",
    "format_grid",
    "generate",
    "generate_many",
    "parse_grid",
    "relations",
    "solutions",
]

if TYPE_CHECKING:
    from imadarem.data.sudoku.generator import Puzzle as Puzzle
    from imadarem.data.sudoku.generator import generate as generate
    from imadarem.data.sudoku.generator import generate_many as generate_many
    from imadarem.data.sudoku.grid import format_grid as format_grid
    from imadarem.data.sudoku.grid import parse_grid as parse_grid
    from imadarem.data.sudoku.grid import relations as relations
    from imadarem.data.sudoku.solver import solutions as solutions


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
