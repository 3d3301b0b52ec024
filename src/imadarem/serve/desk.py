"""Where the event loop waits for the worker: deadlines, clients that leave, errors in words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Send

from imadarem.errors import ImadaremError
from imadarem.serve.jobs import Job, Row
from imadarem.serve.limits import Limits
from imadarem.serve.refusals import Refusal, from_library
from imadarem.serve.worker import Worker

__all__ = ["ClientGone", "Desk", "EventStream"]


class ClientGone(Exception):
    """The client left before its answer was there."""


class EventStream(StreamingResponse):
    """Server-sent events; when the client leaves, whoever makes them hears of it at once."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send every event, and close their source whatever happens."""
        assert isinstance(self.body_iterator, AsyncIterator)
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


class Desk:
    """Hands jobs to the worker and waits for them.

    Args:
        worker: Refines.
        limits: How long a client waits.
    """

    def __init__(self, worker: Worker, limits: Limits) -> None:
        self._worker, self._limits = worker, limits

    async def rows(self, request: Request, job: Job) -> list[Row]:
        """All rows of a job.

        Raises:
            ClientGone: The client left; the job is dropped.
            Refusal: The queue is full, the time is up, or the engine failed.
        """
        *_, rows = await self.news(request, job)
        return list(rows)

    async def news(self, request: Request, job: Job) -> list[Any]:
        """Everything that is told of a job, the list of its rows last; errors as in :meth:`rows`.

        Of a job that is not traced that is the list of rows alone.
        """
        self._worker.submit(job)
        with self._kept(job):
            waiting = asyncio.ensure_future(_all_of(job.news(self._limits.seconds)))
            leaving = asyncio.ensure_future(_left(request))
            try:
                await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    raise ClientGone
                return waiting.result()
            finally:
                waiting.cancel()
                leaving.cancel()

    def stream(self, job: Job, head: dict[str, Any]) -> EventStream:
        """A traced job of one row as server-sent events: start, step …, and end or error.

        Args:
            job: The worker is given it now, so that a full queue is no stream.
            head: What the start says beside the canvas.

        Raises:
            Refusal: The queue is full, or the server is stopping.
        """
        self._worker.submit(job)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventStream(self._events(job, head), headers=headers)

    async def _events(self, job: Job, head: dict[str, Any]) -> AsyncIterator[str]:
        try:
            with self._kept(job):
                async for news in job.news(self._limits.seconds):
                    yield _told(head, news)
        except Refusal as refusal:
            yield _event("error", refusal.to_dict())

    @contextmanager
    def _kept(self, job: Job) -> Iterator[None]:
        """While the block waits for a job; a block that ends early drops it."""
        try:
            yield
        except TimeoutError:
            self._worker.cancel(job)
            raise Refusal(
                504, f"the answer was not there after {self._limits.seconds:g} seconds."
            ) from None
        except ImadaremError as error:
            raise from_library(error) from None
        except (ClientGone, asyncio.CancelledError, GeneratorExit):
            self._worker.cancel(job)
            raise
        except Exception as error:
            raise Refusal(500, "the engine failed.") from error


async def _all_of(news: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in news]


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _told(head: dict[str, Any], news: Any) -> str:
    if isinstance(news, list):
        (row,) = news
        return _event("end", row.to_dict())
    return _event("start", {**head, **news}) if "start" in news else _event("step", news)


def _event(name: str, data: Any) -> str:
    """One server-sent event; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"
