"""Repaired rows as one HTML page: every edit marked where it was made. No script, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from imadarem.viz.html import style_sheet

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
  style-src 'unsafe-inline'">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}
table {{ border-collapse: collapse; width: 100%; margin-top: 1rem; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--rule); }}
td {{ overflow-wrap: anywhere; }}
del {{ padding: 0 .1em; border-radius: 3px; background: var(--danger-wash); color: var(--danger); }}
ins {{ padding: 0 .1em; border-radius: 3px; background: var(--accent-wash); color: var(--accent);
  text-decoration: none; font-weight: 700; }}
</style>
</head>
<body>
<div class="page">
<header class="masthead"><h1>{title}</h1><p class="what">{counts}</p></header>
<main>
<table>
<thead><tr><th>row</th><th>result</th><th>sequence</th>
<th>edits, and how wrong each place looked</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</main>
</div>
</body>
</html>
"""


def repairs_page(title: str, records: Sequence[Mapping[str, Any]]) -> str:
    """The page.

    Args:
        title: Its heading.
        records: Of each row ``given`` and ``reason``, and either ``error`` or ``tokens``, the
            strings of its tokens as given, and ``edits`` as
            :meth:`imadarem.repair.Repair.spelled` gives them.
    """
    counts = Counter(str(record["reason"]).replace("_", " ") for record in records)
    summary = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    rows = "\n".join(_row(number, record) for number, record in enumerate(records, start=1))
    return PAGE.format(
        title=escape(title), style=style_sheet("base.css"), counts=escape(summary), rows=rows
    )


def _row(number: int, record: Mapping[str, Any]) -> str:
    reason = escape(str(record["reason"]).replace("_", " "))
    if "error" in record:
        marked, edits = escape(record["given"]), escape(record["error"])
    else:
        marked = _marked(record["tokens"], record["edits"])
        edits = "<br>".join(map(_edit, record["edits"]))
    return (
        f'<tr><td>{number}</td><td>{reason}</td><td class="mono">{marked}</td><td>{edits}</td></tr>'
    )


def _marked(tokens: Sequence[str], edits: Sequence[Mapping[str, Any]]) -> str:
    """The tokens as given, with what was taken out and what was put in."""
    removed = {edit["position"] for edit in edits if edit["kind"] != "insert"}
    before: dict[int, str] = {}
    behind: dict[int, str] = {}
    for edit in edits:
        if edit["after"] is not None:
            place = before if edit["kind"] == "insert" else behind
            added = f"<ins>{escape(edit['after'])}</ins>"
            place[edit["position"]] = place.get(edit["position"], "") + added
    parts = []
    for position, token in enumerate(tokens):
        text = escape(token)
        parts.append(before.get(position, ""))
        parts.append(f"<del>{text}</del>" if position in removed else text)
        parts.append(behind.get(position, ""))
    return "".join([*parts, before.get(len(tokens), "")])


def _edit(edit: Mapping[str, Any]) -> str:
    change = {
        "replace": f"{edit['before']} → {edit['after']}",
        "insert": edit["after"],
        "delete": edit["before"],
    }[edit["kind"]]
    doubt = "" if edit["probability"] is None else f", {edit['probability']:.2f}"
    return f"{edit['kind']} <code>{escape(change)}</code> at {edit['position'] + 1}{doubt}"
