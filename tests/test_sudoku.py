"""Sudoku: grids as text, the solver, the generator, files of puzzles."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.sudoku import (
    format_grid,
    generate,
    generate_many,
    parse_grid,
    parse_puzzles,
    read_puzzles,
    relations,
    solutions,
    solve,
)
from imadarem.data.sudoku.generator import dig
from imadarem.data.sudoku.solver import complete
from imadarem.errors import ConfigError, DataError

# The first of Gordon Royle's list of puzzles with 17 clues.
SEVENTEEN = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"
SOLVED = "693784512487512936125963874932651487568247391741398625319475268856129743274836159"

FOUR = "1234" + "3412" + "2143" + "4321"
FOUR_PUZZLE = "..3." + ".4.." + ".1.." + "..2."


def without(text, *cells):
    return parse_grid("".join("." if i in cells else c for i, c in enumerate(text)))


# ---------------------------------------------------------------- geometry and text


def test_boxes_of_six_are_two_high_and_three_wide():
    rows, columns, boxes = relations(6)
    assert boxes[:6] == [0, 0, 0, 1, 1, 1]
    assert boxes[6:12] == boxes[:6]
    assert boxes[12:15] == [2, 2, 2]
    assert (rows[7], columns[7]) == (1, 1)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_each_partition_has_as_many_groups_as_digits_all_of_one_size(size):
    for groups in relations(size):
        assert [groups.count(group) for group in range(size)] == [size] * size


def test_an_unknown_size_is_refused_with_the_legal_ones():
    with pytest.raises(ConfigError, match="size 5 is not known. Legal: 4 .* 6 .* 9"):
        relations(5)


def test_a_grid_is_drawn_with_its_boxes_and_read_again():
    drawn = " 1 2 | 3 4 \n 3 4 | 1 2 \n-----+-----\n 2 1 | 4 . \n 4 3 | 2 1 "
    assert format_grid(without(FOUR, 11)) == drawn
    assert parse_grid(drawn) == without(FOUR, 11)


@given(st.sampled_from([4, 6, 9]), st.integers(0, 40))
def test_what_is_drawn_reads_as_itself(size, seed):
    clues = generate(size, size * size - 5, seed).clues
    assert parse_grid(format_grid(clues)) == clues


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FOUR[:-1], "has 15 cells. Legal: 16 cells .4x4., 36 .6x6. or 81"),
        (FOUR[:-1] + "x", "'x' is no cell of a sudoku. Legal: the digits 1 to 9, and"),
        (FOUR[:-1] + "7", "digit 7 in row 4, column 4 is too large .* Legal: 1 to 4"),
        ("11" + "." * 14, "row 1 has the digit 1 twice, in row 1, column 1 and row 1, column 2"),
        ("2..." + "...." + "2..." + "....", "column 1 has the digit 2 twice"),
        ("3..." + ".3.." + "........", "box 1 has the digit 3 twice"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_with_the_place(text, message):
    with pytest.raises(DataError, match=message):
        parse_grid(text)


# ---------------------------------------------------------------- the solver


def test_there_are_288_grids_of_four():
    assert len(set(solutions([0] * 16, limit=1_000))) == 288


def test_seventeen_clues_have_their_known_solution():
    assert solutions(parse_grid(SEVENTEEN)) == [parse_grid(SOLVED)]


def test_the_empty_grid_has_several_solutions():
    assert len(solutions([0] * 81)) == 2


def test_no_more_than_the_limit_are_sought():
    assert len(solutions([0] * 36, limit=7)) == 7


def test_four_cells_that_may_swap_two_digits_leave_two_solutions():
    # Rows 1 and 2, columns 1 and 3: 1 3 above 3 1, in two boxes; swapped it fits as well.
    puzzle = without(FOUR, 0, 2, 4, 6)
    swapped = parse_grid("3214" + "1432" + "2143" + "4321")
    assert sorted(solutions(puzzle, limit=9)) == [parse_grid(FOUR), swapped]


def test_an_ambiguous_puzzle_is_refused_with_the_cells_that_differ():
    message = "more than one solution .12 givens.: row 1, column 1 can be . or .; row 1, column 3"
    with pytest.raises(DataError, match=message):
        solve(without(FOUR, 0, 2, 4, 6))


def test_a_puzzle_without_solution_is_refused():
    # The last cell of row 1 must be 4, which its column has already.
    with pytest.raises(DataError, match="no solution, although no row"):
        solve(parse_grid("123." + "...." + "...4" + "...."))


def test_a_puzzle_that_is_hard_to_refute_is_refuted():
    # Peter Norvig's. Guesses in cells alone do not refute it in 100 seconds.
    puzzle = ".....5.8....6.1.43..........1.5........1.6...3.......553.....61........4........."
    assert solutions(parse_grid(puzzle)) == []


def test_a_contradiction_is_told_before_it_is_searched_for():
    with pytest.raises(DataError, match="row 1 has the digit 1 twice"):
        solve([1, 1] + [0] * 79)


# ---------------------------------------------------------------- the generator


@given(st.sampled_from([(4, 6), (6, 14), (6, None), (9, 36), (4, None)]), st.integers())
def test_a_puzzle_has_one_solution_the_one_it_was_dug_from(kind, seed):
    puzzle = generate(*kind, seed)
    assert solutions(puzzle.clues) == [puzzle.solution]
    assert kind[1] in (None, len(puzzle.clues) - puzzle.clues.count(0))


@given(st.sampled_from([4, 6]), st.integers(0, 1_000))
def test_no_given_of_a_minimal_puzzle_can_be_spared(size, seed):
    clues = generate(size, None, seed).clues
    for cell in [cell for cell, digit in enumerate(clues) if digit]:
        assert len(solutions([0 if i == cell else d for i, d in enumerate(clues)])) == 2


def test_puzzles_depend_on_nothing_but_the_seed():
    before = generate(6, None, 3)
    random.seed(99)
    assert generate(6, None, 3) == before
    assert generate(6, None, 4) != before


def test_random_grids_are_solved_and_differ():
    grids = {complete(6, random.Random(seed)) for seed in range(50)}
    assert len(grids) == 50
    assert all(solutions(grid) == [grid] for grid in grids)


def test_every_grid_of_four_can_come():
    # 288 grids; 2,500 draws miss one of equally likely ones with probability 288·e^-8.7.
    assert len({complete(4, random.Random(seed)) for seed in range(2_500)}) == 288


def test_digging_stops_at_the_number_of_givens():
    clues = dig(parse_grid(SOLVED), 60, random.Random(0))
    assert clues.count(0) == 21


def test_givens_out_of_reach_are_refused_with_what_was_reached():
    # No puzzle of 4x4 has fewer than 4 givens.
    with pytest.raises(ConfigError, match="3 givens of 4x4 were not reached in 50 tries.*fewer"):
        generate(4, 3, 0)


@pytest.mark.parametrize("givens", [0, 17])
def test_givens_out_of_range_are_refused(givens):
    with pytest.raises(ConfigError, match="has 1 to 16 givens"):
        generate(4, givens, 0)


def test_a_longer_list_begins_with_the_shorter_one():
    assert generate_many(9, 4, seed=2)[:5] == generate_many(5, 4, seed=2)


def test_seeds_that_follow_share_no_puzzles():
    assert not set(generate_many(20, 6, seed=0)) & set(generate_many(20, 6, seed=1))


@pytest.mark.slow
def test_processes_change_nothing(monkeypatch):
    monkeypatch.setattr("imadarem.workers.PATIENCE", 0.0)
    # More than one chunk of 64, so that the pool is really used.
    assert generate_many(130, 4, seed=1, processes=2) == generate_many(130, 4, seed=1)


# ---------------------------------------------------------------- files


def entries(text):
    return [(e.line, e.clues, e.solution) for e in parse_puzzles(enumerate(text.split("\n"), 1))]


def test_a_puzzle_per_line_in_every_spelling_of_a_blank():
    lines = [FOUR_PUZZLE, FOUR_PUZZLE.replace(".", "0"), FOUR_PUZZLE.replace(".", "_")]
    clues = parse_grid(FOUR_PUZZLE)
    assert entries("\n".join(lines)) == [(n, clues, None) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "drawn",
    [
        "..3.\n.4..\n.1..\n..2.",
        ". . | 3 .\n. 4 | . .\n----+----\n. 1 | . .\n. . | 2 .",
        "+---+---+\n|. .|3 .|\n|. 4|. .|\n+---+---+\n|. 1|. .|\n|. .|2 .|\n+---+---+",
        "..3.\n.4..\n\n.1..\n..2.",
        "┌──┬──┐\n│..│3.│\n│.4│..│\n├──┼──┤\n│.1│..│\n│..│2.│\n└──┴──┘",
    ],
)
def test_a_drawn_grid_is_read_however_it_is_drawn(drawn):
    assert [clues for _, clues, _ in entries(drawn)] == [parse_grid(FOUR_PUZZLE)]


def test_several_puzzles_comments_and_sizes_share_a_file():
    text = f"# two\n{SEVENTEEN} # the first\n\n1...\n..1.\n.1..\n...1\n{FOUR_PUZZLE}"
    found = entries(text)
    assert [line for line, _, _ in found] == [2, 4, 8]
    assert [len(clues) for _, clues, _ in found] == [81, 16, 16]


@pytest.mark.parametrize(
    "table",
    [
        f"quizzes,solutions\n{FOUR_PUZZLE},{FOUR}",
        f"puzzle,solution\n{FOUR_PUZZLE},{FOUR}",
        f"source,question,answer,rating\nx,{FOUR_PUZZLE},{FOUR},0",
        f'id,"Puzzle",clues,solution\n7,"{FOUR_PUZZLE}",5,{FOUR}',
        f"{FOUR_PUZZLE},{FOUR}",
    ],
)
def test_tables_give_the_solution_too(table):
    assert [found[1:] for found in entries(table)] == [(parse_grid(FOUR_PUZZLE), parse_grid(FOUR))]


def test_a_file_gives_puzzles_with_their_solutions(tmp_path):
    file = tmp_path / "puzzles.txt"
    file.write_text(f"# 17 clues\n{SEVENTEEN}\n{SOLVED[:-1]}.,{SOLVED}\n")
    first, second = read_puzzles(file)
    assert first == (parse_grid(SEVENTEEN), parse_grid(SOLVED))
    assert second.clues.count(0) == 1
    assert read_puzzles(file, limit=1) == [first]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{FOUR_PUZZLE}\n123\n", "line 2: the grid has 3 cells. Legal: 16 cells"),
        (f"{FOUR_PUZZLE}\n{FOUR[:-1]}x\n", "line 2: 'x' is no cell"),
        ("\n11..............\n", "line 2: the givens contradict each other: row 1 has the digit 1"),
        ("1...\n..1.\n.1..\n", "line 3: the grid drawn from line 1 on has 3 rows of 4 cells"),
        (f"1...\n..1.\n{FOUR}\n", "line 3: the grid drawn from line 1 on has 2 rows of 4"),
        ("123.\n....\n...4\n....\n", "line 1: the puzzle has no solution"),
        (
            f"{'.' * 16}\n",
            "line 1: the puzzle has more than one solution .0 givens.: row ., column",
        ),
        (
            f"2..............., {FOUR}\n",
            "line 1: its solution has 1 in row 1, column 1, where the puzzle gives 2",
        ),
        (f"{FOUR_PUZZLE},{FOUR[:-1]}.\n", "line 1: its solution has a blank in row 4, column 4"),
        (f"{'.' * 16},{'1234' * 4}\n", "line 1: .*column 1 has the digit 1 twice"),
        (f"{FOUR_PUZZLE},{SOLVED}\n", "the puzzle has 16 cells, but its solution has 81"),
        (f"a,b\n{FOUR_PUZZLE},1\n", "columns a, b; the one with the puzzles must be called"),
        ("# nothing\n", "holds no puzzle. Give one per line"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line_and_the_reason(tmp_path, text, message):
    file = tmp_path / "puzzles.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_puzzles(file)
