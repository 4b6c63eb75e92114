"""What a key manager shows Prometheus of the ways of its supplies: which links it avoids now, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class RouteMetrics(Collector):
    """The avoided links of one key manager, as they are when they are asked for."""

    def __init__(self, registry: CollectorRegistry, hindered: Callable[[], Mapping[str, Sequence[str]]]) -> None:
        """`hindered` returns the reasons by link, of those links alone that are avoided."""
        self._hindered = hindered
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Make the samples of one scrape: a link that is not avoided has none."""
        avoided = GaugeMetricFamily(
            "qsotn_route_avoided", "Links that supplies go round, if they can", labels=["link", "reason"]
        )
        for link, reasons in sorted(self._hindered().items()):
            for reason in reasons:
                avoided.add_metric([link, reason.lower()], 1)
        yield avoided
