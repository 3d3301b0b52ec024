"""The one shape of an error: ``{"error": {"code", "message", "hint"}}``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from imadarem.errors import ImadaremError, MissingExtraError, MissingLibraryError

__all__ = [
    "HINTS",
    "Refusal",
    "from_framework",
    "from_library",
    "from_validation",
]

#: What the server may answer beside 200, and what to do about it.
HINTS = {
    400: ("bad_request", "Send a JSON object, such as the examples in /openapi.json."),
    401: ("unauthorized", "Send the header: Authorization: Bearer TOKEN."),
    403: ("forbidden", "Use the address that the server printed when it started."),
    404: ("not_found", "GET /v1/models lists the models, /openapi.json the routes."),
    405: ("method_not_allowed", "The header Allow names the methods; see /openapi.json."),
    408: ("body_too_slow", "Send the whole body at once."),
    413: ("body_too_large", "Split the request into several."),
    415: ("unsupported_media_type", "Send the header: Content-Type: application/json."),
    422: ("invalid", "The fields, their ranges and examples stand in /openapi.json."),
    429: ("busy", "Come back after the seconds in the header Retry-After."),
    500: ("internal", "The reason stands in the server's log."),
    501: ("not_installed", "Install the named package where the server runs."),
    503: ("stopping", "Come back when the server runs again."),
    504: ("timeout", "Ask for fewer samples or steps, or start the server with more --seconds."),
}


class Refusal(Exception):
    """An error as the client sees it.

    Args:
        status: HTTP status, a key of :data:`HINTS`.
        message: What was given and what is legal.
        code: For programs; default that of the status.
        hint: What to do next; default that of the status.
        headers: Sent with it.
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
        usual_code, usual_hint = HINTS.get(status, ("error", "See /openapi.json."))
        self.status, self.message = status, message
        self.code = usual_code if code is None else code
        self.hint = usual_hint if hint is None else hint
        self.headers = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        told = {"code": self.code, "message": self.message, "hint": self.hint}
        return {"error": {name: _sendable(text) for name, text in told.items()}}

    def response(self) -> JSONResponse:
        """The answer itself."""
        return JSONResponse(self.to_dict(), self.status, self.headers)


def from_library(error: ImadaremError) -> Refusal:
    """What the library refuses, the user can mend: 422, or 501 where a package is missing."""
    missing = isinstance(error, MissingExtraError | MissingLibraryError)
    return Refusal(501 if missing else 422, str(error))


def from_framework(error: HTTPException) -> Refusal:
    """Unknown routes, wrong methods, bodies that cannot be parsed."""
    messages = {
        400: "the body of the request cannot be read.",
        404: "there is nothing at this address.",
        405: "this address does not take that method.",
    }
    message = messages.get(error.status_code, str(error.detail))
    return Refusal(error.status_code, message, headers=error.headers)


def from_validation(error: RequestValidationError) -> Refusal:
    """A body that is no JSON (400) or not what the route takes (422); names up to five places."""
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        reason = found[0].get("ctx", {}).get("error", "it cannot be parsed")
        return Refusal(400, f"the body is not JSON: {reason}.", code="not_json")
    told = [f"{_place(each['loc'])}: {_sentence(each['msg'])}" for each in found[:5]]
    more = [f"and {len(found) - 5} more"] if len(found) > 5 else []
    return Refusal(422, "; ".join([*told, *more]) + ".")


def _place(location: Iterable[Any]) -> str:
    """``prompts[2]`` of ``("body", "prompts", 2)``."""
    name = ""
    for part in [part for part in location if part != "body"]:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name[:100] or "the body"


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ").rstrip(".")
    return message[:1].lower() + message[1:]


def _sendable(text: str) -> str:
    """Without halves of characters, which a request may hold and no answer can."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
