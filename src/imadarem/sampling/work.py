"""Counted work: what sampling costs in passes, positions and waits, whatever the machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations whose result the host must have before it can go on: on an accelerator each
#: waits for all that was asked of it before.
SYNCS = frozenset({"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"})
BY_INDEX = frozenset({"index", "index_put", "index_put_"})
MASKS = (torch.bool, torch.uint8)


@dataclass
class Work:
    """What was done between entering and leaving :func:`count_work`.

    Attributes:
        forwards: Calls of the network.
        row_passes: Rows that went through it, summed over the calls: what was computed. Rows
            that are equal in the first pass count once, though each of them had its pass.
        positions: Positions that went through it, padding included.
        host_syncs: Times the host had to wait for a tensor's value.
    """

    forwards: int = 0
    row_passes: int = 0
    positions: int = 0
    host_syncs: int = 0


@contextmanager
def count_work(network: nn.Module) -> Iterator[Work]:
    """Count what ``network`` is asked for in this block, and how often the host waits.

    Moving a whole tensor to the host (``.cpu()``, ``.tolist()``) is one wait on an accelerator
    too; on a CPU it is none that can be seen, so the engine's own hand-over of finished rows
    is not counted.
    """
    work = Work()

    def before(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids: Tensor = arguments[0] if arguments else named["input_ids"]
        work.forwards += 1
        work.row_passes += ids.shape[0]
        work.positions += ids.numel()

    handle = network.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with _Waits(work):
            yield work
    finally:
        handle.remove()


class _Waits(TorchDispatchMode):
    """Counts the operations that make the host wait."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in SYNCS or (name in BY_INDEX and _by_mask(*args)):
            self._work.host_syncs += 1
        return func(*args, **(kwargs or {}))


def _by_mask(x: Tensor, indices: Any, values: Tensor | None = None, *rest: Any) -> bool:
    """Whether it must be known how many places of a mask hold; one value fills any number."""
    fills = values is not None and values.numel() == 1
    return not fills and any(i is not None and i.dtype in MASKS for i in indices)
