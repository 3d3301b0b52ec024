"""Sudoku as a task: symmetries, classes that cannot leak, the verifier, the episodes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.sudoku import (
    SudokuSymmetry,
    canonical_key,
    canonical_keys,
    encode_puzzles,
    generate_many,
    held_out,
    parse_grid,
    relations,
    solutions,
    sudoku_episodes,
    sudoku_task,
    sudoku_tokenizer,
)
from imadarem.data.sudoku.grid import geometry
from imadarem.data.sudoku.symmetry import draw_positions
from imadarem.data.sudoku.verifier import SudokuVerifier
from imadarem.data.tasks import Episodes
from imadarem.errors import ConfigError, DataError

PAD, MASK, ONE = 0, 1, 3
SYMMETRY = SudokuSymmetry(12, ONE, PAD)
VERIFY = SudokuVerifier(ONE, MASK, PAD)

PUZZLES = {
    size: generate_many(12, size, givens, seed=1) for size, givens in ((4, None), (6, 14), (9, 34))
}
# One batch of all sizes, padded behind: 3 x 12 rows of 81.
ALL = Episodes.join([encode_puzzles(puzzles) for puzzles in PUZZLES.values()], PAD)

rows = st.integers(0, len(ALL) - 1)
seeds = st.integers(0, 2**32)


def digits(ids):
    """Ids without padding as a grid."""
    return [0 if i == MASK else i - ONE + 1 for i in ids.tolist() if i != PAD]


def moved(row, seed):
    return SYMMETRY.draw(ALL.inputs[row], np.random.default_rng(seed))


# ---------------------------------------------------------------- symmetries


def test_the_tokenizer_begins_with_the_special_ids():
    tokenizer = sudoku_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (PAD, MASK)
    assert tokenizer.encode("19") == [ONE, ONE + 8]


@given(rows, seeds)
def test_a_moved_puzzle_has_the_moved_solution_and_no_other(row, seed):
    element = moved(row, seed)
    puzzle, solution = element.apply(ALL.inputs[row]), element.apply(ALL.labels[row])
    assert solutions(digits(puzzle)) == [tuple(digits(solution))]


@given(rows, seeds)
def test_inverting_undoes_applying(row, seed):
    element = moved(row, seed)
    assert torch.equal(element.invert(element.apply(ALL.inputs[row])), ALL.inputs[row])


@given(rows, seeds)
def test_padding_and_special_ids_stay_where_they_are(row, seed):
    element = moved(row, seed)
    assert torch.equal(element.apply(ALL.inputs[row]) == PAD, ALL.inputs[row] == PAD)
    assert element.tokens[:ONE].tolist() == [0, 1, 2]
    size = int(len(digits(ALL.inputs[row])) ** 0.5)
    assert element.tokens[ONE + size :].tolist() == list(range(ONE + size, 12))


def test_an_element_depends_on_the_generator_alone():
    assert torch.equal(moved(0, 5).positions, moved(1, 5).positions)
    assert not torch.equal(moved(30, 5).positions, moved(30, 6).positions)


@pytest.mark.parametrize(("size", "count"), [(4, 128), (6, 6 * 8 * 2 * 36)])
def test_rearrangements_are_all_that_there_are(size, count):
    # 4: (2!·2!²)² · 2 = 128. 6: rows 3!·2!³ = 48, columns 2!·3!² = 72, no transposition.
    rng, layout = np.random.default_rng(0), geometry(size)
    drawn = {draw_positions(layout, rng).tobytes() for _ in range(1_500)}
    if size == 4:
        assert len(drawn) == count
    else:
        # 1,500 draws of 3,456 equally likely ones: 3,456 · (1 - e^(-1500/3456)) = 1,217 ± 15.
        assert 1_150 < len(drawn) < 1_290


def test_rows_of_six_stay_rows():
    layout = geometry(6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        came_from = np.asarray(layout.rows)[draw_positions(layout, rng)].reshape(6, 6)
        assert (came_from == came_from[:, :1]).all()


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(("size", "givens"), [(4, None), (6, None), (6, 34), (9, 32), (9, 80)])
def test_two_hundred_symmetric_copies_share_one_key(size, givens):
    puzzle = encode_puzzles(generate_many(1, size, givens, seed=7))
    rng = np.random.default_rng(0)
    copies = [SYMMETRY.draw(puzzle.inputs[0], rng).apply(puzzle.inputs[0]) for _ in range(200)]
    keys = canonical_keys(np.array([digits(copy) for copy in copies]))
    assert set(keys.tolist()) == {canonical_key(digits(puzzle.inputs[0]))}


def test_on_four_the_key_is_as_fine_as_the_true_canonical_form():
    grids = np.array([puzzle.clues for puzzle in generate_many(150, 4, seed=3)])
    keys = canonical_keys(grids).tolist()
    forms = [canonical_form_of_four(grid) for grid in grids]
    pairs = set(zip(keys, forms, strict=True))
    assert len(pairs) == len(set(keys)) == len(set(forms)) > 20


def canonical_form_of_four(grid):
    """The least of all 128 rearrangements, its digits renamed in the order they come."""
    lines = [
        [2 * band + row for band, flip in zip(bands, flips, strict=True) for row in flip]
        for bands in ((0, 1), (1, 0))
        for flips in itertools.product(((0, 1), (1, 0)), repeat=2)
    ]
    square = grid.reshape(4, 4)
    forms = []
    for rows, columns, turned in itertools.product(lines, lines, (False, True)):
        copy = square[np.ix_(rows, columns)]
        names = {0: 0}
        flat = (copy.T if turned else copy).reshape(-1).tolist()
        forms.append(tuple(names.setdefault(digit, len(names)) for digit in flat))
    return min(forms)


@pytest.mark.slow
def test_different_puzzles_have_different_keys():
    six = np.array([puzzle.clues for puzzle in generate_many(1_000, 6, 14, seed=5)])
    assert len(set(canonical_keys(six).tolist())) >= 999
    # Nearly solved grids are the hard case: every cell looks like every other.
    nine = np.array([puzzle.clues for puzzle in generate_many(100, 9, 80, seed=5)])
    assert len(set(canonical_keys(nine).tolist())) == 100


def test_moving_a_row_out_of_its_band_makes_another_class():
    puzzle = np.array(PUZZLES[9][0].clues).reshape(9, 9)
    inside, across = puzzle[[1, 0, 2, 3, 4, 5, 6, 7, 8]], puzzle[[3, 1, 2, 0, 4, 5, 6, 7, 8]]
    key = canonical_key(puzzle.reshape(-1))
    assert canonical_key(inside.reshape(-1)) == key
    assert canonical_key(across.reshape(-1)) != key


def test_keys_are_the_same_on_every_machine_and_in_every_batch():
    grids = np.array([puzzle.clues for puzzle in PUZZLES[6]])
    assert canonical_keys(grids).tolist() == [canonical_key(grid) for grid in grids]
    # A change of this number is a change of every split: models would see held-out puzzles.
    assert canonical_key(parse_grid("1............1..")) == FIXED_KEY


FIXED_KEY = 3681656990118399699


def test_about_one_class_in_ten_is_held_out():
    # 2,000 numbers: 200 ± 13.4; four standard deviations.
    share = held_out(np.arange(2_000, dtype=np.uint64))
    assert 146 < share.sum() < 254


# ---------------------------------------------------------------- the verifier


def test_solutions_of_all_sizes_in_one_batch_are_right():
    assert VERIFY(ALL.inputs, ALL.labels).all()


def test_a_grid_with_blanks_is_not_solved():
    assert not VERIFY(ALL.inputs, ALL.inputs).any()


@given(rows, seeds)
def test_another_digit_in_any_cell_is_wrong(row, seed):
    rng = np.random.default_rng(seed)
    answer = ALL.labels[row].clone()
    cell = int(rng.integers(len(digits(answer))))
    answer[cell] = rng.choice([i for i in range(12) if i != int(answer[cell])])
    assert not VERIFY(ALL.inputs[row : row + 1], answer[None])


def test_a_legal_grid_that_changes_a_given_is_wrong():
    # Renaming the digits keeps every rule and breaks the givens.
    other = ALL.labels.clone()
    other[ALL.labels == ONE], other[ALL.labels == ONE + 1] = ONE + 1, ONE
    assert not VERIFY(ALL.inputs, other).any()
    assert VERIFY(torch.where(ALL.inputs == PAD, PAD, MASK), other).all()


def test_a_digit_twice_and_one_missing_is_wrong_even_if_sums_agree():
    # 2 2 2 4 sums to 10 like 1 2 3 4.
    wrong = torch.tensor([[2, 2, 2, 4] * 4]) + ONE - 1
    assert not VERIFY(torch.full((1, 16), MASK), wrong)


# ---------------------------------------------------------------- the task


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return sudoku_task((4, 6), n=60, valid=6, fill_share=0.5, cache_dir=folder)


def keys_by_size(episodes):
    grids = [digits(row) for row in episodes.inputs]
    return {(len(grid), canonical_key(grid)) for grid in grids}


def test_no_class_is_on_both_sides(task):
    assert not keys_by_size(task.train) & keys_by_size(task.valid)


@pytest.mark.slow
def test_which_class_is_held_out_does_not_depend_on_the_run(task, tmp_path):
    other = sudoku_task((4, 6), n=60, valid=6, seed=8, cache_dir=tmp_path)
    assert not keys_by_size(other.train) & keys_by_size(task.valid)
    assert not torch.equal(other.train.inputs, task.train.inputs)


def test_the_task_is_complete(task):
    assert (len(task.train), len(task.valid)) == (120, 12)
    assert task.train.inputs.shape[1] == 36
    assert task.relations == [relations(4), relations(6)]
    ids = torch.cat([task.train.task_ids, task.valid.task_ids])
    assert sorted(ids.tolist()) == list(range(132))
    for side in (task.train, task.valid):
        assert task.verify(side.inputs, side.labels).all()
        given = side.inputs != task.tokenizer.mask_token_id
        assert torch.equal(side.inputs[given], side.labels[given])


def test_held_out_puzzles_differ(task):
    assert len({tuple(row.tolist()) for row in task.valid.inputs}) == len(task.valid)


def test_revealed_puzzles_reach_down_to_one_blank(tmp_path):
    def blanks(share):
        task = sudoku_task(6, n=50, valid=1, fill_share=share, cache_dir=tmp_path)
        return (task.train.inputs == MASK).sum(1)

    # A minimal 6x6 has at most 36 - 8 = 28 blanks. P(one of 50 rounds to 1) is about 1 - e^-6.
    assert int(blanks(0).min()) > 18
    assert int(blanks(1).min()) == 1
    # Half of them, of which ln 18 / ln 26 = 0.89 fall below 18: 22 ± 3.5.
    assert 8 < int((blanks(0.5) < 18).sum()) < 36


def test_given_counts_are_drawn_and_the_first_is_held_out(tmp_path):
    task = sudoku_task(6, n=40, valid=4, givens=(20, 30), fill_share=0, cache_dir=tmp_path)
    assert set((task.train.inputs != MASK).sum(1).tolist()) == {20, 30}
    assert set((task.valid.inputs != MASK).sum(1).tolist()) == {20}


def test_a_cached_task_is_the_same_and_a_damaged_cache_is_made_again(tmp_path):
    first = sudoku_task(4, n=20, valid=2, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    again = sudoku_task(4, n=20, valid=2, cache_dir=tmp_path)
    file.write_bytes(b"damaged")
    mended = sudoku_task(4, n=20, valid=2, cache_dir=tmp_path)
    for other in (again, mended):
        assert torch.equal(other.train.inputs, first.train.inputs)
        assert torch.equal(other.valid.labels, first.valid.labels)


def test_other_settings_are_cached_apart(tmp_path):
    sudoku_task(4, n=20, valid=2, cache_dir=tmp_path)
    sudoku_task(4, n=20, valid=2, seed=1, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("IMADAREM_CACHE", str(tmp_path))
    sudoku_task(4, n=5, valid=1)
    assert [file.suffix for file in (tmp_path / "sudoku").iterdir()] == [".safetensors"]


def test_one_blank_puzzles_for_a_benchmark_are_held_out():
    episodes = sudoku_episodes(6, 10, givens=35)
    assert ((episodes.inputs == MASK).sum(1) == 1).all()
    assert held_out(canonical_keys(np.array([digits(row) for row in episodes.inputs]))).all()


def test_a_file_becomes_a_task(tmp_path):
    file = tmp_path / "mine.txt"
    lines = ["".join(map(str, puzzle.clues)) for puzzle in generate_many(60, 6, 16, seed=4)]
    file.write_text("\n".join(lines))
    task = sudoku_task(path=file, fill_share=0)
    assert len(task.train) + len(task.valid) == 60
    assert len(task.valid) >= 1
    assert not keys_by_size(task.train) & keys_by_size(task.valid)
    assert task.verify(task.valid.inputs, task.valid.labels).all()


def test_a_file_too_small_to_split_is_refused(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("..3..4...1....2.")
    with pytest.raises(DataError, match="leaves . puzzles to train on and . to validate on"):
        sudoku_task(path=file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": 5}, "size 5 is not known"),
        ({"sizes": ()}, "sizes is empty"),
        ({"n": 0}, "n is 0"),
        ({"fill_share": 2.0}, "fill_share is 2.0; it is a share"),
        ({"sizes": 4, "givens": "few"}, "'few' for 4x4: give 1 to 15, or 'minimal'"),
        ({"sizes": 4, "givens": 16}, "givens 16 for 4x4"),
        ({"sizes": 4, "givens": ()}, "givens for 4x4 is empty"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        sudoku_task(cache_dir=tmp_path, **settings)


def test_more_held_out_puzzles_than_there_are_is_an_error(monkeypatch):
    # One class in 2^60 is held out, and 4x4 has some ten thousand.
    monkeypatch.setattr("imadarem.data.sudoku.canonical.HELD_OUT_ONE_IN", 2**60)
    with pytest.raises(ConfigError, match="hold only 0 different held-out ones; 1 were asked for"):
        sudoku_episodes(4, 1, givens=6)
