"""Augmentation: pure, label-preserving or noise, and honest about what it cannot do."""

from __future__ import annotations

import logging
import pickle
import string
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fakes import MOLECULES, SPECIAL
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.data.molecules import canonical
from imadarem.data.randomised_smiles import randomised_smiles, respell
from imadarem.data.residues import modular_task
from imadarem.data.sudoku.symmetry import SudokuSymmetry
from imadarem.data.tasks import Transform
from imadarem.data.text_formats import format_tables, token_texts
from imadarem.errors import ConfigError, DataError
from imadarem.orchestrator.augment import IDENTITY, Augmented, Augmenter
from imadarem.orchestrator.change import redraw_holes
from imadarem.orchestrator.strategies import STRATEGIES
from imadarem.tokenizers import CharTokenizer, SelfiesTokenizer, SmilesTokenizer, special_ids

PAD, MASK, EOS = SPECIAL.pad, SPECIAL.mask, SPECIAL.eos
VOCAB = 12
ALL = tuple(STRATEGIES)


@dataclass(frozen=True)
class Renaming:
    """A toy symmetry: the regular tokens change names, the places stay."""

    vocab_size: int = VOCAB

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        names = np.concatenate([[0, 1, 2], 3 + rng.permutation(self.vocab_size - 3)])
        return Transform(torch.arange(len(row)), torch.from_numpy(names))


def augmenter(strategies=ALL, seed=0, **others) -> Augmenter:
    return Augmenter(strategies, seed=seed, **{"special": SPECIAL, "vocab_size": VOCAB, **others})


def same(first: Augmented, second: Augmented) -> bool:
    return (
        torch.equal(first.inputs, second.inputs)
        and torch.equal(first.labels, second.labels)
        and (first.k, first.strategy, first.metadata)
        == (second.k, second.strategy, second.metadata)
    )


@st.composite
def episodes(draw) -> tuple[Tensor, Tensor]:
    """An input with blanks and padding, and its complete label."""
    label = draw(st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=20))
    blank = draw(st.lists(st.booleans(), min_size=len(label), max_size=len(label)))
    padding = [PAD] * draw(st.integers(0, 6))
    inputs = [MASK if hole else token for token, hole in zip(label, blank, strict=True)]
    return torch.tensor(inputs + padding), torch.tensor(label + padding)


LONG = torch.tensor([3 + i % 9 for i in range(40)] + [PAD] * 8)
HOLED = torch.where(torch.arange(48) % 10 == 7, MASK, LONG)
HOLED[40:] = PAD

# ---------------------------------------------------------------- purity


@given(episodes(), st.integers(0, 2**40), st.integers(0, 300), st.integers(0, 5))
def test_an_element_is_a_function_of_seed_task_and_number(episode, task_id, k, seed):
    first = augmenter(seed=seed)
    first(HOLED, LONG, task_id + 1, 7)  # what was drawn before makes no difference
    assert same(first(*episode, task_id, k), augmenter(seed=seed)(*episode, task_id, k))


def test_an_element_is_the_same_in_any_batch_and_any_order():
    draw = augmenter()
    inputs, labels = HOLED.repeat(6, 1), LONG.repeat(6, 1)
    ids, ks = torch.tensor([4, 4, 9, 9, 0, 4]), torch.tensor([1, 2, 1, 300, 5, 0])
    batch = draw.batch(inputs, labels, ids, ks)
    back = draw.batch(inputs, labels, ids.flip(0), ks.flip(0))
    assert torch.equal(batch.inputs, back.inputs.flip(0))
    assert torch.equal(batch.labels, back.labels.flip(0))
    alone = [draw(HOLED, LONG, int(i), int(k)) for i, k in zip(ids, ks, strict=True)]
    assert all(map(same, batch.rows, alone))
    assert sum(batch.counts().values()) == 6 and batch.counts()[IDENTITY] == 1


def test_an_augmenter_sent_to_another_process_draws_the_same():
    draw = augmenter(symmetry=Renaming())
    sent = pickle.loads(pickle.dumps(draw))
    assert all(same(draw(HOLED, LONG, 3, k), sent(HOLED, LONG, 3, k)) for k in range(20))


@given(episodes())
def test_element_0_is_the_episode_itself(episode):
    drawn = augmenter()(*episode, 5, 0)
    assert drawn.strategy == IDENTITY and drawn.transform is None
    assert torch.equal(drawn.inputs, episode[0]) and torch.equal(drawn.labels, episode[1])


