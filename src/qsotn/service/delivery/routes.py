"""Over which ways a key manager supplies its pools, as far as it knows: the network's links, and which of them failed.

A supply that failed names the link it failed at (`parties.km_pool.Batch.link`): no bits, an end that is silent, or a
QBER at which nothing is distilled any more, which starves it. That link is left out for a while, and the next supply
takes another way; if there is none, the same one is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from qsotn.domain import PartyId
from qsotn.errors import Refusal
from qsotn.keynetwork.disjoint import disjoint_paths
from qsotn.keynetwork.routing import widest_path
from qsotn.keynetwork.topology import Link, Topology

Path = tuple[PartyId, ...]
AVOIDED_US: Final = 60 * 1_000_000
"""How long a link is left out after a supply failed at it."""


class Routes:
    """The ways from one key manager."""

    def __init__(self, own: PartyId, links: Mapping[str, tuple[PartyId, PartyId]], shares: int = 1) -> None:
        """`links` are those of the whole network, by name; without any, every hop follows its own table.

        `shares` is over how many node-disjoint ways a key is spread. Raises `UsageError` for links that are no network.
        """
        self._own = own
        self._shares = shares
        self._avoided: dict[str, int] = {}
        managers = tuple(sorted({own, *(end for ends in links.values() for end in ends)}))
        self._topology = Topology(managers, tuple(Link(name, ends) for name, ends in links.items()))
        self._known = bool(links)

    def avoid(self, link: str, now: int) -> None:
        """Leave a link out for a while. `now` in microseconds since the epoch."""
        self._avoided[link] = now + AVOIDED_US

    def ways(self, target: PartyId, now: int) -> tuple[Path, ...]:
        """Return the ways of the next supply, each from end to end; none where every hop follows its own table.

        Raises `Refusal` NO_ROUTE, or TOO_FEW_PATHS where so many disjoint ones do not exist at all.
        """
        if not self._known or target == self._own:
            return ()
        self._avoided = {link: until for link, until in self._avoided.items() if until > now}
        failed = [link.name for link in self._topology.links if link.name in self._avoided]
        try:
            return self._found(self._topology.without(failed), target)
        except Refusal:
            return self._found(self._topology, target)

    def _found(self, topology: Topology, target: PartyId) -> tuple[Path, ...]:
        if self._shares == 1:
            return (widest_path(topology, self._own, target).managers,)
        return disjoint_paths(topology, self._own, target, self._shares)
