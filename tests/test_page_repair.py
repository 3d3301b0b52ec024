"""The studio's repair view in a real browser, against a real server with the shipped model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("playwright")

from browser_parts import PHONE, chromium, overflow, page_of
from running_server import ServerAddress, server_thread

pytestmark = pytest.mark.slow

#: An anisole amide whose inner branch is not closed: ``2)cc1`` would close it.
BROKEN, REPAIRED = "COc1ccc(C(=O)N2CCOCC2cc1", "COc1ccc(C(=O)N2CCOCC2)cc1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Any) -> Iterator[ServerAddress]:
    with server_thread("selfies", "smiles") as running:
        yield running


@pytest.fixture(scope="module")
def window(browser: Any) -> Iterator[Any]:
    with page_of(browser) as page:
        yield page


@pytest.fixture
def studio(window: Any, server: ServerAddress) -> Any:
    window.goto("about:blank")
    window.goto(server.url)
    return settled(window)


def settled(page: Any) -> Any:
    page.wait_for_selector('.mended[aria-busy="false"] .edits')
    return page


def side(page: Any, name: str) -> str:
    return page.inner_text(f".pair .{name} .smiles")


def test_the_page_opens_on_a_repair_with_both_structures_and_its_reasons(studio):
    assert studio.input_value("#sequence") == BROKEN
    assert (side(studio, "before"), side(studio, "after")) == (BROKEN, REPAIRED)
    assert studio.inner_text("#mended").startswith("Repaired by one edit")
    studio.wait_for_selector(".before .picture:has-text('cannot read')")
    studio.wait_for_selector(".after img")
    assert studio.evaluate("document.querySelector('.after img').naturalWidth") > 0
    # The place that looks worst is explained at once: its probability and what belongs there.
    assert "tokens are missing" in studio.inner_text("#why")
    assert ") 100 %" in studio.inner_text("#why")
    studio.hover('[data-token="0"]')
    assert "position 1:" in studio.inner_text("#why")


def test_a_refused_edit_is_taken_back_and_may_be_accepted_again(studio):
    assert studio.inner_text(".tokens .added") == ")"
    studio.uncheck(".edits input")
    assert side(studio, "after") == BROKEN
    assert studio.locator(".tokens .added").count() == 0
    studio.check(".edits input")
    assert side(studio, "after") == REPAIRED


def test_protected_tokens_are_sent_and_marked(studio):
    with studio.expect_request("**/v1/repair") as sent:
        studio.click('[data-token="3"]')
    assert sent.value.post_data_json["protected"] == [[3]]
    studio.wait_for_selector('[data-token="3"][aria-pressed="true"]')
    # Another sequence has other tokens.
    with studio.expect_request("**/v1/repair") as sent:
        studio.fill("#sequence", "CCO")
        studio.press("#sequence", "Enter")
    assert "protected" not in sent.value.post_data_json
    studio.wait_for_selector("#mended:has-text('Nothing to repair')")
    assert side(studio, "after") == "CCO"


def test_a_sequence_that_cannot_be_read_is_an_error_and_the_repair_before_stays(studio):
    studio.fill("#sequence", "CC[Xe]")
    studio.click("#mend")
    studio.wait_for_selector("#error:visible")
    assert "[Xe]" in studio.inner_text("#error")
    assert side(studio, "after") == REPAIRED


def test_a_link_opens_its_sequence_and_the_other_view_is_a_press_away(window, server):
    window.goto("about:blank")
    window.goto(f"{server.url}/#view=repair&model=smiles&sequence={quote('CC(C)O)')}")
    settled(window)
    assert side(window, "before") == "CC(C)O)"
    window.check("#views [value=refine]")
    assert window.is_visible("#ask") and window.is_hidden("#sequence")
    window.goto("about:blank")
    window.goto(f"{server.url}/#view=refine")
    window.wait_for_selector("#run:enabled")
    assert window.is_hidden("#sequence")


def test_prompts_are_in_the_notation_of_the_model(window, server):
    window.goto("about:blank")
    window.goto(f"{server.url}/#view=refine&model=smiles")
    window.wait_for_selector("#run:enabled")
    assert "in SMILES" in window.inner_text("label[for=prompt]")
    window.click("#examples button:text-is('an amide with holes')")
    window.wait_for_selector("#status:has-text('Done: CC(=O)N')")


def test_a_phone_needs_no_sideways_scrolling(browser, server):
    with page_of(browser, viewport=PHONE, has_touch=True) as page:
        page.goto(server.url)
        settled(page)
        page.tap('[data-token="5"]')
        page.wait_for_selector('[data-token="5"][aria-pressed="true"]')
        assert overflow(page) <= 0
