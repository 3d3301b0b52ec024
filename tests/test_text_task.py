"""Holes, and text with holes: what is blank, what is split, what cannot leak."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.holes import Holes
from imadarem.data.splits import held_out, stable_hash
from imadarem.data.text_task import text_task
from imadarem.errors import ConfigError, DataError, TokenizerError
from imadarem.tokenizers import CharTokenizer, SpecialIds

SPECIAL = SpecialIds(mask=1, pad=0, eos=2, banned=(0, 1))
PARAGRAPHS = [
    f"Paragraph number {i} speaks of {animal}s,\nand of nothing else but {animal}s."
    for i, animal in enumerate(["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis"])
]


class Maskless(CharTokenizer):
    mask_token_id = None


def windows(task, rows):
    return [task.tokenizer.decode(row) for row in rows]


# ---------------------------------------------------------------- sides


@given(
    keys=st.sets(st.text(max_size=4), min_size=2, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(-5, 5),
)
def test_some_keys_are_held_out_and_some_are_not_in_any_order(keys, fraction, seed):
    held = held_out(keys, fraction, seed)
    assert set() < held < keys
    assert held == held_out(sorted(keys) * 2, fraction, seed)
    assert abs(len(held) - fraction * len(keys)) <= 1


def test_a_key_has_one_number_per_seed():
    numbers = {stable_hash("a"), stable_hash("b"), stable_hash("a", 1), stable_hash("a", -1)}
    assert len(numbers) == 4 and all(0 <= number < 2**63 for number in numbers)
    assert stable_hash("a") == stable_hash(b"a")


def test_one_key_cannot_be_split():
    with pytest.raises(DataError, match="1 different entries"):
        held_out(["same", "same"], 0.1, 0)


# ---------------------------------------------------------------- holes


@given(
    length=st.integers(2, 60),
    share=st.floats(0.01, 1.0),
    span=st.floats(1.0, 9.0),
    seed=st.integers(0, 1000),
)
def test_the_number_of_blanks_is_the_share_with_one_blank_and_one_token_at_least(
    length, share, span, seed
):
    drawn = Holes(share=share, span=span).draw(length, np.random.default_rng(seed))
    assert drawn.sum() == min(max(1, round(share * length)), length - 1)


def test_a_range_of_shares_is_drawn_row_by_row():
    rng = np.random.default_rng(0)
    holes = Holes(share=(0.1, 0.6))
    counts = {int(holes.draw(100, rng).sum()) for _ in range(300)}
    # Uniform over 50 values, 300 times: a value is missed with chance 0.2 %.
    assert min(counts) >= 10 and max(counts) <= 60 and len(counts) > 40


def test_longer_spans_make_fewer_longer_holes():
    def holes_of(span):
        rng = np.random.default_rng(0)
        rows = [Holes(share=0.2, span=span).draw(200, rng) for _ in range(50)]
        return np.mean([np.diff(row.astype(int), prepend=0).clip(0).sum() for row in rows])

    # 40 blanks each. Singly, 40 · 0.8 = 32 runs; in spans of 8 about 5, fewer as they touch.
    assert holes_of(1) == pytest.approx(32, abs=1)
    assert 3 < holes_of(8) < 8


def test_every_position_is_blank_equally_often():
    rng = np.random.default_rng(0)
    counts = sum(Holes(share=0.3, span=3).draw(20, rng).astype(int) for _ in range(4000))
    # 30 % of 4,000 draws; the standard deviation of a count is sqrt(4000 * 0.21) = 29.
    assert abs(counts - 1200).max() < 4 * 29


def test_a_rows_holes_do_not_depend_on_its_neighbours():
    holes = Holes(seed=3)
    rows = [[3, 4, 5, 6, 7], [8, 9, 10]]
    together = holes.episodes(rows, SPECIAL, 6)
    alone = holes.episodes(rows[1:], SPECIAL, 6)
    assert together.inputs[1].equal(alone.inputs[0])
    assert together.task_ids[1] == alone.task_ids[0]


def test_blanks_stand_on_tokens_never_on_padding():
    episodes = Holes(share=1.0).episodes([[3, 4, 5]], SPECIAL, 5)
    assert episodes.labels.tolist() == [[3, 4, 5, 0, 0]]
    # All but one of the three.
    assert (episodes.inputs == 1).sum() == 2 and episodes.inputs[0, 3:].tolist() == [0, 0]


def test_versions_of_a_row_have_other_holes_and_the_same_task_id():
    episodes = Holes(versions=8).episodes([list(range(3, 40)), list(range(5, 30))], SPECIAL, 40)
    assert len(episodes) == 16
    assert [len(set(part.tolist())) for part in episodes.task_ids.chunk(2)] == [1, 1]
    assert len(episodes.task_ids.unique()) == 2
    assert len(episodes.inputs[:8].unique(dim=0)) > 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 0}, "hole_share"),
        ({"share": (0.5, 0.2)}, "lower first"),
        ({"share": 1.1}, "hole_share"),
        ({"span": 0.5}, "hole_span"),
        ({"span": float("nan")}, "hole_span"),
        ({"versions": 0}, "versions"),
    ],
)
def test_wrong_settings_of_holes_say_what_is_legal(settings, said):
    with pytest.raises(ConfigError, match=said):
        Holes(**settings)


# ---------------------------------------------------------------- text


def test_the_label_is_the_text_and_the_input_is_the_text_with_holes():
    task = text_task(PARAGRAPHS, length=200)
    assert sorted(windows(task, torch.cat([task.train.labels, task.valid.labels]))) == PARAGRAPHS
    # round(0.1 * 9) = 1 paragraph is held out.
    assert len(task.train) == 8 and len(task.valid) == 1
    blank = task.train.inputs == task.tokenizer.mask_token_id
    assert task.train.inputs[~blank].equal(task.train.labels[~blank])
    letters = task.train.labels != task.tokenizer.pad_token_id
    assert blank.sum(1).tolist() == [round(0.3 * int(n)) for n in letters.sum(1)]


def test_windows_tile_a_text_without_overlap():
    task = text_task(["abcdefghij", "klmnopqrs"], length=4)
    shown = windows(task, torch.cat([task.train.labels, task.valid.labels]))
    # 10 = 4 + 4 + 2; 9 = 4 + 4 + 1, and a window of one token has nothing to be filled from.
    assert sorted(shown) == ["abcd", "efgh", "ij", "klmn", "opqr"]
    sides = [set("".join(windows(task, s.labels))) for s in (task.train, task.valid)]
    assert not sides[0] & sides[1]


def test_copies_of_a_paragraph_stay_on_one_side():
    texts = [f"The {word} text, once more." for word in ["first", "second", "third", "fourth"]]
    copied = [t.upper().replace(" ", "\n") for t in texts]
    task = text_task(texts + copied, length=60, valid_fraction=0.25)
    assert (len(task.train), len(task.valid)) == (6, 2)
    (one, other) = windows(task, task.valid.labels)
    assert one.split() == other.lower().replace("the", "The").split()


def test_a_training_window_that_is_held_out_too_is_left_out():
    # Whichever is held out, both begin with "chorus! ".
    task = text_task(["chorus! verse one", "chorus! and verse two"], length=8)
    assert task.settings["train_copies_of_valid"] == 1
    assert "chorus! " not in windows(task, task.train.labels)
    assert "chorus! " in windows(task, task.valid.labels)


def test_a_file_is_read_by_paragraphs_or_by_lines(tmp_path):
    file = tmp_path / "text.txt.gz"
    file.write_bytes(gzip.compress(b"a1\na2\n\n \nb1\n\nc1\nc2\n"))

    def read(unit):
        task = text_task(file, unit=unit)
        return sorted(windows(task, torch.cat([task.train.labels, task.valid.labels])))

    assert read("paragraph") == ["a1\na2", "b1", "c1\nc2"]
    assert read("line") == ["a1", "a2", "b1", "c1", "c2"]


def test_a_file_without_blank_lines_is_told_of_the_other_unit(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_text("one\ntwo\n")
    with pytest.raises(DataError, match='unit="line"'):
        text_task(file)


def test_a_given_tokenizer_is_used_and_its_unknowns_are_left_out():
    class Words(CharTokenizer):
        """Letters a to c; all others are the padding id, as an unknown token would be banned."""

        def encode(self, text, add_special_tokens=False):
            return [self._ids.get(letter, 0) for letter in text]

    task = text_task(["abcabc", "cbaxba", "bbccaa"], Words("abc"), length=3)
    assert task.settings["windows_with_special_tokens"] == 1
    assert task.settings["train_windows"] + task.settings["valid_windows"] == 5


def test_versions_multiply_training_rows_only():
    task = text_task(PARAGRAPHS, length=200, versions=3)
    assert (len(task.train), len(task.valid)) == (24, 1)


def test_the_seed_decides_sides_and_holes():
    def made(seed):
        return text_task(PARAGRAPHS, length=200, seed=seed, valid_fraction=0.4)

    assert made(0).train.inputs.equal(made(0).train.inputs)
    held = {tuple(made(seed).valid.task_ids.tolist()) for seed in range(4)}
    assert len(held) > 1


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"length": 1}, ConfigError, "at least 2"),
        ({"unit": "lines"}, ConfigError, 'did you mean "line"'),
        ({"valid_fraction": 0}, ConfigError, "valid_fraction"),
        ({"hole_share": -0.1}, ConfigError, "hole_share"),
        ({"source": "one\n\ntwo"}, DataError, "as a list"),
        ({"source": "nowhere.txt"}, DataError, "no file"),
        ({"source": ["a", "b"]}, DataError, "0 windows to train on"),
        ({"tokenizer": Maskless("abc")}, TokenizerError, "no mask token"),
    ],
)
def test_wrong_settings_say_what_is_legal(settings, error, said):
    given = {"source": PARAGRAPHS, **settings}
    with pytest.raises(error, match=said):
        text_task(**given)
