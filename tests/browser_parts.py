"""A real Chromium for the tests of pages: no network but this machine's, no motion."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where none is installed."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser is here: none of {', '.join(NAMES)} is on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Any, **settings: Any) -> Iterator[Any]:
    """A page that may only load from this machine and must not fail; ``settings`` of its context.

    ``page.strangers`` are the addresses elsewhere that it asked for, ``page.faults`` what its
    scripts did not catch.
    """
    chosen = {"viewport": WIDE, "reduced_motion": "reduce", "color_scheme": "light", **settings}
    context = browser.new_context(**chosen)
    # A busy machine is slow; a page that is wrong fails all the same.
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.strangers, page.faults = [], []
    own = ("http://127.0.0.1:", "file://", "data:")
    page.on("request", lambda r: None if r.url.startswith(own) else page.strangers.append(r.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda m: page.faults.append(m.text) if "Policy" in m.text else None)
    try:
        yield page
        assert (page.strangers, page.faults) == ([], [])
    finally:
        context.close()


def overflow(page: Any) -> int:
    """Pixels that the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")
