"""Which positions a sparse pass runs: those that must be, those near them, all now and then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from imadarem.errors import ConfigError

__all__ = ["Sparsity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsity:
    """Rules by which what is kept of a canvas is brought up to date.

    The first pass runs every position. A later one runs those whose token changed since, those
    that the policy says it may write, and those that these rules add; of all others it takes
    what the last pass said that ran them.

    Args:
        reach: Also run the positions so near to one of these: neighbours feel a change first.
        refresh: Also run every position in each so-manieth pass; None never does.

    Raises:
        ConfigError: A setting is out of range.
    """

    reach: int = 1
    refresh: int | None = None

    def __post_init__(self) -> None:
        if self.reach < 0:
            raise ConfigError(f"reach={self.reach} must be a number of positions, 0 or more.")
        if self.refresh is not None and self.refresh < 1:
            raise ConfigError(
                f"refresh={self.refresh} must be a number of passes from 1 on, or None for never."
            )

    @classmethod
    def of(cls, sparse: bool | Sparsity) -> Sparsity | None:
        """What ``sample(sparse=...)`` is given: rules, True for the usual ones, False for none."""
        if isinstance(sparse, Sparsity):
            return sparse
        return cls() if sparse else None

    def asked(self, wanted: Tensor, step: int) -> Tensor:
        """``(B, L)`` bool, positions to run in a step from 2 on, from those that must be."""
        if self.refresh is not None and step % self.refresh == 0:
            return torch.ones_like(wanted)
        if not self.reach:
            return wanted
        near = F.max_pool1d(wanted.float(), 2 * self.reach + 1, stride=1, padding=self.reach)
        return near > 0
