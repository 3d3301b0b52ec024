"""Checks of every request before its route: host name, token, type and length of the body."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imadarem.serve.api_errors import ApiError
from imadarem.serve.limits import Limits
from imadarem.serve.metrics import Metrics

#: Paths that need the token, where there is one. The studio page asks the user for it.
PROTECTED_PATHS = ("/v1/", "/metrics")
METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
#: A wrong token is answered after this many seconds, times the wrong tokens of the same client
#: address that are being answered.
WRONG_TOKEN_SECONDS, MAX_WRONG_TOKEN_SECONDS = 1.0, 5.0
#: Key in the scope of a request whose wrong token is being answered: its connection may be
#: closed when there are too many.
WRONG_TOKEN = "imadarem.wrong_token"
ANY_HOST = "*"


class RequestGuard:
    """Middleware around the whole application.

    Args:
        app: The application.
        limits: How long a body may be.
        metrics: Counts the answers.
        routes: Paths with a label of their own in the metrics.
        token: Required for requests to :data:`PROTECTED_PATHS`; None requires none.
        hosts: Host names that requests may use, beside addresses and ``localhost``; ``*``
            allows every name. Without this check the owner of another site could point its
            name to this machine, so that pages of that site read the answers (DNS rebinding).
            A numeric address cannot be pointed elsewhere, so it is always legal.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        metrics: Metrics,
        routes: Iterable[str],
        token: str | None,
        hosts: Iterable[str],
    ) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._routes = frozenset(routes)
        self._token = None if token is None else token.encode()
        self._hosts = frozenset(host.lower() for host in hosts)
        self._wrong_tokens: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with an error or pass it on, and count the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._check_and_pass_on(scope, receive, send_and_note_status)
        finally:
            route = self._route_label(scope["path"])
            # 0: the client disconnected before there was an answer.
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - began)

    async def _check_and_pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            await self._check_token(scope, headers)
            if scope["method"] in METHODS_WITH_BODY:
                _check_content_type(headers)
                receive = self._limited(headers, receive)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        # Answers to wrong ranges would not be JSON, and no file here is long.
        scope["headers"] = [each for each in scope["headers"] if each[0] != b"range"]
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        given = headers.get("host", "")
        host = _without_port(given).lower().rstrip(".")
        if host not in self._hosts and ANY_HOST not in self._hosts and not _is_own_name(host):
            raise ApiError(
                403,
                f"the Host {given[:200]!r} is not a name of this server.",
                hint="Use the address that the server printed when it started, or start the "
                "server with --allow-host NAME.",
            )

    async def _check_token(self, scope: Scope, headers: Headers) -> None:
        if self._token is None or not scope["path"].startswith(PROTECTED_PATHS):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        token = given.strip().encode("latin-1", "replace")
        if scheme.lower() == "bearer" and hmac.compare_digest(token, self._token):
            return
        if token:
            await self._delay_wrong_token(scope)
        message = "the token is wrong." if token else "a token is needed."
        raise ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})

    async def _delay_wrong_token(self, scope: Scope) -> None:
        address = (scope.get("client") or ("", 0))[0]
        scope[WRONG_TOKEN] = True
        self._wrong_tokens[address] += 1
        try:
            seconds = WRONG_TOKEN_SECONDS * self._wrong_tokens[address]
            await asyncio.sleep(min(seconds, MAX_WRONG_TOKEN_SECONDS))
        finally:
            self._wrong_tokens[address] -= 1
            # Without this the counter would grow with every address that ever asked.
            self._wrong_tokens += Counter()

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """``receive`` that raises 413 as soon as the body is too long.

        The application then answers, and the connection drops the rest of the body.
        """
        limit, received = self._limits.body_bytes, 0
        message = f"the body is longer than the {limit:,} bytes that are accepted."
        if int(headers.get("content-length", "0")) > limit:
            raise ApiError(413, message)

        async def receive_within_limit() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > limit:
                raise HTTPException(413, message)
            return part

        return receive_within_limit

    def _route_label(self, path: str) -> str:
        """The path of a route; one label for all others, so that clients cannot add labels."""
        if path in self._routes:
            return path
        return "/static" if path.startswith("/static/") else "other"


def _check_content_type(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the content type is {kind or 'missing'}; it must be JSON.")


def is_loopback(host: str) -> bool:
    """Whether a name or an address can be reached from this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_own_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return is_loopback(host)
    return True


def _without_port(header: str) -> str:
    """``[::1]:8000`` → ``::1``."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header
