"""Solved puzzles as a person reads them: a grid for each step, or a line for each puzzle."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.text import Text

from imadarem.cli.console import json_line
from imadarem.cli.results import share
from imadarem.data.sudoku.grid import Grid, broken_cells, clash, geometry, size_of

#: Stands before a cell that the step changed, and before one that breaks a rule.
CHANGED, BROKEN = "*", "!"
#: What a model wrote that is no digit.
NO_DIGIT = "?"


@dataclass(frozen=True)
class Question:
    """A puzzle to solve.

    Attributes:
        place: Where it stands, such as ``puzzles.txt, line 3``.
        clues: N² digits, 0 for a blank.
    """

    place: str
    clues: Grid

    @property
    def size(self) -> str:
        """Such as ``9x9``."""
        size = size_of(self.clues)
        return f"{size}x{size}"

    @property
    def givens(self) -> int:
        """Cells that are no blank."""
        return len(self.clues) - self.clues.count(0)


@dataclass(frozen=True, kw_only=True)
class GridStep:
    """The grid after one refinement step.

    Attributes:
        grid: N² digits, 0 where the model wrote none.
        changed: Cells that differ from the step before.
        halt: Probability, by the halting head, that the grid is right; None without one.
        quality: Mean probability of the digits that the model wrote.
    """

    grid: Grid
    changed: list[int]
    halt: float | None
    quality: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a puzzle.

    Attributes:
        question: The puzzle.
        refused: Why it was not given to the model, or None.
        grid: What the model wrote; the clues where the puzzle was refused.
        verified: Whether that is a solution; None where nobody looked.
        trace: Every step, where they were recorded.
        steps: Steps taken.
        forward_passes: Passes of the network, of all forms that voted.
        stopping_reason: Why no further step was taken.
        halt: Of the last step.
        quality: Of the last step; None where there was nothing to write.
        votes: Forms of the puzzle that gave this answer.
    """

    question: Question
    refused: str | None = None
    grid: Grid
    verified: bool | None = None
    trace: tuple[GridStep, ...] = ()
    steps: int = 0
    forward_passes: int = 0
    stopping_reason: str = ""
    halt: float | None = None
    quality: float | None = None
    votes: int = 0

    @property
    def failed(self) -> bool:
        """Whether the model wrote what is no solution."""
        return self.verified is False

    @property
    def broken(self) -> list[int]:
        """Cells that break a rule, where somebody looked."""
        return broken_cells(self.grid) if self.failed else []

    @property
    def best_line(self) -> str:
        """The answer; of a puzzle that was refused or not solved, the puzzle itself."""
        return as_line(self.question.clues if self.failed or self.refused else self.grid)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        answer = None if self.refused else as_line(self.grid, NO_DIGIT)
        return {
            "place": self.question.place,
            "size": size_of(self.question.clues),
            "puzzle": as_line(self.question.clues),
            "answer": answer,
            "verified": self.verified,
            "broken": self.broken,
            "refused": self.refused,
            "steps": self.steps,
            "forward_passes": self.forward_passes,
            "stopping_reason": self.stopping_reason,
            "halting_confidence": self.halt,
            "mean_probability": self.quality,
            "votes": self.votes,
        }


def as_line(grid: Grid, blank: str = ".") -> str:
    """N² characters."""
    return "".join(str(digit) if digit else blank for digit in grid)


def drawn(
    grid: Grid, *, blank: str, givens: Collection[int] = (), marked: Collection[int] = (), sign: str
) -> Text:
    """The grid with lines around its boxes.

    Args:
        grid: N² digits, 0 for a blank.
        blank: Stands for a blank.
        givens: Cells in bold.
        marked: Cells with ``sign`` before them, in colour on a terminal.
        sign: :data:`CHANGED` or :data:`BROKEN`.
    """
    layout = geometry(size_of(grid))
    across = layout.size // layout.box_width
    rule = "+".join(["-" * (2 * layout.box_width + 1)] * across)
    colour = "bold red" if sign == BROKEN else "bold green"
    picture = Text()
    for cell, digit in enumerate(grid):
        row, column = divmod(cell, layout.size)
        if column == 0 and row:
            picture.append("\n")
            if row % layout.box_height == 0:
                picture.append(f"{rule}\n", "dim")
        elif column and column % layout.box_width == 0:
            picture.append(" |", "dim")
        style = colour if cell in marked else "bold" if cell in givens else ""
        picture.append(sign if cell in marked else " ", style)
        picture.append(str(digit) if digit else blank, style)
    return picture


