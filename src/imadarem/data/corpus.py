"""A tokenised corpus: one flat array of ids, cached on disk, and batches of similar length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imadarem.errors import CheckpointError, DataError

#: What becomes of rows that are longer than a canvas.
LONG_ROWS = ("drop", "chunk", "pack")

#: Batches that are drawn together and sorted by length: longer groups mix lengths better.
GROUP = 64


@dataclass(frozen=True)
class TokenCorpus:
    """Token sequences laid end to end.

    Attributes:
        tokens: ``(T,)`` ids in the smallest unsigned type that holds the vocabulary.
        offsets: ``(N + 1,)`` int64; row ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``.
    """

    tokens: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]], vocab_size: int) -> TokenCorpus:
        """Lay rows of token ids end to end.

        Raises:
            DataError: There is no row, or a row is empty.
        """
        dtype = np.min_scalar_type(vocab_size - 1)
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        lengths = np.array([len(row) for row in arrays], dtype=np.int64)
        if len(arrays) == 0 or lengths.min() == 0:
            raise DataError("a corpus needs at least one row, and each row at least one token.")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return cls(np.concatenate(arrays), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """``(N,)`` tokens per row."""
        return np.diff(self.offsets)

    def length_counts(self) -> list[int]:
        """``counts[n]`` rows have ``n`` tokens."""
        return [int(count) for count in np.bincount(self.lengths)]

    def no_longer_than(self, length: int) -> TokenCorpus:
        """The rows of at most ``length`` tokens.

        Raises:
            DataError: No row is that short.
        """
        fitting = np.flatnonzero(self.lengths <= length)
        if len(fitting) == len(self):
            return self
        if len(fitting) == 0:
            raise DataError(
                f"every row is longer than max_seq_len={length} tokens (the shortest has "
                f"{int(self.lengths.min())}). Choose a larger max_seq_len."
            )
        return self.subset(fitting)

    def cut(self, length: int, how: str) -> TokenCorpus:
        """Rows of at most ``length`` tokens; no token is copied.

        Args:
            length: At least 1.
            how: ``drop``: longer rows are left out. ``chunk``: they become several rows, the last
                one shorter. ``pack``: all rows are one running text, cut every ``length`` tokens.

        Raises:
            DataError: No row is left.
        """
        if how == "drop":
            return self.no_longer_than(length)
        if how == "pack":
            starts = np.arange(0, len(self.tokens), length, dtype=np.int64)
            return TokenCorpus(self.tokens, np.append(starts, len(self.tokens)))
        pieces = -(-self.lengths // length)
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = np.repeat(self.offsets[:-1], pieces) + number * length
        return TokenCorpus(self.tokens, np.append(starts, self.offsets[-1]))

    def subset(self, indices: np.ndarray) -> TokenCorpus:
        """The named rows, in that order."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[indices])])
        return TokenCorpus(np.concatenate([self[i] for i in indices]), offsets)

    def save(self, directory: str | Path) -> None:
        """Write ``tokens.npy`` and ``offsets.npy``, the manifest last."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "tokens.npy", self.tokens, allow_pickle=False)
        np.save(folder / "offsets.npy", self.offsets, allow_pickle=False)
        (folder / "corpus.json").write_text(json.dumps({"rows": len(self)}) + "\n")

    @classmethod
    def load(cls, directory: str | Path) -> TokenCorpus:
        """Map a saved corpus into memory, without reading it whole.

        Raises:
            CheckpointError: The directory holds no complete corpus.
        """
        folder = Path(directory)
        try:
            rows = json.loads((folder / "corpus.json").read_text())["rows"]
            tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
            offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{folder} holds no complete token cache ({error}). Delete it; it is made again."
            ) from None
        if len(offsets) != rows + 1 or offsets[-1] != len(tokens):
            raise CheckpointError(f"the token cache {folder} is damaged. Delete it.")
        return cls(tokens, offsets)


class LengthBuckets:
    """Which rows make up the batch of a step: a pure function of (seed, step).

    Each epoch is one permutation of the corpus. Groups of 64 batches are sorted by length
    and cut into batches, whose order is shuffled again: little padding, and no state to
    save for an exact resume. A last incomplete batch of an epoch is left out.

    Args:
        lengths: ``(N,)`` tokens per row.
        batch_size: Rows of one batch over all processes; at most ``N`` are used.
        seed: Of the permutations.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = min(batch_size, len(lengths))
        self.seed = seed
        self._epoch = -1
        self._batches: list[np.ndarray] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the corpus."""
        return len(self.lengths) // self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """Row indices of the batch of ``step``, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._cut(epoch), epoch
        return self._batches[position]

    def _cut(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        order = order[: self.steps_per_epoch * self.batch_size]
        span = GROUP * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), span):
            group = order[start : start + span]
            group = group[np.argsort(self.lengths[group], kind="stable")]
            batches.extend(group.reshape(-1, self.batch_size))
        return [batches[i] for i in generator.permutation(len(batches))]


def collate(rows: Sequence[np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids → ``(B, L)`` int64 ids, padded, and the ``(B, L)`` bool attention mask."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask)
