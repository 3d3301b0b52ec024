"""The studio in a real browser, against a real server."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("playwright")

from browser_parts import PHONE, chromium, overflow, page_of
from cli_parts import SIXTY, WORDS, saved_model
from running_server import server_thread

from imadarem.serve import request_guard
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer

# The browser and the server start once for all; each test is then a second or less.
pytestmark = pytest.mark.slow

PUZZLE = ".3.1...4.2....1."
ETHER = "[C][C][O]" + "<mask>" * 6


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "words"
    # Without the lengths of its data the model writes the end of a text itself.
    ends = {"length_mode": "eos", "length_counts": None, "max_seq_len": 12}
    words = saved_model(folder, CharTokenizer.from_corpus(WORDS), WORDS, **ends)
    with server_thread("selfies", "sudoku", f"words={words}") as running:
        yield running


@pytest.fixture(scope="module")
def locked(browser, tmp_path_factory):
    """A server that asks for its token."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = saved_model(folder, SelfiesTokenizer.from_corpus(SIXTY), SIXTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_guard, "WRONG_TOKEN_SECONDS", 0.1)
        with server_thread(f"tiny={tiny}", token="right") as running:
            yield running


@pytest.fixture(scope="module")
def window(browser):
    with page_of(browser) as page:
        yield page


@pytest.fixture
def studio(window, server):
    yield opened(window, server)
    assert (window.strangers, window.faults) == ([], [])


def opened(page, server):
    page.goto(server.url)
    page.wait_for_selector("#run:enabled")
    return page


def sampled(page, prompt=ETHER, **fields):
    """Run with these fields, and wait until all steps are there."""
    page.fill("#prompt", prompt)
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
    page.click("#run")
    finished(page)


def finished(page):
    page.wait_for_selector("#run:text-is('Run')")
    page.wait_for_selector(".matrix")


def row(page, step, run=0):
    """The tokens of a step as they are read in the grid."""
    grid = page.locator(".matrix").nth(run)
    return grid.locator(f'[data-step="{step}"]').all_inner_texts()


def cell(page, step, position):
    return page.locator(f'[data-step="{step}"][data-position="{position}"]').first


def at(page):
    return page.inner_text(".place")


def test_the_page_opens_with_the_models_and_says_how_to_begin(studio):
    assert studio.locator("#model option").all_inner_texts() == ["selfies", "sudoku", "words"]
    assert studio.is_visible("#empty")
    assert "gate" in studio.locator("#policy option").all_inner_texts()


def test_a_sample_shows_every_step_its_structure_and_why_it_stopped(studio):
    sampled(studio, steps=4, seed=3)
    assert at(studio) == "4 / 4"
    assert row(studio, 0) == ["C", "C", "O", *"·" * 6]
    assert "·" not in row(studio, 4)
    # The prompt is given in all five lines, so 15 marks.
    assert studio.locator(".matrix .given").count() == 15
    assert "4 forward passes" in studio.inner_text(".facts >> nth=0")
    assert "max_steps" in studio.inner_text(".run header")
    text = studio.inner_text(".smiles")
    studio.wait_for_selector(".picture img")
    assert studio.get_attribute(".picture img", "alt") == f"Structure of {text}"
    # The picture was really drawn: an image that fails has no size.
    assert studio.evaluate("document.querySelector('.picture img').naturalWidth") > 0
    assert text in studio.inner_text("#status")
    assert "gate" in studio.get_attribute(".chart", "aria-label")


def test_scrubbing_moves_the_band_the_numbers_and_the_structure_together(studio):
    sampled(studio, steps=4, seed=3)
    last = studio.inner_text(".smiles")
    studio.locator('input[aria-label="Step"]').fill("2")
    assert at(studio) == "2 / 4"
    assert studio.inner_text(".now > .head") == "2"
    assert studio.inner_text(".now-facts").startswith("Step 2 of 4")
    assert studio.inner_text(".smiles") != last
    studio.click('button[aria-label="One step on"]')
    assert at(studio) == "3 / 4"
    studio.click('[data-head="1"]')
    assert at(studio) == "1 / 4"


