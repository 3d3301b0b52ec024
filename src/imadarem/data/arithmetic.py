"""Arithmetic as a task: operations on residues, and sums and products digit by digit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from imadarem import checks
from imadarem.data.tasks import Episodes, Task, Transform
from imadarem.errors import ConfigError, nearest
from imadarem.tokenizers import CharTokenizer

__all__ = [
    "LAYOUTS",
    "OPERATIONS",
    "DecimalLayout",
    "OperandSwap",
    "addition_task",
    "modular_task",
    "residue_characters",
]

BLANK = 1  # CharTokenizer.mask_token_id

# ---------------------------------------------------------------- residues

LETTERS_FROM, LETTERS_TO = 0xC0, 0x250


def residue_characters(p: int) -> str:
    """The character of each residue 0 … p − 1: ``0``–``9``, ``A``–``Z``, ``a``–``z``, ``À`` ….

    A token has to be one character, so that the vocabulary is a plain
    :class:`~imadarem.tokenizers.CharTokenizer`. The letters after ``z`` are the Latin ones
    from U+00C0 to U+024F.
    """
    ascii_part = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    letters = (chr(code) for code in range(LETTERS_FROM, LETTERS_TO))
    return (ascii_part + "".join(c for c in letters if c.isalpha()))[:p]


LARGEST_MODULUS = len(residue_characters(10**6))


@dataclass(frozen=True)
class Operation:
    """An operation on residues.

    Attributes:
        symbol: Its character on the canvas.
        result: ``(a, b, p)`` → residues, vectorised over int64 arrays.
        commutes: ``a op b`` is ``b op a``.
    """

    symbol: str
    result: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
    commutes: bool


def _quotient(a: np.ndarray, b: np.ndarray, p: int) -> np.ndarray:
    inverses = np.array([0, *(pow(x, -1, p) for x in range(1, p))])
    return a * inverses[b] % p


OPERATIONS: dict[str, Operation] = {
    "+": Operation("+", lambda a, b, p: (a + b) % p, True),
    "-": Operation("-", lambda a, b, p: (a - b) % p, False),
    "*": Operation("*", lambda a, b, p: a * b % p, True),
    "/": Operation("/", _quotient, False),
    "x2+xy+y2": Operation("&", lambda a, b, p: (a * a + a * b + b * b) % p, True),
}
"""The operations of Power et al. (arXiv:2201.02177) that this task offers, by name."""


@dataclass(frozen=True)
class OperandSwap:
    """The group of two: leave an episode as it is, or swap its operands.

    Attributes:
        first: Positions of the first operand's tokens.
        second: Positions of the second operand's, in the same order.
        vocab_size: Number of token ids.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    vocab_size: int

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        """An element for a ``row`` ``(L,)``, by ``rng`` alone."""
        positions = torch.arange(len(row))
        if rng.integers(2):
            first, second = torch.tensor(self.first), torch.tensor(self.second)
            positions[first], positions[second] = second, first
        return Transform(positions, torch.arange(self.vocab_size))


