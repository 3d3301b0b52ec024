"""A trajectory as an HTML table without a script: what a notebook shows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from imadarem.viz.cells import HEAT, HEAT_INK, Cell, Row, cells, heat_level, labels, summary

# Rows of a trajectory that a notebook shows, and positions of each: an output is for reading.
TABLE_ROWS = 4
TABLE_POSITIONS = 120


def trajectory_table(rows: Sequence[Row]) -> str:
    """Rows as HTML tables with their own style and no script, for a notebook's output."""
    shown = "".join(_table(row) for row in rows[:TABLE_ROWS])
    more = len(rows) - TABLE_ROWS
    rest = f"<p>… and {more} more; index the trajectory to see one.</p>" if more > 0 else ""
    return f'<div class="imadarem-trajectory"><style>{_table_style()}</style>{shown}{rest}</div>'


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


def _table(row: Row) -> str:
    lines = list(cells(row))
    body = []
    for number, (line, texts) in enumerate(zip(lines, labels(lines), strict=True)):
        shown = map(_table_cell, line[:TABLE_POSITIONS], texts[:TABLE_POSITIONS])
        body.append(f'<tr><th scope="row">{number}</th>{"".join(shown)}</tr>')
    cut = len(row.start) - TABLE_POSITIONS
    text = "" if row.text is None else f"<b>{escape(row.text)}</b> · "
    rest = f" · {cut} more positions" if cut > 0 else ""
    caption = f"<caption>{text}{summary(row)} · colour: {row.judge}{rest}</caption>"
    return f"<table>{caption}{''.join(body)}</table>"


def _table_cell(cell: Cell, label: str) -> str:
    names = sorted(cell.marks & {"changed", "given", "remasked"})
    if cell.uncertainty is not None:
        names.append(f"h{heat_level(cell.uncertainty)}")
    attributes = f' class="{" ".join(names)}"' if names else ""
    title = "" if cell.uncertainty is None else f' title="{cell.uncertainty:.2f}"'
    return f"<td{attributes}{title}>{escape(label)}</td>"
