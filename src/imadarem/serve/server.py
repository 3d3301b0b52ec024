"""The server process: its socket, its settings, and a shutdown that finishes running requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from imadarem.errors import ConfigError
from imadarem.serve.connection import ConnectionTable, HttpConnection
from imadarem.serve.limits import Limits
from imadarem.serve.request_guard import is_loopback

log = logging.getLogger("imadarem.serve")

#: Connections that wait to be accepted, and how many of them the event loop accepts at once. If
#: it accepted more, it would close some to make room before it could read their request.
BACKLOG, ACCEPTED_AT_ONCE = 512, 32
#: File descriptors that connections leave free: for those accepted and not yet counted, or
#: closed and not yet released, and for files of the process itself.
RESERVED_DESCRIPTORS = 256
#: Idle connections are closed after this time. It is longer than clients keep them, or a
#: client could send a request on one just when the server closes it.
KEEP_ALIVE_SECONDS = 75
CHECK_SECONDS = 0.25
SIGNALS = (signal.SIGINT, signal.SIGTERM)

#: What the studio page may load: its own files, pictures that it draws, styles in those.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
#: Headers of every answer, those to unreadable requests included.
SECURITY_HEADERS = [
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]


def check_exposure(host: str, token: str | None, *, without_token: bool) -> None:
    """Refuse to listen on an address that other machines reach without a token."""
    if token is not None and (not token.strip() or not token.isascii() or " " in token):
        raise ConfigError("the token must be ASCII letters, digits or signs without a space.")
    if token is None and not without_token and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and no token is set. Set one in "
            "the environment variable IMADAREM_TOKEN, or say --without-token."
        )


def host_names(host: str, allowed: tuple[str, ...]) -> frozenset[str]:
    """Host names that requests may use: the given ones, ``host``, and this machine's name."""
    own = socket.gethostname()
    return frozenset({host, own, f"{own}.local", *allowed})


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}. Choose another --port (0 takes a "
            "free one) or --host."
        ) from None


def fit_to_descriptors(limits: Limits) -> Limits:
    """Fewer connections where the process may not open enough files; logs the number.

    The soft limit on open files is raised first, as far as it must and may be.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return limits
    needed = limits.connections + RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    connections = min(limits.connections, max(soft - RESERVED_DESCRIPTORS, soft // 4))
    if connections < limits.connections:
        log.warning(
            "at most %d connections instead of %d: this process may open %d files (ulimit -n)",
            connections,
            limits.connections,
            soft,
        )
    return replace(limits, connections=connections)


class Server(uvicorn.Server):
    """Answers requests until SIGINT or SIGTERM, then finishes those that run.

    Args:
        app: As :func:`imadarem.serve.app.create_app` makes it.
        listening: The socket of :func:`bind`.
        limits: How many connections there may be, and how long an answer may take.
        on_ready: Called once requests are answered.
    """

    def __init__(
        self,
        app: FastAPI,
        listening: socket.socket,
        limits: Limits,
        on_ready: Callable[[], None],
    ) -> None:
        table = ConnectionTable(fit_to_descriptors(limits))
        connection = partial(HttpConnection, table=table)
        config = uvicorn.Config(
            app,
            http=cast(Any, connection),
            # What bounds memory and time in HttpConnection holds for these two alone.
            loop="asyncio",
            ws="none",
            backlog=ACCEPTED_AT_ONCE,
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            headers=SECURITY_HEADERS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(limits.seconds),
        )
        super().__init__(config)
        self._listening, self._on_ready = listening, on_ready
        self._checking: asyncio.Task[None] | None = None

    def run_until_signal(self) -> None:
        """Answer requests; returns after the shutdown."""
        self.run(sockets=[self._listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; then check deadlines and report that the server is ready."""
        await super().startup(sockets)
        # The start set the length of the queue to the number that is accepted at once.
        self._listening.listen(BACKLOG)
        self._checking = asyncio.create_task(self._check_connections())
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does; deadlines are checked until the last connection is closed."""
        await super().shutdown(sockets)
        if self._checking is not None:
            self._checking.cancel()

    async def _check_connections(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for connection in list(self.server_state.connections):
                cast(HttpConnection, connection).check_deadlines(loop.time())

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, but without raising the signal again: a stop is not a failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self.handle_exit) for name in SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
