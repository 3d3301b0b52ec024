"""A trajectory as a picture: steps as rows, positions as columns, colour for doubt.

The same colours and signs as the studio's page; see ``docs/studio.md``. A cell has the colour
of what the policy decides by (gate or entropy), so that a calm row is nearly paper and a doubt
stands out. The ramp falls in lightness throughout: it reads in grey and with any colour vision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imadarem.sampling.trajectory import RowTrajectory

__all__ = ["HEAT", "HEAT_INK", "trajectory_svg", "trajectory_table"]

#: Paper to dark, for a doubt of 0, 0.1 … 1; ``static/view.css`` has the same and a dark one.
HEAT = (
    "#f4f0e6 #f2d7a4 #eebc71 #e4a057 #d88540 #c76d38 #b5542f #9a442e #80342b #652828 #4a1c24"
).split()
INK, WHITE, MUTED, RULE = "#1c1b19", "#ffffff", "#6a675f", "#d9d4c8"
#: What is written on each colour: a contrast of at least 4.5.
HEAT_INK = [INK] * 6 + [WHITE] * 5

# Rows of a trajectory that a notebook shows, and positions of each: an output is for reading.
TABLE_ROWS = 4
TABLE_POSITIONS = 120

# Sizes in the SVG, in pixels.
CELL_HEIGHT, CHARACTER, LABEL, BARS, GAP, HEADER = 24, 6.7, 34, 190, 26, 30
DRAWING = (240, 200)


@dataclass(frozen=True)
class _Cell:
    """One position after one step.

    Attributes:
        token: What stands there, empty behind an end.
        doubt: 0 … 1, or None where nothing was judged.
        marks: Any of changed, remasked, given, blank, frozen, end.
    """

    token: str
    doubt: float | None
    marks: frozenset[str]


def trajectory_table(rows: Sequence[RowTrajectory]) -> str:
    """Rows as HTML tables with their own style and no script, for a notebook's output."""
    shown = "".join(_table(row) for row in rows[:TABLE_ROWS])
    more = len(rows) - TABLE_ROWS
    rest = f"<p>… and {more} more; index the trajectory to see one.</p>" if more > 0 else ""
    return f'<div class="imadarem-trajectory"><style>{_table_style()}</style>{shown}{rest}</div>'


def trajectory_svg(rows: Sequence[RowTrajectory], drawings: Mapping[str, str] | None = None) -> str:
    """Rows as one SVG figure, below each other.

    Args:
        rows: What to draw.
        drawings: By a row's final text, an SVG of 240 x 200 pixels to stand beside it.
    """
    parts, width, top = [], 0.0, 0.0
    for row in rows:
        part, part_width, height = _figure(row, (drawings or {}).get(row.text or ""))
        parts.append(f'<g transform="translate(0 {top:g})">{part}</g>')
        width, top = max(width, part_width), top + height + GAP
    height = max(top - GAP, 0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" role="img" font-size="11" '
        f'font-family="Inter, Helvetica, Arial, sans-serif" fill="{INK}">'
        "<title>Refinement, step by step</title>"
        f'<rect width="100%" height="100%" fill="{WHITE}"/>{"".join(parts)}</svg>\n'
    )


# ---------------------------------------------------------------- what a cell shows


def _lines(row: RowTrajectory) -> Iterator[list[_Cell]]:
    """The cells before the first step and after each one."""
    yield [
        _Cell(token, None, _marks(token, "GIVEN" if given else "", False, False))
        for token, given in zip(row.start, row.given, strict=True)
    ]
    for step in row.steps:
        doubts = step.gate if row.judge == "gate" else step.entropy
        columns = (step.tokens, step.states, doubts, step.changed, step.remasked)
        cells = [
            _Cell(token, _judged(state, doubt), _marks(token, state, changed, remasked))
            for token, state, doubt, changed, remasked in zip(*columns, strict=True)
        ]
        # A canvas is cropped behind its EOS, so a later step may have fewer positions.
        behind = _Cell("", None, frozenset({"frozen"}))
        yield cells + [behind] * (len(row.start) - len(cells))


