"""Lines of text to tokens without holding the file: for a tokenizer that is there already."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from imadarem.data.corpus import TokenCorpus
from imadarem.data.molecule_files import RejectedLine
from imadarem.data.splits import stable_hash
from imadarem.data.text import iter_lines
from imadarem.errors import DataError
from imadarem.tokenizers import Tokenizer
from imadarem.workers import Workers

#: Lines that are held and encoded together.
TOGETHER = 65_536

#: A text → its ids, or why it has none.
Encoder = Callable[[str], list[int] | str]


def stream_lines(
    source: str | Path,
    tokenizer: Tokenizer,
    encode: Encoder,
    workers: Workers,
    *,
    rows: int | None,
    valid_fraction: float,
    seed: int,
) -> tuple[TokenCorpus, TokenCorpus, list[RejectedLine]]:
    """Training rows, held-out rows, and the lines that could not be encoded.

    The file is read twice: once for a number of 8 bytes for each line, by which equal lines fall
    on one side of the split, and once to encode it. Tokens go to temporary files, which are
    mapped into memory and vanish with the corpus.

    Raises:
        DataError: The file cannot be read, or one side of the split has no row.
    """
    numbers = np.fromiter((stable_hash(line, seed) for line in _lines(source)), dtype=np.int64)
    distinct = np.unique(numbers)
    count = int(valid_fraction * len(distinct))
    held = numbers < distinct[min(count, len(distinct) - 1)] if len(distinct) else numbers > 0
    size = len(cast(Sized, tokenizer))
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        train, valid = _TokenFile(first, size), _TokenFile(second, size)
        rejected: list[RejectedLine] = []
        lines, sides = _lines(source), iter(held.tolist())
        while chunk := list(islice(lines, TOGETHER)):
            for text, ids in zip(chunk, workers.map("encode", encode, chunk), strict=True):
                side = valid if next(sides) else train
                if isinstance(ids, str) or not ids:
                    reason = ids if isinstance(ids, str) else "it has no token"
                    rejected.append(RejectedLine(0, text, reason))
                elif side is valid or rows is None or len(train.ends) < rows:
                    side.append(ids)
        if not (len(train.ends) and len(valid.ends)):
            why = f" The first reason: {rejected[0].reason}" if rejected else ""
            raise DataError(
                f"{source} leaves {len(train.ends)} texts to train on and {len(valid.ends)} to "
                f"validate on. At least 1 of each is needed; a useful model needs hundreds.{why}"
            )
        # A mapping outlives its file.
        return train.corpus(), valid.corpus(), rejected


def _lines(source: str | Path) -> Iterator[str]:
    return (line for _, line in iter_lines(source) if line)


class _TokenFile:
    """Rows of ids in a temporary file."""

    def __init__(self, file: IO[bytes], vocab_size: int) -> None:
        self._file = file
        self._dtype = np.min_scalar_type(vocab_size - 1)
        self.ends = array("q")

    def append(self, ids: Sequence[int]) -> None:
        self._file.write(np.asarray(ids, dtype=self._dtype).tobytes())
        self.ends.append(len(ids) + (self.ends[-1] if self.ends else 0))

    def corpus(self) -> TokenCorpus:
        self._file.flush()
        tokens: np.ndarray[Any, Any] = np.memmap(self._file, dtype=self._dtype, mode="r")
        return TokenCorpus(tokens, np.concatenate([[0], np.frombuffer(self.ends, dtype=np.int64)]))
