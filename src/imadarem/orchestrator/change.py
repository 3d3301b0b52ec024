"""What one augmentation makes of one episode, and the parts that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from imadarem.data.tasks import Transform
from imadarem.tokenizers import SpecialIds

__all__ = ["Change", "Strategy", "content_length", "redraw_holes", "unchanged"]


class Change(NamedTuple):
    """What a strategy made of an episode.

    Attributes:
        inputs: ``(L,)`` int64.
        labels: ``(L,)`` int64.
        transform: The group element that was applied to both, where there is one; its
            ``invert`` takes an answer back to the original question.
        metadata: What was drawn; ``reason`` says why an episode was left as it was.
    """

    inputs: Tensor
    labels: Tensor
    transform: Transform | None
    metadata: Mapping[str, Any]


class Strategy(Protocol):
    """Changes an episode by nothing but the episode and ``rng``."""

    def __call__(self, inputs: Tensor, labels: Tensor, rng: np.random.Generator) -> Change:
        """``(L,)`` inputs and labels → a :class:`Change` of the same length."""
        ...


def unchanged(inputs: Tensor, labels: Tensor, reason: str) -> Change:
    """The episode as it was, because of ``reason``."""
    return Change(inputs, labels, None, {"reason": reason})


def content_length(ids: Tensor, pad: int) -> int:
    """Positions of ``ids`` ``(L,)`` up to the last that is no padding."""
    used = (ids != pad).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def redraw_holes(
    old: Tensor, new: list[int], special: SpecialIds, rng: np.random.Generator
) -> list[int]:
    """``new`` tokens with as many holes as ``old`` has, elsewhere; all, where all were holes."""
    holes = int((old == special.mask).sum())
    count = len(new) if holes == len(old) else min(holes, len(new))
    inputs = torch.tensor(new)
    inputs[torch.from_numpy(rng.choice(len(new), size=count, replace=False))] = special.mask
    return inputs.tolist()
