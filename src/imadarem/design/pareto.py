"""Molecules that no other one beats in every term (NSGA-II, Deb et al. 2002)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pareto_order(values: Floats, count: int) -> list[int]:
    """Numbers of at least ``count`` rows (or all), those of the Pareto front first.

    A row is in a front when no row of it and of later fronts is as good in every term and better
    in one. Within a front, rows far from their neighbours come first.

    Args:
        values: ``(N, K)`` terms, higher being better.
        count: Rows wanted; fronts are computed until there are so many.
    """
    left = np.arange(len(values))
    order: list[int] = []
    while len(left) and len(order) < count:
        rows = values[left]
        no_worse = (rows[:, None] >= rows[None]).all(axis=2)
        better = (rows[:, None] > rows[None]).any(axis=2)
        front = ~(no_worse & better).any(axis=0)
        chosen = left[front]
        spread = _crowding(values[chosen])
        order += chosen[np.argsort(-spread, kind="stable")].tolist()
        left = left[~front]
    return order


def _crowding(rows: Floats) -> Floats:
    """``(N,)`` sums over the terms of the distance between both neighbours; inf at the ends."""
    spread = np.zeros(len(rows))
    for term in rows.T:
        order = np.argsort(term, kind="stable")
        width = term[order[-1]] - term[order[0]]
        spread[order[[0, -1]]] = np.inf
        if width > 0 and len(rows) > 2:
            spread[order[1:-1]] += (term[order[2:]] - term[order[:-2]]) / width
    return spread
