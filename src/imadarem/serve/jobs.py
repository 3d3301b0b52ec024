"""One request's rows on their way through the engine, and what comes back of them."""

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

__all__ = ["Job", "Row"]


@dataclass(frozen=True)
class Row:
    """One finished row.

    Attributes:
        refined: What the engine says of it.
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


@dataclass(eq=False, kw_only=True)
class Job:
    """Rows to refine, asked for on the event loop and refined on the worker's thread.

    Made on the event loop. The worker calls :meth:`take`, :meth:`finish`, :meth:`fail` and
    :meth:`tell`; everybody else the other methods.

    Attributes:
        model: Refines them.
        canvas: ``(n, L)``, n above 0.
        seeds: ``(n,)`` int64.
        settings: How to refine.
        traced: Whether every step is told as it is made; then there is one row.
        cancelled: Nobody waits any more.
        taken: Rows that the engine was given.
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
    _told: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    @property
    def key(self) -> tuple[Any, ...]:
        """Jobs of one key can share a batch."""
        return self.model.id, self.settings, self.traced

    @property
    def left(self) -> int:
        """Rows that the engine has not been given."""
        return len(self.canvas) - self.taken

    # On the worker's thread

    def take(self, count: int) -> range:
        """The numbers of the next ``count`` rows, now the engine's."""
        first, self.taken = self.taken, self.taken + count
        return range(first, self.taken)

    def finish(self, number: int, row: Row) -> None:
        """Take in a finished row; the last one ends the waiting."""
        self._rows[number] = row
        if len(self._rows) == len(self.canvas):
            self.tell([self._rows[n] for n in range(len(self.canvas))])

    def fail(self, error: Exception) -> None:
        """End the waiting with an error."""
        self.tell(error)

    def tell(self, news: Any) -> None:
        """Hand a step's record, all rows (a list) or an error to who waits."""
        try:
            self._loop.call_soon_threadsafe(self._told.put_nowait, news)
        except RuntimeError:  # the loop is closed: nobody waits
            self.cancelled = True

    # On the event loop

    async def news(self, seconds: float) -> AsyncIterator[Any]:
        """Records of steps as they are made, then the list of all rows.

        Raises:
            TimeoutError: That was not all within so many seconds.
            Exception: What the engine raised.
        """
        end = self._loop.time() + seconds
        while True:
            async with asyncio.timeout_at(end):
                news = await self._told.get()
            if isinstance(news, Exception):
                raise news
            yield news
            if isinstance(news, list):
                return
