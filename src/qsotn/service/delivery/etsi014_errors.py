"""Errors of this package as ETSI GS QKD 014 has them: 400, 401 and 503 (clause 5), with a message (clause 6.5).

The standard gives 401 no body; ours has one all the same, because clients in use read it. A 503 says when to come back,
and its reason stands in the log: at once, and then once a second with how often it has happened since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import structlog

from qsotn.adapters.keysource.etsi014_format import KEYS_NOT_FOUND
from qsotn.errors import LocalError, Refusal, StoreError, WrongParty
from qsotn.service.delivery.etsi014_messages import LONGEST_MESSAGE, BadRequest
from qsotn.service.delivery.http_protocol import Answer
from qsotn.service.delivery.throttled import Throttled
from qsotn.service.worker import Overloaded

BAD_REQUEST, UNAUTHORIZED, UNAVAILABLE = 400, 401, 503
_MESSAGES: Final = {
    "KEYS_NOT_FOUND": (BAD_REQUEST, KEYS_NOT_FOUND),
    "NOT_NAMED": (UNAUTHORIZED, "the calling SAE was not named when one or more of these keys were requested"),
    "UNKNOWN_SAE": (BAD_REQUEST, ""),
    "BAD_REQUEST": (BAD_REQUEST, ""),
}
"""Refusals that are the caller's concern: status, and the message where it is not the refusal's own."""
_RETRY_AFTER_S: Final = {"KEY_SHORTAGE": 5, "FAR_END_SILENT": 5}
_SOON_S: Final = 1

_log = structlog.get_logger("delivery")


def error_answer(status: int, message: str, details: Sequence[Mapping[str, str]] = (), fields: bytes = b"") -> Answer:
    """Return an error in the standard's data format."""
    body: dict[str, object] = {"message": message[:LONGEST_MESSAGE]}
    if details:
        body["details"] = details
    return Answer(status, msgspec.json.encode(body), fields)


class Failures:
    """Turns what was raised into an answer, and tells the log what the key manager could not do."""

    def __init__(self) -> None:
        self._throttled = Throttled()

    def answer(self, error: Exception, method: str) -> Answer:
        """Return the answer to a request of `method` that raised `error`."""
        match error:
            case BadRequest():
                return error_answer(BAD_REQUEST, str(error), error.details)
            case WrongParty():
                return error_answer(UNAUTHORIZED, str(error))
            case Refusal() if error.code in _MESSAGES:
                status, message = _MESSAGES[error.code]
                return error_answer(status, message or error.detail)
        return self._unavailable(error, method)

    def _unavailable(self, error: Exception, method: str) -> Answer:
        code = error.code if isinstance(error, Refusal) else type(error).__name__
        defect = None if isinstance(error, (Refusal, LocalError)) else error
        facts = {"method": method, "code": code, "reason": str(error), "exc_info": defect}
        self._throttled.tell(_log.warning, "keys could not be supplied", code, **facts)
        retry = b"Retry-After: %d\r\n" % _RETRY_AFTER_S.get(code, _SOON_S)
        return error_answer(UNAVAILABLE, _public(error), fields=retry)


def _public(error: Exception) -> str:
    match error:
        case Refusal():
            return error.detail
        case Overloaded():
            return "too many requests wait at this key manager"
        case StoreError():
            return "the key manager cannot use its store now"
        case _:
            return "the key manager cannot answer this now"