def test_different_numbers_tasks_and_seeds_give_mostly_different_elements():
    # 9! names: two of 300 random ones agree with probability 300²/2 / 362,880 = 12 %, and
    # rarely more than one pair does.
    draw = augmenter(["format_variation"], symmetry=Renaming())
    by_number = {tuple(draw(HOLED, LONG, 0, k).labels.tolist()) for k in range(1, 301)}
    by_task = {tuple(draw(HOLED, LONG, i, 1).labels.tolist()) for i in range(300)}
    assert len(by_number) >= 298 and len(by_task) >= 298
    other = augmenter(["format_variation"], seed=1, symmetry=Renaming())
    assert not same(draw(HOLED, LONG, 0, 1), other(HOLED, LONG, 0, 1))


def test_a_large_task_number_is_not_cut_to_32_bits():
    draw = augmenter(["format_variation"], symmetry=Renaming())
    assert not same(draw(HOLED, LONG, 7, 1), draw(HOLED, LONG, 7 + 2**32, 1))


def test_strategies_take_turns():
    # Three available ones share 300 elements: 100 each.
    draw = augmenter(["token_noise", "masking", "position_shift"])
    drawn = [draw(HOLED, LONG, 2, k).strategy for k in range(1, 301)]
    assert [drawn.count(name) for name in draw.available] == [100, 100, 100]


def test_an_element_beyond_the_count_is_refused():
    with pytest.raises(ConfigError, match="k=11 is no element: legal are 0 .* to 10"):
        augmenter(count=10)(HOLED, LONG, 0, 11)


# ---------------------------------------------------------------- noise


@given(episodes(), st.integers(0, 99), st.sampled_from(["token_noise", "masking"]))
def test_noise_touches_given_tokens_only_and_never_the_label(episode, k, name):
    inputs, labels = episode
    drawn = augmenter(intensity={name: 0.7}).apply(name, inputs, labels, 0, k)
    assert torch.equal(drawn.labels, labels) and drawn.transform is None
    changed = (drawn.inputs != inputs).nonzero().flatten().tolist()
    assert changed == drawn.metadata["positions"]
    assert all(inputs[place] > EOS for place in changed)
    expected = MASK if name == "masking" else None
    for place in changed:
        token = int(drawn.inputs[place])
        assert token == expected if expected else token > EOS


def test_intensity_is_the_share_of_given_tokens():
    # 40 tokens, 4 of them blank: 36 given. Half of them are 18.
    for name in ("token_noise", "masking"):
        drawn = augmenter(intensity={name: 0.5}).apply(name, HOLED, LONG, 0, 1)
        assert len(drawn.metadata["positions"]) == 18


def test_a_fraction_of_a_token_is_met_on_average():
    # 5 % of 36 given tokens are 1.8; over 300 elements the mean has standard error 0.023.
    draw = augmenter()
    counts = [
        len(draw.apply("token_noise", HOLED, LONG, 0, k).metadata["positions"])
        for k in range(1, 301)
    ]
    assert set(counts) == {1, 2} and abs(np.mean(counts) - 1.8) < 0.1


@pytest.mark.parametrize("name", ["token_noise", "masking"])
@pytest.mark.parametrize("task", [{"symmetry": Renaming()}, {"unique_answer": True}])
def test_noise_is_not_available_where_the_answer_is_unique(name, task):
    draw = augmenter(**task)
    assert name not in draw.available
    assert "the task has one answer" in draw.unavailable[name]
    with pytest.raises(ConfigError, match="not available: the task has one answer"):
        draw.apply(name, HOLED, LONG, 0, 1)


# ---------------------------------------------------------------- transforms


@given(episodes(), st.integers(1, 99), st.booleans())
def test_a_transform_treats_input_and_label_alike_and_is_undone(episode, k, symmetric):
    draw = augmenter(symmetry=Renaming() if symmetric else None)
    for name in ("position_shift", "format_variation") if symmetric else ("position_shift",):
        drawn = draw.apply(name, *episode, 0, k)
        if drawn.transform is None:
            assert drawn.metadata["reason"] == "there is no padding to move into"
            continue
        # The input is still the label with the same number of blanks in it.
        agree = (drawn.inputs == drawn.labels) | (drawn.inputs == MASK)
        assert agree.all()
        assert torch.equal(drawn.transform.invert(drawn.inputs), episode[0])
        assert torch.equal(drawn.transform.invert(drawn.labels), episode[1])


