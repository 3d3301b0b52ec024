"""Hands jobs to the worker and waits for them on the event loop."""

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
from imadarem.serve.api_errors import ApiError, from_library_error
from imadarem.serve.jobs import Job, JobEvent, QueuedJob
from imadarem.serve.limits import Limits
from imadarem.serve.worker import Worker


class ClientDisconnected(Exception):
    """The client disconnected before its answer was there."""


class EventStream(StreamingResponse):
    """Server-sent events; their source is closed as soon as the client disconnects."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Send every event, and close their source whatever happens."""
        assert isinstance(self.body_iterator, AsyncIterator)
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


class JobClient:
    """Submits jobs and waits for them, with a deadline and an eye on the client's connection.

    Args:
        worker: Refines.
        limits: How long a client waits.
    """

    def __init__(self, worker: Worker, limits: Limits) -> None:
        self._worker, self._limits = worker, limits

    def check_queue(self) -> None:
        """Raise before any work is done for a request that the queue has no room for."""
        self._worker.check_queue()

    async def rows(self, request: Request, job: QueuedJob) -> list[Any]:
        """All rows of a job."""
        *_, rows = await self.events(request, job)
        assert isinstance(rows, list)
        return rows

    async def events(self, request: Request, job: QueuedJob) -> list[JobEvent]:
        """All events of a job, the list of its rows last; errors as in :meth:`rows`."""
        self._worker.submit(job)
        with self._dropped_on_error(job):
            result = asyncio.ensure_future(_collect(job.events(self._limits.seconds)))
            disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
            try:
                await asyncio.wait((result, disconnect), return_when=asyncio.FIRST_COMPLETED)
                if not result.done():
                    raise ClientDisconnected
                return result.result()
            finally:
                result.cancel()
                disconnect.cancel()

    def stream(self, job: Job, head: dict[str, Any]) -> EventStream:
        """A traced job as server-sent events: start, step …, and end or error.

        The job is submitted before the stream begins, so that a full queue is a plain error.
        """
        self._worker.submit(job)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventStream(self._stream_events(job, head), headers=headers)

    async def _stream_events(self, job: Job, head: dict[str, Any]) -> AsyncIterator[str]:
        name = "start"
        try:
            with self._dropped_on_error(job):
                async for event in job.events(self._limits.seconds):
                    if isinstance(event, list):
                        yield _sse("end", json.dumps(event[0].to_dict(), allow_nan=False))
                    else:
                        yield _sse(name, merge(head, event) if name == "start" else event)
                    name = "step"
        except ApiError as error:
            yield _sse("error", json.dumps(error.to_dict()))

    @contextmanager
    def _dropped_on_error(self, job: QueuedJob) -> Iterator[None]:
        """Turns errors into :class:`ApiError`; a block that ends early drops the job."""
        try:
            yield
        except TimeoutError:
            self._worker.cancel(job)
            raise ApiError(
                504, f"the request was not done after {self._limits.seconds:g} seconds."
            ) from None
        except ImadaremError as error:
            raise from_library_error(error) from None
        except (ClientDisconnected, asyncio.CancelledError, GeneratorExit):
            self._worker.cancel(job)
            raise
        except Exception as error:
            raise ApiError(500, "the refinement failed.") from error


def merge(head: dict[str, Any], event: str) -> str:
    """The JSON text of ``head`` with the fields of the JSON object ``event`` behind its own."""
    return f"{json.dumps(head, allow_nan=False)[:-1]}, {event[1:]}"


async def _collect(events: AsyncIterator[JobEvent]) -> list[JobEvent]:
    return [event async for event in events]


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sse(name: str, data: str) -> str:
    """One server-sent event; ``data`` is JSON and so has no line breaks."""
    return f"event: {name}\ndata: {data}\n\n"
