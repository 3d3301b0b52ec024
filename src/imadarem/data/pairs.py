"""A task from pairs of texts: a question, and the answer that is to be written behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import cast

import torch
from torch import Tensor

from imadarem.data.splits import held_out, stable_hash
from imadarem.data.tasks import Episodes, Task, Verifier
from imadarem.errors import DataError
from imadarem.tokenizers import CharTokenizer, Tokenizer, special_ids


def pairs_task(
    name: str,
    pairs: Iterable[tuple[str, str]],
    *,
    valid_fraction: float = 0.1,
    verify: Callable[[str, str], bool] | None = None,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
) -> Task:
    """Questions with their answers; on a canvas the answer's tokens are blank.

    Args:
        name: The ``task_type``.
        pairs: Question and answer. Equal questions fall on one side of the split.
        valid_fraction: Share of the questions that is held out.
        verify: ``verify(question, answer)``, whether an answer is right; for questions with
            several right answers. None compares with the pair's own.
        tokenizer: Default: every character is a token.
        seed: Of the split.

    Raises:
        DataError: There are fewer than two questions, or an answer is empty.
    """
    rows = list(dict.fromkeys(pairs))
    questions = [question for question, _ in rows]
    if len(set(questions)) < 2 or not all(answer for _, answer in rows):
        raise DataError(
            f"the task {name!r} has {len(set(questions))} different questions; give at least 2, "
            "and an answer of at least one character to each."
        )
    if tokenizer is None:
        tokenizer = CharTokenizer.from_corpus([text for pair in rows for text in pair])
    special = special_ids(tokenizer, len(cast(Sized, tokenizer)))
    encoded = [[tokenizer.encode(t, add_special_tokens=False) for t in pair] for pair in rows]
    width = max(len(question) + len(answer) for question, answer in encoded)
    inputs = torch.full((len(rows), width), special.pad)
    labels = inputs.clone()
    for n, (question, answer) in enumerate(encoded):
        end = len(question) + len(answer)
        labels[n, :end] = torch.tensor([*question, *answer])
        inputs[n, :end] = torch.tensor([*question, *[special.mask] * len(answer)])
    numbers = torch.tensor([stable_hash(question, 0) >> 2 for question in questions])
    held = held_out(questions, valid_fraction, seed)
    side = torch.tensor([question in held for question in questions])
    every = Episodes(inputs, labels, numbers)
    return Task(
        name=name,
        tokenizer=tokenizer,
        train=every.rows(~side),
        valid=every.rows(side),
        verify=None if verify is None else _on_ids(verify, tokenizer, special.mask, special.pad),
        settings={"questions": len(rows), "valid_fraction": valid_fraction, "seed": seed},
    )


def _on_ids(
    verify: Callable[[str, str], bool], tokenizer: Tokenizer, mask: int, pad: int
) -> Verifier:
    """A verifier of texts as one of ids."""

    def text(ids: Tensor) -> str:
        return tokenizer.decode([i for i in ids.tolist() if i != pad])

    def verified(inputs: Tensor, answers: Tensor) -> Tensor:
        right = torch.zeros(len(inputs), dtype=torch.bool)
        for n, (given, written) in enumerate(zip(inputs.cpu(), answers.cpu(), strict=True)):
            written = torch.nn.functional.pad(written, (0, len(given) - len(written)), value=pad)
            blank = given == mask
            whole = not bool((written[blank] == mask).any() | (written[blank] == pad).any())
            right[n] = whole and verify(text(given[~blank]), text(written[blank]))
        return right.to(inputs.device)

    return verified
