"""``imadarem solve``: what it shows, how it knows, and what becomes of wrong puzzles."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from cli_parts import WORDS, records, saved_model
from fakes import grid_model

from imadarem.cli.solve_view import Answer, GridStep, Question, drawn, story, summary
from imadarem.data.sudoku import generate, sudoku_task
from imadarem.orchestrator.config import OrchestrationConfig
from imadarem.orchestrator.orchestrator import UnifiedRefinerOrchestrator
from imadarem.tokenizers import CharTokenizer

#: Four givens, one solution.
PUZZLE = ".....2...14...3."
SOLUTION = "1324421331422431"
#: One blank, in row 4, column 4.
EASY = "132442133142243."

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="session")
def beginner(tmp_path_factory):
    """The folder of a model of 4x4 and 6x6 with random weights: it solves nothing."""
    folder = tmp_path_factory.mktemp("beginner")
    grid_model(sizes=(4, 6), carry=True, halting=True).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def solver(tmp_path_factory):
    """The folder of a model of 4x4 that learned, in seconds, to fill in one blank."""
    folder = tmp_path_factory.mktemp("solver")
    task = sudoku_task(4, n=64, valid=2, givens=15, fill_share=0.0, cache_dir=folder)
    model = grid_model(hidden_size=32, carry=True, halting=True)
    config = OrchestrationConfig(
        max_steps_train=8,
        unroll_mode="last_k",
        backprop_truncate_steps=2,
        canvas_edit_strategies=["replace"],
        step_weighting="uniform",
    )
    orchestrator = UnifiedRefinerOrchestrator(model, task.tokenizer, None, config)
    orchestrator.register(task)
    optimizer = torch.optim.AdamW(model.student_parameters(), lr=1e-2)
    for _ in range(35):
        orchestrator.train_step(task.train.rows(slice(0, 32)), optimizer, task_type="sudoku")
    model.save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.mark.slow
def test_a_lesson_of_seconds_is_enough_for_the_other_tests(solver, said):
    puzzles = "\n".join(as_text(generate(4, 15, seed)) for seed in range(20))
    Path("easy.txt").write_text(puzzles)
    code, out, _ = said("solve", "easy.txt", "--model", solver, "--json")
    assert code == 0
    assert records(out)[-1]["solved"] == 1.0


def as_text(puzzle):
    return "".join(str(digit) if digit else "." for digit in puzzle.clues)


# --- one puzzle


def test_a_puzzle_is_shown_step_by_step_with_what_changed_and_how_it_ended(said, solver):
    code, out, err = said("solve", EASY, "--model", solver)
    assert (code, err) == (0, "")
    assert out.startswith(
        "4x4, 15 givens\n 1 3 | 2 4\n 4 2 | 1 3\n-----+-----\n 3 1 | 4 2\n 2 4 | 3 .\n\n"
    )
    # The cell that was written is marked, without any colour.
    assert re.search(
        r"step 1: 1 cell changed, halting confidence [01]\.\d{3}, mean token probability "
        r"[01]\.\d{3}\n.*\n.*\n-----\+-----\n 3 1 \| 4 2\n 2 4 \| 3\*\d\n",
        out,
    )
    assert "\x1b" not in out
    assert re.search(r"^\d+ steps?, stopped: verified$", out, re.MULTILINE)
    assert out.endswith(
        f"solved, verified: every rule holds and the givens are unchanged\n{SOLUTION}\n"
    )


def test_what_the_model_cannot_solve_is_said_with_a_place_and_a_way_on(said, beginner):
    code, out, err = said("solve", PUZZLE, "--model", beginner, "--steps", 2)
    assert code == 1
    found = re.search(
        r"^2 steps, stopped: max_steps \(--steps 2\)\nnot solved: (\d+) cells break a rule; "
        r"(row|column|box) \d has the digit \d twice, in row \d, column \d and row \d, column \d$",
        out,
        re.MULTILINE,
    )
    # As many cells are marked in the last grid as are counted.
    assert int(found[1]) == out.partition("cells that break a rule (!):")[2].count("!")
    assert SOLUTION not in out
    assert "--steps 8" in err and "--votes 8" in err


def test_the_answer_alone_is_one_line_and_never_a_wrong_one(said, solver, beginner):
    assert said("solve", EASY, "--model", solver, "--quiet") == (0, f"{SOLUTION}\n", "")
    code, out, _ = said("solve", PUZZLE, "--model", beginner, "--quiet")
    assert (code, out) == (1, f"{PUZZLE}\n")


def test_json_has_a_line_for_each_step_and_one_for_the_result(said, solver):
    code, out, _ = said("solve", EASY, "--model", solver, "--json")
    *steps, result, summed = records(out)
    assert code == 0
    assert [step["step"] for step in steps] == list(range(1, result["steps"] + 1))
    assert steps[0]["changed"] == [15]
    assert steps[-1]["grid"] == result["answer"] == SOLUTION
    assert (result["verified"], result["broken"], result["size"]) == (True, [], 4)
    assert result["stopping_reason"] == "verified"
    assert (summed["puzzles"], summed["solved"], summed["refused"]) == (1, 1.0, 0)


def test_without_the_check_nobody_looks(said, beginner):
    # The puzzle has several solutions, which only the exact solver would tell.
    code, out, err = said("solve", "1" + "." * 15, "--model", beginner, "--no-check", "--json")
    *_, result, summed = records(out)
    assert (code, err) == (0, "")
    assert (result["verified"], result["broken"], summed["solved"]) == (None, [], None)
    assert result["stopping_reason"] != "verified"
    _, out, _ = said("solve", PUZZLE, "--model", beginner, "--no-check")
    assert "not checked (--no-check)" in out
    assert "solved" not in out


def test_only_the_verifier_and_the_cap_stop_a_checked_puzzle(said, beginner):
    # Patience would stop the network alone after 4 steps without a gain.
    _, out, _ = said("solve", PUZZLE, "--model", beginner, "--json", "--steps", 12)
    result = records(out)[-2]
    assert (result["steps"], result["stopping_reason"]) == (12, "max_steps")


def test_votes_ask_in_several_forms_and_count_all_their_passes(said, solver):
    code, out, _ = said("solve", EASY, "--model", solver, "--votes", 4, "--json")
    result = records(out)[-2]
    assert code == 0
    assert result["answer"] == SOLUTION
    assert 1 <= result["votes"] <= 4
    assert result["forward_passes"] >= 4 * 1


def test_a_puzzle_without_a_right_answer_gets_further_candidates(said, beginner):
    line = ("solve", PUZZLE, "--model", beginner, "--json", "--steps", 2)
    _, out, _ = said(*line)
    alone = records(out)[-2]
    _, out, _ = said(*line, "--width", 5)
    assert alone["forward_passes"] == 2
    assert records(out)[-2]["forward_passes"] == 10
    code, _, err = said(*line, "--width", 5, "--votes", 2)
    assert (code, "several forms (votes)" in err) == (2, True)


def test_a_full_grid_needs_no_model(said, beginner):
    code, out, _ = said("solve", SOLUTION, "--model", beginner)
    assert code == 0
    assert "the puzzle has no blank" in out
    assert "solved, verified" in out


# --- where puzzles come from


def test_files_stdin_and_cells_are_read_alike(said, solver, monkeypatch):
    Path("drawn.txt").write_text("# mine\n13|24\n42|13\n--+--\n31|42\n24|3.\n")
    Path("table.csv").write_text(f"quizzes,solutions\n{EASY.replace('.', '0')},{SOLUTION}\n")
    for source in ("drawn.txt", "table.csv", EASY, "13 24\n42 13\n31 42\n24 3_", "-"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{EASY}\n"))
        assert said("solve", source, "--model", solver, "--quiet") == (0, f"{SOLUTION}\n", "")


def test_a_pipe_is_read_to_its_end(said, solver):
    # Two bytes read ahead, as of a file to see whether it is packed, would be lost.
    reading, writing = os.pipe()
    os.write(writing, f"{EASY}\n{EASY}\n".encode())
    os.close(writing)
    code, out, _ = said("solve", f"/dev/fd/{reading}", "--model", solver, "--quiet")
    os.close(reading)
    assert (code, out) == (0, f"{SOLUTION}\n" * 2)


def test_the_limit_counts_puzzles_over_all_sources(said, solver):
    Path("two.txt").write_text(f"{EASY}\n{EASY}\n")
    _, out, _ = said("solve", "two.txt", EASY, EASY, "--limit", 3, "--quiet", "--model", solver)
    assert out == f"{SOLUTION}\n" * 3


# --- several puzzles


def test_several_puzzles_get_a_line_each_and_a_total(said, solver):
    lines = [EASY, "11" + "." * 14, "." * 16, EASY]
    Path("some.txt").write_text("\n".join(lines))
    code, out, _ = said("solve", "some.txt", "--model", solver, "--batch-size", 1)
    first, second, third, fourth, empty, total = out.splitlines()
    assert code == 2  # two of them are wrong
    assert first.startswith("some.txt, line 1: 4x4, 15 givens: solved, ")
    assert fourth.replace("line 4", "line 1") == first
    assert "refused: the givens contradict each other: row 1 has the digit 1 twice" in second
    assert "refused: the puzzle has more than one solution" in third
    assert re.fullmatch(
        r"2 of 2 solved \(100%\), 2 refused, \S+ steps and \S+ forward passes each, \S+ puzzles/s",
        total,
    )
    _, out, _ = said("solve", "some.txt", "--model", solver, "--quiet")
    assert out.splitlines() == [SOLUTION, lines[1], lines[2], SOLUTION]


def test_sizes_may_be_mixed_and_an_unknown_one_is_refused(said, beginner):
    puzzles = [as_text(generate(size, None, 1)) for size in (4, 6)]
    Path("mixed.txt").write_text("\n".join([*puzzles, as_text(generate(9, 40, 1)), puzzles[0]]))
    code, out, _ = said("solve", "mixed.txt", "--model", beginner, "--steps", 1, "--json")
    results = [record for record in records(out) if record["kind"] == "result"]
    assert code == 2
    assert [result["size"] for result in results] == [4, 6, 9, 4]
    assert [len(result["answer"] or "") for result in results] == [16, 36, 0, 16]
    assert "solves 4x4 and 6x6 only" in results[2]["refused"]
    # What a puzzle gets does not depend on the others.
    assert results[0]["answer"] == results[3]["answer"]
    _, out, _ = said("solve", puzzles[0], "--model", beginner, "--steps", 1, "--json")
    assert records(out)[-2]["answer"] == results[0]["answer"]


def test_one_that_is_not_solved_among_several_is_exit_code_1(said, beginner):
    code, out, err = said("solve", PUZZLE, EASY, "--model", beginner, "--steps", 1)
    assert code == 1
    assert re.search(r"^the puzzle, line 1: .*: not solved: \d+ cells break a rule", out)
    assert "Try --steps 4" in err


# --- wrong use


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "there is no puzzle to solve"),
        ("11..............", "row 1 has the digit 1 twice, in row 1, column 1 and row 1, column 2"),
        ("1...1...........", "column 1 has the digit 1 twice"),
        ("1....1..........", "box 1 has the digit 1 twice"),
        ("5...............", "the digit 5 in row 1, column 1 is too large"),
        ("1..4..2..3..4..1", "the puzzle has no solution"),
        ("................", "row 2, column 1 can be"),
        ("12", "the grid has 2 cells"),
        ("................ --no-check --steps 0", "--steps. Give a whole number"),
        ("12x4............", "'x' is no cell"),
        ("nothing.txt", "there is no file nothing.txt"),
        ("{puzzle} --votes 0", "--votes. Give a whole number"),
        ("{puzzle} --limit 0", "--limit. Give a whole number"),
        ("{puzzle} --batch-size 0", "--batch-size. Give a whole number"),
        ("{puzzle} --quiet --json", "exclude each other"),
        ("{puzzle} --model {words}", "is not a sudoku model"),
        ("{puzzle} --model none", "there is no folder 'none'"),
        ("{nine} --model {beginner}", "the puzzle is 9x9"),
        ("{puzzle} --stepz 3", "Did you mean --steps?"),
    ],
)
def test_wrong_use_is_one_line_on_stderr_and_exit_code_2(
    said, beginner, tmp_path_factory, line, reason
):
    words = ""
    if "{words}" in line:
        folder = tmp_path_factory.mktemp("words")
        words = saved_model(folder, CharTokenizer.from_corpus(WORDS), WORDS)
    places = {
        "puzzle": PUZZLE,
        "nine": as_text(generate(9, 40, 1)) if "{nine}" in line else "",
        "words": words,
        "beginner": beginner,
    }
    code, out, err = said("solve", *(token.format(**places) for token in line.split()))
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: .+\n", err)
    assert reason in err


def test_a_wrong_puzzle_in_a_file_is_named_by_its_line(said):
    Path("one.txt").write_text("# a comment\n\n11..............\n")
    _, _, err = said("solve", "one.txt")
    assert err.startswith("error: one.txt, line 3: the givens contradict each other")


# --- the drawing


def test_signs_stand_before_the_cells_they_mark():
    grid = (1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 0)
    picture = drawn(grid, blank="?", givens={0}, marked={1, 15}, sign="*").plain
    assert picture == " 1*2 | 3 4\n 3 4 | 1 2\n-----+-----\n 2 1 | 4 3\n 4 3 | 2*?"


def test_a_vote_that_differs_from_the_last_step_is_shown_as_well():
    answered = tuple(int(digit) for digit in SOLUTION)
    clues = tuple(int(digit) for digit in EASY.replace(".", "0"))
    wrong = (*clues[:15], 2)
    answer = Answer(
        question=Question("here", clues),
        grid=answered,
        verified=True,
        trace=(GridStep(grid=wrong, changed=[15], halt=None, quality=0.5),),
        steps=1,
        forward_passes=3,
        stopping_reason="max_steps",
        votes=2,
    )
    text = story(answer, 1).plain
    assert "step 1: 1 cell changed, mean token probability 0.500" in text
    assert "the answer of 2 forms of the puzzle that agree:" in text
    assert text.endswith(SOLUTION)


def test_totals_count_only_those_that_were_asked():
    clues = tuple(int(digit) for digit in EASY.replace(".", "0"))
    question = Question("here", clues)
    answers = [
        Answer(question=question, grid=clues, verified=True, steps=2, forward_passes=2),
        Answer(question=question, grid=clues, verified=False, steps=4, forward_passes=8),
        Answer(question=question, grid=clues, refused="wrong"),
    ]
    figures = summary(answers, 0.5)
    assert (figures["puzzles"], figures["refused"], figures["solved"]) == (3, 1, 0.5)
    assert (figures["mean_steps"], figures["mean_forward_passes"]) == (3, 5)
    assert figures["puzzles_per_second"] == 4


# --- the model in the package


def test_the_model_in_the_package_fills_in_one_blank(said):
    for size in (4, 6, 9):
        puzzle = generate(size, size * size - 1, seed=5)
        code, out, _ = said("solve", as_text(puzzle), "--quiet")
        assert (code, out) == (0, "".join(map(str, puzzle.solution)) + "\n")


def test_an_empty_argument_is_no_puzzle(said):
    assert said("solve", "")[0] == 2
    assert "an empty puzzle was given; a blank cell is a dot" in said("solve", " ")[2]
