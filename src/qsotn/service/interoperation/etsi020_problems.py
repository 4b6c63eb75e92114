"""Errors of ETSI GS QKD 020 V1.1.1: problem documents (RFC 9457) with the standard's own types and `details`.

Their media type is `application/json`, as of everything that the standard sends. 400 and 401 say that nothing of the
request was kept ("Operation of the API"); what may have been kept is answered 503.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from qsotn.errors import Refusal
from qsotn.service.interoperation import reply
from qsotn.service.interoperation.reply import LONGEST_DETAIL, Reply

_TYPES: Final = "https://qkd.etsi.org/gs020-interop-kms/"


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of error is told: the last part of its type, and the name of its detail."""

    status: int
    kind: str
    detail: str


_OF_STATUS: Final = {
    400: _Kind(400, "invalid-parameter", "malformed_request"),
    401: _Kind(401, "unauthorized", "unauthorized"),
    404: _Kind(404, "no-such-resource", "no_such_resource"),
    405: _Kind(405, "method-not-allowed", "method_not_allowed"),
    408: _Kind(408, "timeout", "timeout"),
    503: _Kind(503, "server-side-general-error", "server_side_general_error"),
}
_OF_CODE: Final = {
    "UNSUPPORTED_EXTENSION": _Kind(503, "unsupported-mandatory-extension", "unsupported_mandatory_extension"),
    "NO_ALL_CONFIRMATION": _Kind(400, "no-key-ids-or-confirmation", "no_all_confirmation"),
    "NO_PASSBACK": _Kind(400, "key-routing-error", "invalid_routing"),
    "NO_ROUTE": _Kind(400, "key-routing-error", "target_sae_id_not_recognized"),
    "UNKNOWN_SAE": _Kind(400, "key-routing-error", "target_sae_id_not_recognized"),
    "KEY_REUSED": _Kind(400, "invalid-parameter", "key_id_reused"),
    "CALLBACK_REFUSED": _Kind(400, "invalid-parameter", "ack_callback_url"),
}


def problem(status: int, detail: str) -> Reply:
    """Answer with a problem document about a request that is none, or that cannot be met."""
    return _told(_OF_STATUS.get(status) or _Kind(status, "error", "error"), detail)


def problem_of(error: Exception) -> Reply:
    """Answer what was raised; a defect's own text stays in the log."""
    if isinstance(error, Refusal) and error.code in _OF_CODE:
        return _told(_OF_CODE[error.code], error.detail)
    told = msgspec.json.decode(reply.problem_of(error).body)
    # The standard has one status for what is no fault of the caller.
    return problem(503 if told["status"] >= reply.INTERNAL_ERROR else told["status"], told["detail"])


def _told(kind: _Kind, detail: str) -> Reply:
    shown = detail[:LONGEST_DETAIL]
    document = {
        "type": _TYPES + kind.kind,
        "status": kind.status,
        "title": kind.kind.replace("-", " "),
        "detail": shown,
        "details": {kind.detail: shown},
    }
    return Reply(kind.status, msgspec.json.encode(document))
