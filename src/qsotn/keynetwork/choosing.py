"""Which way the next supply takes: the widest over links as one origin sees them, one for ready pools and lines alike.

What is known of the links decides (`widths`). A way that is in use is favoured, unless a shorter one exists: a detour
is left as soon as it is needless. To avoid a link is a preference, and only a barred one is never used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

from qsotn.domain import PartyId
from qsotn.errors import Refusal
from qsotn.keynetwork.routing import widest_path
from qsotn.keynetwork.topology import Topology
from qsotn.keynetwork.widths import Measured, Needs, ranked

Path = tuple[PartyId, ...]
"""Key managers from the origin to the last, both included."""


def best_way(topology: Topology, known: Mapping[str, Measured], needs: Needs, target: PartyId, used: Path = ()) -> Path:
    """Return the best way from the origin to another key manager; `used` is the one in use, if any.

    Raises `Refusal` NO_ROUTE, `UsageError` for a target that is not in this network.
    """
    favoured = _favoured(topology, needs.origin, target, used)
    try:
        return widest_path(ranked(topology, known, needs, favoured), needs.origin, target, horizon_s=0).managers
    except Refusal as refusal:
        raise with_barred(refusal, known) from refusal


def best_neighbour(topology: Topology, known: Mapping[str, Measured], needs: Needs) -> PartyId:
    """Return the neighbour over whose link the origin best supplies itself. Raises `Refusal` NO_ROUTE."""
    neighbours = ranked(topology, known, needs).neighbours[needs.origin]
    if not neighbours:
        raise with_barred(Refusal("NO_ROUTE", f"{needs.origin} has no link that is up"), known)
    return max(neighbours, key=lambda far: neighbours[far].pool_bits)


def _favoured(topology: Topology, origin: PartyId, target: PartyId, used: Path) -> Collection[str]:
    """Return the links of the way in use, if none is shorter."""
    if not used:
        return ()
    shortest = widest_path(topology, origin, target)
    return links_of(topology, used) if len(used) - 1 == shortest.hops else ()


def links_of(topology: Topology, way: Iterable[PartyId]) -> list[str]:
    """Return the links that a way crosses, as far as they are known."""
    near = topology.neighbours
    return [near[one][other].name for one, other in pairwise(way) if other in near.get(one, {})]


def with_barred(refusal: Refusal, known: Mapping[str, Measured]) -> Refusal:
    """Say, too, which links are barred for their error rates, if any are."""
    barred = sorted(name for name, one in known.items() if one.barred)
    if not barred:
        return refusal
    return Refusal(refusal.code, f"{refusal.detail}; barred for their error rates are {', '.join(barred)}")
