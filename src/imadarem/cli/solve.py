"""``imadarem solve``: questions in; the answers and a check of them out, a puzzle's steps too."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from imadarem.cli.console import note, out, progress_bar
from imadarem.cli.models import SolverFlags, Switch, load_model
from imadarem.cli.numbers import Positive
from imadarem.cli.solve_view import (
    Answer,
    GridStep,
    Question,
    print_json,
    story,
    summary_line,
    totals,
)
from imadarem.data.sudoku.grid import BLANKS, SIZES, Grid, check_grid, size_of
from imadarem.data.sudoku.puzzle_file import parse_puzzles
from imadarem.data.sudoku.solver import solve as solve_exactly
from imadarem.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from imadarem.model import ImplicitRefinementModel
    from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
    from imadarem.sampling.trajectory import RowStep

FINE, FAILED, WRONG_USE = 0, 1, 2
#: What a lone hyphen stands for.
STDIN = "/dev/stdin"
#: What a puzzle written on the command line may be made of.
LEGAL = set("123456789" + BLANKS + "|-+, \t\r\n")
TASK = "sudoku"


SOLVER = SolverFlags()


def solve(
    *puzzles: str,
    limit: Positive | None = None,
    quiet: Switch = False,
    json: Switch = False,
    task: str = TASK,
    setting: Annotated[list[str] | None, Parameter(name="--set", negative="")] = None,
    solver: SolverFlags = SOLVER,
) -> int:
    """Solve sudokus of 4x4, 6x6 and 9x9 cells and show every step, or questions of another task.

    **Examples**

    ```
    imadarem solve puzzle.txt
    imadarem solve 1...4..2..3..4..
    imadarem solve puzzles.csv --limit 1000 --json
    imadarem solve puzzle.txt --model runs/sudoku/model --votes 8
    imadarem solve puzzles.txt --steps 64 --width 16 --quiet
    cat puzzles.txt | imadarem solve - --quiet
    imadarem solve --task modular --model runs/modular/model "4+5=<mask>"
    imadarem solve --task my_tasks.py:sorting --model runs/sorting/model --limit 200
    imadarem solve --task arc --model runs/arc/model --votes 8
    ```

    One puzzle is shown step by step, with `*` before each cell that the step changed;
    several puzzles get one line each. Before the model starts, an exact solver checks that
    each puzzle has exactly one solution. Exit code 1: a puzzle was not solved. 2: a puzzle
    is wrong or has several solutions.

    Args:
        puzzles: A file of puzzles (one a line, drawn as a grid, or a table), `-` for stdin,
            or the 16, 36 or 81 cells themselves, with `.` for a blank. Of another task: texts
            with `<mask>` for each blank; default: its held-out questions.
        limit: Maximum number of puzzles to read, or of held-out questions (default: 100).
        quiet: Print only the answers, one line each; an unsolved puzzle is printed as given.
        json: Print JSON Lines: the steps of a single puzzle, each result, and a summary.
        task: The task of the questions: a name, or a function as file.py:make_task. An answer
            is right by the task's verifier, or else if it equals the held-out one; with
            --votes the two most frequent answers are attempts.
        setting: A setting of the task as NAME=VALUE, as it was given in training.
    """
    if task != TASK:
        from imadarem.cli.solve_task import solve_task

        if quiet:
            raise ConfigError("--quiet is for sudokus; --json prints the answers of any task.")
        return solve_task(task, setting or [], puzzles, solver, limit=limit, json=json)
    if quiet and json:
        raise ConfigError("--quiet and --json exclude each other; give one of them.")
    questions = _read(puzzles, limit)
    refused = _refused(questions, solver.check)
    if len(questions) == 1 and refused:
        raise DataError(_located(questions[0], refused[0]))
    answers = {n: _refusal(questions[n], reason) for n, reason in refused.items()}
    solved, seconds = _solved(questions, answers, solver)
    answers |= solved
    _deliver([answers[n] for n in range(len(questions))], seconds, solver.steps, quiet, json)
    return _code(list(answers.values()), solver.steps, solver.votes)


def _solved(
    questions: list[Question], refused: Collection[int], solver: SolverFlags
) -> tuple[dict[int, Answer], float]:
    """The model's answers to all other questions, and the seconds it took.

    A puzzle of a size that the model does not know is refused.
    """
    numbers = [n for n in range(len(questions)) if n not in refused]
    if not numbers:
        return {}, 0.0
    network = load_model(solver.model, solver.device)
    sizes = _sizes(network, solver.model)
    answers = {
        n: _refusal(questions[n], _unknown_size(questions[n], solver.model, sizes))
        for n in numbers
        if size_of(questions[n].clues) not in sizes
    }
    if len(questions) == 1 and answers:
        raise DataError(str(answers[0].refused))
    known = [n for n in numbers if n not in answers]
    runner, seconds = _Runner(network, solver, traced=len(questions) == 1), 0.0
    with progress_bar("solving", len(known)) as advance:
        for first in range(0, len(known), solver.batch_size):
            chunk = known[first : first + solver.batch_size]
            start = time.perf_counter()
            found = runner.answers([questions[n] for n in chunk])
            seconds += time.perf_counter() - start
            answers |= zip(chunk, found, strict=True)
            advance(len(chunk))
    return answers, seconds


# --- questions


def _read(puzzles: tuple[str, ...], limit: int | None) -> list[Question]:
    if not puzzles:
        raise ConfigError(
            "there is no puzzle to solve. Give a file, - for stdin, or the 16, 36 or 81 cells."
        )
    questions: list[Question] = []
    for source in puzzles:
        if not source.strip():
            raise ConfigError("an empty puzzle was given; a blank cell is a dot.")
        name, lines = _source(source)
        left = None if limit is None else limit - len(questions)
        for entry in islice(parse_puzzles(lines, name, check=False), left):
            questions.append(Question(f"{name}, line {entry.line}", entry.clues))
    return questions


def _source(source: str) -> tuple[str, Iterable[tuple[int, str]]]:
    """A name for errors, and numbered lines."""
    if source in ("-", STDIN):
        return "the input", _stream(sys.stdin, "the input")
    if not os.path.exists(source) and _is_puzzle(source):
        return "the puzzle", enumerate(source.splitlines(), start=1)
    if os.path.exists(source) and not os.path.isfile(source) and not os.path.isdir(source):
        return source, _pipe(source)
    from imadarem.data.text import iter_lines

    return source, iter_lines(source)


def _pipe(path: str) -> Iterator[tuple[int, str]]:
    """Unlike a file it can be opened only once, so its first bytes cannot be looked at."""
    with open(path, encoding="utf-8") as lines:
        yield from _stream(lines, path)


def _stream(lines: Iterable[str], name: str) -> Iterator[tuple[int, str]]:
    try:
        yield from enumerate(lines, start=1)
    except UnicodeDecodeError:
        raise DataError(f"{name} is not UTF-8 text. Give puzzles as text.") from None


def _is_puzzle(text: str) -> bool:
    """Whether an argument that names no file is meant as cells."""
    cells = sum(character not in "|-+ \t\r\n" for character in text)
    return bool(text.strip()) and (set(text) <= LEGAL or cells in [size**2 for size in SIZES])


def _refused(questions: list[Question], check: bool) -> dict[int, str]:
    """The numbers of the puzzles without exactly one solution, and what is wrong with each."""
    test = solve_exactly if check else check_grid
    refused = {}
    with progress_bar("checking", len(questions)) as advance:
        for number, question in enumerate(questions):
            try:
                test(question.clues)
            except DataError as error:
                refused[number] = str(error)
            advance(1)
    return refused


def _located(question: Question, reason: str) -> str:
    """The reason, after the place of the puzzle if that is not the command line."""
    return reason if question.place.startswith("the puzzle,") else f"{question.place}: {reason}"


def _refusal(question: Question, reason: str) -> Answer:
    return Answer(question=question, refused=reason, grid=question.clues)


def _unknown_size(question: Question, model: str, sizes: list[int]) -> str:
    known = " and ".join(f"{size}x{size}" for size in sizes)
    return (
        f"the puzzle is {question.size}, and the model {model} solves {known} only. Train a "
        f"model with imadarem train --task sudoku --set sizes={size_of(question.clues)}."
    )


def _sizes(model: ImplicitRefinementModel, name: str) -> list[int]:
    """The sizes that a model of sudokus knows."""
    from imadarem.data.sudoku.task import model_sizes

    sizes = model_sizes(model.config, model.tokenizer)
    if not sizes:
        raise ConfigError(
            f"the model {name} is not a sudoku model: its vocabulary lacks the digits 1 to 9. "
            "solve takes a model trained by imadarem train --task sudoku; infill fills other texts."
        )
    return list(sizes)


# --- the model


class _Runner:
    """Asks a model; the steps are those of the orchestrator's inference."""

    def __init__(self, model: ImplicitRefinementModel, flags: SolverFlags, *, traced: bool) -> None:
        from imadarem.data.sudoku import SudokuSymmetry, SudokuVerifier
        from imadarem.orchestrator.config import OrchestrationConfig
        from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator

        tokenizer = model.tokenizer
        self.special, self.first = model.special, tokenizer.encode("1")[0]
        self.steps, self.votes, self.width = flags.steps, flags.votes, flags.width
        self.traced = traced
        verify = SudokuVerifier(self.first, self.special.mask, self.special.pad)
        self.verify = verify if flags.check else None
        # What the verifier does not take is wrong, however certain the network is: only its
        # word and the cap stop a row then.
        rules: dict[str, Any] = {"halt_confidence": None, "quality_threshold": None}
        config = OrchestrationConfig(
            canvas_edit_strategies=["replace"],
            adaptive_edit_selection=False,
            augmentation_count=max(flags.votes, 300),
            seed=flags.seed,
            **({**rules, "patience": None} if flags.check else {}),
        )
        self.orchestrator: UnifiedRefinerOrchestrator = UnifiedRefinerOrchestrator(
            model, tokenizer, None, config
        ).eval()
        symmetry = SudokuSymmetry(len(tokenizer), self.first, self.special.pad)
        self.orchestrator.register(TASK, symmetry=symmetry, verify=self.verify)

    def answers(self, questions: list[Question]) -> list[Answer]:
        """One answer for each question, in their order."""
        inputs = self._encoded([question.clues for question in questions])
        found = self.orchestrator.inference(
            inputs,
            task_type=TASK,
            max_steps_override=self.steps,
            width=self.width,
            votes=self.votes,
            return_traces=self.traced,
        )
        outputs = found["output_ids"].cpu()
        right = [None] * len(questions)
        if self.verify is not None:
            right = self.verify(inputs, outputs).tolist()
        return [
            Answer(
                question=question,
                grid=self._grid(outputs[row].tolist(), len(question.clues)),
                verified=right[row],
                trace=self._trace(found["traces"][row].steps) if self.traced else (),
                steps=found["steps_taken"][row],
                forward_passes=found["forward_passes"][row],
                stopping_reason=found["stopping_reason"][row],
                halt=found["halt_confidence"][row],
                quality=found["final_canvas_scores"][row],
                votes=found["votes"][row],
            )
            for row, question in enumerate(questions)
        ]

    def _encoded(self, grids: list[Grid]) -> Tensor:
        """``(B, L)`` ids, padded behind."""
        import torch

        ids = torch.full((len(grids), max(map(len, grids))), self.special.pad)
        for row, grid in zip(ids, grids, strict=True):
            digits = torch.tensor(grid)
            row[: len(grid)] = torch.where(digits == 0, self.special.mask, digits + self.first - 1)
        return ids

    def _grid(self, ids: list[int], cells: int) -> Grid:
        digits = [number - self.first + 1 for number in ids[:cells]]
        return tuple(digit if 1 <= digit <= 9 else 0 for digit in digits)

    def _trace(self, steps: list[RowStep]) -> tuple[GridStep, ...]:
        return tuple(
            GridStep(
                grid=self._grid(step.ids, len(step.ids)),
                changed=[cell for cell, changed in enumerate(step.changed) if changed],
                halt=step.halt,
                quality=step.quality,
            )
            for step in steps
        )


# --- output


def _deliver(answers: list[Answer], seconds: float, cap: int, quiet: bool, json: bool) -> None:
    console = out()
    if quiet:
        for answer in answers:
            console.print(Text(answer.best_line))
    elif json:
        print_json(answers, seconds)
    elif len(answers) == 1:
        console.print(story(answers[0], cap))
    else:
        for answer in answers:
            console.print(summary_line(answer))
        console.print(Text("\n"), totals(answers, seconds), sep="")


def _code(answers: list[Answer], steps: int, votes: int) -> int:
    """The exit code; says on stderr what could be tried."""
    failed = sum(answer.failed for answer in answers)
    if failed:
        note(
            f"{failed} not solved within {steps} steps. Try --steps {4 * steps}, or --votes "
            f"{max(8, 2 * votes)} to solve several symmetric forms.",
            style="yellow",
        )
    if any(answer.refused for answer in answers):
        return WRONG_USE
    return FAILED if failed else FINE
