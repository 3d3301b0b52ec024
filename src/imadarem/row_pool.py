"""Rows shared among the processes that torchrun started: the first one leads.

The result of a row is a function of its seed and number, so it does not matter which process
computes it. The first process runs the command as if it were alone, reads and writes all files,
and hands out shares of the rows; the others only compute. With any number of processes the output
is the same, and a command that was killed resumes like one of a single process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
#: Opens a model by its name, on a device.
Loader = Callable[[str, str | None], Any]
#: Called with a model and ``(n,)`` row numbers; gives a result for each.
Work = Callable[[Any, Tensor], list[T]]

#: The leader may be busy with something else for long before it hands out rows.
PATIENCE = timedelta(days=7)
#: The model that the other processes have open; None outside :func:`leading`.
_shared_model: list[Any] | None = None


def process_count() -> int:
    """Processes that torchrun started, this one included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def leading() -> Iterator[None]:
    """Lead the other processes within this block: :func:`share_rows` hands them rows."""
    global _shared_model
    _join()
    _shared_model = []
    try:
        yield
    finally:
        _shared_model = None
        # Where another process is gone already, its absence is the error that is being raised.
        with suppress(RuntimeError):
            _send(None)
        dist.destroy_process_group()


def announce_model(model: Any, name: str, device: str | None) -> None:
    """Let the other processes open the model that rows will be computed by; alone, nothing."""
    global _shared_model
    if _shared_model is not None:
        _send((name, device))
        _shared_model = [model]


def serve_rows(load: Loader) -> None:
    """Compute rows for the leading process until it is done."""
    _join()
    model: Any = None
    try:
        while (order := _receive()) is not None:
            if isinstance(order[0], str):
                model = _attempt(load, *order)
            else:
                work, count = order
                failed = isinstance(model, Exception)
                found = model if failed else _attempt(work, model, _own(count))
                dist.gather_object(found, dst=0)
    finally:
        dist.destroy_process_group()


def share_rows(model: Any, work: Work[T], count: int, own: Work[T] | None = None) -> list[T]:
    """The results of ``count`` rows in their order, computed by all processes there are.

    Args:
        model: Shared out where it is the one of :func:`announce_model`; else this process computes
            all rows.
        work: Picklable.
        count: Number of rows.
        own: In place of ``work`` in this process, such as one that reports its progress.
    """
    mine = own or work
    if not _shared_model or _shared_model[0] is not model or count < 2:
        return mine(model, torch.arange(count))
    _send((work, count))
    parts: list[Any] = [None] * process_count()
    dist.gather_object(_attempt(mine, model, _own(count)), parts, dst=0)
    for part in parts:
        if isinstance(part, Exception):
            raise part
    found: list[Any] = [None] * count
    for rank, part in enumerate(parts):
        found[rank :: len(parts)] = part
    return found


def _own(count: int) -> Tensor:
    """The row numbers of this process."""
    return torch.arange(dist.get_rank(), count, dist.get_world_size())


def _attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result, or the error for the leader to raise."""
    if arguments and isinstance(arguments[-1], Tensor) and not len(arguments[-1]):
        return []
    try:
        return work(*arguments)
    except Exception as error:
        return error


def _join() -> None:
    dist.init_process_group("gloo", timeout=PATIENCE)


def _send(order: Any) -> None:
    dist.broadcast_object_list([order], src=0)


def _receive() -> Any:
    box: list[Any] = [None]
    dist.broadcast_object_list(box, src=0)
    return box[0]
