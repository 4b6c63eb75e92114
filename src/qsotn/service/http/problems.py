"""Errors as problem documents (RFC 9457): one table from what was raised to what a client is told.

Read the kinds first: each is a type of problem with a name of its own, `urn:qsotn:problem:<name>`. `TABLE` then says
which of them an error of this package is. Whatever is not in the table is a defect: the client is told an identifier
and nothing else, and the log has the same identifier beside the traceback.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import msgspec
import structlog

from qsotn import errors
from qsotn.service.http.answer import Answer, encoded
from qsotn.service.worker import Overloaded

PROBLEM_JSON: Final = "application/problem+json"
LONGEST_DETAIL: Final = 1000
"""Characters: a detail may quote what a client sent."""
_URN: Final = "urn:qsotn:problem:"

_log = structlog.get_logger("qsotn.http")


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457). `code` is the failure name of a refusal, `instance` names one occurrence."""

    type: str
    title: str
    status: int
    detail: str
    instance: str = ""
    code: str = ""


@dataclass(frozen=True, order=True)
class Kind:
    """One type of problem. `retry_after_s` is told where the remedy is to try the same again."""

    status: int
    name: str
    title: str
    retry_after_s: int | None = None

    @property
    def uri(self) -> str:
        """Its `type`."""
        return _URN + self.name


MALFORMED_REQUEST: Final = Kind(400, "malformed-request", "The request is not well formed")
MALFORMED_MESSAGE: Final = Kind(400, "malformed-message", "The message is not canonical or not of its type")
NO_IDEMPOTENCY_KEY: Final = Kind(400, "no-idempotency-key", "An order needs an Idempotency-Key")
FORBIDDEN: Final = Kind(403, "forbidden", "This peer's role has no business here")
NO_PEER: Final = Kind(403, "no-peer-certificate", "The connection has no verified certificate")
BAD_SIGNATURE: Final = Kind(403, "bad-signature", "The signature does not verify")
BAD_PROOF: Final = Kind(403, "bad-proof", "A proof does not hold")
WRONG_PARTY: Final = Kind(403, "wrong-party", "This party may not say this here")
NOT_FOUND: Final = Kind(404, "not-found", "There is no such resource")
METHOD_NOT_ALLOWED: Final = Kind(405, "method-not-allowed", "The resource does not have this method")
REQUEST_TIMEOUT: Final = Kind(408, "request-timeout", "The request did not come in time")
REPLAYED_MESSAGE: Final = Kind(409, "replayed-message", "Another message took this step")
OUT_OF_ORDER: Final = Kind(409, "out-of-order", "The message is not awaited now", 1)
REFUSED: Final = Kind(409, "refused", "The party decided no")
KEY_SHORTAGE: Final = Kind(409, "key-shortage", "There are no keys left")
KEY_REUSED: Final = Kind(409, "key-reused", "This was used before, and is used once")
EXPIRED_MESSAGE: Final = Kind(410, "expired-message", "The message is outside its window of validity")
PRECONDITION_FAILED: Final = Kind(412, "precondition-failed", "The resource has changed")
CONTENT_TOO_LARGE: Final = Kind(413, "content-too-large", "The body is too large")
URI_TOO_LONG: Final = Kind(414, "uri-too-long", "The target is too long")
UNSUPPORTED_MEDIA_TYPE: Final = Kind(415, "unsupported-media-type", "The body has another media type")
INVALID_REQUEST: Final = Kind(422, "invalid-request", "The request is well formed and asks what cannot be")
KEY_USED_OTHERWISE: Final = Kind(422, "idempotency-key-reused", "The Idempotency-Key came with another request")
HEADERS_TOO_LARGE: Final = Kind(431, "request-header-fields-too-large", "The header is too large")
INTERNAL_ERROR: Final = Kind(500, "internal-error", "The service failed")
OVERLOADED: Final = Kind(503, "overloaded", "The service has too much to do", 1)
STORE_UNAVAILABLE: Final = Kind(503, "store-unavailable", "The service cannot reach its store", 2)
NOT_READY: Final = Kind(503, "not-ready", "The service is not ready", 2)

TABLE: Final[dict[type[Exception], Kind]] = {
    errors.MalformedMessage: MALFORMED_MESSAGE,
    errors.BadSignature: BAD_SIGNATURE,
    errors.WrongParty: WRONG_PARTY,
    errors.ReplayedMessage: REPLAYED_MESSAGE,
    errors.OutOfOrder: OUT_OF_ORDER,
    errors.ExpiredMessage: EXPIRED_MESSAGE,
    errors.BadProof: BAD_PROOF,
    errors.Refusal: REFUSED,
    errors.KeyShortage: KEY_SHORTAGE,
    errors.KeyReuse: KEY_REUSED,
    errors.UsageError: INVALID_REQUEST,
    errors.StoreError: STORE_UNAVAILABLE,
    Overloaded: OVERLOADED,
}
"""By error, and by its nearest ancestor that stands here."""


class HttpProblem(errors.UsageError):
    """The HTTP request itself cannot be met, for a reason that has a kind of its own."""

    def __init__(self, kind: Kind, detail: str, *headers: tuple[str, str]) -> None:
        super().__init__(detail)
        self.kind = kind
        self.headers = headers


def kind_of(error: Exception) -> Kind:
    """Return the kind of problem an error is."""
    if isinstance(error, HttpProblem):
        return error.kind
    return next((TABLE[ancestor] for ancestor in type(error).__mro__ if ancestor in TABLE), INTERNAL_ERROR)


def problem_of(error: Exception, method: str, path: str) -> Problem:
    """Describe what failed. What failed on our side is logged; a defect's own text stays in the log."""
    kind = kind_of(error)
    if kind is INTERNAL_ERROR:
        occurrence = str(uuid4())
        # As text: a logger that is given the exception itself may show the variables of its frames, and keys in them.
        trace = "".join(traceback.format_exception(error))
        _log.error("request failed", id=occurrence, method=method, path=path, traceback=trace)
        return problem(kind, "the service failed; its log has more under this id", instance=f"urn:uuid:{occurrence}")
    if kind is STORE_UNAVAILABLE:
        _log.error("request failed", problem=kind.name, method=method, path=path, error=str(error))
        return problem(kind, "the store is not available now")
    if isinstance(error, errors.Refusal):
        return problem(kind, error.detail, code=error.code)
    return problem(kind, str(error))


def answer_to(error: Exception, method: str, path: str) -> Answer:
    """Answer a request that failed."""
    headers = error.headers if isinstance(error, HttpProblem) else ()
    return problem_answer(kind_of(error), problem_of(error, method, path), *headers)


def problem(kind: Kind, detail: str, *, code: str = "", instance: str = "") -> Problem:
    """Make a problem document of this kind."""
    return Problem(kind.uri, kind.title, kind.status, detail[:LONGEST_DETAIL], instance, code)


def problem_answer(kind: Kind, document: Problem, *headers: tuple[str, str]) -> Answer:
    """Answer with a problem document, and with when to try again."""
    retry = () if kind.retry_after_s is None else (("retry-after", str(kind.retry_after_s)),)
    return Answer(kind.status, encoded(document), PROBLEM_JSON, (*headers, *retry))
