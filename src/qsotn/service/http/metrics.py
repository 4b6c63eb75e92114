"""What an application counts of its requests."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


class Metrics:
    """How many requests came, how they ended, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "qsotn_http_requests", "Requests by operation and status.", ["operation", "status"], registry=registry
        )
        self._seconds = Histogram(
            "qsotn_http_request_seconds", "Seconds until the whole answer.", ["operation"], registry=registry
        )

    def note(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)
