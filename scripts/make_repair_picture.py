"""The README's first picture: a broken SMILES, the judge's colours, and the repaired molecule.

    python scripts/make_repair_picture.py               writes docs/pictures/repair.svg
    python scripts/make_repair_picture.py FILE.svg      elsewhere, to look at first

Everything in it is computed by the shipped model; needs RDKit for the drawing.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

from imadarem import ImplicitRefinementModel
from imadarem.repair import Repair
from imadarem.repair.records import spelled_tokens
from imadarem.viz.cells import HEAT, HEAT_INK, INK
from imadarem.viz.molecules import molecule_grid_svg

ROOT = Path(__file__).resolve().parents[1]
#: A bracket is missing, and a ring bond has a wrong number.
BROKEN = "COC(=Oc1nccc5c(Br)c(F)ccc12"
CELL, TALL, GAP, LEFT = 26, 30, 3, 24
ACCENT, MUTED, PAPER, RULE = "#1f5b9c", "#6a675f", "#fcfaf6", "#d8d2c4"
FONT = 'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace"'
SANS = 'font-family="Inter, Helvetica, Arial, sans-serif"'


def text(x: float, y: float, words: str, attributes: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {attributes}>{escape(words)}</text>'


def cell(x: float, y: float, token: str, fill: str, ink: str, stroke: str = RULE) -> str:
    """A token in a box."""
    middle = f'text-anchor="middle" font-size="14" fill="{ink}" {FONT}'
    size = f'width="{CELL}" height="{TALL}" rx="4"'
    box = f'<rect x="{x:g}" y="{y:g}" {size} fill="{fill}" stroke="{stroke}"/>'
    return box + text(x + CELL / 2, y + 20, token, middle)


def given_row(tokens: list[str], wrong: list[float], missing: list[float], y: float) -> str:
    """The tokens by how wrong they look, and the gaps by how likely something is missing."""
    parts = []
    for at, (token, probability) in enumerate(zip(tokens, wrong, strict=True)):
        level = round(10 * probability)
        x = LEFT + at * (CELL + GAP)
        parts.append(cell(x, y, token, HEAT[level], HEAT_INK[level]))
        if probability > 0.5:
            label = f'text-anchor="middle" font-size="12" fill="{MUTED}" {SANS}'
            parts.append(text(x + CELL / 2, y - 7, f"{probability:.2f}", label))
    for at, probability in enumerate(missing):
        if probability > 0.2:
            x = LEFT + at * (CELL + GAP) - GAP / 2
            heat = HEAT[round(10 * probability)]
            parts.append(f'<path d="M{x:g} {y - 2:g} l-5 -8 h10 z" fill="{heat}" stroke="{INK}"/>')
            label = f'text-anchor="middle" font-size="12" fill="{MUTED}" {SANS}'
            parts.append(text(x, y - 14, f"{probability:.2f}", label))
    return "".join(parts)


def repaired_row(repair: Repair, spelled: list[str], y: float) -> str:
    """The tokens after the repair; those that an edit wrote have a frame."""
    shift, written = 0, set()
    for edit in repair.edits:
        if edit.kind != "delete":
            written.add(edit.position + shift)
        shift += {"insert": 1, "delete": -1, "replace": 0}[edit.kind]
    return "".join(
        cell(
            LEFT + at * (CELL + GAP),
            y,
            token,
            "#e6eef7" if at in written else "#ffffff",
            ACCENT if at in written else INK,
            ACCENT if at in written else RULE,
        )
        for at, token in enumerate(spelled)
    )


def picture() -> str:
    model = ImplicitRefinementModel.from_pretrained("smiles")
    (judgement,), (repair,) = model.judge(BROKEN), model.repair(BROKEN)
    assert judgement.wrong is not None and judgement.missing is not None
    assert repair.text is not None and repair.changed, "the shipped model repairs it no more"
    given = spelled_tokens(model.tokenizer, repair.given)
    after = spelled_tokens(model.tokenizer, repair.tokens)
    width = 2 * LEFT + max(len(given), len(after)) * (CELL + GAP)
    drawing = molecule_grid_svg([repair.text], columns=1)
    inner = drawing[drawing.index("<svg") :].replace(
        "<rect style='opacity:1.0;fill:#FFFFFF", "<rect style='fill:none", 1
    )
    label = f'font-size="13" fill="{MUTED}" {SANS}'
    passes = f"{len(repair.edits)} edits, {repair.row_passes} forward passes, no checker"
    parts = [
        f'<rect width="{width}" height="360" rx="10" fill="{PAPER}"/>',
        text(
            LEFT,
            26,
            "a broken SMILES, coloured by the judge: the probability that a token is wrong",
            label,
        ),
        given_row(given, judgement.wrong, judgement.missing, 60),
        text(LEFT, 122, f"repaired: {passes}; everything else is as it was", label),
        repaired_row(repair, after, 134),
        inner.replace("<svg", f'<svg x="{width / 2 - 132:g}" y="166"', 1).replace(
            "width='240px' height='200px'", "width='264px' height='190px'", 1
        ),
    ]
    size = f'viewBox="0 0 {width} 360" width="{width}" height="360"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return f"{head}\n{chr(10).join(parts)}\n</svg>\n"


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures" / "repair.svg"
    path.write_text(picture(), encoding="utf-8")


if __name__ == "__main__":
    main()
