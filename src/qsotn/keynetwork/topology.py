"""Key managers and the QKD links between them, as one value: what routing, admission and synthesis compute on.

A topology never changes. What a failure does to it is another topology, in which some links are down (`without`);
the network is the same, so that it stays one network on paper even while it is in two parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from qsotn.domain import PartyId
from qsotn.errors import UsageError


@dataclass(frozen=True, slots=True)
class Link:
    """One QKD link, with what was last measured on it."""

    name: str
    ends: tuple[PartyId, PartyId]
    rate_bits_s: int = 0
    """Secret bits a second, for both ends together: each allocates from its own half of every block."""
    pool_bits: int = 0
    """Secret bits in the pool now, for both ends together."""
    length_km: float = 0.0
    qber: float = 0.0
    """Quantum bit error rate, 0 to 1."""
    up: bool = True

    def far(self, near: PartyId) -> PartyId:
        """Return the end that is not `near`."""
        return self.ends[1] if near == self.ends[0] else self.ends[0]

    def width_bits(self, horizon_s: int) -> int:
        """Bits that the link has now or will have made `horizon_s` seconds from now."""
        return self.pool_bits + self.rate_bits_s * horizon_s


@dataclass(frozen=True)
class Topology:
    """A network of key managers in one piece; two key managers have at most one link.

    The constructor raises `UsageError` with the first thing that is wrong: a key manager or link named twice, a link
    with an unknown end, a second link between the same two, an impossible number, or a network in several pieces.
    """

    managers: tuple[PartyId, ...]
    links: tuple[Link, ...]

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise UsageError(complaint)

    @cached_property
    def by_name(self) -> Mapping[str, Link]:
        """The links by name, in their order."""
        return {link.name: link for link in self.links}

    @cached_property
    def neighbours(self) -> Mapping[PartyId, Mapping[PartyId, Link]]:
        """Each key manager's links that are up, by their far end, in the order of its name."""
        found: dict[PartyId, dict[PartyId, Link]] = {manager: {} for manager in self.managers}
        for link in self.links:
            if link.up:
                for end in link.ends:
                    found[end][link.far(end)] = link
        return {manager: dict(sorted(links.items())) for manager, links in found.items()}

    def require(self, *managers: PartyId) -> None:
        """Raise `UsageError` for a key manager that is not in this network."""
        for manager in managers:
            if manager not in self.neighbours:
                raise UsageError(f"{manager} is no key manager of this network; there are {_listed(self.managers)}")

    def without(self, names: Collection[str]) -> Topology:
        """Return this network with the named links down. Raises `UsageError` for a name that no link has."""
        for name in sorted(set(names) - self.by_name.keys()):
            raise UsageError(f"there is no link {name!r}; there are {_listed(tuple(self.by_name))}")
        return Topology(self.managers, tuple(replace(x, up=x.up and x.name not in names) for x in self.links))

    def reach(self, origin: PartyId) -> frozenset[PartyId]:
        """Return the key managers that links which are up join to `origin`, itself included."""
        return _reach(origin, self.neighbours)


def _reach(origin: PartyId, neighbours: Mapping[PartyId, Collection[PartyId]]) -> frozenset[PartyId]:
    reached, waiting = {origin}, [origin]
    while waiting:
        fresh = [far for far in neighbours[waiting.pop()] if far not in reached]
        reached.update(fresh)
        waiting += fresh
    return frozenset(reached)


def _complaints(topology: Topology) -> Iterator[str]:
    if not topology.managers:
        yield "a network has at least one key manager; this one has none"
    for kind, names in (
        ("key manager", topology.managers),
        ("link", tuple(link.name for link in topology.links)),
    ):
        if repeated := sorted(name for name, times in Counter(names).items() if times > 1):
            yield f"two of this network's {kind}s are named {repeated[0]!r}; give each its own name"
    yield from _bad_ends(topology)
    for link in topology.links:
        yield from _bad_numbers(link)
    yield from _pieces(topology)


def _bad_ends(topology: Topology) -> Iterator[str]:
    known = frozenset(topology.managers)
    joined: dict[frozenset[PartyId], str] = {}
    for link in topology.links:
        for end in link.ends:
            if end not in known:
                yield f"link {link.name!r} ends at {end!r}; there are {_listed(topology.managers)}"
        if link.ends[0] == link.ends[1]:
            yield f"both ends of link {link.name!r} are {link.ends[0]!r}; a link joins two key managers"
        before = joined.setdefault(frozenset(link.ends), link.name)
        if before != link.name:
            yield f"links {before!r} and {link.name!r} join the same two; make them one, with the rates added"


def _bad_numbers(link: Link) -> Iterator[str]:
    for name, value in (
        ("rate_bits_s", link.rate_bits_s),
        ("pool_bits", link.pool_bits),
        ("length_km", link.length_km),
    ):
        if not 0 <= value < float("inf"):
            yield f"link {link.name!r} has a {name} of {value}; expected zero or more"
    if not 0 <= link.qber <= 1:
        yield f"link {link.name!r} has a qber of {link.qber}; expected 0 to 1"


def _pieces(topology: Topology) -> Iterator[str]:
    """Complain of a network in several pieces; a link that is down still makes it one."""
    every: dict[PartyId, set[PartyId]] = {manager: set() for manager in topology.managers}
    for link in topology.links:
        for end in link.ends:
            every[end].add(link.far(end))
    origin = topology.managers[0]
    lost = every.keys() - _reach(origin, every)
    if lost:
        yield f"no links lead from {origin} to {_listed(tuple(sorted(lost)))}; join them, or make two networks of them"


def _listed(names: tuple[str, ...], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
