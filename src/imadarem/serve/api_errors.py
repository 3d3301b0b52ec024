"""Errors in the one JSON shape of the API: ``{"error": {"code", "message", "hint"}}``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from imadarem.errors import ImadaremError, MissingExtraError, MissingLibraryError

#: Every HTTP status that the server uses for errors: its code, and what the client can do.
STATUS_HINTS = {
    400: ("bad_request", "Send a JSON object, such as the examples in /openapi.json."),
    401: ("unauthorized", "Send the header: Authorization: Bearer TOKEN."),
    403: ("forbidden", "Use the address that the server printed when it started."),
    404: ("not_found", "GET /v1/models lists the models, /openapi.json the routes."),
    405: ("method_not_allowed", "The header Allow names the methods; see /openapi.json."),
    408: ("request_timeout", "Send the whole request at once."),
    413: ("body_too_large", "Split the request into several."),
    415: ("unsupported_media_type", "Send the header: Content-Type: application/json."),
    422: ("invalid", "The fields, their ranges and examples are in /openapi.json."),
    429: ("busy", "Try again after the seconds in the header Retry-After."),
    431: ("headers_too_large", "Send fewer and shorter headers, and a shorter address."),
    500: ("internal", "The reason is in the server's log."),
    501: ("not_installed", "Install the named package where the server runs."),
    503: ("unavailable", "Try again after the seconds in the header Retry-After."),
    504: ("timeout", "Ask for fewer samples or steps, or start the server with more --seconds."),
}


class ApiError(Exception):
    """An error that is sent to the client.

    Args:
        status: HTTP status, a key of :data:`STATUS_HINTS`.
        message: What was given and what is legal.
        code: For programs; default is the code of the status.
        hint: What to do next; default is the hint of the status.
        headers: Headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        default_code, default_hint = STATUS_HINTS.get(status, ("error", "See /openapi.json."))
        self.status, self.message = status, message
        self.code = default_code if code is None else code
        self.hint = default_hint if hint is None else hint
        self.headers = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        fields = {"code": self.code, "message": self.message, "hint": self.hint}
        return {"error": {name: _encodable(text) for name, text in fields.items()}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.to_dict(), self.status, self.headers)


def from_library_error(error: ImadaremError) -> ApiError:
    """422 for an error that the request caused, 501 where a package is missing."""
    missing = isinstance(error, MissingExtraError | MissingLibraryError)
    return ApiError(501 if missing else 422, str(error))


def from_http_exception(error: HTTPException) -> ApiError:
    """The framework's own errors: unknown routes, wrong methods, bodies it cannot read."""
    messages = {
        400: "the body of the request cannot be read.",
        404: "there is nothing at this address.",
        405: "this address does not accept that method.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers)


def from_validation_error(error: RequestValidationError) -> ApiError:
    """400 for a body that is not JSON, 422 for wrong fields; names up to five of them."""
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        reason = found[0].get("ctx", {}).get("error", "it cannot be parsed")
        return ApiError(400, f"the body is not JSON: {reason}.", code="not_json")
    parts = [f"{_field_name(each['loc'])}: {_as_clause(each['msg'])}" for each in found[:5]]
    more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
    return ApiError(422, "; ".join([*parts, *more]) + ".")


def _field_name(location: Iterable[Any]) -> str:
    """``("body", "prompts", 2)`` → ``prompts[2]``, at most 100 characters."""
    name = ""
    for part in [part for part in location if part != "body"]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name[:100] or "the body"


def _as_clause(message: str) -> str:
    message = message.removeprefix("Value error, ").rstrip(".")
    return message[:1].lower() + message[1:]


def _encodable(text: str) -> str:
    """Lone surrogates escaped: JSON in a request may hold them, UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
