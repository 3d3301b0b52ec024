"""Any generator of reasoning-gym (arXiv:2505.24760) as a task with its verifier."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from imadarem import checks
from imadarem.data.pairs import pairs_task
from imadarem.data.tasks import Task
from imadarem.errors import ConfigError, DataError, MissingExtraError, nearest


class Questions(Protocol):
    """A data set of reasoning-gym, or one of yours that is used like it."""

    def __iter__(self) -> Any:
        """Entries: mappings with ``question`` and ``answer``."""
        ...

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """1 for a right answer to an entry's question, less for others."""
        ...


def reasoning_task(
    generator: str,
    *,
    size: int = 6000,
    config: Mapping[str, Any] | None = None,
    max_length: int = 128,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Task:
    """Questions of one generator of the package ``reasoning-gym``; see :func:`questions_task`.

    Args:
        generator: Such as ``gcd`` or ``spell_backward``.
        size: Questions to generate; equal ones count once.
        config: Settings of the generator, such as ``{"max_terms": 3}``.
        max_length: Characters of a canvas; longer questions are left out and counted.
        valid_fraction: Share of the questions that is held out.
        seed: Of the generator and of the split.

    Raises:
        ConfigError: There is no such generator, or its settings are refused.
        MissingExtraError: The package is not installed.
        DataError: Its questions have no written answer, or fewer than two fit.
    """
    checks.whole("size", size, 2)
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "reasoning-gym", "tasks") from None
    known = reasoning_gym.factory.DATASETS
    if generator not in known:
        raise ConfigError(
            f"reasoning-gym has no generator {generator!r}{nearest(generator, known)}. "
            f"It has {', '.join(sorted(known))}."
        )
    try:
        data = reasoning_gym.create_dataset(generator, size=size, seed=seed, **(config or {}))
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"{generator} refuses config={dict(config or {})}: {error}") from error
    return questions_task(
        generator, data, max_length=max_length, valid_fraction=valid_fraction, seed=seed
    )


def questions_task(
    name: str,
    data: Questions,
    *,
    max_length: int = 128,
    valid_fraction: float = 0.1,
    seed: int = 0,
) -> Task:
    """Questions with answers, every character a token, answers checked by the data's own rule.

    What all questions begin and end with is left out (``settings["begin"]`` and ``"end"``), and
    answers are filled up with spaces to one length, so that it tells nothing.

    Args:
        name: The ``task_type``.
        data: Entries, and what scores an answer; right is a score of 1.
        max_length: Characters of question and answer; what is longer is left out.
        valid_fraction: Share of the questions that is held out.
        seed: Of the split.

    Raises:
        DataError: The entries have no written answer, or fewer than two fit.
    """
    entries = {entry["question"]: entry for entry in data}
    unwritten = [entry for entry in entries.values() if not isinstance(entry["answer"], str)]
    if unwritten:
        raise DataError(
            f"{len(unwritten)} of {len(entries)} questions of {name!r} come without a written "
            "answer, so there is nothing to learn from. Choose another generator."
        )
    begin, end = _shared(list(entries))
    short = {question[len(begin) : len(question) - len(end)]: question for question in entries}
    width = _width([len(entries[whole]["answer"]) for whole in short.values()], max_length)
    pairs = [
        (f"{question}\n", entries[whole]["answer"].ljust(width))
        for question, whole in short.items()
        if len(question) + 1 + width <= max_length and len(entries[whole]["answer"]) <= width
    ]
    if len(pairs) < 2:
        longest = max(map(len, short)) + 1 + width
        raise DataError(
            f"{len(pairs)} of {len(short)} questions of {name!r} fit max_length={max_length}; the "
            f"longest takes {longest}. Raise it, or make the questions shorter by config."
        )

    def verified(question: str, answer: str) -> bool:
        entry = entries.get(begin + question.removesuffix("\n") + end)
        return entry is not None and data.score_answer(answer.rstrip(), entry) == 1.0

    task = pairs_task(name, pairs, valid_fraction=valid_fraction, verify=verified, seed=seed)
    task.settings.update(begin=begin, end=end, left_out=len(short) - len(pairs))
    return task


def _shared(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin and end with; at least one character of each is left between."""
    begin = os.path.commonprefix([*texts])
    end = os.path.commonprefix([text[len(begin) :][::-1] for text in texts])[::-1]
    if any(len(text) <= len(begin) + len(end) for text in texts):
        begin, end = begin[:-1], ""
    return begin, end


def _width(lengths: Iterable[int], most: int) -> int:
    """The longest answer that leaves half of a canvas to the question."""
    return max((n for n in lengths if n <= most // 2), default=most // 2)