def test_a_shift_moves_the_sequence_into_its_padding():
    # Two of six places are padding: the shift is 1, since 10 % of 4 tokens is less than 1.
    inputs, labels = torch.tensor([5, 1, 7, 8, 0, 0]), torch.tensor([5, 6, 7, 8, 0, 0])
    drawn = augmenter().apply("position_shift", inputs, labels, 0, 1)
    assert drawn.metadata == {"shift": 1}
    assert drawn.inputs.tolist() == [0, 5, 1, 7, 8, 0]
    assert drawn.labels.tolist() == [0, 5, 6, 7, 8, 0]


@given(episodes(), st.integers(1, 99))
def test_a_shift_loses_no_token(episode, k):
    inputs, labels = episode
    drawn = augmenter(intensity={"position_shift": 1.0}).apply("position_shift", *episode, 0, k)
    assert drawn.labels[drawn.labels != PAD].tolist() == labels[labels != PAD].tolist()
    assert drawn.inputs[drawn.inputs != PAD].tolist() == inputs[inputs != PAD].tolist()


def test_sudoku_keeps_its_clues_in_the_solution_and_its_padding_in_place():
    solution = "1234341221434321"  # rows 1234, 3412, 2143, 4321: a legal 4x4 grid
    labels = torch.tensor([2 + int(digit) for digit in solution] + [PAD] * 4)
    inputs = torch.where(torch.arange(20) % 3 == 0, labels, MASK)
    inputs[16:] = PAD
    symmetry = SudokuSymmetry(vocab_size=VOCAB, first_digit=3, pad=PAD)
    draw = augmenter(symmetry=symmetry)
    assert draw.available == ("position_shift", "format_variation")
    grids = set()
    for k in range(1, 50):
        drawn = draw(inputs, labels, 0, k)
        assert drawn.labels[16:].tolist() == [PAD] * 4
        clues = drawn.inputs > EOS
        assert clues.sum() == (inputs > EOS).sum()
        assert torch.equal(drawn.inputs[clues], drawn.labels[clues])
        grid = drawn.labels[:16].view(4, 4)
        assert all(set(line.tolist()) == {3, 4, 5, 6} for line in [*grid, *grid.T])
        assert drawn.transform is not None
        assert torch.equal(drawn.transform.invert(drawn.inputs), inputs)
        grids.add(tuple(drawn.labels.tolist()))
    assert len(grids) > 20


# ---------------------------------------------------------------- transforms for voting


def test_forms_for_voting_begin_with_the_question_and_are_all_different():
    forms = augmenter(symmetry=Renaming()).transforms(HOLED, 3, 16)
    assert torch.equal(forms[0].apply(HOLED), HOLED)
    assert len({tuple(form.tokens.tolist()) for form in forms}) == len(forms) == 16


def test_a_small_group_gives_each_of_its_elements_once():
    # 3 tokens have 3! = 6 orders.
    draw = augmenter(vocab_size=6, symmetry=Renaming(6))
    assert len(draw.transforms(torch.tensor([3, 1, 5]), 0, 50)) == 6


def test_without_a_symmetry_the_forms_are_shifts_within_the_padding():
    # 8 places of padding, but at most 10 % of 40 tokens: shifts 0 to 4.
    forms = augmenter().transforms(HOLED, 0, 20)
    firsts = sorted(int((form.apply(HOLED) != PAD).nonzero()[0]) for form in forms)
    assert firsts == [0, 1, 2, 3, 4]


def test_without_anything_to_invert_the_question_is_its_only_form():
    assert len(augmenter(["token_noise", "masking"]).transforms(HOLED, 0, 9)) == 1


# ---------------------------------------------------------------- formats of a text

LETTERS = CharTokenizer.from_corpus([string.printable + "“”‘’–—é"])


def of_text(text: str, holes: str, tokenizer=LETTERS, width: int | None = None):
    """Input and label; ``_`` in ``holes`` is a blank."""
    ids = tokenizer.encode(text)
    inputs = [MASK if mark == "_" else token for token, mark in zip(ids, holes, strict=True)]
    padding = [PAD] * ((width or len(ids)) - len(ids))
    return torch.tensor(inputs + padding), torch.tensor(ids + padding)


