"""The process: a socket, the models, and an end that leaves no answer half-written."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from imadarem.errors import ConfigError
from imadarem.serve.gatekeeper import is_loopback
from imadarem.serve.limits import Limits

__all__ = ["bind", "check_exposure", "serve"]

#: Connections that wait to be accepted, such as those made while the models are loaded.
BACKLOG = 512
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def check_exposure(host: str, token: str | None, *, without_token: bool) -> None:
    """Refuse to be open to the network by accident.

    Raises:
        ConfigError: The address can be reached from elsewhere, and nobody is asked for a
            token; or the token is no token.
    """
    if token is not None and (not token.strip() or not token.isascii() or " " in token):
        raise ConfigError("the token must be ASCII letters, digits or signs without a space.")
    if token is None and not without_token and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and no token is set. Set one in "
            "the environment variable IMADAREM_TOKEN, or say --without-token."
        )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ConfigError: The address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {reason}. Choose another --port (0 takes a "
            "free one) or --host."
        ) from None


def serve(
    app: FastAPI, listening: socket.socket, limits: Limits, on_ready: Callable[[], None]
) -> None:
    """Answer requests until SIGINT or SIGTERM, then finish those that run.

    Args:
        app: As :func:`imadarem.serve.app.create_app` makes it.
        listening: The socket.
        limits: How long an answer may take, and so the end.
        on_ready: Called once requests are answered.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Nobody here asks where a request came from.
        proxy_headers=False,
        # Longer than clients keep a connection, or one may ask just when the server closes it.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )
    _Server(config, on_ready).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What lives as long as the process need not be looked through for garbage again.
        gc.collect()
        gc.freeze()
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn does, without dying of the signal at the end: a stop is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self.handle_exit) for name in SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
