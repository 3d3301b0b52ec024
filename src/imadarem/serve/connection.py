"""One client's connection: what it may send, how long that may take, and how many there may be."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from http import HTTPStatus
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from imadarem.serve.api_errors import ApiError
from imadarem.serve.limits import Limits
from imadarem.serve.request_guard import WRONG_TOKEN

log = logging.getLogger("imadarem.serve")

#: Most bytes that are read from a connection before the others have their turn.
READ_BYTES = 8_192
#: Longest head of a request (its first line and its headers), and most headers.
MAX_HEAD_BYTES, MAX_HEADERS = 16_384, 100
#: Time for a whole request, from the opening of the connection or its first byte.
REQUEST_SECONDS = 10.0
#: Time for a client that does not take its answer.
WRITE_SECONDS = 30.0
#: How long the rest of a rejected request is read and dropped. A client that is still sending
#: when the connection is closed would not see the answer.
LINGER_SECONDS = 2.0
LOG_SECONDS = 10.0


class ConnectionTable:
    """How many connections each client address has, and a log of those that were closed.

    Args:
        limits: How many connections there may be.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._next_line: dict[str, float] = {}

    def crowded_address(self, address: str) -> str | None:
        """The address with too many connections after a new one from ``address``, or None."""
        if self.open[address] > self.limits.connections_per_address:
            return address
        if self.open.total() > self.limits.connections:
            return self.open.most_common(1)[0][0]
        return None

    def log(self, event: str, address: str) -> None:
        """Log each kind of event at most once in :data:`LOG_SECONDS`, with their number."""
        self._events[event] += 1
        now = time.monotonic()
        if now >= self._next_line.get(event, 0.0):
            log.warning("%s: %d, the last one of %s", event, self._events[event], address)
            self._events[event] = 0
            self._next_line[event] = now + LOG_SECONDS


