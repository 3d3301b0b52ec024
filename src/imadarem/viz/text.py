"""A trajectory as text: the tokens of every step, an arrow under each one that it wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from imadarem.viz.cells import Row

if TYPE_CHECKING:
    from rich.text import Text

ARROW = "↑"


def trajectory_text(row: Row, width: int = 100) -> str:
    """The tokens of every step, an arrow under each one that the step wrote.

    Under the arrows stands the gate or the entropy of the token before the step. Columns line
    up through all steps; a canvas wider than ``width`` characters is cut into parts.
    """
    table = _lines(row)
    label_width = max(len(label) for label, _ in table)
    widths = [max(map(len, column)) for column in zip(*(c for _, c in table), strict=True)]
    parts = []
    for start, stop in _spans(widths, width - label_width):
        lines = [
            label.rjust(label_width)
            + " ".join(map(str.center, cells[start:stop], widths[start:stop])).rstrip()
            for label, cells in table
            if any(cells[start:stop])
        ]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, _summary(row)])


def coloured_text(row: Row, width: int) -> Text:
    """The same for a terminal; the colours repeat what the signs already say."""
    from rich.text import Text

    picture = Text()
    for line in trajectory_text(row, width).splitlines(keepends=True):
        if line.startswith("final: "):
            picture.append(line, "bold")
        elif line.startswith("stopped: ") or re.match(r" *(gate|entropy) ", line):
            picture.append(line, "dim")
        elif ARROW in line:
            picture.append(line, "green")
        else:
            text = Text(line)
            text.highlight_words(["[MASK]"], "dim")
            picture.append_text(text)
    return picture


def _lines(row: Row) -> list[tuple[str, list[str]]]:
    """Label and one cell per position, for each line of the picture."""
    lines = [("t=0: ", list(row.start))]
    for step in row.steps:
        values = step.gate if row.judge == "gate" else step.entropy
        scores = ["" if value is None else f"{value:.2f}" for value in values]
        lines.append((f"t={step.step}: ", list(step.tokens)))
        lines.append(("", [ARROW if written else "" for written in step.refined]))
        lines.append((f"{row.judge} ", scores))
    # A canvas is cropped behind its EOS, so a later step may have fewer positions.
    return [(label, cells + [""] * (len(row.start) - len(cells))) for label, cells in lines]


def _summary(row: Row) -> str:
    lines = []
    if row.steps:
        last = row.steps[-1]
        lines.append(
            f"stopped: {row.stopping_reason} (last change {last.changed_fraction:.0%}, "
            f"{last.forward_passes} forward passes)"
        )
    if row.text is not None:
        lines.append(f"final: {row.text}")
    return "\n".join(lines)


def _spans(widths: Sequence[int], limit: int) -> Iterator[tuple[int, int]]:
    """Cut columns of these widths, one space apart, into runs of at most ``limit``."""
    start, used = 0, 0
    for column, width in enumerate(widths):
        if column > start and used + width > limit:
            yield start, column
            start, used = column, 0
        used += width + 1
    yield start, len(widths)
