"""What orchestrators and Prometheus ask, with a certificate and on the plain monitoring listener."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tests.service.http.driver import Client, application_of
from tests.world import World

from qsotn.app.province import CPE_A, POMP
from qsotn.domain import Role
from qsotn.service.http.application import rendered
from qsotn.service.http.context import Readiness
from qsotn.service.http.health import Monitoring


def failing() -> Readiness:
    return Readiness(False, ("the store is gone", "no certificate"))


def both(world: World, ready: Any) -> list[Client]:
    """The service as a device sees it, and the plain listener."""
    return [
        Client(application_of(world, POMP, ready=ready), CPE_A),
        Client(Monitoring(ready, CollectorRegistry()), None),
    ]


def test_a_service_that_is_not_ready_says_why_and_lives_on(province: World) -> None:
    for client in both(province, failing):
        reply = client("GET", "/readyz")
        assert (reply.status, reply.problem, reply.headers["retry-after"]) == (503, "not-ready", "2")
        assert reply.json()["detail"] == "the store is gone; no certificate"
        assert client("GET", "/livez").json() == {"alive": True}


def test_a_ready_service_says_so(province: World) -> None:
    for client in both(province, lambda: Readiness(True)):
        assert client("GET", "/readyz").json() == {"ready": True, "reasons": []}
        assert client("HEAD", "/readyz").body == b""


def samples(text: bytes) -> dict[tuple[str, str, str], float]:
    """Request counts by family, operation and status."""
    found = (sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples)
    return {
        (sample.name, sample.labels["operation"], sample.labels.get("status", "")): sample.value
        for sample in found
        if "operation" in sample.labels and "le" not in sample.labels
    }


def test_every_request_is_counted_by_operation_and_status(province: World) -> None:
    registry = CollectorRegistry()
    Counter("qsotn_other", "Of somebody else.", registry=registry).inc()
    operator = Client(application_of(province, POMP, registry=registry))
    operator("GET", "/operations/v1/lines/line-1")
    operator("GET", "/operations/v1/lines/none")
    operator("GET", "/nowhere")
    operator("GET", "/operations/v1/lines?limit=0")
    Client(operator.application, CPE_A)("GET", "/operations/v1/lines")
    reply = operator("GET", "/metrics")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"qsotn_other_total 1.0" in reply.body
    counted = samples(reply.body)
    assert {key[1:]: value for key, value in counted.items() if key[0] == "qsotn_http_requests_total"} == {
        ("read_line", "200"): 1,
        ("read_line", "404"): 1,
        ("none", "404"): 1,
        ("list_lines", "400"): 1,
        ("list_lines", "403"): 1,
    }
    assert counted["qsotn_http_request_seconds_count", "read_line", ""] == 2


def test_nobody_but_the_operator_reads_the_metrics_of_the_service(province: World) -> None:
    assert Client(application_of(province, POMP), CPE_A)("GET", "/metrics").problem == "forbidden"


def test_a_certificate_is_no_matter_on_the_plain_listener() -> None:
    registry = CollectorRegistry()
    Counter("qsotn_other", "Of somebody else.", registry=registry).inc()
    plain = Client(Monitoring(failing, registry), None)
    assert b"qsotn_other_total 1.0" in plain("GET", "/metrics").body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/openapi.json", 404), ("GET", "/", 404), ("POST", "/livez", 405), ("GET", "/operations/v1/lines", 404)],
)
def test_the_plain_listener_has_nothing_else(method: str, path: str, status: int) -> None:
    reply = Client(Monitoring(failing, CollectorRegistry()), None)(method, path)
    assert (reply.status, bool(reply.problem)) == (status, True)


def test_a_defect_on_the_plain_listener_is_a_problem_too() -> None:
    def broken() -> Readiness:
        raise ZeroDivisionError("secret")

    with capture_logs():
        reply = Client(Monitoring(broken, CollectorRegistry()), None)("GET", "/readyz")
    assert (reply.status, reply.problem) == (500, "internal-error")
    assert b"secret" not in reply.body


def test_the_document_is_served_as_it_is_committed(province: World) -> None:
    reply = Client(application_of(province, POMP), CPE_A)("GET", "/openapi.json")
    assert (reply.status, reply.body) == (200, rendered(Role.POMP))
