"""A trajectory as one HTML file: the studio's view with its record inside, for no network.

The page's own style sheets and modules (``serve/static``) are put into the file, joined in the
order of their imports, and the record stands beside them as JSON. A policy in the file forbids
it to load anything from anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Protocol

from imadarem.errors import DataError, ImadaremError, MissingExtraError, MissingLibraryError
from imadarem.tokenizers import MOLECULE_NOTATIONS
from imadarem.viz.cells import Row
from imadarem.viz.molecules import molecule_grid_svg

STYLES = ("base.css", "view.css")
ENTRY = "embedded.js"
BOARDS = (16, 36, 81)
IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
  style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<div class="page">
<header class="masthead"><h1>{title}</h1><p class="what">refinement, step by step</p>
<div class="tools"></div></header>
<main></main>
</div>
<script type="application/json" id="record">{record}</script>
<script>
"use strict";
(() => {{
{script}}})();
</script>
</body>
</html>
"""


class Trajectory(Protocol):
    """What a page reads; see :class:`imadarem.sampling.trajectory.Trajectory`."""

    @property
    def rows(self) -> Sequence[Row]: ...
    def to_dict(self) -> dict[str, Any]: ...


def trajectory_page(
    trajectory: Trajectory,
    tokenizer: Any = None,
    *,
    title: str = "Imadarem",
    policy: str = "default policy",
) -> str:
    """The text of an HTML file that shows every step: player, grid, chart, structures.

    Args:
        trajectory: What to show, at least one row.
        tokenizer: Says whether the texts are molecules, and what they are at each step.
        title: The page's heading.
        policy: The heading of the run.

    Raises:
        DataError: The trajectory has no row.
    """
    if not trajectory.rows:
        raise DataError("the trajectory has no row, so there is nothing to show.")
    kind = kind_of(trajectory, tokenizer)
    record = trajectory.to_dict()
    if kind == "molecules":
        _add_texts(record, tokenizer)
    texts = [step.get("text") for row in record["rows"] for step in row["steps"]]
    shown = {
        "title": policy,
        "kind": kind,
        "record": record,
        "drawings": drawings_of(texts) if kind == "molecules" else {},
    }
    return PAGE.format(
        title=escape(title),
        style="".join(_asset(name) for name in STYLES),
        record=_embedded(shown),
        script=_joined(ENTRY, set()),
    )


def kind_of(trajectory: Trajectory, tokenizer: Any = None) -> str:
    """``molecules``, ``sudoku`` (digits on a square of 4, 6 or 9) or ``text``."""
    if getattr(tokenizer, "notation", None) in MOLECULE_NOTATIONS:
        return "molecules"
    digits = {"[MASK]", *"123456789"}
    boards = all(
        len(row.start) in BOARDS and digits.issuperset(row.start) for row in trajectory.rows
    )
    return "sudoku" if boards else "text"


def drawings_of(smiles: Iterable[str | None]) -> dict[str, str]:
    """An SVG of each text that is a molecule; none at all where RDKit cannot draw."""
    drawings = {}
    for text in dict.fromkeys(smiles):
        if not text:
            continue
        try:
            drawings[text] = molecule_grid_svg([text])
        except (MissingExtraError, MissingLibraryError):
            return {}
        except DataError:
            # A SMILES with holes is often none; the page then says so.
            continue
    return drawings


def _add_texts(record: Mapping[str, Any], tokenizer: Any) -> None:
    """The molecule that the tokens written so far spell, for every step that has one."""
    for row in record["rows"]:
        row["steps"] = [{**step, "text": _decoded(tokenizer, step["ids"])} for step in row["steps"]]


def _decoded(tokenizer: Any, ids: list[int]) -> str | None:
    try:
        return str(tokenizer.decode(ids))
    except ImadaremError:
        return None


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _joined(name: str, done: set[str]) -> str:
    """A module after all that it imports, each once, as the text of one plain script."""
    if name in done:
        return ""
    done.add(name)
    text = _asset(name)
    before = "".join(_joined(imported, done) for imported in IMPORT.findall(text))
    return before + re.sub(r"^export ", "", IMPORT.sub("", text), flags=re.MULTILINE)


def style_sheet(name: str) -> str:
    """A style sheet of the studio."""
    return _asset(name)


def _asset(name: str) -> str:
    return (files("imadarem") / "serve" / "static" / name).read_text(encoding="utf-8")
