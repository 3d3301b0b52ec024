"""Sums and products of decimal numbers as a task, digit by digit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from imadarem import checks
from imadarem.data.residues import BLANK, OperandSwap, as_episodes, keeps_given
from imadarem.data.tasks import Task
from imadarem.errors import ConfigError
from imadarem.tokenizers import CharTokenizer

LAYOUTS = ("reversed", "plain", "columns")
#: The largest number of digits whose products fit a 64-bit integer.
MOST_DIGITS = 9


@dataclass(frozen=True)
class DecimalLayout:
    """Where the digits of ``a op b = c`` stand; numbers are filled up with leading zeros.

    ``plain``
        ``12+34=046``: as people write it. A carry runs against the reading direction.
    ``reversed``
        ``12+34=640``: the answer from its last digit on, the way carries run; better for
        small transformers (arXiv:2307.03381).
    ``columns``
        ``240 136 000`` without the spaces: digit by digit of ``a``, ``b`` and ``c``, last
        digits first, as in a sum on paper turned on its side. No operator is shown.

    Args:
        digits: Of each operand, 1 to 9.
        operation: ``+`` or ``*``.
        layout: One of the three.

    Raises:
        ConfigError: A setting is out of range.
    """

    digits: int
    operation: str = "+"
    layout: str = "reversed"

    def __post_init__(self) -> None:
        if (
            isinstance(self.digits, bool)
            or not isinstance(self.digits, int)
            or not 1 <= self.digits <= MOST_DIGITS
        ):
            raise ConfigError(f"digits={self.digits!r} must be from 1 to {MOST_DIGITS}.")
        if self.operation not in ("+", "*"):
            raise ConfigError(f"operation={self.operation!r} must be '+' or '*'.")
        checks.one_of("layout", self.layout, LAYOUTS)

    @property
    def answer_digits(self) -> int:
        """Digits of the answer: one more for a sum, twice as many for a product."""
        return self.digits + 1 if self.operation == "+" else 2 * self.digits

    @property
    def length(self) -> int:
        """Canvas length in tokens."""
        if self.layout == "columns":
            return 3 * self.answer_digits
        return 2 * self.digits + 2 + self.answer_digits

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the digits of ``a``, ``b`` and ``c``, ones first, then tens, …."""
        n, m = self.digits, self.answer_digits
        if self.layout == "columns":
            return tuple(np.arange(m) * 3 + i for i in range(3))  # type: ignore[return-value]
        a = np.arange(n)[::-1]
        c = 2 * n + 2 + np.arange(m)
        return a, a + n + 1, c if self.layout == "reversed" else c[::-1]

    @cached_property
    def tokenizer(self) -> CharTokenizer:
        signs = "" if self.layout == "columns" else self.operation + "="
        return CharTokenizer.from_corpus(["0123456789" + signs])

    @cached_property
    def _zero(self) -> int:
        # Digits follow each other in any sorted vocabulary.
        return self.tokenizer.convert_tokens_to_ids(["0"])[0]

    def compute(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The answers."""
        return a + b if self.operation == "+" else a * b

    def write(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels, each ``(N, L)`` int64, for ``(N,)`` operands."""
        labels = np.zeros((len(a), self.length), dtype=np.int64)
        if self.layout != "columns":
            signs = self.tokenizer.convert_tokens_to_ids([self.operation, "="])
            labels[:, [self.digits, 2 * self.digits + 1]] = signs
        for number, places in zip((a, b, self.compute(a, b)), self.places, strict=True):
            labels[:, places] = self._zero + number[:, None] // 10 ** np.arange(len(places)) % 10
        inputs = labels.copy()
        inputs[:, self.places[2]] = BLANK
        return inputs, labels

    def verify(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """``(B, L)`` questions and answers → ``(B,)`` bool, computed again."""
        digits = [answers[:, torch.from_numpy(p.copy())] - self._zero for p in self.places]
        legal = torch.stack([((d >= 0) & (d <= 9)).all(1) for d in digits]).all(0)
        a, b, c = (
            (d * 10 ** torch.arange(d.shape[1], device=d.device)).sum(1).where(legal, 0)
            for d in digits
        )
        result = a + b if self.operation == "+" else a * b
        return legal & (result == c) & keeps_given(inputs, answers)

    def relations(self) -> list[list[int]]:
        """Partitions of the canvas: digits of one place (ones, tens, …), and numbers.

        The signs are a group of their own in both.
        """
        place = np.full(self.length, self.answer_digits)
        number = np.full(self.length, 3)
        for index, positions in enumerate(self.places):
            place[positions] = np.arange(len(positions))
            number[positions] = index
        return [place.tolist(), number.tolist()]


def addition_task(
    digits: int = 3,
    operation: str = "+",
    *,
    layout: str = "reversed",
    n: int = 10_000,
    valid: int = 1_000,
    seed: int = 0,
) -> Task:
    """Sums or products of two decimal numbers; the digits of the answer are blank.

    Operands are drawn uniformly from 0 to ``10**digits - 1``; no pair occurs twice, and
    ``a op b`` is on the same side of the split as ``b op a``.

    Args:
        digits: Of each operand, 1 to 9.
        operation: ``+`` or ``*``.
        layout: ``reversed``, ``plain`` or ``columns``; see :class:`DecimalLayout`.
        n: Episodes to train on.
        valid: Held-out episodes.
        seed: Of the numbers.

    Raises:
        ConfigError: A setting is out of range, or there are not so many different pairs.
    """
    shape = DecimalLayout(digits, operation, layout)
    if min(n, valid) < 1:
        raise ConfigError(f"n={n} and valid={valid} must both be at least 1.")
    a, b = _distinct_pairs(10**digits, n + valid, seed)
    low, high = np.minimum(a, b), np.maximum(a, b)
    # Below 10**9 each, the two numbers side by side stay below 2**63.
    episodes = as_episodes(*shape.write(a, b), low * 10**digits + high)
    first, second = (tuple(int(i) for i in places) for places in shape.places[:2])
    return Task(
        name="addition",
        tokenizer=shape.tokenizer,
        train=episodes.rows(slice(valid, None)),
        valid=episodes.rows(slice(0, valid)),
        relations=[shape.relations()],
        symmetry=OperandSwap(first, second, len(shape.tokenizer)),
        verify=shape.verify,
        settings={
            "digits": digits,
            "operation": operation,
            "layout": layout,
            "n": n,
            "valid": valid,
            "seed": seed,
        },
    )


def _distinct_pairs(below: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` pairs of numbers, no two of them equal or each other's swap."""
    possible = below * (below + 1) // 2
    if count > possible:
        raise ConfigError(
            f"n + valid = {count} pairs were asked for, and there are {possible} different ones. "
            "Ask for fewer, or for more digits."
        )
    rng = np.random.default_rng(seed)
    if possible <= 4 * count:
        low, high = np.triu_indices(below)
        chosen = rng.permutation(possible)[:count]
        pairs = np.stack([low[chosen], high[chosen]])
    else:
        pairs = _first_distinct(rng.integers(0, below, (2, 2 * count + 100)), below)[:, :count]
    # The upper triangle has a <= b: a coin puts the larger one first as often.
    swapped = rng.integers(0, 2, count).astype(bool)
    return np.where(swapped, pairs[1], pairs[0]), np.where(swapped, pairs[0], pairs[1])


def _first_distinct(pairs: np.ndarray, below: int) -> np.ndarray:
    """``(2, N)`` pairs without those that repeat an earlier one, swapped or not."""
    _, first = np.unique(pairs.min(0) * below + pairs.max(0), return_index=True)
    return pairs[:, np.sort(first)]
