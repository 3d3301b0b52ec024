"""The symmetries of sudoku: what may be swapped and leaves every puzzle as right as before.

Digits are renamed; bands, rows within a band, stacks and columns within a stack change
places; and where boxes are square (4x4, 9x9), the grid is transposed. For 9x9 that are
9! · 2 · 6⁸ elements (Russell and Jarvis, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from imadarem.data.sudoku.grid import Geometry, geometry, size_of
from imadarem.data.tasks import Transform


@dataclass(frozen=True)
class SudokuSymmetry:
    """The symmetry group of each size, for rows of token ids.

    Attributes:
        vocab_size: V.
        first_digit: The id of the digit 1; the others follow.
        pad: The id that fills a row behind its grid; those positions stay where they are.
    """

    vocab_size: int
    first_digit: int
    pad: int

    def draw(self, row: Tensor, rng: np.random.Generator) -> Transform:
        """A random element for the grid in ``row`` ``(L,)``, each equally likely.

        Raises:
            DataError: Without its padding the row has neither 16, 36 nor 81 cells.
        """
        cells = int((row != self.pad).sum())
        layout = geometry(size_of(range(cells)))
        positions, tokens = np.arange(len(row)), np.arange(self.vocab_size)
        positions[:cells] = draw_positions(layout, rng)
        tokens[self.first_digit :][: layout.size] = self.first_digit + rng.permutation(layout.size)
        return Transform(torch.from_numpy(positions), torch.from_numpy(tokens))


def draw_positions(layout: Geometry, rng: np.random.Generator) -> np.ndarray:
    """A random symmetric rearrangement ``(N²,)``: cell i of the new grid was there."""
    rows = _lines(layout.size, layout.box_height, rng)
    columns = _lines(layout.size, layout.box_width, rng)
    cells = rows[:, None] * layout.size + columns[None, :]
    if layout.square_boxes and rng.integers(2):
        cells = cells.T
    return cells.reshape(-1)


def _lines(size: int, together: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (or columns) in a new order in which those of one band stay neighbours."""
    bands = rng.permutation(size // together)
    return np.concatenate([band * together + rng.permutation(together) for band in bands])
