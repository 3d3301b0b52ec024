"""One request's rows on their way to the worker, and its events on their way back."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from imadarem.canvas import Canvas
from imadarem.repair.rows import most_passes
from imadarem.repair.settings import RepairSettings
from imadarem.repair.sites import place_count
from imadarem.sampling.batching import Refined
from imadarem.sampling.settings import SamplingSettings
from imadarem.serve.catalogue import ServedModel


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


JobEvent = str | list[Any]
"""Of a traced job the start and every step, each as the text of a JSON object; then all rows."""


@dataclass(eq=False, kw_only=True)
class QueuedJob(ABC):
    """Rows of a request: created and awaited on the event loop, computed on the worker's thread.

    The worker calls :meth:`take`, :meth:`finish`, :meth:`fail` and :meth:`publish`, the event
    loop everything else.

    Attributes:
        model: Computes the rows.
        cancelled: Nobody waits for the rows any more.
        taken: How many rows the worker has taken.
    """

    model: ServedModel
    cancelled: bool = False
    taken: int = 0
    _rows: dict[int, Any] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _events: asyncio.Queue[JobEvent | Exception] = field(default_factory=asyncio.Queue)

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of rows, at least 1."""

    @property
    @abstractmethod
    def key(self) -> tuple[Any, ...]:
        """Jobs with equal keys can share a batch."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Tokens of the longest row."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """Most forward passes of a row, the same for jobs with equal keys and lengths."""

    @property
    def rows_left(self) -> int:
        """Rows that the worker has not taken."""
        return self.count - self.taken

    # On the worker's thread

    def take(self, count: int) -> range:
        """Take the next ``count`` rows; their numbers."""
        first, self.taken = self.taken, self.taken + count
        return range(first, self.taken)

    def finish(self, number: int, row: Any) -> None:
        """Store a finished row; the last one publishes all of them."""
        self._rows[number] = row
        if len(self._rows) == self.count:
            self.publish([self._rows[n] for n in range(self.count)])

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
        """The events as they are published; the last one is the list of all rows."""
        deadline = self._loop.time() + seconds
        while True:
            async with asyncio.timeout_at(deadline):
                event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, list):
                return


@dataclass(eq=False, kw_only=True)
class Job(QueuedJob):
    """Rows to refine.

    Attributes:
        canvas: ``(n, L)``, n at least 1.
        seeds: ``(n,)`` int64.
        settings: How to refine.
        traced: Whether every step is published; such a job has one row.
    """

    canvas: Canvas
    seeds: Tensor
    settings: SamplingSettings
    traced: bool = False

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.canvas)

    @property
    def key(self) -> tuple[Any, ...]:
        """Jobs with equal keys can share a batch."""
        return self.model.id, self.settings, self.traced

    @property
    def longest(self) -> int:
        """Positions of the canvas."""
        return self.canvas.ids.shape[1]

    @property
    def passes(self) -> int:
        """Most forward passes of a row."""
        return self.settings.steps


@dataclass(eq=False, kw_only=True)
class Review(QueuedJob):
    """Finished rows to judge, or to judge and repair.

    Attributes:
        texts: As they were sent.
        rows: Token ids of each.
        alternatives: Tokens listed for each place of a judged row.
        repair: How to repair; None only judges.
        protected: Of each row, positions that a repair never changes.
        seeds: ``(n,)`` int64; no effect on a judgement.
    """

    texts: list[str]
    rows: list[list[int]]
    alternatives: int = 0
    repair: RepairSettings | None = None
    protected: list[list[int]]
    seeds: Tensor

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def key(self) -> tuple[Any, ...]:
        """Jobs with equal keys can share a batch."""
        return self.model.id, "review", self.alternatives, self.repair

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.rows))

    @property
    def passes(self) -> int:
        """Most forward passes of the longest row."""
        if self.repair is not None:
            # A check takes about as long as a pass.
            checks = 0 if self.repair.checker is None else self.repair.budget
            return most_passes(self.repair) + checks
        return 1 + (place_count(self.longest) if self.alternatives else 0)
