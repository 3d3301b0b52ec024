"""What a picture of a trajectory shows at each position after each step.

The colours and signs are those of the studio's page; see ``docs/how-to/studio.md``. A cell has the
colour of the number that the policy decides by (gate or entropy): pale for 0, dark for 1. The
colours become darker throughout, so they read in grey and with any colour vision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

#: Pale to dark, for 0, 0.1 … 1; ``serve/static/base.css`` has the same and a dark set.
HEAT = (
    "#f4f0e6 #f2d7a4 #eebc71 #e4a057 #d88540 #c76d38 #b5542f #9a442e #80342b #652828 #4a1c24"
).split()
INK, WHITE = "#1c1b19", "#ffffff"
#: The text colour on each of them: a contrast of at least 4.5.
HEAT_INK = [INK] * 6 + [WHITE] * 5


class RowStep(Protocol):
    """What a picture reads of one step; see :class:`imadarem.sampling.trajectory.RowStep`."""

    @property
    def step(self) -> int: ...
    @property
    def tokens(self) -> Sequence[str]: ...
    @property
    def states(self) -> Sequence[str]: ...
    @property
    def refined(self) -> Sequence[bool]: ...
    @property
    def remasked(self) -> Sequence[bool]: ...
    @property
    def changed(self) -> Sequence[bool]: ...
    @property
    def gate(self) -> Sequence[float | None]: ...
    @property
    def entropy(self) -> Sequence[float]: ...
    @property
    def mean_gate(self) -> float | None: ...
    @property
    def changed_fraction(self) -> float: ...
    @property
    def forward_passes(self) -> int: ...


class Row(Protocol):
    """What a picture reads of a row; see :class:`imadarem.sampling.trajectory.RowTrajectory`."""

    @property
    def start(self) -> Sequence[str]: ...
    @property
    def given(self) -> Sequence[bool]: ...
    @property
    def judge(self) -> str: ...
    @property
    def steps(self) -> Sequence[RowStep]: ...
    @property
    def text(self) -> str | None: ...
    @property
    def stopping_reason(self) -> str: ...


@dataclass(frozen=True)
class Cell:
    """One position after one step.

    Attributes:
        token: The token there, empty behind an end of sequence.
        uncertainty: The gate or the entropy, 0 to 1, or None where nothing was judged.
        marks: Any of changed, remasked, given, blank, frozen, end.
    """

    token: str
    uncertainty: float | None
    marks: frozenset[str]


def cells(row: Row) -> Iterator[list[Cell]]:
    """The cells before the first step and after each one, as many in each as at the start."""
    yield [
        Cell(token, None, _marks(token, "GIVEN" if given else "", False, False))
        for token, given in zip(row.start, row.given, strict=True)
    ]
    for step in row.steps:
        uncertainties = step.gate if row.judge == "gate" else step.entropy
        columns = (step.tokens, step.states, uncertainties, step.changed, step.remasked)
        line = [
            Cell(token, _judged(state, uncertainty), _marks(token, state, changed, remasked))
            for token, state, uncertainty, changed, remasked in zip(*columns, strict=True)
        ]
        # A canvas is cropped behind its EOS, so a later step may have fewer positions.
        behind = Cell("", None, frozenset({"frozen"}))
        yield line + [behind] * (len(row.start) - len(line))


def labels(lines: Sequence[Sequence[Cell]]) -> list[list[str]]:
    """The text of every cell: a re-masked one shows the token that was there before."""
    return [
        [_label(cell, lines[y - 1][x] if y else None) for x, cell in enumerate(line)]
        for y, line in enumerate(lines)
    ]


def heat_level(uncertainty: float) -> int:
    """The number of its colour in :data:`HEAT`."""
    return round(min(max(uncertainty, 0.0), 1.0) * (len(HEAT) - 1))


def summary(row: Row) -> str:
    """``6 steps, 6 forward passes, stopped: filled``."""
    passes = row.steps[-1].forward_passes if row.steps else 0
    return f"{len(row.steps)} steps, {passes} forward passes, stopped: {row.stopping_reason}"


def _judged(state: str, uncertainty: float | None) -> float | None:
    return uncertainty if state in ("WRITTEN", "OPEN") else None


def _marks(token: str, state: str, changed: bool, remasked: bool) -> frozenset[str]:
    flags = {
        "blank": token == "[MASK]",
        "end": token == "[EOS]",
        "given": state == "GIVEN",
        "frozen": state == "FROZEN" and token != "[EOS]",
        "changed": changed and token != "[MASK]",
        "remasked": remasked,
    }
    return frozenset(name for name, holds in flags.items() if holds)


def _label(cell: Cell, before: Cell | None) -> str:
    if "remasked" in cell.marks and before is not None:
        return _short(before.token)
    if "blank" in cell.marks:
        return "·"
    return "end" if "end" in cell.marks else _short(cell.token)


def _short(token: str) -> str:
    """The token without its brackets, which say nothing where every token has them."""
    return token[1:-1] if re.fullmatch(r"\[[^]]+\]", token) else token.replace(" ", "␣")
