"""What a QKMP shows Prometheus of the key network: what was seen last, and how long ago.

The values are made when they are asked for, from the last look, so that the age of a sample is its age then, and a link
or pool that is gone leaves no series behind. Labels are names of key managers, links and pools: as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from qsotn.parties.network_capacity import LinkState, LinkView
from qsotn.parties.network_readings import PoolReading


class NetworkMetrics(Collector):
    """The gauges of one QKMP's process."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], int]) -> None:
        """`clock` tells microseconds since the epoch."""
        self._clock = clock
        self._links: Sequence[LinkView] = ()
        self._pools: Sequence[PoolReading] = ()
        self._alarms = 0
        registry.register(self)

    def take(self, links: Sequence[LinkView], pools: Sequence[PoolReading], alarms: int) -> None:
        """Show these from now on."""
        self._links, self._pools, self._alarms = links, pools, alarms

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Make the samples of one scrape."""
        yield GaugeMetricFamily("qsotn_network_alarms", "Alarms of the key network that last", value=self._alarms)
        yield from self._of_links()
        yield from self._of_link_ends()
        yield from self._of_pools()

    def _of_links(self) -> Iterator[GaugeMetricFamily]:
        rate = GaugeMetricFamily("qsotn_link_rate_bits", "Secret bits a second a link has shown", labels=["link"])
        qber = GaugeMetricFamily("qsotn_link_qber_ratio", "Error rate that a link's light showed last", labels=["link"])
        up = GaugeMetricFamily("qsotn_link_up", "Whether keys may be expected of a link", labels=["link"])
        for one in self._links:
            rate.add_metric([one.link], one.rate_bits_s if one.shown else 0.0)
            up.add_metric([one.link], one.state is LinkState.UP)
            if one.qber is not None:
                qber.add_metric([one.link], one.qber)
        yield from (rate, qber, up)

    def _of_link_ends(self) -> Iterator[GaugeMetricFamily]:
        bits = GaugeMetricFamily(
            "qsotn_link_available_bits", "Bits one end of a link may still allocate", labels=["link", "km"]
        )
        age = GaugeMetricFamily(
            "qsotn_link_sample_age_seconds", "Since one end of a link told of it", labels=["link", "km"]
        )
        lost = GaugeMetricFamily(
            "qsotn_link_lost_bits",
            "Bits of a link that one end wrote off, as the other did not have them",
            labels=["link", "km"],
        )
        waits = GaugeMetricFamily(
            "qsotn_link_pending_seconds", "Since when a block waits at one end for the other", labels=["link", "km"]
        )
        for one in (reading for link in self._links for reading in link.readings):
            bits.add_metric([one.link, one.km], one.available_bits)
            age.add_metric([one.link, one.km], self._age(one.at))
            lost.add_metric([one.link, one.km], one.lost_bits)
            waits.add_metric([one.link, one.km], one.pending_s)
        yield from (bits, age, lost, waits)

    def _of_pools(self) -> Iterator[GaugeMetricFamily]:
        named = ["origin", "target", "series", "km"]
        bits = GaugeMetricFamily(
            "qsotn_pool_ready_bits", "Bits of a pool of ready keys, as one end counts", labels=named
        )
        age = GaugeMetricFamily("qsotn_pool_sample_age_seconds", "Since one end told of a pool", labels=named)
        for one in self._pools:
            labels = [one.origin, one.target, str(one.series), one.km]
            bits.add_metric(labels, one.ready_bits)
            age.add_metric(labels, self._age(one.at))
        yield from (bits, age)

    def _age(self, at: int) -> float:
        return max(0, self._clock() - at) / 1e6
