"""Every error has its place in one table; what is in none tells a client nothing, and the log everything."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from tests.service.http.driver import Reply

from qsotn import errors
from qsotn.service.http.answer import Answer
from qsotn.service.http.problems import LONGEST_DETAIL, answer_to
from qsotn.service.repeating import Defect
from qsotn.service.worker import Overloaded


def replied(answer: Answer) -> Reply:
    return Reply(answer.status, {**dict(answer.headers), "content-type": answer.media_type}, answer.body)


@pytest.mark.parametrize(
    ("error", "status", "name", "retry"),
    [
        (errors.MalformedMessage("x"), 400, "malformed-message", None),
        (errors.BadSignature("x"), 403, "bad-signature", None),
        (errors.BadProof("x"), 403, "bad-proof", None),
        (errors.WrongParty("x"), 403, "wrong-party", None),
        (errors.ReplayedMessage("x"), 409, "replayed-message", None),
        (errors.OutOfOrder("x"), 409, "out-of-order", "1"),
        (errors.ExpiredMessage("x"), 410, "expired-message", None),
        (errors.Refusal("NOT_READY", "x"), 409, "refused", None),
        (errors.KeyShortage("x"), 409, "key-shortage", None),
        (errors.UsageError("x"), 422, "invalid-request", None),
        (errors.StoreError("x"), 503, "store-unavailable", "2"),
        (errors.StoreConflict("x"), 503, "store-unavailable", "2"),
        (Overloaded("x"), 503, "overloaded", "1"),
        (errors.KeyReuse("x"), 409, "key-reused", None),
        (errors.LineError("x"), 500, "internal-error", None),
        (Defect("x"), 500, "internal-error", None),
        (KeyError("x"), 500, "internal-error", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_its_problem(error: Exception, status: int, name: str, retry: str | None) -> None:
    with capture_logs():
        reply = replied(answer_to(error, "GET", "/livez"))
    assert (reply.status, reply.problem, reply.headers.get("retry-after")) == (status, name, retry)


def test_a_refusal_tells_its_code_and_its_detail() -> None:
    reply = replied(answer_to(errors.Refusal("UNKNOWN_CPE", "cpe/x was never ordered"), "POST", "/"))
    document = reply.json()
    assert (document["code"], document["detail"]) == ("UNKNOWN_CPE", "cpe/x was never ordered")


def test_a_defect_tells_an_id_and_the_log_has_the_same() -> None:
    with capture_logs() as log:
        document = replied(answer_to(RuntimeError("wrapped key 5ec2e7"), "GET", "/livez")).json()
    (entry,) = log
    assert document["instance"] == f"urn:uuid:{entry['id']}"
    assert "5ec2e7" not in str(document)
    assert "RuntimeError" not in str(document)
    assert entry["traceback"].endswith("RuntimeError: wrapped key 5ec2e7\n")
    assert "exc_info" not in entry
    assert (entry["method"], entry["path"], entry["log_level"]) == ("GET", "/livez", "error")


def test_where_a_store_lies_is_told_to_the_log_alone() -> None:
    with capture_logs() as log:
        reply = replied(answer_to(errors.StoreError("/var/lib/qsotn/store.db is locked"), "GET", "/livez"))
    assert b"/var/lib" not in reply.body
    assert "/var/lib" in log[0]["error"]


def test_what_a_client_sent_is_not_sent_back_without_bound() -> None:
    document = replied(answer_to(errors.UsageError("x" * 100_000), "GET", "/livez")).json()
    assert len(document["detail"]) == LONGEST_DETAIL
