"""The flags of ``imadarem solve`` that say how to solve, whatever the questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from imadarem.cli.numbers import Positive, Seed, Steps, whole

Votes = Annotated[int, whole(1, 10_000)]


@Parameter(name="*", group=Group("Solver", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class SolverFlags:
    """How to solve.

    Attributes:
        model: A folder written by `imadarem train --task sudoku`, or "sudoku", the model in
            the package.
        steps: Maximum number of refinement steps.
        width: Candidates of a puzzle whose first answer is wrong, or not sure with
            `--no-check`; they differ by noise in the model's states.
        votes: Number of symmetric forms in which each puzzle is solved; the most frequent
            answer is taken.
        seed: Seed of the noise and of the choice of symmetric forms.
        check: Check each puzzle beforehand and the answer after every step, and do not stop
            at a wrong answer before the last step. With `--no-check` the halting head of
            the network decides when to stop, and the answer is not checked.
        device: cpu or cuda; default: cuda if available.
        batch_size: Puzzles refined together; changes the speed, not the answers.
    """

    model: str = "sudoku"
    steps: Steps = 16
    width: Votes = 1
    votes: Votes = 1
    seed: Seed = 0
    check: bool = True
    device: str | None = None
    batch_size: Positive = 64
