"""Files of puzzles as people keep them: one a line, drawn as a grid, or in a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from imadarem.data.sudoku.generator import Puzzle
from imadarem.data.sudoku.grid import SIZES, Grid, clash, parse_grid, place, size_of
from imadarem.data.sudoku.solver import solve
from imadarem.data.text import iter_lines
from imadarem.errors import DataError

QUESTIONS = ("quizzes", "quiz", "puzzle", "puzzles", "question")
ANSWERS = ("solutions", "solution", "answer")

# Rules between boxes in a drawn grid, plain or by Unicode's box drawing.
_DRAWN = {ord("="): None, **dict.fromkeys(range(0x2500, 0x2580))}


class Entry(NamedTuple):
    """One puzzle of a file.

    Attributes:
        line: Where it begins, counted from 1.
        clues: N² digits, 0 for a blank.
        solution: As the file gives it, unchecked; None where it gives none.
    """

    line: int
    clues: Grid
    solution: Grid | None


def read_puzzles(path: str | Path, limit: int | None = None) -> list[Puzzle]:
    """The puzzles of a file with their solutions, see :func:`parse_puzzles`.

    A solution in the file must be complete, legal and keep the clues; it is not proved to
    be the only one, which would take minutes for a million puzzles. Without one the puzzle
    is solved, and must have exactly one solution.

    Raises:
        DataError: Naming the line, what was found there and what is legal.
    """
    puzzles: list[Puzzle] = []
    for entry in parse_puzzles(iter_lines(path), str(path)):
        if len(puzzles) == limit:
            break
        with _at(str(path), entry.line):
            puzzles.append(with_solution(entry.clues, entry.solution))
    return puzzles


def parse_puzzles(
    lines: Iterable[tuple[int, str]], name: str = "the text", *, check: bool = True
) -> Iterator[Entry]:
    """The puzzles of numbered lines.

    Understood are, also mixed: a puzzle per line (16, 36 or 81 cells), with its solution
    behind a comma or not; a grid drawn over several lines, with or without rules
    (``|``, ``-``, ``+``) between the boxes; a table (CSV) whose header names ``quizzes`` and
    ``solutions``, ``puzzle`` and ``solution``, or ``question`` and ``answer``. Blanks are
    ``.``, ``0`` or ``_``; a ``#`` starts a comment.

    Args:
        lines: ``(number from 1, text)``.
        name: What to call the source in an error.
        check: Refuse a puzzle whose givens contradict each other. False leaves that to the
            caller, who may have use for the puzzles behind it.

    Raises:
        DataError: A character, a length or a digit is illegal, a grid is cut short, or there
            is no puzzle at all.
    """
    columns: tuple[int, int | None] | None = None
    rows: list[str] = []
    begun, last, found = 0, 0, 0
    for number, raw in lines:
        text = raw.partition("#")[0].translate(_DRAWN).strip()
        if not text.strip("|-+ \t"):
            continue
        last = number
        if columns is None and not found and not rows and _is_header(text):
            columns = _columns(text, name, number)
            continue
        with _at(name, number):
            fields = next(csv.reader([text])) if "," in text else [text]
            width = len(_cells(fields[0])) if len(fields) == 1 else 0
            if rows and width != len(_cells(rows[0])):
                raise DataError(_cut_short(rows, begun))
            if width in SIZES:
                begun = begun if rows else number
                rows.append(text)
                if len(rows) < width:
                    continue
                clues, solution = parse_grid("".join(rows), width, check=check), None
                rows = []
            else:
                begun = number
                clues, solution = _fields(fields, columns or (0, 1), check)
        found += 1
        yield Entry(begun, clues, solution)
    if rows:
        with _at(name, last):
            raise DataError(_cut_short(rows, begun))
    if not found:
        raise DataError(
            f"{name} holds no puzzle. Give one per line (16, 36 or 81 cells, . for a blank) or "
            "a grid drawn over several lines."
        )


def with_solution(clues: Grid, solution: Grid | None = None) -> Puzzle:
    """The puzzle with its solution, found by the solver where none is given.

    Raises:
        DataError: ``solution`` is not one, or there is not exactly one to be found.
    """
    if solution is None:
        return Puzzle(clues, solve(clues))
    size = size_of(clues)
    if len(solution) != len(clues):
        raise DataError(f"the puzzle has {len(clues)} cells, but its solution has {len(solution)}.")
    if 0 in solution:
        raise DataError(f"its solution has a blank in {place(solution.index(0), size)}.")
    for cell, (clue, digit) in enumerate(zip(clues, solution, strict=True)):
        if clue not in (0, digit):
            raise DataError(
                f"its solution has {digit} in {place(cell, size)}, where the puzzle gives {clue}."
            )
    found = clash(solution)
    if found is not None:
        raise DataError(f"its solution is wrong: {found}.")
    return Puzzle(clues, solution)


class _at:
    """Say in a DataError in which line it arose."""

    def __init__(self, name: str, line: int) -> None:
        self.place = f"{name}, line {line}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, DataError):
            raise DataError(f"{self.place}: {error}") from None


def _cells(text: str) -> str:
    return "".join(character for character in text if character not in "|-+ \t")


def _is_header(text: str) -> bool:
    return "," in text and any(character.isalpha() for character in text)


def _columns(header: str, name: str, number: int) -> tuple[int, int | None]:
    """Where the puzzle and its solution stand in a table."""
    names = [field.strip().lower() for field in next(csv.reader([header]))]
    question = next((names.index(n) for n in QUESTIONS if n in names), None)
    answer = next((names.index(n) for n in ANSWERS if n in names), None)
    if question is None:
        raise DataError(
            f"{name}, line {number}: the table has the columns {', '.join(names)}; the one with "
            f"the puzzles must be called {', '.join(QUESTIONS[:-1])} or {QUESTIONS[-1]}."
        )
    return question, answer


def _fields(
    fields: list[str], columns: tuple[int, int | None], check: bool
) -> tuple[Grid, Grid | None]:
    question, answer = columns
    if question >= len(fields):
        raise DataError(
            f"the row has {len(fields)} fields, and the puzzle stands in field {question + 1}."
        )
    clues = parse_grid(fields[question], check=check)
    given = fields[answer].strip() if answer is not None and answer < len(fields) else ""
    return clues, parse_grid(given) if given else None


def _cut_short(rows: list[str], begun: int) -> str:
    width = len(_cells(rows[0]))
    return (
        f"the grid drawn from line {begun} on has {len(rows)} rows of {width} cells so far, and "
        f"needs {width}."
    )
