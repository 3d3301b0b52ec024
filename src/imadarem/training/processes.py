"""The same training step in several processes: its randomness, and what is averaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def step_generator(seed: int, step: int) -> torch.Generator:
    """All randomness of a step from (seed, step, rank): torch's own is seeded, for dropout.

    Returns:
        A generator on the CPU for everything else.
    """
    state = np.random.SeedSequence([seed, step, rank()]).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    return torch.Generator().manual_seed(int(state[1] >> np.uint64(1)))


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes; none counts as zero.

    Where no process has one, there is none afterwards: to a filter or an optimiser a zero
    is a first gradient like any other.

    Once per optimiser step, after all backward passes of it: a window's own backward pass
    must not wait for the others.
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    flat = torch.cat([*(g.flatten() for g in gradients), present.to(gradients[0])])
    dist.all_reduce(flat)
    flat /= world_size()
    sizes = [parameter.numel() for parameter in parameters]
    *means, anywhere = flat.split([*sizes, len(parameters)])
    for parameter, mean, found in zip(parameters, means, anywhere.tolist(), strict=True):
        parameter.grad = mean.view_as(parameter).clone() if found else None


@torch.no_grad()
def share_first(parameters: Iterable[Tensor]) -> None:
    """Give every process the first one's values."""
    if world_size() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)


def mean_over_processes(values: list[float]) -> list[float]:
    """Element-wise mean; every process gives as many values."""
    if world_size() == 1 or not values:
        return values
    return [sum(column) / world_size() for column in zip(*gathered(values), strict=True)]


def gathered(value: Any) -> list[Any]:
    """What every process gave, in the order of ranks, in every process."""
    if world_size() == 1:
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone
