"""One question asked in several forms, and the answer that most of them agree on.

The label-preserving transforms of a task make other questions with the same answer in
another form. All are answered in one batch; the inverse is applied to the answers; equal
answers are votes for each other.

Sources: the ARC evaluation of HRM (arXiv:2506.21734) and TRM (arXiv:2510.04871) ranks
the inverted answers of up to 1000 augmentations by count, then by the mean halting
confidence; the ARC Prize 2024 entries voted over dihedral and colour transforms
(Akyürek et al., arXiv:2411.07279; Franzen et al., arXiv:2505.07859). As there, an
answer is a whole row: positions are not voted on one by one, since a mixture of two
consistent answers is rarely a third.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from imadarem import checks
from imadarem.errors import DataError
from imadarem.orchestrator.augment import Augmenter

RULES = ("count", "confidence")

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``run(inputs)``: ``(N, L)`` questions → ``(N, L)`` answers and ``(N,)`` confidences."""


class Vote(NamedTuple):
    """An answer and its votes.

    Attributes:
        answer: ``(L,)``.
        votes: How many gave it, ``()`` int64.
    """

    answer: Tensor
    votes: Tensor


class Voted(NamedTuple):
    """Answers to a batch of questions.

    Attributes:
        answers: ``(B, L)`` int64.
        votes: ``(B,)`` int64, forms of the question that gave this answer.
        forms: ``(B,)`` int64, forms of each question; small groups have few.
        second: ``(B, L)`` int64, the answer with the next most votes; ``answers`` where all
            forms agree.
    """

    answers: Tensor
    votes: Tensor
    forms: Tensor
    second: Tensor


def rank(answers: Tensor, confidence: Tensor, by: str = "count") -> list[Vote]:
    """All different answers to one question, best first; ARC counts the first two.

    Args:
        answers: ``(A, L)``.
        confidence: ``(A,)``, higher is more certain.
        by: ``count``: the answer given most often, among equals the one with the highest
            mean confidence. ``confidence``: the answer with the highest single
            confidence, among equals the highest mean. Then the one that came first.
    """
    checks.one_of("by", by, RULES)
    if answers.ndim != 2 or len(answers) == 0 or confidence.shape != answers.shape[:1]:
        raise DataError(
            f"answers {tuple(answers.shape)} and confidence {tuple(confidence.shape)} are no "
            "votes: give (A, L) and (A,), with at least one answer."
        )
    if bool(confidence.isnan().any()):
        raise DataError("a confidence is NaN. Give a number for each answer.")
    scores = confidence.detach().double().cpu()
    different, which = torch.unique(answers.cpu(), dim=0, return_inverse=True)
    groups = [(which == group).nonzero().flatten() for group in range(len(different))]

    def merit(members: Tensor) -> tuple[float, float, int]:
        own = scores[members]
        leading = float(len(members)) if by == "count" else float(own.max())
        return (leading, float(own.mean()), -int(members[0]))

    return [
        Vote(answers[int(members[0])], torch.tensor(len(members), device=answers.device))
        for members in sorted(groups, key=merit, reverse=True)
    ]


def solve_with_voting(
    run: Run,
    inputs: Tensor,
    augmenter: Augmenter,
    task_ids: Tensor | Sequence[int],
    count: int = 8,
    by: str = "count",
) -> Voted:
    """Ask each question in up to ``count`` forms, in one batch, and vote.

    Args:
        run: Answers a batch; given up to ``B * count`` rows at once.
        inputs: ``(B, L)`` questions.
        augmenter: Its :meth:`~imadarem.orchestrator.augment.Augmenter.transforms` make
            the forms; the question itself is always one.
        task_ids: ``(B,)``; the forms of a question follow from its number and the seed.
        count: Forms of each question; 1 is no voting.
        by: See :func:`rank`.
    """
    checks.one_of("by", by, RULES)
    numbers = torch.as_tensor(task_ids).tolist()
    if inputs.ndim != 2 or len(inputs) == 0 or len(numbers) != len(inputs):
        raise DataError(
            f"inputs {tuple(inputs.shape)} and {len(numbers)} task ids: give (B, L) questions "
            "and one task id for each."
        )
    forms = [augmenter.transforms(*pair, count) for pair in zip(inputs, numbers, strict=True)]
    counts = torch.tensor([len(own) for own in forms])
    rows = inputs.cpu()
    questions = [
        element.apply(row) for row, own in zip(rows, forms, strict=True) for element in own
    ]
    answers, confidence = run(torch.stack(questions).to(inputs.device))
    if answers.shape != (len(questions), inputs.shape[1]) or confidence.shape != answers.shape[:1]:
        raise DataError(
            f"run returned answers {tuple(answers.shape)} and confidence "
            f"{tuple(confidence.shape)} for {len(questions)} questions of {inputs.shape[1]} "
            "positions. It must return one answer and one number for each."
        )
    ranked = []
    parts = counts.tolist()
    for own, theirs, scores in zip(
        forms, answers.cpu().split(parts), confidence.cpu().split(parts), strict=True
    ):
        undone = [element.invert(answer) for element, answer in zip(own, theirs, strict=True)]
        ranked.append(rank(torch.stack(undone), scores, by))
    return Voted(
        torch.stack([best[0].answer for best in ranked]).to(inputs.device),
        torch.stack([best[0].votes for best in ranked]).to(inputs.device),
        counts.to(inputs.device),
        torch.stack([best[:2][-1].answer for best in ranked]).to(inputs.device),
    )