def for_text(strategies=ALL, tokenizer=LETTERS, **others) -> Augmenter:
    return augmenter(strategies, vocab_size=len(tokenizer), tokenizer=tokenizer, **others)


def test_a_format_changes_given_and_hidden_tokens_alike():
    inputs, labels = of_text("“An End” — or\nnot", "--____-----------")
    draw = for_text()
    seen = set()
    for k in range(1, 200):
        drawn = draw.apply("format_variation", inputs, labels, 0, k)
        blank = inputs == MASK
        assert torch.equal(drawn.inputs == MASK, blank)
        assert torch.equal(drawn.inputs[~blank], drawn.labels[~blank])
        text = LETTERS.decode(drawn.labels)
        assert text != "“An End” — or\nnot" and len(text) == 17
        seen.add(text)
    # Case 3 ways, quotes 2, dashes 3 (an em dash is one already), line break 2: 36, less one.
    assert len(seen) == 35
    assert {'"an end" - or not', "“AN END” – OR\nNOT", "“An End” — or not"} <= seen


def test_a_format_is_not_half_applied():
    # "é" has no "É" here: upper case would change some letters and not others.
    inputs, labels = of_text("Café", "----")
    drawn = {
        LETTERS.decode(for_text().apply("format_variation", inputs, labels, 0, k).labels)
        for k in range(1, 40)
    }
    assert drawn == {"café"}


def test_a_text_without_other_formats_stays_and_says_so():
    inputs, labels = of_text("12", "-_")
    drawn = for_text().apply("format_variation", inputs, labels, 0, 1)
    assert torch.equal(drawn.inputs, inputs) and torch.equal(drawn.labels, labels)
    assert "no format changes this text" in drawn.metadata["reason"]


def test_an_element_is_drawn_by_another_strategy_where_one_changes_nothing():
    inputs, labels = of_text("12", "-_")
    both = ["format_variation", "masking"]
    draw = for_text(both, intensity={"masking": 1.0})
    rows = draw.batch(inputs.repeat(20, 1), labels.repeat(20, 1), [0] * 20, range(1, 21))
    assert rows.counts() == {"masking": 20}
    # Of twenty elements every other one was the format's turn.
    why = "in 10 of 20 rows: no format changes this text within the vocabulary"
    assert rows.passed_over() == {"format_variation": why}
    alone = for_text(["format_variation"])(inputs, labels, 0, 1)
    assert alone.strategy == IDENTITY and alone.passed_over.keys() == {"format_variation"}


def test_format_variation_needs_letters_in_the_vocabulary():
    digits = CharTokenizer.from_corpus(["0123456789"])
    assert "no token of this vocabulary" in for_text(tokenizer=digits).unavailable[
        "format_variation"
    ]  # fmt: skip
    assert "give tokenizer=" in augmenter().unavailable["format_variation"]


@dataclass(frozen=True)
class Subwords:
    """A vocabulary as GPT-2 writes it: ``Ġ`` is a space, letters stand for bytes."""

    tokens: tuple[str, ...] = (
        "<pad>", "<mask>", "</s>", "The", "Ġthe", "ĠThe", "the", "Ġ,", ",", "âĢľ", '"', "Ċ", "Ġ",
        "Ã",
    )  # fmt: skip

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids):
        return [self.tokens[index] for index in ids]


def test_byte_level_tokens_are_read_as_the_text_they_stand_for():
    vocabulary = Subwords()
    texts = token_texts(vocabulary, SPECIAL, 14)  # type: ignore[arg-type]
    # The last token is half of a two-byte character.
    assert texts[3:] == [
        "The", " the", " The", "the", " ,", ",", "“", '"', "\n", " ", None,
    ]  # fmt: skip
    tables = format_tables(vocabulary, SPECIAL, 14)  # type: ignore[arg-type]
    changed = {name: table.tolist() for group in tables.values() for name, table in group.items()}
    assert changed["lower"] == [0, 1, 2, 6, 4, 4, 6, 7, 8, 9, 10, 11, 12, 13]
    assert changed["tight"] == [0, 1, 2, 3, 4, 5, 6, 8, 8, 9, 10, 11, 12, 13]
    assert changed["straight"][9] == 10 and changed["spaces"][11] == 12


