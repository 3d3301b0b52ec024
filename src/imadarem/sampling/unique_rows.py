"""Rows of a batch with identical input: they are run once.

The first pass of a run reads blanks, the same number of them in many rows; copies of a prompt
are equal too. Where a network's numbers of a row do not depend on the batch, that changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from imadarem.nn import RefinementOutput

__all__ = ["forward_unique_rows"]


def forward_unique_rows(
    network: Callable[..., RefinementOutput], ids: Tensor, attended: Tensor | None
) -> RefinementOutput:
    """A pass whose only input is the canvas; equal rows go through the network once.

    Only on a CPU, and only for a network that has ``rows_independent``: no row's numbers depend
    on another row. Any other one is called with all rows.

    Args:
        network: Called as ``network(input_ids, attention_mask, prev_probs=None)``.
        ids: ``(B, L)``.
        attended: ``(B, L)`` bool; None where every position is.

    Returns:
        Of all ``B`` rows.
    """
    alike = getattr(network, "rows_independent", False) and ids.device.type == "cpu"
    if len(ids) == 1 or not alike:
        return network(ids, attended, prev_probs=None)
    key = ids if attended is None else 2 * ids + attended
    _, first, which = np.unique(key.numpy(), axis=0, return_index=True, return_inverse=True)
    if len(first) == len(ids):
        return network(ids, attended, prev_probs=None)
    rows = torch.from_numpy(first)
    some = None if attended is None else attended[rows]
    return network(ids[rows], some, prev_probs=None).spread(torch.from_numpy(which.reshape(-1)))
