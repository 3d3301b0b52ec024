"""Voting: equal answers are votes, and answers come back from the form they were asked in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fakes import SPECIAL
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from imadarem.data.sudoku.symmetry import SudokuSymmetry
from imadarem.data.tasks import Transform
from imadarem.errors import ConfigError, DataError
from imadarem.orchestrator.augment import Augmenter
from imadarem.orchestrator.voting import rank, solve_with_voting

MASK = SPECIAL.mask
A, B, C = [3, 3], [3, 4], [5, 5]


# A twice at 0.4 and 0.5, B once at 0.9.
@pytest.mark.parametrize(("by", "answer", "votes"), [("count", A, 2), ("confidence", B, 1)])
def test_the_most_frequent_or_the_surest_answer_wins(by, answer, votes):
    won = rank(torch.tensor([A, B, A]), torch.tensor([0.4, 0.9, 0.5]), by)[0]
    assert (won.answer.tolist(), int(won.votes)) == (answer, votes)


# Means 0.5 for A and 0.6 for B; then, with one surest answer each, the same means decide.
@pytest.mark.parametrize("by", ["count", "confidence"])
def test_a_tie_goes_to_the_higher_mean_confidence(by):
    won = rank(torch.tensor([A, A, B, B]), torch.tensor([0.75, 0.25, 0.75, 0.5]), by)[0]
    assert won.answer.tolist() == B


@pytest.mark.parametrize("by", ["count", "confidence"])
def test_a_full_tie_goes_to_the_first(by):
    won = rank(torch.tensor([C, A, B]), torch.full((3,), 0.5), by)[0]
    assert won.answer.tolist() == C


def test_answers_are_ranked_best_first():
    ranked = rank(torch.tensor([C, A, B, A, B, A]), torch.tensor([1, 0, 0, 0, 0, 0.0]))
    assert [(v.answer.tolist(), int(v.votes)) for v in ranked] == [(A, 3), (B, 2), (C, 1)]


@given(st.lists(st.tuples(st.integers(3, 5), st.sampled_from([0.25, 0.5, 0.75])), min_size=1),
       st.randoms(), st.sampled_from(["count", "confidence"]))  # fmt: skip
def test_the_order_of_the_votes_matters_only_in_a_full_tie(given_votes, random, by):
    def merits(votes):
        ranked = rank(
            torch.tensor([[answer] for answer, _ in votes]),
            torch.tensor([sure for _, sure in votes]),
            by,
        )
        assert sum(int(v.votes) for v in ranked) == len(votes)
        sure_of = {int(v.answer): [s for a, s in votes if a == int(v.answer)] for v in ranked}
        return [
            (len(s) if by == "count" else max(s), round(sum(s) / len(s), 9))
            for s in sure_of.values()
        ]

    shuffled = random.sample(given_votes, len(given_votes))
    assert merits(given_votes) == merits(shuffled) == sorted(merits(given_votes), reverse=True)


@pytest.mark.parametrize(
    ("answers", "confidence", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0), "are no votes"),
        (torch.zeros(3), torch.zeros(3), "are no votes"),
        (torch.zeros(2, 3), torch.zeros(3), "are no votes"),
        (torch.zeros(2, 3), torch.tensor([0.5, float("nan")]), "NaN"),
    ],
)
def test_votes_that_cannot_be_counted_are_refused(answers, confidence, message):
    with pytest.raises(DataError, match=message):
        rank(answers, confidence)


def test_an_unknown_rule_names_the_nearest():
    with pytest.raises(ConfigError, match='did you mean "confidence"'):
        rank(torch.tensor([A]), torch.ones(1), by="confidense")


# ---------------------------------------------------------------- asking in several forms


@dataclass(frozen=True)
class Rotation:
    """A toy symmetry: the tokens 3 .. 9 turn round, and the row is reversed or not."""

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        names = np.arange(10)
        names[3:] = 3 + (np.arange(7) + rng.integers(7)) % 7
        places = torch.arange(len(row))
        return Transform(places.flip(0) if rng.integers(2) else places, torch.from_numpy(names))


def by_rotation() -> Augmenter:
    return Augmenter(special=SPECIAL, vocab_size=10, symmetry=Rotation())


def neighbour(inputs: Tensor) -> Tensor:
    """Writes into each blank the token next to it: an answer that turns with the question."""
    left, right = inputs.roll(1, 1), inputs.roll(-1, 1)
    return torch.where(inputs == MASK, torch.where(left > 2, left, right), inputs)


QUESTIONS = torch.tensor([[4, MASK, MASK, 4], [9, 3, MASK, 3]])


def test_a_right_solver_gets_every_vote_in_every_form():
    calls = []

    def run(inputs: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(inputs))
        return neighbour(inputs), torch.ones(len(inputs))

    voted = solve_with_voting(run, QUESTIONS, by_rotation(), [10, 11], count=6)
    assert voted.answers.tolist() == [[4, 4, 4, 4], [9, 3, 3, 3]]
    assert voted.votes.tolist() == voted.forms.tolist() == [6, 6]
    assert calls == [12]  # two questions in six forms, all in one batch


def test_a_solver_that_errs_in_some_forms_is_outvoted():
    def run(inputs: Tensor) -> tuple[Tensor, Tensor]:
        answers = neighbour(inputs)
        # Wrong in the form that was asked first, the question itself, and there alone.
        answers[0, 1] = 8
        return answers, torch.full((len(inputs),), 0.5)

    alone = solve_with_voting(run, QUESTIONS[:1], by_rotation(), [10], count=1)
    voted = solve_with_voting(run, QUESTIONS[:1], by_rotation(), [10], count=5)
    assert alone.answers.tolist() == [[4, 8, 4, 4]]
    assert voted.answers.tolist() == [[4, 4, 4, 4]]
    assert voted.votes.tolist() == [4] and voted.forms.tolist() == [5]
    # The second attempt is the runner-up, and without one the same answer.
    assert voted.second.tolist() == [[4, 8, 4, 4]]
    assert alone.second.tolist() == alone.answers.tolist()


def test_a_small_group_is_asked_in_all_its_forms_and_no_more():
    # 7 rotations, reversed or not: 14 elements.
    voted = solve_with_voting(
        lambda inputs: (neighbour(inputs), torch.ones(len(inputs))),
        QUESTIONS,
        by_rotation(),
        torch.tensor([1, 2]),
        count=40,
    )
    assert voted.forms.tolist() == [14, 14] == voted.votes.tolist()


def test_sudoku_answers_come_back_to_the_puzzle_that_was_asked():
    solution = torch.tensor([3, 4, 5, 6, 5, 6, 3, 4, 4, 3, 6, 5, 6, 5, 4, 3])
    puzzle = torch.where(torch.arange(16) % 4 == 0, MASK, solution)

    def run(inputs: Tensor) -> tuple[Tensor, Tensor]:
        """One blank in each row of four, wherever it went: the digit that is missing."""
        answers = inputs.clone()
        for grid in answers.view(-1, 4, 4):
            for lines in (grid, grid.T):
                for line in lines:
                    if int((line == MASK).sum()) == 1:
                        line[line == MASK] = 18 - int(line[line != MASK].sum())
        return answers, torch.ones(len(inputs))

    draw = Augmenter(special=SPECIAL, vocab_size=7, symmetry=SudokuSymmetry(7, 3, SPECIAL.pad))
    voted = solve_with_voting(run, puzzle[None], draw, [0], count=12)
    assert torch.equal(voted.answers[0], solution) and voted.votes.tolist() == [12]


def test_answers_of_another_shape_are_refused():
    with pytest.raises(DataError, match="run returned answers"):
        solve_with_voting(lambda x: (x[:1], torch.ones(1)), QUESTIONS, by_rotation(), [0, 1])
    with pytest.raises(DataError, match="one task id for each"):
        solve_with_voting(lambda x: (x, torch.ones(len(x))), QUESTIONS, by_rotation(), [0])