# ---------------------------------------------------------------- molecules


def test_a_randomised_smiles_is_the_same_molecule_in_another_order():
    lactic = "C[C@H](O)C(=O)O"
    spelt = {randomised_smiles(lactic, np.random.default_rng(k)) for k in range(30)}
    assert len(spelt) > 5
    assert {canonical(smiles) for smiles in spelt} == {canonical(lactic)}


@pytest.mark.parametrize("kind", [SelfiesTokenizer, SmilesTokenizer])
def test_a_molecule_is_spelt_anew_with_as_many_holes(kind):
    molecules = [*MOLECULES, *(randomised_smiles(m, np.random.default_rng(0)) for m in MOLECULES)]
    tokenizer = kind.from_corpus([*molecules, "C(C)(C)C", "C1=CC=CN=C1", "C(=O)(C)OCC"])
    draw = for_text(["format_variation"], tokenizer)
    spelt = 0
    for number, smiles in enumerate(MOLECULES):
        length = len(tokenizer.encode(smiles))
        holes = "_-" * length
        inputs, labels = of_text(smiles, holes[:length], tokenizer, 20)
        for k in range(1, 5):
            drawn = draw(inputs, labels, number, k)
            assert canonical(tokenizer.decode(drawn.labels)) == canonical(smiles)
            if drawn.strategy == IDENTITY:
                assert torch.equal(drawn.inputs, inputs)
                continue
            spelt += 1
            blank = drawn.inputs == MASK
            assert not torch.equal(drawn.labels, labels)
            assert blank.sum() == min(int((inputs == MASK).sum()), drawn.metadata["tokens"])
            assert torch.equal(drawn.inputs[~blank], drawn.labels[~blank])
            assert len(drawn.inputs) == 20
    assert spelt > 24  # more than half of 48


def test_a_spelling_that_does_not_fit_the_canvas_is_not_taken():
    # OC(=O)C is [O][C][=Branch1][C][=O][C]; from its other end, CC(=O)O, it is as long, but
    # from the carbonyl, C(C)(=O)O, it takes two more branch tokens.
    molecules = ["OC(=O)C", "C(C)(=O)O"]
    tokenizer = SelfiesTokenizer.from_corpus([*molecules, "CC(=O)O"])
    short, long = map(tokenizer.encode, molecules)
    assert (len(short), len(long)) == (6, 8)
    draw = for_text(["format_variation"], tokenizer)
    lengths = {
        width: {
            content(draw(row, row, 0, k).labels)
            for row in [torch.tensor([*short, *[PAD] * (width - 6)])]
            for k in range(1, 20)
        }
        for width in (6, 8)
    }
    assert lengths == {6: {6}, 8: {6, 8}}
    assert respell(short, tokenizer, np.random.default_rng(0), limit=5) is None


def content(labels: Tensor) -> int:
    return int((labels != PAD).sum())


def test_a_canvas_that_is_all_blank_stays_all_blank():
    tokenizer = SelfiesTokenizer.from_corpus(MOLECULES)
    labels = torch.tensor([*tokenizer.encode("CCO"), PAD, PAD])
    inputs = torch.where(labels == PAD, PAD, MASK)
    drawn = for_text(["format_variation"], tokenizer)(inputs, labels, 0, 1)
    assert drawn.labels.tolist() == [*tokenizer.encode("OCC"), PAD, PAD]
    assert drawn.inputs.tolist() == [MASK, MASK, MASK, PAD, PAD]


def test_holes_are_drawn_again_as_many_and_as_long():
    # Holes of 1 and 3 in 7 places; in 9 new ones they may touch, and then show as one of 4.
    old = torch.tensor([MASK, 5, MASK, MASK, MASK, 5, 5])
    places = set()
    for k in range(200):
        holed = redraw_holes(old, list(range(3, 12)), SPECIAL, np.random.default_rng(k))
        assert all(now in (MASK, 3 + place) for place, now in enumerate(holed))
        runs = "".join("_" if token == MASK else "-" for token in holed)
        assert sorted(map(len, runs.replace("-", " ").split())) in ([1, 3], [4])
        places.add(runs)
    # 5 tokens and 2 different holes in a row: 7 · 6 = 42 orders. The two in which the holes
    # are neighbours look alike: 6 places of a run of 4, each twice.
    assert len(places) == 42 - 6


