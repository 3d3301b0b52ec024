"""Tanimoto similarity of bit fingerprints by blocks of matrix products.

For bit vectors x and y, T = |x and y| / |x or y|; both sizes come out of the product
x·y, which is exact in float32. Two empty fingerprints have T = 1, as in MOSES.
Memory is that of one block of pairs, whatever the number of molecules.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
"""(N, bits / 8) packed fingerprints."""

Floats = NDArray[np.float64]
BLOCK = 2048


def nearest_similarity(
    queries: Bits, references: Bits, advance: Callable[[int, int], None] | None = None
) -> Floats:
    """``(N,)``: for each query, the largest T to any reference."""
    best = np.zeros(len(queries))
    starts = range(0, len(queries), BLOCK)
    ready = [_unpacked(queries[start : start + BLOCK]) for start in starts]
    for done in range(0, len(references), BLOCK):
        block = _unpacked(references[done : done + BLOCK])
        for start, rows in zip(starts, ready, strict=True):
            part = best[start : start + BLOCK]
            np.maximum(part, _tanimoto(rows, block).max(axis=1), out=part)
        if advance is not None:
            advance(min(done + BLOCK, len(references)), len(references))
    return best


def similarities(queries: Bits, references: Bits) -> Floats:
    """``(M, N)``: T of each query to each reference."""
    return _tanimoto(_unpacked(queries), _unpacked(references)).astype(np.float64)


def mean_powers(
    fingerprints: Bits, weights: Floats, advance: Callable[[int, int], None] | None = None
) -> tuple[Floats, Floats]:
    """Weighted means of T and of T² from each row to all rows, itself included.

    Args:
        fingerprints: (N, bits / 8) packed rows.
        weights: (N,) how often each row occurs.
        advance: Called as ``advance(blocks done, blocks)``.

    Returns:
        ``(N,)`` Σ_j w_j T_ij / Σ w, and the same of T².
    """
    first, second = np.zeros(len(fingerprints)), np.zeros(len(fingerprints))
    cuts = [slice(start, start + BLOCK) for start in range(0, len(fingerprints), BLOCK)]
    weight = weights.astype(np.float32)
    for number, rows in enumerate(cuts):
        left = _unpacked(fingerprints[rows])
        for columns in cuts[number:]:
            pairs = _tanimoto(left, _unpacked(fingerprints[columns]))
            for total in (first, second):
                total[rows] += pairs @ weight[columns]
                if columns != rows:  # T is symmetric: each block serves twice
                    total[columns] += weight[rows] @ pairs
                np.square(pairs, out=pairs)
        if advance is not None:
            advance(number + 1, len(cuts))
    return first / weights.sum(), second / weights.sum()


def _unpacked(packed: Bits) -> NDArray[np.float32]:
    return np.unpackbits(packed, axis=1).astype(np.float32)


def _tanimoto(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """``(M, bits)`` and ``(N, bits)`` → ``(M, N)``."""
    both = left @ right.T
    either = left.sum(axis=1)[:, None] + right.sum(axis=1)[None, :]
    either -= both
    empty = either == 0
    if empty.any():
        both[empty] = either[empty] = 1
    both /= either
    return both
