"""What every training loop does alike in a step: its randomness, its average, when it gives up."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["MAX_SKIPPED_IN_A_ROW", "step_generator", "warm_decay"]

#: Non-finite steps in a row after which training gives up.
MAX_SKIPPED_IN_A_ROW = 20


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """All randomness of a step from (seed, step, rank): torch's own is seeded, for dropout.

    Returns:
        A generator on the CPU for everything else.
    """
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    return torch.Generator().manual_seed(int(state[1] >> np.uint64(1)))


def warm_decay(decay: float, step: int) -> float:
    """A shorter average while the run is young, or it would remember the random start."""
    return min(decay, (1 + step) / (10 + step))
