"""The studio's pictures in docs/pictures, taken of a running server in Chromium.

    python scripts/make_studio_pictures.py              into docs/pictures
    python scripts/make_studio_pictures.py FOLDER       elsewhere, to look at first

Needs the dev extra and a Chromium on the PATH. Seeds are fixed: the pictures change with the
models and with the page, and otherwise by no more than a browser's fonts do.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
# The tests have the browser and the server that a picture needs too.
sys.path.insert(0, str(ROOT / "tests"))

from browser_parts import PHONE, chromium, page_of  # noqa: E402
from running_server import server_thread  # noqa: E402

ETHER = "[C][C][O]" + "<mask>" * 14
#: What a reader sees at once; the phone's are set beside each other, so many pixels apart.
LOW, MIDDLE, HIGH = ({"width": 1280, "height": height} for height in (620, 1010, 1120))
BETWEEN = 40


def opened(page: Any, url: str) -> None:
    page.goto(f"{url}/#view=refine")
    page.wait_for_selector("#run:enabled")
    page.evaluate("document.fonts.ready")


def ran(page: Any, fields: dict[str, object], button: str = "#run") -> None:
    """Fill fields, press the button, and wait for the last step and its drawing."""
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
    page.click(button)
    page.wait_for_selector("#status.busy", state="detached")
    page.wait_for_selector(".matrix")
    page.wait_for_load_state("networkidle")


def at_step(page: Any, step: int) -> None:
    page.locator('input[aria-label="Step"]').fill(str(step))
    page.wait_for_load_state("networkidle")


def chosen(page: Any, step: int, position: int, button: str) -> None:
    page.locator(f'[data-step="{step}"][data-position="{position}"]').first.click()
    page.click(button)


def shot(page: Any) -> Image.Image:
    page.mouse.move(0, 0)
    return Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")


def beside(one: Image.Image, other: Image.Image) -> Image.Image:
    both = Image.new("RGB", (one.width + BETWEEN + other.width, one.height), "white")
    both.paste(one, (0, 0))
    both.paste(other, (one.width + BETWEEN, 0))
    return both


def pictures(browser: Any, url: str) -> dict[str, Image.Image]:
    made = {}
    asked = {"prompt": ETHER, "steps": 8, "seed": 12}
    with page_of(browser, viewport=MIDDLE) as page:
        page.goto(url)
        page.wait_for_selector(".after img")
        page.wait_for_load_state("networkidle")
        made["repair"] = shot(page)
    with page_of(browser, viewport=LOW) as page:
        opened(page, url)
        made["empty"] = shot(page)
    with page_of(browser, viewport=MIDDLE) as page:
        opened(page, url)
        ran(page, asked)
        made["run"] = shot(page)
        at_step(page, 6)
        chosen(page, 6, 6, "#fix")
        chosen(page, 6, 9, "#mask")
        made["fix"] = shot(page)
        ran(page, {}, "#run-on")
        made["run-on"] = shot(page)
        page.fill("#prompt", "[C][C]<mask><mask>[Uuo]")
        page.click("#run")
        page.wait_for_selector("#error:visible")
        made["error"] = shot(page)
    with page_of(browser, viewport=HIGH, color_scheme="dark") as page:
        opened(page, url)
        page.select_option("#policy", "gate-adaptive")
        page.select_option("#other", "ancestral")
        ran(page, {"length": 14, "steps": 12, "seed": 3})
        made["compare"] = shot(page)
    with page_of(browser, viewport=HIGH) as page:
        opened(page, url)
        page.select_option("#model", "sudoku")
        ran(page, {}, '#examples button:text-is("harder")')
        made["sudoku"] = shot(page)
    phones = []
    for scheme in ("light", "dark"):
        with page_of(browser, viewport=PHONE, color_scheme=scheme, has_touch=True) as page:
            opened(page, url)
            ran(page, asked)
            if scheme == "dark":
                at_step(page, 6)
                chosen(page, 6, 6, "#fix")
            phones.append(shot(page))
    made["phone"] = beside(*phones)
    return made


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, server_thread("selfies", "smiles", "sudoku") as served:
        made = pictures(browser, served.url)
    for name, picture in made.items():
        # 256 colours are enough for a page, and a third of the size.
        picture.quantize(256).save(folder / f"studio-{name}.png", optimize=True)


if __name__ == "__main__":
    main()
