"""What a key manager shows Prometheus of the SAEs it serves: how often each method was asked for, and how it went.

The values are those of `MethodCounters` and `Priorities` when they are asked for. Labels are methods, HTTP statuses and
classes of SAEs: no SAE, no key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qsotn.service.delivery.etsi014_counters import MethodCount, MethodCounters
from qsotn.service.delivery.priorities import ClassCount

_METHOD = ("method",)
_CLASS = ("class",)


class SaeMetrics(Collector):
    """The metrics of one key manager's listener for SAEs."""

    def __init__(
        self, registry: CollectorRegistry, counters: MethodCounters, classes: Mapping[str, ClassCount] | None = None
    ) -> None:
        """`classes` are those of the SAEs, if there are several."""
        self._counters = counters
        self._classes = classes or {}
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Make the samples of one scrape."""
        counted = sorted(self._counters.methods.items())
        yield _requests(counted)
        yield _failures(counted)
        yield _repeats(counted)
        yield from _times(counted)
        yield from _of_classes(self._classes)


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


def _of_classes(classes: Mapping[str, ClassCount]) -> Iterator[Metric]:
    given = CounterMetricFamily("qsotn_sae_class_keys", "Keys that SAEs of a class were given", labels=_CLASS)
    refused = CounterMetricFamily(
        "qsotn_sae_class_refusals",
        "Requests for which a pool had too few keys, or too few for the class",
        labels=_CLASS,
    )
    for name, count in classes.items():
        given.add_metric((name,), count.given)
        refused.add_metric((name,), count.refused)
    yield from (given, refused)
