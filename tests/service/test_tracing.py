"""Accepted steps as OpenTelemetry spans: one trace for a procedure, whichever party a step was accepted at."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.world import World

from qsotn.app.province import CPE_A, POMP
from qsotn.ports import Taken
from qsotn.runtime.batch import Accepted
from qsotn.service.observability import open_spans
from qsotn.service.tracing import OtlpSpans

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of W3C Trace Context, section 3.2.2.5."""


class Watching:
    """A node's observer that exports what it hears of."""

    def __init__(self, spans: OtlpSpans) -> None:
        self.spans = spans

    def accepted(self, step: Accepted) -> None:
        self.spans.step(step)

    def ended(self, _: Any) -> None:
        pass

    def refused(self, _: Any) -> None:
        pass


def test_all_parties_steps_of_one_procedure_are_one_trace(open_world: Any) -> None:
    world: World = open_world("provisioned")
    exported = {party: InMemorySpanExporter() for party in world.nodes}
    spans = {party: OtlpSpans("", party, exporter) for party, exporter in exported.items()}
    for party, node in world.nodes.items():
        node._observer = Watching(spans[party])
    procedure = world.initialize(CPE_A)
    world.settle()
    for one in spans.values():
        one.close()
    everything = [span for exporter in exported.values() for span in exporter.get_finished_spans()]
    finished = [span for span in everything if (span.attributes or {})["qsotn.procedure"] == procedure]
    assert {span.name.split()[0] for span in finished} >= {
        f"initialization/{label}" for label in ("1", "2", "3", "4", "5a", "5b", "5c", "6", "7a", "8", "9", "10a", "10b")
    }
    (trace,) = {span.context.trace_id for span in finished if span.context is not None}
    assert f"{trace:032x}" == world.row(POMP, procedure).traceparent.split("-")[1]
    assert all((span.end_time or 0) >= (span.start_time or 0) for span in finished)


def test_spans_reach_a_collector_over_http() -> None:
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        spans = open_spans(f"http://127.0.0.1:{server.server_port}/v1/traces", "pomp/shandong")
        assert spans is not None
        taken = Taken("p", "rekey", 9, "", "SessionKeyRequest", "cpe/a", "qssp/a", "Iaq", 1_000_000, 2_000_000)  # type: ignore[arg-type]
        spans.step(Accepted(taken, TRACE))
        spans.close()
        server.shutdown()
    assert bytes.fromhex(TRACE.split("-")[1]) in b"".join(bodies)


def test_without_an_endpoint_there_are_no_spans() -> None:
    assert open_spans("", "pomp/shandong") is None
