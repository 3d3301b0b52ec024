"""Tells a solved grid without knowing the solution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from imadarem.data.sudoku.grid import SIZES, relations


@dataclass(frozen=True)
class SudokuVerifier:
    """Whether an answer is complete, legal and keeps the givens.

    Attributes:
        first_digit: The id of the digit 1; the others follow.
        mask: The id of a blank.
        pad: The id that fills a row behind its grid.
    """

    first_digit: int
    mask: int
    pad: int

    def __call__(self, inputs: Tensor, answers: Tensor) -> Tensor:
        """``(B, L)`` questions and ``(B, L)`` answers → ``(B,)`` bool.

        The rows may be grids of different sizes, padded behind. A row that has neither 16,
        36 nor 81 cells is never right.
        """
        unchanged = ((inputs == self.mask) | (inputs == answers)).all(1)
        cells = (inputs != self.pad).sum(1)
        right = torch.zeros_like(unchanged)
        for size in SIZES:
            if size * size <= inputs.shape[1]:
                right |= (cells == size * size) & self._legal(answers[:, : size * size], size)
        return right & unchanged

    def _legal(self, answers: Tensor, size: int) -> Tensor:
        """``(B, N²)`` → ``(B,)`` bool: each digit once in every row, column and box."""
        digits = answers - self.first_digit
        in_range = ((digits >= 0) & (digits < size)).all(1)
        bits = 1 << digits.clamp(0, size - 1)
        legal = in_range
        for groups in relations(size):
            where = torch.tensor(groups, device=answers.device).expand_as(bits)
            sums = torch.zeros(len(bits), size, dtype=bits.dtype, device=bits.device)
            sums.scatter_add_(1, where, bits)
            # N powers of two add up to 2^N - 1 only if each of them is there once.
            legal = legal & (sums == (1 << size) - 1).all(1)
        return legal
