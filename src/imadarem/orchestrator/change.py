"""What one augmentation makes of one episode, and the parts that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from imadarem.data.tasks import Transform
from imadarem.tokenizers import SpecialIds


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
    """``new`` tokens with the holes of ``old``, each as long as it was, in other places.

    All become blank where all were, or where the holes are longer than ``new``.
    """
    runs = _run_lengths(old == special.mask)
    free = len(new) - sum(runs)
    if free <= 0 or sum(runs) == len(old):
        return [special.mask] * len(new)
    # A row of single tokens and of holes, of which each may stand anywhere.
    items = np.ones(free + len(runs), dtype=int)
    blank = np.zeros(len(items), dtype=bool)
    places = rng.choice(len(items), size=len(runs), replace=False)
    items[places], blank[places] = runs, True
    return np.where(np.repeat(blank, items), special.mask, new).tolist()


def _run_lengths(holes: Tensor) -> list[int]:
    """Lengths of the runs of True in ``(L,)`` bool."""
    edges = np.diff(np.concatenate([[0], holes.numpy().astype(int), [0]]))
    return (np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).tolist()