def _judged(state: str, doubt: float | None) -> float | None:
    return doubt if state in ("WRITTEN", "OPEN") else None


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


def _label(cell: _Cell, before: _Cell | None) -> str:
    """What is read in the cell: brackets say nothing where every token has them."""
    if "remasked" in cell.marks and before is not None:
        return _short(before.token)
    if "blank" in cell.marks:
        return "·"
    return "end" if "end" in cell.marks else _short(cell.token)


def _short(token: str) -> str:
    return token[1:-1] if re.fullmatch(r"\[[^]]+\]", token) else token.replace(" ", "␣")


def _level(doubt: float) -> int:
    return round(min(max(doubt, 0.0), 1.0) * (len(HEAT) - 1))


def _summary(row: RowTrajectory) -> str:
    passes = row.steps[-1].forward_passes if row.steps else 0
    return f"{len(row.steps)} steps, {passes} forward passes, stopped: {row.stopping_reason}"


# ---------------------------------------------------------------- the table


def _table_style() -> str:
    scope = ".imadarem-trajectory"
    heat = "".join(
        f"{scope} .h{level}{{background:{colour};color:{ink}}}"
        for level, (colour, ink) in enumerate(zip(HEAT, HEAT_INK, strict=True))
    )
    return (
        f"{scope}{{overflow-x:auto;font:13px/1.5 system-ui,sans-serif}}"
        f"{scope} table{{border-collapse:separate;border-spacing:2px;margin:.4em 0}}"
        f"{scope} td{{font:12px ui-monospace,monospace;text-align:center;padding:2px 5px;"
        "border:0;border-radius:3px}"
        f"{scope} th{{font-weight:400;opacity:.7;text-align:right;padding:2px 6px;border:0}}"
        f"{scope} caption{{text-align:left;caption-side:top;color:inherit;white-space:nowrap}}"
        f"{scope} .changed{{font-weight:700}}{scope} .given{{text-decoration:underline}}"
        f"{scope} .remasked{{text-decoration:line-through}}" + heat
    )


def _table(row: RowTrajectory) -> str:
    body, before = [], None
    for number, cells in enumerate(_lines(row)):
        shown = [
            _table_cell(cell, None if before is None else before[i])
            for i, cell in enumerate(cells[:TABLE_POSITIONS])
        ]
        body.append(f'<tr><th scope="row">{number}</th>{"".join(shown)}</tr>')
        before = cells
    cut = len(row.start) - TABLE_POSITIONS
    text = "" if row.text is None else f"<b>{escape(row.text)}</b> · "
    rest = f" · {cut} more positions" if cut > 0 else ""
    caption = f"<caption>{text}{_summary(row)} · colour: {row.judge}{rest}</caption>"
    return f"<table>{caption}{''.join(body)}</table>"


def _table_cell(cell: _Cell, before: _Cell | None) -> str:
    names = sorted(cell.marks & {"changed", "given", "remasked"})
    if cell.doubt is not None:
        names.append(f"h{_level(cell.doubt)}")
    attributes = f' class="{" ".join(names)}"' if names else ""
    title = "" if cell.doubt is None else f' title="{cell.doubt:.2f}"'
    return f"<td{attributes}{title}>{escape(_label(cell, before))}</td>"


# ---------------------------------------------------------------- the figure


def _figure(row: RowTrajectory, drawing: str | None) -> tuple[str, float, float]:
    """One row's part, its width and its height."""
    lines = list(_lines(row))
    labels = [
        [_label(cell, lines[y - 1][x] if y else None) for x, cell in enumerate(cells)]
        for y, cells in enumerate(lines)
    ]
    widths = [
        max(22.0, max(map(len, column)) * CHARACTER + 9) for column in zip(*labels, strict=True)
    ]
    lefts = [LABEL + sum(widths[:x]) for x in range(len(widths))]
    right = LABEL + sum(widths)
    parts = []
    for y, cells in enumerate(lines):
        middle = HEADER + (y + 0.5) * CELL_HEIGHT
        parts.append(_text(LABEL - 10, middle, str(y), f'text-anchor="end" fill="{MUTED}"'))
        for x, cell in enumerate(cells):
            parts.append(_figure_cell(cell, labels[y][x], lefts[x], middle, widths[x]))
    parts.extend(_bars(row, right + 18))
    width, height = right + 18 + BARS, HEADER + len(lines) * CELL_HEIGHT
    parts.append(_legend(row.judge, height + 20))
    title = f'font-size="12" font-weight="600" fill="{INK}"'
    caption = " · ".join(part for part in (row.text, _summary(row)) if part)
    parts.append(_text(LABEL, 12, caption, title))
    if drawing is not None:
        parts.append(_nested(drawing, width + GAP, 0))
        width, height = width + GAP + DRAWING[0], max(height, DRAWING[1] - 34)
    return "".join(parts), max(width, LABEL + len(caption) * CHARACTER), height + 34


def _figure_cell(cell: _Cell, label: str, left: float, middle: float, width: float) -> str:
    top, ink, parts = middle - CELL_HEIGHT / 2 + 1, INK, []
    box = f'x="{left + 1:g}" y="{top:g}" width="{width - 2:g}" height="{CELL_HEIGHT - 2}" rx="3"'
    if cell.doubt is not None:
        level = _level(cell.doubt)
        ink = HEAT_INK[level]
        parts.append(f'<rect {box} fill="{HEAT[level]}"/>')
    elif not cell.marks & {"blank", "frozen", "given"}:
        parts.append(f'<rect {box} fill="none" stroke="{RULE}"/>')
    if "changed" in cell.marks:
        corner = f"M{left + width - 8:g} {top:g}h7v7z"
        parts.append(f'<path d="{corner}" fill="{ink}"/>')
    style = f'text-anchor="middle" fill="{ink}" font-family="monospace"'
    if "given" in cell.marks:
        style += ' text-decoration="underline"'
    if "remasked" in cell.marks:
        style += ' text-decoration="line-through"'
    if "changed" in cell.marks:
        style += ' font-weight="700"'
    parts.append(_text(left + width / 2, middle, label, style))
    return "".join(parts)


def _bars(row: RowTrajectory, left: float) -> Iterator[str]:
    """Mean gate and changed share of every step, as two columns of bars."""
    half = BARS / 2
    for x, name in ((left, "mean gate"), (left + half, "changed")):
        yield _text(x, HEADER + CELL_HEIGHT / 2, name, f'fill="{MUTED}" font-size="10"')
    for number, step in enumerate(row.steps, start=1):
        middle = HEADER + (number + 0.5) * CELL_HEIGHT
        for x, value in ((left, step.mean_gate), (left + half, step.changed_fraction)):
            if value is None:
                continue
            size = f'width="{max(value * (half - 34), 1):.1f}" height="6" rx="2"'
            yield f'<rect x="{x:g}" y="{middle - 3:g}" {size} fill="{HEAT[5]}"/>'
            after = x + value * (half - 34) + 5
            yield _text(after, middle, f"{value:.2f}", f'fill="{MUTED}" font-size="10"')


def _legend(judge: str, top: float) -> str:
    swatches = "".join(
        f'<rect x="{LABEL + 40 + 14 * i}" y="{top - 5:g}" width="14" height="10" fill="{colour}"/>'
        for i, colour in enumerate(HEAT)
    )
    end = LABEL + 40 + 14 * len(HEAT)
    small = f'fill="{MUTED}" font-size="10"'
    marks = "◥ changed   underlined: given   struck: back to blank"
    return (
        _text(LABEL + 34, top, f"{judge} 0", f'{small} text-anchor="end"')
        + swatches
        + _text(end + 6, top, "1", small)
        + _text(end + 24, top, marks, f'{small} xml:space="preserve"')
    )


def _text(x: float, y: float, text: str, attributes: str) -> str:
    # Centred by hand: few programs outside browsers know dominant-baseline.
    return f'<text x="{x:g}" y="{y + 4:g}" {attributes}>{escape(text, quote=False)}</text>'


def _nested(drawing: str, x: float, y: float) -> str:
    """An SVG document inside another one, without its XML declaration."""
    inner = drawing[drawing.index("<svg") :]
    return inner.replace("<svg", f'<svg x="{x:g}" y="{y:g}"', 1)