def test_playing_goes_from_the_start_to_the_end_and_stops_there(studio):
    sampled(studio, steps=3, seed=3)
    studio.select_option(".speed", "4")
    # The page is quicker than a busy machine asks for its state: it writes down where it was.
    studio.evaluate("""() => {
        const place = document.querySelector(".place");
        window.places = [];
        new MutationObserver(() => window.places.push(place.innerText)).observe(
            place, {childList: true, characterData: true, subtree: true});
    }""")
    studio.click("#play")
    for _ in range(200):
        if studio.evaluate("window.places").count("3 / 3"):
            break
        studio.wait_for_timeout(50)
    studio.wait_for_selector('#play[aria-label="Play"]')
    seen = list(dict.fromkeys(studio.evaluate("window.places")))
    assert seen == ["0 / 3", "1 / 3", "2 / 3", "3 / 3"]
    assert at(studio) == "3 / 3"


def test_everything_can_be_done_by_the_keyboard(studio):
    studio.fill("#prompt", ETHER)
    studio.fill("#steps", "4")
    studio.keyboard.press("Enter")
    finished(studio)
    studio.evaluate("document.activeElement.blur()")
    studio.keyboard.press("ArrowLeft")
    assert at(studio) == "3 / 4"
    studio.keyboard.press("Home")
    assert at(studio) == "0 / 4"
    studio.keyboard.press("e")
    assert studio.is_checked('input[value="entropy"]')
    studio.keyboard.press("?")
    assert studio.is_visible("dialog")
    studio.keyboard.press("Escape")
    # In the grid: one cell is reached by Tab, the arrows move, M masks, a button runs on.
    assert studio.locator('.matrix [tabindex="0"]').count() == 1
    studio.focus('.matrix [tabindex="0"]')
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        studio.keyboard.press(key)
    assert at(studio) == "2 / 4"
    assert studio.evaluate("document.activeElement.dataset.position") == "1"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert studio.evaluate(outline) == "solid"
    studio.keyboard.press("m")
    assert studio.inner_text(".pending span") == "1 masked"


def test_a_fixed_token_never_changes_again_and_a_masked_one_is_predicted_again(studio):
    sampled(studio, steps=4, seed=3)
    studio.click('[data-head="4"]')
    tokens = row(studio, 4)
    cell(studio, 4, 4).click()
    studio.click("#fix")
    cell(studio, 4, 6).click()
    studio.click("#mask")
    assert studio.inner_text(".pending span") == "1 fixed, 1 masked"
    studio.click("#run-on")
    studio.wait_for_selector("#back")
    finished(studio)
    # The run begins where it was cut: one blank, and four tokens given instead of three.
    assert row(studio, 0) == [*tokens[:6], "·", *tokens[7:]]
    assert studio.locator('[data-step="0"].given').count() == 4
    fixed = studio.locator('.matrix [data-position="4"]').all_inner_texts()
    assert set(fixed) == {tokens[4]}
    studio.click("#back")
    assert row(studio, 4) == tokens


def test_another_token_can_be_fixed_in_its_place(studio):
    sampled(studio, steps=4, seed=3)
    cell(studio, 4, 8).click()
    studio.select_option("#write", "[Br]")
    studio.click("#run-on")
    studio.wait_for_selector("#back")
    # Every position was full, so there was nothing to do: no step, and that token.
    finished(studio)
    assert row(studio, 0)[8] == "Br"
    assert studio.locator('[data-step="0"].given').count() == 4


def test_two_policies_stand_beside_each_other_with_their_passes(studio):
    studio.select_option("#policy", "ancestral")
    studio.select_option("#other", "entropy")
    sampled(studio, prompt="", length=8, steps=4)
    assert studio.locator(".run h2").all_inner_texts() == ["ancestral", "entropy"]
    # The entropy rule asks the teacher too: two passes in each of at most four steps.
    passes = [
        re.match(r"(\d+)", text)[1] for text in studio.locator(".facts strong").all_inner_texts()
    ]
    assert passes[0] == "4"
    assert int(passes[1]) % 2 == 0
    assert f"entropy took {passes[1]} passes" in studio.inner_text("#status")
    one, other = (studio.locator(".run").nth(i).bounding_box() for i in (0, 1))
    assert (one["y"], one["x"] < other["x"]) == (other["y"], True)


