"""A trajectory as an SVG figure: steps as rows, positions as columns, colour for uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from imadarem.viz.cells import (
    HEAT,
    HEAT_INK,
    INK,
    WHITE,
    Cell,
    Row,
    cells,
    heat_level,
    labels,
    summary,
)

MUTED, RULE = "#6a675f", "#d9d4c8"
# Sizes, in pixels.
CELL_HEIGHT, CHARACTER, LABEL, BARS, GAP, HEADER = 24, 6.7, 34, 190, 26, 30
DRAWING = (240, 200)


def trajectory_svg(rows: Sequence[Row], drawings: Mapping[str, str] | None = None) -> str:
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


def _figure(row: Row, drawing: str | None) -> tuple[str, float, float]:
    """One row's part, its width and its height."""
    lines = list(cells(row))
    texts = labels(lines)
    widths = [
        max(22.0, max(map(len, column)) * CHARACTER + 9) for column in zip(*texts, strict=True)
    ]
    lefts = [LABEL + sum(widths[:x]) for x in range(len(widths))]
    right = LABEL + sum(widths)
    parts = []
    for y, line in enumerate(lines):
        middle = HEADER + (y + 0.5) * CELL_HEIGHT
        parts.append(_text(LABEL - 10, middle, str(y), f'text-anchor="end" fill="{MUTED}"'))
        for x, cell in enumerate(line):
            parts.append(_figure_cell(cell, texts[y][x], lefts[x], middle, widths[x]))
    parts.extend(_bars(row, right + 18))
    width, height = right + 18 + BARS, HEADER + len(lines) * CELL_HEIGHT
    parts.append(_legend(row.judge, height + 20))
    title = f'font-size="12" font-weight="600" fill="{INK}"'
    caption = " · ".join(part for part in (row.text, summary(row)) if part)
    parts.append(_text(LABEL, 12, caption, title))
    if drawing is not None:
        parts.append(_nested(drawing, width + GAP, 0))
        width, height = width + GAP + DRAWING[0], max(height, DRAWING[1] - 34)
    return "".join(parts), max(width, LABEL + len(caption) * CHARACTER), height + 34


def _figure_cell(cell: Cell, label: str, left: float, middle: float, width: float) -> str:
    top, ink, parts = middle - CELL_HEIGHT / 2 + 1, INK, []
    box = f'x="{left + 1:g}" y="{top:g}" width="{width - 2:g}" height="{CELL_HEIGHT - 2}" rx="3"'
    if cell.uncertainty is not None:
        level = heat_level(cell.uncertainty)
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


def _bars(row: Row, left: float) -> Iterator[str]:
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
