"""The same training step in several processes: gradients and rewards are averaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_gradients", "gathered", "mean_over_processes", "rank", "world_size"]


def world_size() -> int:
    """Processes that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them."""
    return dist.get_rank() if world_size() > 1 else 0


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes; none counts as zero.

    Once per optimiser step, after all backward passes of it: a window's own backward pass
    must not wait for the others.
    """
    if world_size() == 1:
        return
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    dist.all_reduce(flat)
    flat /= world_size()
    start = 0
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


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
