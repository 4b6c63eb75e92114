"""Answers of the interfaces in this package, and errors as problem documents (RFC 9457)."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog

from qsotn.errors import LineError, MalformedMessage, QsotnError, Refusal, StoreError, WrongParty
from qsotn.service.worker import Overloaded

JSON, PROBLEM_JSON = "application/json", "application/problem+json"
OK, ACCEPTED = 200, 202
BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, NOT_ALLOWED, INTERNAL_ERROR, UNAVAILABLE = 400, 401, 404, 405, 500, 503
LONGEST_DETAIL: Final = 500
_TITLES: Final = {
    BAD_REQUEST: "The request cannot be met as it stands",
    UNAUTHORIZED: "This peer has no business here",
    NOT_FOUND: "There is no such resource",
    NOT_ALLOWED: "The resource does not have this method",
    INTERNAL_ERROR: "The service failed",
    UNAVAILABLE: "The service cannot do this now",
}
_BY_ERROR: Final[tuple[tuple[type[QsotnError], int], ...]] = (
    (MalformedMessage, BAD_REQUEST),
    (Refusal, BAD_REQUEST),
    (WrongParty, UNAUTHORIZED),
    (Overloaded, UNAVAILABLE),
    (StoreError, UNAVAILABLE),
    (LineError, UNAVAILABLE),
)
_log = structlog.get_logger("interoperation")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered. It shows no body: there may be a key in it."""

    status: int
    body: bytes = b""
    content_type: str = JSON

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes of {self.content_type})"


def json_reply(status: int, document: Any) -> Reply:
    """Answer in JSON."""
    return Reply(status, msgspec.json.encode(document))


def problem(status: int, detail: str, code: str = "") -> Reply:
    """Answer with a problem document; `code` names a refusal."""
    document = {
        "type": "about:blank",
        "title": _TITLES.get(status, HTTPStatus(status).phrase),
        "status": status,
        "detail": detail[:LONGEST_DETAIL],
    }
    if code:
        document["code"] = code
    return Reply(status, msgspec.json.encode(document), PROBLEM_JSON)


def problem_of(error: Exception) -> Reply:
    """Answer what was raised: whose fault it is decides the status. A defect's own text stays in the log."""
    status = next((status for kind, status in _BY_ERROR if isinstance(error, kind)), INTERNAL_ERROR)
    if status == INTERNAL_ERROR or isinstance(error, StoreError):
        _log.error("request failed", error=type(error).__name__, reason=str(error))
        return problem(status, "the service failed; its log says why")
    if isinstance(error, Refusal):
        return problem(status, error.detail, error.code)
    return problem(status, str(error))
