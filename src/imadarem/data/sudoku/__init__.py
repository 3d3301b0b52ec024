"""Sudoku of 4x4, 6x6 and 9x9 cells: grids, a solver, a generator, symmetries, the task.

Importing this package loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Name → module. Resolved on first use.
_EXPORTS = {
    "Puzzle": "generator",
    "SudokuSymmetry": "symmetry",
    "SudokuVerifier": "verifier",
    "canonical_key": "canonical",
    "canonical_keys": "canonical",
    "encode_puzzles": "task",
    "format_grid": "grid",
    "generate": "generator",
    "generate_many": "generator",
    "held_out": "canonical",
    "parse_grid": "grid",
    "parse_puzzles": "puzzle_file",
    "read_puzzles": "puzzle_file",
    "relations": "grid",
    "solutions": "solver",
    "solve": "solver",
    "sudoku_episodes": "task",
    "sudoku_task": "task",
    "sudoku_tokenizer": "task",
}

__all__ = [  # noqa: F822 (resolved by __getattr__)
    "Puzzle",
    "SudokuSymmetry",
    "SudokuVerifier",
    "canonical_key",
    "canonical_keys",
    "encode_puzzles",
    "format_grid",
    "generate",
    "generate_many",
    "held_out",
    "parse_grid",
    "parse_puzzles",
    "read_puzzles",
    "relations",
    "solutions",
    "solve",
    "sudoku_episodes",
    "sudoku_task",
    "sudoku_tokenizer",
]

if TYPE_CHECKING:
    from imadarem.data.sudoku.canonical import canonical_key as canonical_key
    from imadarem.data.sudoku.canonical import canonical_keys as canonical_keys
    from imadarem.data.sudoku.canonical import held_out as held_out
    from imadarem.data.sudoku.generator import Puzzle as Puzzle
    from imadarem.data.sudoku.generator import generate as generate
    from imadarem.data.sudoku.generator import generate_many as generate_many
    from imadarem.data.sudoku.grid import format_grid as format_grid
    from imadarem.data.sudoku.grid import parse_grid as parse_grid
    from imadarem.data.sudoku.grid import relations as relations
    from imadarem.data.sudoku.puzzle_file import parse_puzzles as parse_puzzles
    from imadarem.data.sudoku.puzzle_file import read_puzzles as read_puzzles
    from imadarem.data.sudoku.solver import solutions as solutions
    from imadarem.data.sudoku.solver import solve as solve
    from imadarem.data.sudoku.symmetry import SudokuSymmetry as SudokuSymmetry
    from imadarem.data.sudoku.task import encode_puzzles as encode_puzzles
    from imadarem.data.sudoku.task import sudoku_episodes as sudoku_episodes
    from imadarem.data.sudoku.task import sudoku_task as sudoku_task
    from imadarem.data.sudoku.task import sudoku_tokenizer as sudoku_tokenizer
    from imadarem.data.sudoku.verifier import SudokuVerifier as SudokuVerifier


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
