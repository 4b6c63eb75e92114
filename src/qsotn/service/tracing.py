"""Steps as OpenTelemetry spans over OTLP: the extra `telemetry`.

One span a step that was accepted, from the sender's issuing to the acceptance here, made by hand: what a web framework
would trace by itself says nothing of procedures. All parties' spans of one procedure share its trace (`traceparent`).
"""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from qsotn.runtime.batch import Accepted


class OtlpSpans:
    """`observability.Spans` to an OTLP collector."""

    def __init__(self, endpoint: str, party: str, exporter: SpanExporter | None = None) -> None:
        resource = Resource.create({"service.name": f"qsotn-{party.partition('/')[0]}", "service.instance.id": party})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("qsotn")
        self._propagator = TraceContextTextMapPropagator()

    def step(self, step: Accepted) -> None:
        """Export one accepted step; times in nanoseconds, as OpenTelemetry counts them."""
        taken = step.taken
        span = self._tracer.start_span(
            f"{taken.ladder}/{taken.number}{taken.part} {taken.message}",
            context=self._propagator.extract({"traceparent": step.traceparent}),
            kind=SpanKind.CONSUMER,
            start_time=taken.issued_at * 1000,
            attributes={
                "qsotn.procedure": taken.procedure,
                "qsotn.interface": taken.interface,
                "qsotn.sender": taken.sender,
                "qsotn.receiver": taken.receiver,
            },
        )
        span.end(end_time=taken.accepted_at * 1000)

    def close(self) -> None:
        """Export what is left."""
        self._provider.shutdown()
