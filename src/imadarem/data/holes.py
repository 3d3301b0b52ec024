"""Rows of tokens with blanks in them: how many, how long, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from imadarem.data.splits import stable_hash
from imadarem.data.tasks import Episodes
from imadarem.errors import ConfigError
from imadarem.tokenizers import SpecialIds


@dataclass(frozen=True, kw_only=True)
class Holes:
    """Draws blanks, the same ones for the same row and seed, whatever rows stand beside it.

    Every row keeps at least one token and loses at least one.

    Args:
        share: Share of a row's tokens that become blank: a number, or ``(low, high)``, from
            which each row draws its own uniformly. Above 0, at most 1.
        span: Mean length of a hole in tokens, geometrically distributed; ``1`` blanks
            single positions independently. Neighbouring holes may touch.
        versions: Episodes made of each row, with different holes and one task id.
        seed: Of all draws.

    Raises:
        ConfigError: A setting is out of range.
    """

    share: float | tuple[float, float] = 0.3
    span: float = 3.0
    versions: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self._range
        if not 0 < low <= high <= 1:
            raise ConfigError(
                f"hole_share={self.share} must be a number above 0 and at most 1, or two of "
                "them, the lower first: (0.1, 0.6)."
            )
        if not 1 <= self.span < float("inf"):
            raise ConfigError(f"hole_span={self.span} must be at least 1 token.")
        if self.versions < 1:
            raise ConfigError(f"versions={self.versions} must be at least 1.")

    @property
    def _range(self) -> tuple[float, float]:
        if isinstance(self.share, int | float):
            return float(self.share), float(self.share)
        low, high = self.share
        return float(low), float(high)

    def draw(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """``(length,)`` bool, True where a blank goes; ``length`` is at least 2."""
        wanted = round(rng.uniform(*self._range) * length)
        wanted = min(max(1, wanted), length - 1)
        ends = rng.geometric(1 / self.span, wanted).cumsum()
        # The last hole is cut to what is still wanted; then their order is drawn.
        ends = np.append(ends[ends < wanted], wanted)
        spans = rng.permutation(np.diff(ends, prepend=0))
        # Holes and tokens in random order, each hole then as long as it is.
        pieces = np.ones(length - wanted + len(spans), dtype=np.int64)
        where = np.sort(rng.permutation(len(pieces))[: len(spans)])
        pieces[where] = spans
        hollow = np.zeros(len(pieces), dtype=bool)
        hollow[where] = True
        # Turned around the row's end, or the first and last tokens would rarely be blank.
        return np.roll(hollow.repeat(pieces), rng.integers(length))

    def episodes(self, rows: Sequence[Sequence[int]], special: SpecialIds, width: int) -> Episodes:
        """Rows of 2 to ``width`` ids → episodes, filled up with padding.

        A task id is a hash of its row.
        """
        labels = np.full((len(rows), self.versions, width), special.pad, dtype=np.int64)
        inputs = labels.copy()
        numbers = np.empty((len(rows), self.versions), dtype=np.int64)
        for index, row in enumerate(rows):
            ids = np.asarray(row, dtype=np.int64)
            numbers[index] = stable_hash(ids.tobytes())
            labels[index, :, : len(ids)] = ids
            for version in range(self.versions):
                rng = np.random.default_rng([stable_hash(ids.tobytes(), self.seed), version])
                holes = self.draw(len(ids), rng)
                inputs[index, version, : len(ids)] = np.where(holes, special.mask, ids)
        return Episodes(
            torch.from_numpy(inputs.reshape(-1, width)),
            torch.from_numpy(labels.reshape(-1, width)),
            torch.from_numpy(numbers.reshape(-1)),
        )
