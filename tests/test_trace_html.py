"""A trajectory as a file or a notebook's output: whole, self-contained, and the same colours."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_parts import SIXTY, WORDS, saved_model

from imadarem.errors import DataError
from imadarem.model import ImplicitRefinementModel
from imadarem.sampling.trajectory import RowStep, RowTrajectory, Trajectory
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer
from imadarem.viz.cells import HEAT, HEAT_INK
from imadarem.viz.html import kind_of, trajectory_page
from imadarem.viz.svg import trajectory_svg
from imadarem.viz.table import trajectory_table

STATIC = files("imadarem") / "serve" / "static"


def step(number, tokens, states, **fields):
    blank = [False] * len(tokens)
    values = {
        "refined": blank, "remasked": blank, "changed": blank, "gate": [None] * len(tokens),
        "entropy": [0.5] * len(tokens), "confidence": [0.5] * len(tokens),
        "changed_fraction": 0.5, "forward_passes": number, "stopping_reason": None,
    }  # fmt: skip
    return RowStep(number, [9] * len(tokens), tokens, states, **{**values, **fields})


@pytest.fixture
def row():
    """A given <a>, a token that is judged 0.74 and taken back, and an end with one behind it."""
    first = step(
        1, ["<a>", "<b>", "[EOS]"], ["GIVEN", "WRITTEN", "FROZEN"], changed=[False, True, True]
    )
    second = step(
        2, ["<a>", "[MASK]", "[EOS]"], ["GIVEN", "OPEN", "FROZEN"], gate=[None, 0.74, None],
        changed=[False, True, False], remasked=[False, True, False], stopping_reason="max_steps",
    )  # fmt: skip
    start = ["<a>", "[MASK]", "[MASK]", "[MASK]"]
    return RowTrajectory(start, [True, False, False, False], "gate", [first, second], "a & b")


@pytest.fixture
def words(tmp_path):
    folder = saved_model(tmp_path / "words", CharTokenizer.from_corpus(WORDS), WORDS)
    return ImplicitRefinementModel.from_pretrained(folder)


@pytest.fixture
def molecules(tmp_path):
    folder = saved_model(tmp_path / "mol", SelfiesTokenizer.from_corpus(SIXTY), SIXTY)
    return ImplicitRefinementModel.from_pretrained(folder)


# --- colours


def luminance(colour):
    """WCAG 2: linear sRGB, weighted as eyes see it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def in_style_sheet(theme):
    """The ramp and what is written on it in the page's style sheets: 0 light, 1 dark."""
    base, view = ((STATIC / name).read_text() for name in ("base.css", "view.css"))
    pair = r"light-dark\((#\w{6}), (#\w{6})\)"
    named = {m[0]: m[1 + theme] for m in re.findall(rf"--([\w-]+): {pair}", base)}
    inks = re.findall(r"^\.h\d+ \{ .*; color: (.*); \}", view, re.MULTILINE)
    found = [re.match(pair, ink) for ink in inks]
    written = [
        direct[1 + theme] if direct else named[ink.removeprefix("var(--").removesuffix(")")]
        for ink, direct in zip(inks, found, strict=True)
    ]
    return [named[f"h{level}"] for level in range(11)], written


@pytest.mark.parametrize("theme", [0, 1])
def test_uncertainty_is_a_matter_of_lightness_and_can_be_read_at_every_level(theme):
    ramp, inks = in_style_sheet(theme)
    light = [luminance(colour) for colour in ramp]
    order = pairwise(light if theme else light[::-1])
    # Steps of lightness, not hue: it holds in grey and for every kind of colour vision.
    assert all(above > below for below, above in order)
    assert all(contrast(colour, ink) >= 4.5 for colour, ink in zip(ramp, inks, strict=True))


def test_figures_have_the_colours_of_the_page():
    assert in_style_sheet(0) == (HEAT, HEAT_INK)


# --- the notebook and the figure


def test_a_notebook_shows_tokens_signs_and_uncertainty_in_a_table_without_script(row):
    table = ElementTree.fromstring(row._repr_html_()).find(".//table")
    cells = [[td.text for td in tr.findall("td")] for tr in table.findall("tr")]
    # Names of tokens are text, never markup. What went back to blank is shown as it was.
    assert cells == [
        ["<a>", "·", "·", "·"],
        ["<a>", "<b>", "end", None],
        ["<a>", "<b>", "end", None],
    ]
    taken_back = table.findall("tr")[2].findall("td")[1]
    # 0.74 of ten steps is level 7.
    assert taken_back.get("class").split() == ["remasked", "h7"]
    assert "a & b" in "".join(table.find("caption").itertext())
    assert "<script" not in row._repr_html_()


def test_a_notebook_shows_the_first_rows_and_says_how_many_there_are(row):
    shown = Trajectory([row] * 9)._repr_html_()
    assert shown.count("<table>") == 4
    assert "5 more" in shown
    assert len(trajectory_table([row])) < 5_000


