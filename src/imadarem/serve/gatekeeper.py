"""What is looked at before any route: who asks, from where, how much; and how long it took."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imadarem.serve.limits import Limits
from imadarem.serve.meter import Meter
from imadarem.serve.refusals import Refusal

__all__ = ["Gatekeeper", "is_loopback"]

#: Of a body that is too long this many times the limit is still read, so that the client
#: hears why before its connection is closed.
READ_ON = 16
#: Paths that need the token, where there is one. The page asks for it itself.
GUARDED = ("/v1/", "/metrics")
WITH_BODY = ("POST", "PUT", "PATCH")


class Gatekeeper:
    """Middleware around the whole application.

    Args:
        app: What is guarded.
        limits: Longest body, and how long it may take to arrive.
        meter: Counts the answers.
        routes: Paths with a name of their own in the metrics.
        token: Asked of requests to :data:`GUARDED` paths; None asks nobody.
        local: Answer only to names of this machine. A page of another site could
            otherwise have its name point here and read the answers (DNS rebinding).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        meter: Meter,
        routes: Iterable[str],
        token: str | None,
        local: bool,
    ) -> None:
        self._app, self._limits, self._meter = app, limits, meter
        self._routes = frozenset(routes)
        self._token = None if token is None else token.encode()
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count an answer, and refuse or hand on its request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        finally:
            route = self._name(scope["path"])
            # 0: the client left before there was an answer.
            self._meter.requests.labels(route, str(status)).inc()
            self._meter.request_seconds.labels(route).observe(time.perf_counter() - begun)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
            if scope["method"] in WITH_BODY:
                receive = await self._with_body(scope, receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        except _Gone:
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._local and not is_loopback(_host(headers.get("host", ""))):
            raise Refusal(403, f"this server does not answer to {headers.get('host')!r}.")
        if self._token is not None and scope["path"].startswith(GUARDED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            told = given.strip().encode("latin-1", "replace")
            if scheme.lower() != "bearer" or not hmac.compare_digest(told, self._token):
                wrong = "the token is wrong." if given else "a token is needed."
                raise Refusal(401, wrong, headers={"WWW-Authenticate": "Bearer"})

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """A receiver that gives the body, which is short enough and all here."""
        headers = Headers(scope=scope)
        try:
            async with asyncio.timeout(self._limits.seconds):
                body = await self._read(receive)
        except TimeoutError:
            raise Refusal(
                408, f"the body was not there after {self._limits.seconds:g} seconds."
            ) from None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refusal(415, f"the content type is {kind or 'not named'}; JSON is taken only.")
        waiting = [body]

        async def replay() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            return await receive()

        return replay

    async def _read(self, receive: Receive) -> bytes:
        most, length, parts = self._limits.body_bytes, 0, []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            length += len(part)
            if length <= most:
                parts.append(part)
            if length > READ_ON * most or not message.get("more_body", False):
                break
        if length > most:
            raise Refusal(413, f"the body is longer than the {most:,} bytes that are taken.")
        return b"".join(parts)

    def _name(self, path: str) -> str:
        """A route's path, and one name for all others: who asks must not add to the metrics."""
        if path in self._routes:
            return path
        return "/static" if path.startswith("/static/") else "other"


class _Gone(Exception):
    """The client left before its request was here."""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is of this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host(header: str) -> str:
    """``::1`` of ``[::1]:8000``."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header
