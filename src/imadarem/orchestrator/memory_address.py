"""Where a canvas lies in the memory bank."""

from __future__ import annotations

import torch
from torch import Tensor

from imadarem.sampling.noise import RowNoise, Stream, row_seeds

#: Keys lie on the grid of multiples of 1/2048. A product of two then is a multiple of 2^-22
#: and a similarity stays below 2, so float32 adds them up without any rounding: similarities
#: are the same in every batch, and ties are true ties.
GRID = 2048


class ContentAddress:
    """A fixed bag of random features: canvases that share tokens lie near each other.

    A token is a vector of random signs, a position another one. A canvas is the sum of two
    unit vectors, weighted by ``sqrt(1 - w)`` and ``sqrt(w)``: which tokens are known, and which
    tokens are known *where* (token times position, sign by sign: the binding of
    Multiply-Add-Permute, Gayler, arXiv:cs/0412059). The similarity of two canvases is thereby
    about ``(1 - w)`` times their overlap as bags plus ``w`` times their overlap in place. Both
    are needed: every solved sudoku is the same bag, and a shifted text agrees nowhere.

    Each distinct token of a canvas weighs the same, however often it occurs, or the background
    of a grid would drown what is drawn on it. Nothing is learned, so no key goes stale.

    Args:
        vocab_size: ``V``.
        key_size: Length of a key. Unrelated canvases have similarities of about
            ``± 1 / sqrt(key_size)``.
        position_weight: ``w`` above, in [0, 1].
        pad_token_id: Never part of an address.
        seed: Draws the signs.
    """

    def __init__(
        self, vocab_size: int, key_size: int, position_weight: float, pad_token_id: int, seed: int
    ) -> None:
        self.vocab_size = vocab_size
        self.key_size = key_size
        self.position_weight = position_weight
        self.pad_token_id = pad_token_id
        self.seed = seed
        self._tokens = self._signs(vocab_size, step=0)
        self._positions = self._signs(0, step=1)

    def __call__(self, ids: Tensor, known: Tensor) -> Tensor:
        """``(B, L)`` ids and ``(B, L)`` bool → ``(B, key_size)`` unit vectors, float32, CPU.

        Their length is 1 up to ``sqrt(key_size) / 4096``, by the grid they are rounded to. A
        row in which nothing is known has the key 0, which is similar to nothing.
        """
        ids, known = ids.cpu(), known.cpu() & (ids.cpu() != self.pad_token_id)
        counts = torch.zeros(len(ids), self.vocab_size, dtype=torch.float64)
        counts.scatter_add_(1, ids, known.double())
        often = counts.gather(1, ids).clamp(min=1)
        tokens = self._tokens[ids].double() * known[..., None]
        bag = (tokens / often[..., None]).sum(1)
        placed = (tokens * self._places(ids.shape[1]) / often.sqrt()[..., None]).sum(1)
        w = self.position_weight
        key = _unit((1 - w) ** 0.5 * _unit(bag) + w**0.5 * _unit(placed))
        return (key * GRID).round().float() / GRID

    def _places(self, length: int) -> Tensor:
        if length > len(self._positions):
            self._positions = self._signs(length, step=1)
        return self._positions[:length].double()

    def _signs(self, count: int, step: int) -> Tensor:
        """``(count, key_size)`` of ±1; a longer table begins with the shorter one."""
        noise = RowNoise(row_seeds(count, self.seed), step)
        signs = noise.uniform(Stream.TOKEN, self.key_size) < 0.5
        return signs.to(torch.int8) * 2 - 1


def _unit(x: Tensor) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, x / norm.clamp(min=1e-12), 0.0)