def test_a_sudoku_is_a_grid_that_ends_verified(studio):
    studio.select_option("#model", "sudoku")
    sampled(studio, PUZZLE)
    digits = studio.locator(".board .token").all_inner_texts()
    assert len(digits) == 16
    # Rows, columns and boxes of a solved 4x4 hold 1 to 4 each.
    rows = [digits[4 * i : 4 * i + 4] for i in range(4)]
    assert all(sorted(group) == list("1234") for group in [*rows, *zip(*rows, strict=True)])
    assert studio.inner_text("#status") == "Solved: complete and legal."
    assert studio.locator(".board .given").count() == 5
    # A digit of the board is the same token as the one in the grid.
    studio.locator(".board .token").nth(15).click()
    assert "position 16" in studio.inner_text(".told")
    assert studio.locator('[aria-selected="true"]').get_attribute("data-position") == "15"
    studio.keyboard.press("m")
    assert studio.locator(".board .to-mask").count() == 1


def test_a_text_is_a_line_and_what_lies_behind_its_end_is_hatched(studio):
    studio.select_option("#model", "words")
    sampled(studio, "", seed=1)
    grid = row(studio, int(at(studio).split(" / ")[1]))
    assert len(grid) == 12
    if "end" in grid:
        behind = len(grid) - grid.index("end") - 1
        last = studio.locator(".matrix .row").last
        assert last.locator(".frozen").count() == behind
    assert studio.is_visible(".line")


def test_an_error_says_what_is_wrong_and_leaves_the_run_that_was_there(studio):
    sampled(studio, steps=4, seed=3)
    studio.fill("#prompt", "[C][Uuo]<mask>")
    studio.click("#run")
    studio.wait_for_selector("#error:visible")
    assert "[Uuo]" in studio.inner_text("#error")
    assert studio.is_visible(".matrix")
    assert studio.inner_text("#run") == "Run"
    sampled(studio, steps=4)
    assert studio.is_hidden("#error")


def test_the_address_of_a_run_is_a_link_to_it(studio, server):
    studio.select_option("#policy", "margin")
    sampled(studio, steps=4, seed=3)
    tokens, address = row(studio, 4), studio.url
    studio.goto("about:blank")
    studio.goto(address)
    studio.wait_for_selector("#run:enabled")
    assert studio.input_value("#policy") == "margin"
    studio.click("#run")
    finished(studio)
    assert (row(studio, 4), studio.input_value("#prompt")) == (tokens, ETHER)


def test_a_server_that_is_gone_is_told_and_can_be_tried_again(browser, server):
    with page_of(browser) as page:
        page.route("**/v1/models", lambda route: route.abort())
        page.goto(server.url)
        page.wait_for_selector("#again")
        assert "cannot be reached" in page.inner_text("#error")
        page.unroute("**/v1/models")
        page.click("#again")
        page.wait_for_selector("#run:enabled")
        assert page.is_hidden("#error")


def unlocked(page, token):
    page.fill("#token", token)
    page.click("#unlock button")


