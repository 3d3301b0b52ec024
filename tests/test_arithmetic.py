"""Arithmetic tasks: right answers, splits without copies, verifiers that compute again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imadarem.data.arithmetic import LAYOUTS, DecimalLayout, addition_task
from imadarem.data.residues import OPERATIONS, modular_task, residue_characters
from imadarem.data.tasks import Task
from imadarem.errors import ConfigError
from imadarem.tokenizers import load_tokenizer


def texts(task: Task, rows: torch.Tensor) -> list[str]:
    return [task.tokenizer.decode(row, False) for row in rows]


def all_texts(task: Task) -> list[str]:
    return texts(task, torch.cat([task.train.labels, task.valid.labels]))


def operands(text: str) -> tuple[str, str]:
    return text[0], text[2]


# ---------------------------------------------------------------- residues


# Modulo 7: 5 + 4 = 9 = 2; 3 - 5 = -2 = 5; 3 * 4 = 12 = 5; 3 / 5 = 2 since 2 * 5 = 10 = 3;
# 2² + 2·3 + 3² = 4 + 6 + 9 = 19 = 5.
@pytest.mark.parametrize(
    ("operation", "row"),
    [("+", "5+4=2"), ("-", "3-5=5"), ("*", "3*4=5"), ("/", "3/5=2"), ("x2+xy+y2", "2&3=5")],
)
def test_results_worked_by_hand_are_among_the_rows(operation, row):
    rows = all_texts(modular_task(7, operation))
    assert row in rows
    # Every pair once; nothing is divided by 0.
    assert len(rows) == len(set(rows)) == (42 if operation == "/" else 49)


def test_only_the_result_is_blank():
    task = modular_task(5, "-")
    assert all(text.endswith("=<mask>") for text in texts(task, task.train.inputs))
    assert task.train.inputs[:, :4].equal(task.train.labels[:, :4])


@given(
    p=st.sampled_from([2, 3, 5, 11, 23]),
    operation=st.sampled_from(list(OPERATIONS)),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 50),
)
def test_no_held_out_question_is_in_training_not_even_swapped(p, operation, share, seed):
    task = modular_task(p, operation, train_share=share, seed=seed)
    learned = {operands(t) for t in texts(task, task.train.labels)}
    held = {operands(t) for t in texts(task, task.valid.labels)}
    if OPERATIONS[operation].commutes:
        learned |= {(b, a) for a, b in learned}
    assert learned and held and not learned & held


def test_both_orders_of_a_pair_are_one_task_where_the_operation_commutes():
    task = modular_task(11, "*")
    by_pair: dict[frozenset[str], set[int]] = {}
    for text, number in zip(
        texts(task, task.train.labels), task.train.task_ids.tolist(), strict=True
    ):
        by_pair.setdefault(frozenset(operands(text)), set()).add(number)
    assert all(len(numbers) == 1 for numbers in by_pair.values())
    assert len(set().union(*by_pair.values())) == len(by_pair)


def test_the_share_is_that_of_the_questions():
    # 97 * 96 quotients, each a question of its own: 30 % are 2793.6.
    assert len(modular_task(97, "/", train_share=0.3).train) == 2794


def test_the_split_follows_the_seed():
    def made(seed):
        return modular_task(13, seed=seed).train.labels

    assert made(1).equal(made(1))
    assert made(1).shape != made(2).shape or not made(1).equal(made(2))


def test_swapping_operands_keeps_a_sum_right_and_differences_have_no_such_symmetry():
    task = modular_task(7, "+")
    row = torch.tensor(task.tokenizer.encode("5+4=2"))
    drawn = [task.symmetry.draw(row, np.random.default_rng(seed)) for seed in range(20)]
    assert {task.tokenizer.decode(t.apply(row)) for t in drawn} == {"5+4=2", "4+5=2"}
    assert all(t.invert(t.apply(row)).equal(row) for t in drawn)
    assert modular_task(7, "-").symmetry is None


def test_the_verifier_computes_again_and_keeps_what_was_given():
    task = modular_task(7, "/")
    ask = task.tokenizer.encode_with_masks

    def right(question, answer):
        return task.verify(torch.tensor([ask(question)]), torch.tensor([ask(answer)])).item()

    assert right("3/5=<mask>", "3/5=2")
    assert not right("3/5=<mask>", "3/5=3")
    assert not right("3/5=<mask>", "3/5=<mask>")
    # Right in itself, but another question.
    assert not right("3/5=<mask>", "6/3=2")
    # Any blank will do: 1 * 5 = 5.
    assert right("5/<mask>=1", "5/5=1")
    assert not right("5/<mask>=1", "5/<mask>=1")
    # 0 / 0 has no result, so none is right.
    assert not right("0/0=<mask>", "0/0=0")
    assert not right("3/5=<mask>", "3/5==")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_label_is_verified(operation):
    task = modular_task(13, operation)
    for side in (task.train, task.valid):
        assert task.verify(side.inputs, side.labels).all()
        assert not task.verify(side.inputs, side.inputs).any()


def test_residues_have_different_characters_and_the_tokenizer_survives_saving(tmp_path):
    letters = residue_characters(10**6)
    assert len(set(letters)) == len(letters) >= 457 and letters.startswith("0123456789AB")
    assert not set(letters) & set("+-*/&=")
    task = modular_task(97)
    task.tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).tokens == task.tokenizer.tokens


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"p": 1}, "from 2 to"),
        ({"p": 2.0}, "from 2 to"),
        ({"p": True}, "from 2 to"),
        ({"p": 91, "operation": "/"}, "divisible by 7"),
        ({"operation": "x2+xy+y"}, 'did you mean "x2\\+xy\\+y2"'),
        ({"train_share": 1.0}, "train_share"),
    ],
)
def test_wrong_settings_say_what_is_legal(settings, said):
    with pytest.raises(ConfigError, match=said):
        modular_task(**settings)


# ---------------------------------------------------------------- decimal numbers


# 12 + 34 = 46; 12 * 34 = 408. Columns: ones of a, b, c, then tens, then hundreds.
@pytest.mark.parametrize(
    ("operation", "layout", "row"),
    [
        ("+", "plain", "12+34=046"),
        ("+", "reversed", "12+34=640"),
        ("+", "columns", "246134000"),
        ("*", "plain", "12*34=0408"),
        ("*", "reversed", "12*34=8040"),
        ("*", "columns", "248130004000"),
    ],
)
def test_a_layout_worked_by_hand(operation, layout, row):
    shape = DecimalLayout(2, operation, layout)
    inputs, labels = shape.write(np.array([12]), np.array([34]))
    assert shape.tokenizer.decode(labels[0]) == row
    assert len(labels[0]) == shape.length == len(row)
    # The blanks are the answer's digits: 3 of a sum, 4 of a product.
    assert (inputs == 1).sum() == (3 if operation == "+" else 4)
    assert shape.verify(torch.from_numpy(inputs), torch.from_numpy(labels)).all()


def test_the_largest_numbers_do_not_overflow():
    # 999 999 999² = 999 999 998 000 000 001.
    nine = np.array([10**9 - 1])
    shape = DecimalLayout(9, "*", "plain")
    inputs, labels = shape.write(nine, nine)
    assert shape.tokenizer.decode(labels[0]).endswith("=999999998000000001")
    assert shape.verify(torch.from_numpy(inputs), torch.from_numpy(labels)).all()


@given(
    layout=st.sampled_from(LAYOUTS), operation=st.sampled_from("+*"), wrong=st.integers(0, 10**6)
)
def test_a_wrong_digit_is_found_wherever_it_stands(layout, operation, wrong):
    shape = DecimalLayout(3, operation, layout)
    a, b = np.array([wrong % 1000]), np.array([wrong // 1000 % 1000])
    inputs, labels = map(torch.from_numpy, shape.write(a, b))
    assert shape.verify(inputs, labels).all()
    position = int(shape.places[2][wrong % shape.answer_digits])
    zero = shape.tokenizer.encode("0")[0]
    answers = labels.clone()
    answers[0, position] = zero + (answers[0, position] - zero + 1 + wrong % 9) % 10
    assert not shape.verify(inputs, answers).any()
    assert not shape.verify(inputs, inputs).any()


def test_another_right_sum_is_no_answer_to_the_question():
    shape = DecimalLayout(1, "+", "plain")
    asked, _ = shape.write(np.array([2]), np.array([3]))
    _, other = shape.write(np.array([4]), np.array([1]))
    assert not shape.verify(torch.from_numpy(asked), torch.from_numpy(other)).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_swapped_operands_are_the_same_sum(layout):
    task = addition_task(2, layout=layout, n=50, valid=50)
    for row, label in zip(task.train.inputs, task.train.labels, strict=True):
        transform = task.symmetry.draw(row, np.random.default_rng(int(row.sum())))
        asked, answer = transform.apply(row)[None], transform.apply(label)[None]
        assert task.verify(asked, answer).all()


def test_relations_join_the_digits_of_a_place_and_of_a_number():
    place, number = DecimalLayout(2, "+", "reversed").relations()
    # 1 2 + 3 4 = 6 4 0: ones are 2, 4 and 6; the signs stand apart.
    assert place == [1, 0, 3, 1, 0, 3, 0, 1, 2]
    assert number == [0, 0, 3, 1, 1, 3, 2, 2, 2]


@pytest.mark.parametrize("n", [1_000, 4_000])
def test_pairs_are_distinct_and_never_on_both_sides(n):
    # 5,050 pairs below 100 without order: 4,100 are drawn from all of them in one shuffle.
    task = addition_task(2, n=n, valid=100)
    assert len(task.train) == n and len(task.valid) == 100
    numbers = torch.cat([task.train.task_ids, task.valid.task_ids])
    assert len(numbers.unique()) == n + 100
    # The number of a task is its pair: low * 100 + high.
    digits = torch.stack([task.train.inputs[:, i] for i in (0, 1, 3, 4)], 1)
    digits = digits - task.tokenizer.encode("0")[0]
    a, b = 10 * digits[:, 0] + digits[:, 1], 10 * digits[:, 2] + digits[:, 3]
    assert task.train.task_ids.equal(torch.minimum(a, b) * 100 + torch.maximum(a, b))
    # The larger operand comes first as often as second.
    assert 0.4 < (a > b).double().mean() < 0.6


def test_the_default_draws_the_same_numbers_for_a_seed():
    first, again, other = (addition_task(seed=seed).train.labels for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"digits": 0}, "from 1 to 9"),
        ({"digits": 10}, "from 1 to 9"),
        ({"operation": "-"}, r"'\+' or '\*'"),
        ({"layout": "revers"}, 'did you mean "reversed"'),
        ({"n": 0}, "at least 1"),
        # 10 * 11 / 2 pairs of one digit each.
        ({"digits": 1, "n": 55, "valid": 1}, "there are 55 different ones"),
    ],
)
def test_wrong_settings_of_sums_say_what_is_legal(settings, said):
    with pytest.raises(ConfigError, match=said):
        addition_task(**settings)
