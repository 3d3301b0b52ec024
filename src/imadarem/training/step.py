"""The randomness of a training step."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["step_generator"]


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """All randomness of a step from (seed, step, rank): torch's own is seeded, for dropout.

    Returns:
        A generator on the CPU for everything else.
    """
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    return torch.Generator().manual_seed(int(state[1] >> np.uint64(1)))