def test_a_figure_is_an_svg_with_its_numbers(row):
    figure = ElementTree.fromstring(trajectory_svg([row, row]))
    texts = [text.text for text in figure.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("<b>") == 4  # written and taken back, in two rows
    assert texts.count("mean gate") == 2
    assert "a & b · 2 steps, 2 forward passes, stopped: max_steps" in texts
    colours = [each.get("fill") for each in figure.iter("{http://www.w3.org/2000/svg}rect")]
    assert HEAT[7] in colours


# --- the file


def test_a_page_holds_its_record_and_nothing_can_break_out_of_it(row):
    row.text = "</script><b>"
    page = trajectory_page(Trajectory([row]), title="A <title>")
    held = re.search(r'id="record">(.*?)</script>', page)[1]
    assert json.loads(held)["record"]["rows"][0]["text"] == "</script><b>"
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert page.count("</script>") == 2


def test_the_modules_of_a_page_are_one_script(row):
    script = trajectory_page(Trajectory([row])).split("<script>")[1]
    assert re.findall(r"^\s*(?:import|export)\b.*", script, re.MULTILINE) == []
    # Joined in one scope, two declarations of one name would be an error.
    names = re.findall(r"^(?:const|let|class|(?:async )?function\*?) (\w+)", script, re.MULTILINE)
    assert len(names) == len(set(names)) > 20


def test_a_page_without_a_row_is_refused():
    with pytest.raises(DataError, match="no row"):
        trajectory_page(Trajectory([]))


def test_what_is_shown_beside_the_grid_follows_from_the_tokens(row):
    board = RowTrajectory(["1", "2", *["[MASK]"] * 14], [True] * 16)
    assert kind_of(Trajectory([board])) == "sudoku"
    assert kind_of(Trajectory([row])) == "text"
    assert kind_of(Trajectory([row]), SelfiesTokenizer.from_corpus(["CCO"])) == "molecules"


def test_a_page_of_molecules_has_a_drawing_of_every_step(molecules):
    trajectory = molecules.analyze_refinement_trajectory("[C][C]<mask><mask>[O]", seed=0, steps=2)
    page = trajectory_page(trajectory, molecules.tokenizer)
    held = json.loads(re.search(r'id="record">(.*?)</script>', page)[1])
    texts = {step["text"] for step in held["record"]["rows"][0]["steps"]}
    assert texts
    assert all("<svg" in held["drawings"][text] for text in texts)


# --- the command


def test_trace_writes_both_and_the_record_is_that_of_json(said, elsewhere, molecules, tmp_path):
    line = ("trace", "[C]<mask>[O]", "--model", tmp_path / "mol", "--json")
    code, out, err = said(*line, "--html", "a.html", "--svg", "a.svg")
    assert code == 0
    assert "a.html" in err and "a.svg" in err
    held = json.loads(re.search(r'id="record">(.*?)</script>', Path("a.html").read_text())[1])
    for each in held["record"]["rows"][0]["steps"]:
        del each["text"]
    assert held["record"] == json.loads(out)
    assert ElementTree.fromstring(Path("a.svg").read_text()).tag.endswith("svg")


@pytest.mark.parametrize(("flag", "name"), [("--html", "a.pdf"), ("--svg", "a.html")])
def test_trace_refuses_an_ending_that_is_another_form(said, flag, name):
    code, _, err = said("trace", flag, name)
    assert code == 2
    assert f"{flag} {name} must end in" in err


def test_a_file_that_cannot_be_written_leaves_what_was_there(said, elsewhere, words, tmp_path):
    Path("a.html").mkdir()
    line = ("trace", "--model", tmp_path / "words", "--length", 3, "--html", "a.html")
    code, _, err = said(*line)
    assert (code, "could not be written" in err) == (2, True)
    assert Path("a.html").is_dir()
    assert [path.name for path in Path().iterdir() if path.name.startswith(".a")] == []


# --- in a browser


@pytest.mark.slow
def test_the_file_plays_in_a_browser_that_has_no_network(molecules, words, tmp_path):
    pytest.importorskip("playwright")
    from browser_parts import PHONE, chromium, overflow, page_of

    for name, model in (("molecules", molecules), ("words", words)):
        trajectory = model.analyze_refinement_trajectory(n=2, length=6, seed=0, steps=3)
        (tmp_path / f"{name}.html").write_text(
            trajectory_page(trajectory, model.tokenizer, policy="gate"), encoding="utf-8"
        )
    with chromium() as browser, page_of(browser, offline=True, viewport=PHONE) as page:
        page.goto((tmp_path / "molecules.html").as_uri())
        page.wait_for_selector(".matrix")
        assert page.inner_text(".place") == "3 / 3"
        assert overflow(page) <= 0
        page.keyboard.press("Home")
        assert page.inner_text(".place") == "0 / 3"
        page.keyboard.press("End")
        page.locator('[data-step="3"][data-position="2"]').click()
        assert "position 3, step 3" in page.inner_text(".told")
        # It tells, and edits nothing.
        assert page.locator("#mask, #run-on").count() == 0
        page.wait_for_selector(".picture img")
        assert page.evaluate("document.querySelector('.picture img').naturalWidth") > 0
        first = page.inner_text(".matrix")
        page.select_option("#row", "1")
        assert page.inner_text(".matrix") != first
        page.goto((tmp_path / "words.html").as_uri())
        assert page.is_visible(".line")