def story(answer: Answer, cap: int) -> Text:
    """The puzzle, every step of the model, and what came of it.

    Args:
        answer: With its trace.
        cap: Most steps that were allowed.
    """
    question = answer.question
    givens = {cell for cell, digit in enumerate(question.clues) if digit}
    parts = [
        Text(f"{question.size}, {question.givens} givens", "bold"),
        drawn(question.clues, blank=".", givens=givens, sign=CHANGED),
    ]
    for number, step in enumerate(answer.trace, start=1):
        parts.append(Text(f"\nstep {number}: {_figures(step)}"))
        if step.changed:
            parts.append(
                drawn(step.grid, blank=NO_DIGIT, givens=givens, marked=step.changed, sign=CHANGED)
            )
    if answer.votes > 1 or (answer.trace and answer.grid != answer.trace[-1].grid):
        parts.append(Text(f"\nthe answer of {_forms(answer.votes)}:"))
        parts.append(drawn(answer.grid, blank=NO_DIGIT, givens=givens, sign=CHANGED))
    if answer.broken:
        parts.append(Text(f"\ncells that break a rule ({BROKEN}):"))
        parts.append(
            drawn(answer.grid, blank=NO_DIGIT, givens=givens, marked=answer.broken, sign=BROKEN)
        )
    parts.append(Text())
    parts.extend(_ending(answer, cap))
    return Text("\n").join(parts)


def summary_line(answer: Answer) -> Text:
    """One of many puzzles, on one line."""
    question = answer.question
    line = Text(f"{question.place}: {question.size}, {question.givens} givens: ")
    if answer.refused:
        return line.append(f"refused: {answer.refused}", "yellow")
    line.append_text(_verdict(answer))
    return line.append(f", {_effort(answer)}, stopped: {answer.stopping_reason}")


def summary(answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Figures of the whole; ``solved`` is a share of those answered, None if none was checked."""
    answered = [answer for answer in answers if not answer.refused]
    judged = [answer for answer in answered if answer.verified is not None]
    return {
        "puzzles": len(answers),
        "refused": len(answers) - len(answered),
        "solved": mean(bool(a.verified) for a in judged) if judged else None,
        "mean_steps": mean(a.steps for a in answered) if answered else None,
        "mean_forward_passes": mean(a.forward_passes for a in answered) if answered else None,
        "seconds": seconds,
        "puzzles_per_second": len(answered) / seconds if seconds else None,
    }


def totals(answers: list[Answer], seconds: float) -> Text:
    """``98 of 100 solved (98.0%), …``."""
    figures = summary(answers, seconds)
    answered = len(answers) - figures["refused"]
    solved = sum(bool(answer.verified) for answer in answers)
    parts = [f"{answered:,} puzzles answered, not checked"]
    if figures["solved"] is not None:
        parts = [f"{solved:,} of {answered:,} solved ({share(figures['solved'])})"]
    if figures["refused"]:
        parts.append(f"{figures['refused']:,} refused")
    if answered:
        passes = f"{figures['mean_forward_passes']:.1f} forward passes"
        parts.append(f"{figures['mean_steps']:.1f} steps and {passes} each")
    if figures["puzzles_per_second"]:
        parts.append(f"{figures['puzzles_per_second']:,.0f} puzzles/s")
    return Text(", ".join(parts), "bold")


def _figures(step: GridStep) -> str:
    changed = len(step.changed)
    parts = [f"{changed} cell{'s' * (changed != 1)} changed" if changed else "nothing changed"]
    if step.halt is not None:
        parts.append(f"halting confidence {step.halt:.3f}")
    return ", ".join([*parts, f"mean token probability {step.quality:.3f}"])


def _ending(answer: Answer, cap: int) -> list[Text]:
    lines = []
    if not answer.steps:
        lines.append(Text("the puzzle has no blank, so the model did not run"))
    else:
        stopped = f"stopped: {answer.stopping_reason}"
        if answer.stopping_reason == "max_steps":
            stopped += f" (--steps {cap})"
        lines.append(Text(f"{_effort(answer)}, {stopped}"))
    lines.append(_verdict(answer, whole=True))
    if not answer.failed:
        lines.append(Text(as_line(answer.grid, NO_DIGIT)))
    return lines


def _verdict(answer: Answer, *, whole: bool = False) -> Text:
    """Solved or not, and how that is known."""
    if answer.verified:
        reason = ", verified: every rule holds and the givens are unchanged" if whole else ""
        return Text(f"solved{reason}", "bold green")
    if answer.verified is None:
        reason = " (--no-check)" if whole else ""
        return Text(f"not checked{reason}", "yellow")
    count = len(answer.broken)
    verdict = f"not solved: {count} cells break a rule"
    where = clash(answer.grid) if whole else None
    return Text(verdict + (f"; {where}" if where else ""), "bold red")


def _effort(answer: Answer) -> str:
    effort = f"{answer.steps} step{'s' * (answer.steps != 1)}"
    if answer.forward_passes != answer.steps:
        effort += f", {answer.forward_passes} forward passes"
    return effort


def _forms(votes: int) -> str:
    return f"{votes} forms of the puzzle that agree" if votes > 1 else "one form of the puzzle"


def print_json(answers: list[Answer], seconds: float) -> None:
    """JSON Lines: the recorded steps of each answer, the answer, and a summary."""
    for answer in answers:
        for number, step in enumerate(answer.trace, start=1):
            record = {
                "grid": as_line(step.grid, NO_DIGIT),
                "changed": step.changed,
                "halting_confidence": step.halt,
                "mean_probability": step.quality,
            }
            json_line({"kind": "step", "step": number, **record})
        json_line({"kind": "result", **answer.to_dict()})
    json_line({"kind": "summary", **summary(answers, seconds)})
