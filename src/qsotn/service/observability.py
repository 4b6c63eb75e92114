"""What a service lets its operator see: structured logs, Prometheus metrics, and spans where a collector is configured.

All three hear of what was committed, through `runtime.Observer`, and of nothing else. Labels are few and bounded:
ladders, steps, states, error classes. Identifiers go into logs and spans; keys go nowhere.
"""

from __future__ import annotations

import io
import logging
import sys
from typing import Final, Protocol, TextIO, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from qsotn.errors import PeerError, UsageError
from qsotn.procedures.turn import Row
from qsotn.runtime.batch import Accepted
from qsotn.service.config import LogSection

STEP_SECONDS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_log = structlog.get_logger("party")


class StandardError(io.TextIOBase):
    """Standard error as it is when a line is written, not as it was when logging was configured."""

    def write(self, text: str) -> int:
        """Write to whatever is standard error now."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush whatever is standard error now."""
        sys.stderr.flush()


def configure_logging(section: LogSection, party: str) -> None:
    """Write one line an event to standard error, as text or as one JSON object; `party` is in every line."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if section.format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], drop_missing=True)
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(party=party)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _bind_party(party),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, section.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", StandardError())),
    )


def _bind_party(party: str) -> structlog.types.Processor:
    """Every thread's lines name the party, also those of the desk thread."""

    def bind(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event.setdefault("party", party)
        return event

    return bind


class Spans(Protocol):
    """Where spans go."""

    def step(self, step: Accepted) -> None:
        """Export one accepted step as a span."""

    def close(self) -> None:
        """Export what is left."""


class Metrics:
    """The counters of one party, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.steps = Counter("qsotn_steps", "Steps accepted", ["ladder", "step"], registry=self.registry)
        self.step_seconds = Histogram(
            "qsotn_step_seconds",
            "From the sender's issuing of a message to its acceptance here",
            ["ladder"],
            buckets=STEP_SECONDS,
            registry=self.registry,
        )
        self.ended = Counter(
            "qsotn_procedures_ended", "Procedures whose part here is over", ["ladder", "state"], registry=self.registry
        )
        self.refused = Counter("qsotn_datagrams_refused", "Datagrams refused", ["error"], registry=self.registry)
        self.peers_refused = Counter(
            "qsotn_connections_refused", "Connections refused in or after the handshake", registry=self.registry
        )
        self.waiting = Gauge("qsotn_desk_waiting", "Datagrams and calls that wait at the desk", registry=self.registry)
        self.certificate_expiry = Gauge(
            "qsotn_certificate_expiry_seconds", "When the certificate in use expires, Unix time", registry=self.registry
        )


class Chronicle:
    """`runtime.Observer` of a service: writes logs, counts, and exports spans."""

    def __init__(self, metrics: Metrics, spans: Spans | None) -> None:
        self._metrics = metrics
        self._spans = spans

    def accepted(self, step: Accepted) -> None:
        """A step was accepted here."""
        taken = step.taken
        self._metrics.steps.labels(taken.ladder, f"{taken.number}{taken.part}").inc()
        self._metrics.step_seconds.labels(taken.ladder).observe((taken.accepted_at - taken.issued_at) / 1e6)
        _log.debug(
            "step",
            ladder=taken.ladder,
            step=f"{taken.number}{taken.part}",
            message=taken.message,
            sender=taken.sender,
            procedure=taken.procedure,
            trace=step.traceparent,
        )
        if self._spans is not None:
            self._spans.step(step)

    def ended(self, row: Row) -> None:
        """This party's part of a procedure is over."""
        self._metrics.ended.labels(row.ladder, row.state).inc()
        told = {"ladder": row.ladder, "subject": row.subject, "procedure": row.procedure, "seat": row.seat}
        if row.failure:
            _log.warning("procedure failed", reason=row.failure, trace=row.traceparent, **told)
        else:
            _log.info("procedure completed", trace=row.traceparent, **told)

    def refused(self, error: PeerError) -> None:
        """A datagram was refused."""
        self._metrics.refused.labels(type(error).__name__).inc()
        _log.info("datagram refused", error=type(error).__name__, reason=str(error))


def open_spans(endpoint: str, party: str) -> Spans | None:
    """Return the exporter to an OTLP collector, or None without one. Raises `UsageError` if the extra is missing."""
    if not endpoint:
        return None
    try:
        from qsotn.service.tracing import OtlpSpans
    except ImportError as error:
        raise UsageError("[telemetry] otlp needs OpenTelemetry: install qsotn[telemetry]") from error
    return OtlpSpans(endpoint, party)