@pytest.mark.parametrize("new", [[3, 4], [3, 4, 5]])
def test_holes_that_are_longer_than_the_row_leave_it_blank(new):
    old = torch.tensor([MASK, MASK, MASK, 5])
    assert redraw_holes(old, new, SPECIAL, np.random.default_rng(0)) == [MASK] * len(new)


def test_a_task_with_operands_keeps_its_questions_right():
    task = modular_task(7)
    draw = Augmenter(
        special=special_ids(task.tokenizer, len(task.tokenizer)),  # type: ignore[arg-type]
        vocab_size=len(task.tokenizer),  # type: ignore[arg-type]
        symmetry=task.symmetry,
    )
    count = len(task.train)
    batch = draw.batch(task.train.inputs, task.train.labels, task.train.task_ids, [3] * count)
    assert task.verify is not None
    assert task.verify(batch.inputs, batch.labels).all()
    assert 0 < int((batch.inputs != task.train.inputs).any(1).sum()) < count


def test_an_incomplete_label_is_left_as_it_is():
    tokenizer = SelfiesTokenizer.from_corpus(MOLECULES)
    row = torch.tensor([3, MASK, 3])
    drawn = for_text(["format_variation"], tokenizer)(row, row, 0, 1)
    assert torch.equal(drawn.labels, row)
    assert drawn.passed_over == {"format_variation": "the label is not one whole molecule"}


# ---------------------------------------------------------------- paraphrase


def test_there_is_no_fake_paraphrase():
    with pytest.raises(ConfigError, match="give paraphrase=, a function of a text"):
        for_text().apply("paraphrase", *of_text("big", "---"), 0, 1)


def test_a_missing_paraphrase_is_logged_once_and_listed(caplog):
    with caplog.at_level(logging.WARNING, logger="imadarem"):
        draw = for_text()
        for k in range(9):
            draw(*of_text("A big house", "-" * 11), 0, k)
    assert [record.name for record in caplog.records] == ["imadarem"]
    assert "augmentation 'paraphrase' is left out" in caplog.text
    assert list(draw.unavailable) == ["paraphrase"] and "paraphrase" not in draw.available


def test_a_function_of_the_text_gives_paraphrases_whose_holes_are_drawn_again():
    def swap(text: str) -> list[str]:
        return [" ".join(reversed(text.split())), text, "this one is far too long to fit", "π"]

    draw = for_text(paraphrase=swap)
    inputs, labels = of_text("red blue", "__------", width=12)
    drawn = draw.apply("paraphrase", inputs, labels, 0, 1)
    assert LETTERS.decode(drawn.labels) == "blue red"
    assert int((drawn.inputs == MASK).sum()) == 2
    with pytest.raises(ConfigError, match="It must return a list of texts"):
        for_text(paraphrase=str.upper).apply("paraphrase", inputs, labels, 0, 1)  # type: ignore[arg-type]


def test_a_function_without_other_words_leaves_the_text():
    drawn = for_text(paraphrase=lambda text: []).apply("paraphrase", *of_text("a b", "-_-"), 0, 1)
    assert drawn.metadata == {"reason": "the function gave no other text that fits"}


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"strategies": ["maskin"]}, r'unknown augmentation .maskin. \(did you mean "masking"\?\)'),
        ({"strategies": ["masking", "masking"]}, "stands twice"),
        ({"strategies": "masking"}, "give a list"),
        ({"count": -1}, "must be at least 0"),
        ({"seed": -1}, "must be at least 0"),
        ({"intensity": {"masking": 0}}, r"must be in \(0, 1\]"),
        ({"intensity": {"format_variation": 0.5}}, "intensity has no setting"),
        ({"paraphrase": {"big": ["huge"]}, "tokenizer": LETTERS}, "must be a function of a text"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        augmenter(**{"vocab_size": len(LETTERS), **setting})


def test_rows_that_are_no_episode_are_refused():
    draw = augmenter()
    with pytest.raises(DataError, match="not one episode"):
        draw(HOLED, LONG[:-1], 0, 0)
    with pytest.raises(DataError, match="give as many of each"):
        draw.batch(HOLED[None], LONG[None], [1], [1, 2])
    with pytest.raises(ConfigError, match="is not among this augmenter's strategies"):
        augmenter(["masking"]).apply("token_noise", HOLED, LONG, 0, 1)