def test_the_page_asks_for_the_token_until_it_is_right_and_keeps_it_to_itself(browser, locked):
    with page_of(browser) as page:
        page.goto(locked.url)
        page.wait_for_selector("#unlock:visible")
        assert page.inner_text("#error") == "A token is needed."
        assert page.evaluate("document.activeElement.id") == "token"
        assert page.get_attribute("#token", "type") == "password"
        assert page.is_disabled("#run")
        # The last one is none that a header could carry.
        for token in ("wrong", "wörter"):
            unlocked(page, token)
            page.wait_for_selector("#error:has-text('The token is wrong.')")
            page.wait_for_selector("#unlock:visible")
        unlocked(page, " right ")
        page.wait_for_selector("#run:enabled")
        assert page.is_hidden("#unlock")
        assert page.is_hidden("#error")
        sampled(page, "[C][C]<mask>", steps=2, seed=3)
        assert row(page, 0) == ["C", "C", "·"]
        # Drawings need the token too.
        page.wait_for_selector(".picture img")
        assert page.evaluate("document.querySelector('.picture img').naturalWidth") > 0
        assert "right" not in page.url
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
        page.reload()
        page.wait_for_selector("#unlock:visible")


def test_a_run_goes_on_once_the_token_that_was_changed_is_given(browser, locked):
    """The server has another token than it had when the page was opened."""
    with page_of(browser) as page:
        page.goto(locked.url)
        page.wait_for_selector("#unlock:visible")
        unlocked(page, "right")
        page.wait_for_selector("#run:enabled")
        sampled(page, "[C][C]<mask><mask>", steps=2, seed=3)
        before = row(page, 0)

        def changed(route):
            route.continue_(headers={**route.request.headers, "authorization": "Bearer old"})

        page.route("**/v1/trace", changed)
        page.fill("#prompt", "[C][O]<mask><mask>")
        page.click("#run")
        page.wait_for_selector("#unlock:visible")
        assert page.inner_text("#error") == "The token is wrong."
        assert (page.inner_text("#run"), row(page, 0)) == ("Run", before)
        page.unroute("**/v1/trace")
        unlocked(page, "right")
        # Nobody asks for the run again: it was asked for.
        page.wait_for_selector('.matrix [data-step="0"]:has-text("O")')
        finished(page)
        assert page.is_hidden("#unlock")
        assert row(page, 0) == ["C", "O", "·", "·"]


def test_a_run_plays_while_it_comes_where_motion_is_welcome(browser, server):
    with page_of(browser, reduced_motion="no-preference") as page:
        opened(page, server)
        page.fill("#prompt", ETHER)
        page.fill("#steps", "3")
        page.click("#run")
        page.wait_for_selector('#play[aria-label="Pause"]')
        page.select_option(".speed", "4")
        page.wait_for_selector('#play[aria-label="Play"]')
        assert at(page) == "3 / 3"


def test_a_long_run_can_be_stopped_and_what_came_stays(studio):
    studio.fill("#prompt", "")
    studio.fill("#length", "64")
    studio.fill("#steps", "256")
    studio.click("#run")
    studio.wait_for_selector('.facts:has-text("so far")')
    studio.wait_for_selector('.matrix [data-step="1"]')
    studio.click("#run")
    studio.wait_for_selector("#run:text-is('Run')")
    assert studio.inner_text("#status") == "Stopped."
    assert "interrupted" in studio.inner_text(".run header")
    assert 1 < studio.locator(".matrix .row").count() < 257


def test_a_phone_needs_no_sideways_scrolling(browser, server):
    with page_of(browser, viewport=PHONE, color_scheme="dark", has_touch=True) as page:
        opened(page, server)
        assert overflow(page) <= 0
        page.select_option("#other", "confidence")
        sampled(page, "", length=20, steps=8)
        assert overflow(page) <= 0
        cell(page, 8, 2).tap()
        page.tap("#mask")
        assert page.is_visible("#run-on")
        assert overflow(page) <= 0
        # Positions run down, steps across.
        first, below, beside = (
            cell(page, *place).bounding_box() for place in ((8, 2), (8, 3), (7, 2))
        )
        assert below["y"] > first["y"] > 0
        assert beside["x"] < first["x"]


def test_the_theme_follows_the_system_until_it_is_chosen(browser, server):
    with page_of(browser, color_scheme="dark") as page:
        opened(page, server)
        paper = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(paper)
        page.click("#theme")
        assert page.inner_text("#theme") == "Light"
        assert page.evaluate(paper) != dark
        page.reload()
        assert page.inner_text("#theme") == "Light"
