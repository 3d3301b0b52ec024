"""Tasks with an answer: what to fill in, what is right, and what leaves it right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from imadarem.errors import DataError
from imadarem.tokenizers import Tokenizer

Verifier = Callable[[Tensor, Tensor], Tensor]
"""``verify(inputs, answers)``, both ``(B, L)`` → ``(B,)`` bool, knowing no label."""


class Transform(NamedTuple):
    """One element of a symmetry group: where a token comes from, and what it is called now.

    ``apply(ids)[i] = tokens[ids[positions[i]]]``; both are permutations.

    Attributes:
        positions: ``(L,)`` int64.
        tokens: ``(V,)`` int64; special ids map to themselves.
    """

    positions: Tensor
    tokens: Tensor

    def apply(self, ids: Tensor) -> Tensor:
        """``(..., L)`` ids → ``(..., L)`` ids."""
        return self.tokens[ids[..., self.positions]]

    def invert(self, ids: Tensor) -> Tensor:
        """The ids that :meth:`apply` turns into ``ids``."""
        return self.tokens.argsort()[ids][..., self.positions.argsort()]


class Symmetry(Protocol):
    """A group of transforms that turn every episode into another one that is as right."""

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        """A random element for an input ``row`` ``(L,)``, by ``rng`` alone."""
        ...


@dataclass(frozen=True)
class Episodes:
    """Questions and answers of one task, padded to one length.

    Attributes:
        inputs: ``(N, L)`` int64; the mask id where the answer is to be written.
        labels: ``(N, L)`` int64; equal to ``inputs`` wherever those are no blank.
        task_ids: ``(N,)`` int64; augmentation and memory know an episode by this number.

    Raises:
        DataError: The shapes differ.
    """

    inputs: Tensor
    labels: Tensor
    task_ids: Tensor

    def __post_init__(self) -> None:
        if self.inputs.shape != self.labels.shape or len(self.task_ids) != len(self.inputs):
            raise DataError(
                f"{tuple(self.inputs.shape)} inputs, {tuple(self.labels.shape)} labels and "
                f"{len(self.task_ids)} task ids do not belong together."
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, which: Tensor | slice) -> Episodes:
        """Some of the episodes, by index, mask or slice."""
        return Episodes(self.inputs[which], self.labels[which], self.task_ids[which])

    @staticmethod
    def join(parts: list[Episodes], pad: int) -> Episodes:
        """Episodes of several lengths as one, filled up with ``pad``."""
        width = max(part.inputs.shape[1] for part in parts)

        def wide(ids: Tensor) -> Tensor:
            return torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=pad)

        return Episodes(
            torch.cat([wide(part.inputs) for part in parts]),
            torch.cat([wide(part.labels) for part in parts]),
            torch.cat([part.task_ids for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task ready for training.

    Attributes:
        name: Such as ``sudoku``; the ``task_type`` of the orchestrator.
        tokenizer: Its vocabulary.
        train: Episodes to learn from.
        valid: Held-out episodes; none is a symmetric copy of one in ``train``.
        relations: For each canvas length that occurs, partitions of the positions into
            groups that belong together (rows, columns, boxes); see the model's config.
        symmetry: Label-preserving transforms, where the task has them.
        verify: Tells a right answer without its label, where the task allows that.
        open_ended: Many answers are as good, as for a text with holes: noise on the question may
            augment it. False: another token in the question would make its label wrong.
        settings: How the data was made, for the run's record.
    """

    name: str
    tokenizer: Tokenizer
    train: Episodes
    valid: Episodes
    relations: list[list[list[int]]] | None = None
    symmetry: Symmetry | None = None
    verify: Verifier | None = None
    open_ended: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
