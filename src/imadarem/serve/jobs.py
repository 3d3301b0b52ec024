"""One request's rows on their way to the worker, and its events on their way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.sampling.batching import Refined
from imadarem.sampling.settings import SamplingSettings
from imadarem.serve.catalogue import ServedModel

__all__ = ["Job", "JobEvent", "Row"]


@dataclass(frozen=True)
class Row:
    """One finished row.

    Attributes:
        refined: The result of the refinement loop.
        text: Decoded, where the tokenizer decodes.
    """

    refined: Refined
    text: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "text": self.text,
            "steps": self.refined.steps,
            "forward_passes": self.refined.forward_passes,
            "stopping_reason": self.refined.reason.label,
            "mean_probability": self.refined.quality,
        }


JobEvent = str | list[Row]
"""Of a traced job the start and every step, each as the text of a JSON object; then all rows."""


@dataclass(eq=False, kw_only=True)
class Job:
    """Rows to refine: created and awaited on the event loop, refined on the worker's thread.

    The worker calls :meth:`take`, :meth:`finish`, :meth:`fail` and :meth:`publish`, the event
    loop everything else.

    Attributes:
        model: Refines the rows.
        canvas: ``(n, L)``, n at least 1.
        seeds: ``(n,)`` int64.
        settings: How to refine.
        traced: Whether every step is published; such a job has one row.
        cancelled: Nobody waits for the rows any more.
        taken: How many rows the worker has taken.
    """

    model: ServedModel
    canvas: Canvas
    seeds: Tensor
    settings: SamplingSettings
    traced: bool = False
    cancelled: bool = False
    taken: int = 0
    _rows: dict[int, Row] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _events: asyncio.Queue[JobEvent | Exception] = field(default_factory=asyncio.Queue)

    @property
    def key(self) -> tuple[Any, ...]:
        """Jobs with equal keys can share a batch."""
        return self.model.id, self.settings, self.traced

    @property
    def rows_left(self) -> int:
        """Rows that the worker has not taken."""
        return len(self.canvas) - self.taken

    # On the worker's thread

    def take(self, count: int) -> range:
        """Take the next ``count`` rows; their numbers."""
        first, self.taken = self.taken, self.taken + count
        return range(first, self.taken)

    def finish(self, number: int, row: Row) -> None:
        """Store a finished row; the last one publishes all of them."""
        self._rows[number] = row
        if len(self._rows) == len(self.canvas):
            self.publish([self._rows[n] for n in range(len(self.canvas))])

    def fail(self, error: Exception) -> None:
        """Raise ``error`` where the job is awaited."""
        self.publish(error)

    def publish(self, event: JobEvent | Exception) -> None:
        """Hand an event to the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the event loop is closed: nobody waits
            self.cancelled = True

    # On the event loop

    async def events(self, seconds: float) -> AsyncIterator[JobEvent]:
        """The events as they are published; the last one is the list of all rows.

        Raises:
            TimeoutError: The last event did not come within ``seconds``.
            Exception: What the worker raised.
        """
        deadline = self._loop.time() + seconds
        while True:
            async with asyncio.timeout_at(deadline):
                event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, list):
                return
