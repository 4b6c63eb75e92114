"""What a key manager shows Prometheus of the SAEs it serves: how often each method was asked for, and how it went.

The values are those of `MethodCounters` when they are asked for. Labels are methods and HTTP statuses: no SAE, no key.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qsotn.service.delivery.etsi014_counters import MethodCount, MethodCounters

_METHOD = ("method",)


class SaeMetrics(Collector):
    """The metrics of one key manager's listener for SAEs."""

    def __init__(self, registry: CollectorRegistry, counters: MethodCounters) -> None:
        self._counters = counters
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Make the samples of one scrape."""
        counted = sorted(self._counters.methods.items())
        yield _requests(counted)
        yield _failures(counted)
        yield _repeats(counted)
        yield from _times(counted)


def _requests(counted: list[tuple[str, MethodCount]]) -> Metric:
    family = CounterMetricFamily(
        "qsotn_sae_requests", "Requests of SAEs by method and HTTP status", labels=("method", "status")
    )
    for method, count in counted:
        for status, times in sorted(count.statuses.items()):
            family.add_metric((method, str(status)), times)
    return family


def _failures(counted: list[tuple[str, MethodCount]]) -> Metric:
    family = CounterMetricFamily("qsotn_sae_failures", "Requests of SAEs not answered with 200", labels=_METHOD)
    for method, count in counted:
        family.add_metric((method,), count.failures)
    return family


def _repeats(counted: list[tuple[str, MethodCount]]) -> Metric:
    family = CounterMetricFamily("qsotn_sae_repeats", "Requests of SAEs that had been made before", labels=_METHOD)
    for method, count in counted:
        family.add_metric((method,), count.repeats)
    return family


def _times(counted: list[tuple[str, MethodCount]]) -> Iterator[Metric]:
    total = SummaryMetricFamily("qsotn_sae_seconds", "Seconds until the answer to an SAE", labels=_METHOD)
    least = GaugeMetricFamily("qsotn_sae_least_seconds", "The least time to an answer since the start", labels=_METHOD)
    longest = GaugeMetricFamily("qsotn_sae_longest_seconds", "The longest time since the start", labels=_METHOD)
    for method, count in counted:
        total.add_metric((method,), count.requests, count.total_s)
        least.add_metric((method,), count.least_s)
        longest.add_metric((method,), count.longest_s)
    yield from (total, least, longest)