@dataclass(frozen=True)
class ResidueCheck:
    """Verifies ``a op b = c`` by computing it again, for any blanks of a row.

    Attributes:
        value: ``(V,)`` int64, the residue of a token, -1 for others.
        table: ``(p, p)`` int64, the token id of the result; 0 where there is none.
    """

    value: Tensor
    table: Tensor

    def __call__(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """``(B, L)`` questions and answers → ``(B,)`` bool."""
        value, table = self.value.to(answers.device), self.table.to(answers.device)
        a, b = value[answers[:, 0]], value[answers[:, 2]]
        known = (a >= 0) & (b >= 0)
        result = table[a.clamp(min=0), b.clamp(min=0)]
        return known & (result == answers[:, 4]) & (result > 0) & _keeps(inputs, answers)


def _keeps(inputs: Tensor, answers: Tensor) -> Tensor:
    """``(B,)`` bool: nothing that was given has changed."""
    return ((inputs == answers) | (inputs == BLANK)).all(1)


def modular_task(
    p: int = 97, operation: str = "+", *, train_share: float = 0.5, seed: int = 0
) -> Task:
    """All ``a op b = c`` over the residues modulo ``p``; ``c`` is blank.

    A row has five tokens, each residue being one; see :func:`residue_characters`. Where the
    operation commutes, ``a op b`` and ``b op a`` are always on the same side of the split:
    otherwise half of the held-out rows could be looked up.

    Args:
        p: The modulus, a prime for ``/``; 2 to 457 or so (one character per residue).
        operation: ``+``, ``-``, ``*``, ``/`` (by ``b`` ≠ 0) or ``x2+xy+y2``.
        train_share: Share of the pairs to train on, between 0 and 1, both exclusive.
        seed: Of the split.

    Raises:
        ConfigError: A setting is out of range.
    """
    chosen = _operation(operation)
    _check_modulus(p, operation)
    if not 0 < train_share < 1:
        raise ConfigError(
            f"train_share={train_share} must lie between 0 and 1, both exclusive: the rest is "
            "held out."
        )
    residues = residue_characters(p)
    tokenizer = CharTokenizer.from_corpus([residues + chosen.symbol + "="])
    ids = np.array(tokenizer.convert_tokens_to_ids(list(residues)))
    a, b = (x.ravel() for x in np.divmod(np.arange(p * p), p))
    if operation == "/":
        a, b = a[b > 0], b[b > 0]
    c = chosen.result(a, b, p)
    labels = np.empty((len(a), 5), dtype=np.int64)
    labels[:, 0], labels[:, 2], labels[:, 4] = ids[a], ids[b], ids[c]
    labels[:, 1], labels[:, 3] = tokenizer.convert_tokens_to_ids([chosen.symbol, "="])
    inputs = labels.copy()
    inputs[:, 4] = BLANK
    # Copies share a key, so they share a side.
    low, high = (np.minimum(a, b), np.maximum(a, b)) if chosen.commutes else (a, b)
    learned = _drawn_share(low * p + high, train_share, seed)
    episodes = _episodes(inputs, labels, low * p + high)
    value = torch.full((len(tokenizer),), -1)
    value[torch.from_numpy(ids)] = torch.arange(p)
    table = torch.zeros(p, p, dtype=torch.int64)
    table[torch.from_numpy(a), torch.from_numpy(b)] = episodes.labels[:, 4]
    return Task(
        name="modular",
        tokenizer=tokenizer,
        train=episodes.rows(torch.from_numpy(learned)),
        valid=episodes.rows(torch.from_numpy(~learned)),
        symmetry=OperandSwap((0,), (2,), len(tokenizer)) if chosen.commutes else None,
        verify=ResidueCheck(value, table),
        settings={"p": p, "operation": operation, "train_share": train_share, "seed": seed},
    )


def _operation(name: str) -> Operation:
    if name not in OPERATIONS:
        legal = ", ".join(OPERATIONS)
        raise ConfigError(
            f"unknown operation {name!r}{nearest(str(name), OPERATIONS)}. Choose one of {legal}."
        )
    return OPERATIONS[name]


def _check_modulus(p: int, operation: str) -> None:
    if isinstance(p, bool) or not isinstance(p, int) or not 2 <= p <= LARGEST_MODULUS:
        raise ConfigError(f"p={p!r} must be a whole number from 2 to {LARGEST_MODULUS}.")
    divisor = next((d for d in range(2, math.isqrt(p) + 1) if p % d == 0), None)
    if operation == "/" and divisor:
        raise ConfigError(
            f"p={p} is divisible by {divisor}, so that {divisor} has no inverse modulo {p}. "
            "Choose a prime for the operation '/', such as 97."
        )


def _drawn_share(keys: np.ndarray, share: float, seed: int) -> np.ndarray:
    """``(N,)`` bool: a share of the distinct keys, at least one, never all."""
    distinct = np.unique(keys)
    if len(distinct) < 2:
        raise ConfigError("there are fewer than two different questions to split. Enlarge p.")
    count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    chosen = np.random.default_rng(seed).permutation(distinct)[:count]
    return np.isin(keys, chosen)


def _episodes(inputs: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> Episodes:
    return Episodes(torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(numbers))


# ---------------------------------------------------------------- decimal numbers

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
        return legal & (result == c) & _keeps(inputs, answers)

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
    episodes = _episodes(*shape.write(a, b), low * 10**digits + high)
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
