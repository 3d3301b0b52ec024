"""What a row is asked to be like, added to the input at each of its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Standardised numbers are cut to this range: nothing was learned beyond it.
RANGE = 4.0
#: Bumps that a number is spread over, from -3 to 3, and their standard deviation.
BUMPS, WIDTH = 16, 0.4


class ConditionEmbedding(nn.Module):
    """Conditions as vectors; starts at zero, so that a trained model stays what it is.

    A number ``z`` becomes 1, ``z`` and its distances to fixed points by a Gaussian, a class its
    one-hot vector, and NaN nothing; one matrix maps all of them.

    Args:
        conditions: See :mod:`imadarem.conditions`.
        width: ``D``.
    """

    def __init__(self, conditions: Mapping[str, Any], width: int) -> None:
        super().__init__()
        self.classes = [len(facts.get("classes", ())) for facts in conditions.values()]
        size = sum(count or 2 + BUMPS for count in self.classes)
        self.weight = nn.Parameter(torch.zeros(size, width))

    def forward(self, condition: Tensor, length: int) -> Tensor:
        """``(B, C)`` numbers of :func:`imadarem.conditions.as_numbers` → ``(B, L, D)``."""
        features = [
            _bumps(column) if count == 0 else _one_hot(column, count)
            for column, count in zip(condition.unbind(1), self.classes, strict=True)
        ]
        # At every position: a matrix product rounds a row alike from 16 rows on.
        rows = torch.cat(features, dim=1)[:, None].expand(-1, length, -1)
        return rows.to(self.weight.dtype) @ self.weight


def _bumps(numbers: Tensor) -> Tensor:
    """``(B,)`` → ``(B, 2 + BUMPS)``."""
    z = numbers.nan_to_num(0.0).clamp(-RANGE, RANGE)[:, None]
    points = torch.linspace(-3.0, 3.0, BUMPS, device=z.device)
    spread = torch.cat([torch.ones_like(z), z, (-0.5 * ((z - points) / WIDTH) ** 2).exp()], dim=1)
    return spread * ~numbers.isnan()[:, None]


def _one_hot(numbers: Tensor, count: int) -> Tensor:
    """``(B,)`` → ``(B, count)``."""
    known = ~numbers.isnan()
    return F.one_hot(numbers.nan_to_num(0.0).long(), count).float() * known[:, None]