class HttpConnection(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's HTTP/1.1 connection with limits on size, time and number.

    h11 bounds everything that it stores: a request's head, a chunk's size line, trailers. What
    is here adds a limit on the number of headers, deadlines, and a limit on the number of
    connections. Where there are too many, one that waits for a request is closed to make room:
    first those that never completed a request, the longest waiting first. A connection whose
    request is being answered is never closed for that.

    Args:
        config: As uvicorn passes it; so are the next three.
        server_state: All open connections, among others.
        app_state: Copied into the scope of each request.
        _loop: The event loop.
        table: Shared by all connections.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        table: ConnectionTable,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = self._parser = _LimitedParser(h11.SERVER, MAX_HEAD_BYTES)
        self._table = table
        self._counted = False
        self._read_buffer = memoryview(bytearray(READ_BYTES))
        self._idle_since = self.loop.time()
        #: When the request that is being received began; None between two requests.
        self._request_began: float | None = self._idle_since
        self._received_any = False
        self._write_paused_at: float | None = None
        self._abort_at: float | None = None

    @property
    def address(self) -> str:
        """The client's network address."""
        return self.client[0] if self.client else ""

    @property
    def busy(self) -> bool:
        """Whether a complete request is being answered."""
        cycle = self.cycle
        return (
            cycle is not None
            and not cycle.response_complete
            and not cycle.more_body
            and WRONG_TOKEN not in cycle.scope
        )

    # What the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, if necessary in the place of one that is idle."""
        super().connection_made(transport)
        self._table.open[self.address] += 1
        self._counted = True
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._uncount()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the event loop puts what it reads."""
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """``nbytes`` were read."""
        self.data_received(bytes(self._read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse what was read, unless the request was rejected."""
        if self._abort_at is not None:
            return
        self._received_any = True
        if self._request_began is None and not self.busy:
            self._request_began = self.loop.time()
        super().data_received(data)

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._write_paused_at = self.loop.time()

    def resume_writing(self) -> None:
        """The client has taken most of what was written."""
        super().resume_writing()
        self._write_paused_at = None

    # What uvicorn calls

    def on_response_complete(self) -> None:
        """The answer was written; the next request may come."""
        self._idle_since, self._request_began = self.loop.time(), None
        super().on_response_complete()
        if not self.busy and self._parser.trailing_data[0]:
            # The beginning of the next request came with this one.
            self._request_began = self._idle_since

    def send_400_response(self, msg: str) -> None:
        """The parser cannot read the request."""
        if self._parser.error_status == 431:
            text = (
                f"the headers are more than the {MAX_HEADERS} or longer than the "
                f"{MAX_HEAD_BYTES:,} bytes that are accepted."
            )
            self._reject(ApiError(431, text))
        else:
            text = f"this is not a request of HTTP/1.1: {self._parser.error_text}."
            self._reject(ApiError(400, text, hint="Send what an HTTP client library sends."))

    def _unsupported_upgrade_warning(self) -> None:
        """Answer as if no upgrade had been asked for, which is legal, and log nothing."""

    def shutdown(self) -> None:
        """The server stops: close now, or once the answer is written."""
        if self._abort_at is not None:
            self.transport.abort()
        else:
            super().shutdown()

    # What the server calls

    def check_deadlines(self, now: float) -> None:
        """Close the connection if its time is up; ``now`` in seconds of the event loop."""
        if self._abort_at is not None:
            if now >= self._abort_at:
                self.transport.abort()
        elif self.transport.is_closing():
            # It closes once the client has taken the answer, and may never do that.
            self._abort_at = now + LINGER_SECONDS
        elif self._write_paused_at is not None and now - self._write_paused_at > WRITE_SECONDS:
            self._table.log("closed connections that do not take their answer", self.address)
            self.transport.abort()
        elif (
            not self.busy
            and self._request_began is not None
            and now - self._request_began > REQUEST_SECONDS
        ):
            self._table.log("closed connections without a complete request", self.address)
            if self._received_any:
                text = f"the request was not complete after {REQUEST_SECONDS:g} seconds."
                self._reject(ApiError(408, text))
            else:
                self.transport.abort()

    # Here

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._table.open[self.address] -= 1
            if not self._table.open[self.address]:
                del self._table.open[self.address]

    def _make_room(self) -> None:
        crowded = self._table.crowded_address(self.address)
        if crowded is None:
            return
        idle = [
            each
            for each in cast("set[HttpConnection]", self.connections)
            if each.address == crowded and each._counted and not each.busy and each is not self
        ]
        silent = [each for each in idle if each.cycle is None]
        # Several silent ones at once: the search among all connections takes time.
        count = 1 + self._table.limits.connections // 16 if silent else 1
        for each in sorted(silent or idle, key=lambda each: each._idle_since)[:count]:
            each._uncount()
            each.transport.abort()
        if idle:
            self._table.log("closed idle connections to make room", crowded)
            return
        self._table.log("rejected connections, all others were busy", self.address)
        self._reject(
            ApiError(
                503,
                f"{self._table.open[crowded]} connections are open, the most that are accepted.",
                code="too_many_connections",
                headers={"Retry-After": "1"},
            )
        )

    def _reject(self, error: ApiError) -> None:
        """Answer with an error, whatever was read, and read nothing more."""
        self._abort_at = self.loop.time() + LINGER_SECONDS
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            # The application sees that the client has gone, and what it sends is dropped.
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is not None and cycle.response_started:
            if cycle.more_body or not cycle.response_complete:
                # The answer to this request was sent, or half of it.
                self.transport.abort()
                return
        response = error.response()
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"connection", b"close"),
        ]
        first_line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(first_line + lines + b"\r\n" + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()


class _LimitedParser(h11.Connection):
    """h11's parser with a limit on the number of headers; keeps the reason of an error."""

    error_status, error_text = 400, ""

    def next_event(self) -> Any:
        """The next event, as h11 documents it."""
        try:
            event = super().next_event()
            if (
                isinstance(event, h11.Request | h11.EndOfMessage)
                and len(event.headers) > MAX_HEADERS
            ):
                raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
        except h11.RemoteProtocolError as error:
            self.error_status = error.error_status_hint
            self.error_text = str(error)[:200]
            raise
        return event
