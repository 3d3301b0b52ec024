"""Arithmetic on residues as a task: ``a op b = c`` modulo ``p``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imadarem.data.tasks import Episodes, Task, Transform
from imadarem.errors import ConfigError, nearest
from imadarem.tokenizers import CharTokenizer

BLANK = 1  # CharTokenizer.mask_token_id


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


def keeps_given(inputs: Tensor, answers: Tensor) -> Tensor:
    """``(B,)`` bool: nothing that was given has changed."""
    return ((inputs == answers) | (inputs == BLANK)).all(1)


def as_episodes(inputs: np.ndarray, labels: np.ndarray, numbers: np.ndarray) -> Episodes:
    """``(N, L)`` inputs and labels and ``(N,)`` task ids."""
    return Episodes(torch.from_numpy(inputs), torch.from_numpy(labels), torch.from_numpy(numbers))


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
        return known & (result == answers[:, 4]) & (result > 0) & keeps_given(inputs, answers)


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
    episodes = as_episodes(inputs, labels, low * p + high)
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
