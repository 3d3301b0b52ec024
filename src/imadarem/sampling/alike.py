"""Rows of a batch that show a network the same: they are run once.

The first pass of a run reads blanks, and as many of them in many rows; copies of a prompt are
alike too. Where a network rounds a row the same in every batch that changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imadarem.nn import RefinementOutput

__all__ = ["once"]


def once(
    network: Callable[..., RefinementOutput], ids: Tensor, attended: Tensor | None
) -> RefinementOutput:
    """A pass that is told nothing but the canvas; of equal rows one alone goes through it.

    Only a network that says ``rows_alike``, that no row's numbers depend on another row, is
    spared the others; any other one is called with all of them.

    Args:
        network: Called as ``network(input_ids, attention_mask, prev_probs=None)``.
        ids: ``(B, L)``.
        attended: ``(B, L)`` bool; None where every position is.

    Returns:
        Of all ``B`` rows.
    """
    if len(ids) == 1 or not getattr(network, "rows_alike", False):
        return network(ids, attended, prev_probs=None)
    shown = ids if attended is None else 2 * ids + attended
    _, first, which = np.unique(shown.numpy(), axis=0, return_index=True, return_inverse=True)
    if len(first) == len(ids):
        return network(ids, attended, prev_probs=None)
    rows = torch.from_numpy(first)
    some = None if attended is None else attended[rows]
    return network(ids[rows], some, prev_probs=None).spread(torch.from_numpy(which.reshape(-1)))
