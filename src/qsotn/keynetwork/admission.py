"""Can these two cities carry N more lines? A maximum flow in whole lines, beside the lines that are there.

What a line costs: two keys, one for each direction of its frames, in every rekey interval, in whole units of 256 bits,
and as many bits of *every* link on the way, because a hop is a one-time pad. Both keys are drawn at the line's end A,
so that on every hop they take bits from the half of the nearer end: a link gives half its rate to each direction.

How it is answered, and which way it errs:

1. The lines that exist are placed one demand after another: along its path, if the demand names one, else by a maximum
   flow of its own through what is left, over the fewest hops first.
2. A link then carries ⌊what is left of its half / what a new line takes⌋ more lines, a whole number.
3. The maximum flow between the two cities in those numbers is how many lines fit. It is integral: every line has one
   way of its own, and `ways` lists them.

A yes comes with ways for all lines at once, within every link's rate, so it is never wrong, if those rates last and
supplies name these ways as their paths. A no may be wrong: the best placement of several demands together is a
multi-commodity flow, and another placement of the lines that exist might leave more. Pools do not count: they do not
last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.keynetwork.pool import UNIT_BITS, units_for
from qsotn.keynetwork.routing import two_ends
from qsotn.keynetwork.topology import Topology

KEYS_PER_REKEY = 2
"""One for each direction of a line."""

Hop = tuple[PartyId, PartyId]
"""One direction of a link."""
Lines = dict[PartyId, dict[PartyId, int]]
"""How many lines each hop can carry, by its two ends."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Lines between two cities, rekeyed every `interval_s` seconds; `origin` is where end A is.

    `path`, if not empty, are the key managers over which their keys go.
    """

    origin: PartyId
    target: PartyId
    lines: int
    interval_s: int = 60
    key_bits: int = 256
    path: tuple[PartyId, ...] = ()

    @property
    def bits_s_per_line(self) -> Fraction:
        """Bits a second that one line takes of each link on its way."""
        return Fraction(units_for(KEYS_PER_REKEY, self.key_bits) * UNIT_BITS, self.interval_s)


@dataclass(frozen=True, slots=True)
class Way:
    """How many lines go over which key managers."""

    path: tuple[PartyId, ...]
    lines: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What twice the rate of one link would add, in lines."""

    link: str
    more_lines: int


@dataclass(frozen=True, slots=True)
class Assessment:
    """The answer to one question."""

    asked: Demand
    lines_fit: int
    """The largest number that would be admitted."""
    ways: tuple[Way, ...]
    """For the lines asked, or as many as fit."""
    existing: tuple[tuple[Demand, tuple[Way, ...]], ...]
    """Where the lines that exist were placed."""
    limiting: tuple[str, ...]
    """The links of a minimum cut, by name: together they let no more lines through than fit."""
    upgrades: tuple[Upgrade, ...]
    """Of the limiting links, the one to upgrade first foremost. Where none adds a line, several must grow together."""
    unplaced: Demand | None = None
    """The first demand that exists and found too little: nothing more fits, and `limiting` is what holds *it* back."""

    @property
    def admitted(self) -> bool:
        """Whether all lines, those that exist and those asked, can be carried."""
        return self.unplaced is None and self.lines_fit >= self.asked.lines


def assess(topology: Topology, existing: Sequence[Demand], asked: Demand) -> Assessment:
    """Answer whether a network can carry more lines. Raises `UsageError` for a demand that it does not understand."""
    for demand in (*existing, asked):
        _check(topology, demand)
    free = _halves(topology)
    placed: list[tuple[Demand, tuple[Way, ...]]] = []
    for demand in existing:
        flow = _flow_of(topology, free, demand)
        placed.append((demand, flow.ways(demand.lines)))
        _take(free, placed[-1])
        if flow.value < demand.lines:
            return _no_room(topology, flow, asked, demand, placed)
    flow = _flow_of(topology, free, asked)
    cut = flow.cut()
    upgrades = _upgrades(topology, free, asked, cut, flow.value)
    ways = flow.ways(asked.lines)
    return Assessment(asked, flow.value, ways, tuple(placed), _named(topology, cut), upgrades)


def _no_room(
    topology: Topology, flow: _Flow, asked: Demand, unplaced: Demand, placed: list[tuple[Demand, tuple[Way, ...]]]
) -> Assessment:
    return Assessment(asked, 0, (), tuple(placed), _named(topology, flow.cut()), (), unplaced)


def _check(topology: Topology, demand: Demand) -> None:
    two_ends(topology, demand.origin, demand.target)
    if demand.lines < 0 or demand.interval_s < 1 or demand.key_bits < 1:
        raise UsageError(
            f"{demand.lines} lines with keys of {demand.key_bits} bits every {demand.interval_s} s: expected zero or "
            "more lines, and at least 1 bit and 1 s"
        )
    if not demand.path:
        return
    topology.require(*demand.path)
    if (demand.path[0], demand.path[-1]) != (demand.origin, demand.target) or len({*demand.path}) < len(demand.path):
        raise UsageError(f"the path {'–'.join(demand.path)} does not lead from {demand.origin} to {demand.target}")
    for near, far in pairwise(demand.path):
        if far not in topology.neighbours[near]:
            raise UsageError(f"the path {'–'.join(demand.path)} needs a link that is up from {near} to {far}")


# --- bits a second --------------------------------------------------------------------------------------------------

Free = dict[Hop, Fraction]
"""Bits a second that are left of each direction of each link."""


def _halves(topology: Topology) -> Free:
    """Each direction's half of the rate of every link that is up."""
    rates = {near: {far: x.rate_bits_s for far, x in found.items()} for near, found in topology.neighbours.items()}
    return {(near, far): Fraction(rate, 2) for near, found in rates.items() for far, rate in found.items()}


def _take(free: Free, placed: tuple[Demand, tuple[Way, ...]]) -> None:
    demand, ways = placed
    for way in ways:
        for hop in pairwise(way.path):
            free[hop] -= way.lines * demand.bits_s_per_line


def _flow_of(topology: Topology, free: Free, demand: Demand) -> _Flow:
    """Return the largest flow of a demand's lines through what is left; along its path, if it names one."""
    hops = tuple(pairwise(demand.path)) if demand.path else tuple(free)
    lines: Lines = {manager: {} for manager in sorted(topology.managers)}
    for near, far in hops:
        lines[near][far] = int(free[near, far] / demand.bits_s_per_line)
        lines[far].setdefault(near, 0)
    return _Flow(lines, demand.origin, demand.target)


def _named(topology: Topology, hops: Sequence[Hop]) -> tuple[str, ...]:
    return tuple(sorted(topology.neighbours[near][far].name for near, far in hops))


def _upgrades(topology: Topology, free: Free, asked: Demand, cut: Sequence[Hop], lines_fit: int) -> tuple[Upgrade, ...]:
    found = []
    for hop in cut:
        link = topology.neighbours[hop[0]][hop[1]]
        doubled = {**free, hop: free[hop] + Fraction(link.rate_bits_s, 2)}
        found.append(Upgrade(link.name, _flow_of(topology, doubled, asked).value - lines_fit))
    return tuple(sorted(found, key=lambda upgrade: (-upgrade.more_lines, upgrade.link)))


# --- whole lines ----------------------------------------------------------------------------------------------------


class _Flow:
    """A maximum flow by shortest augmenting ways (Edmonds and Karp 1972), in whole numbers."""

    def __init__(self, capacity: Lines, source: PartyId, sink: PartyId) -> None:
        self._source, self._sink = source, sink
        self._capacity = capacity
        self._left = {near: dict(found) for near, found in capacity.items()}
        self.value = 0
        while path := _shortest(self._left, source, sink):
            self.value += self._send(path)

    def _send(self, path: tuple[PartyId, ...]) -> int:
        lines = min(self._left[near][far] for near, far in pairwise(path))
        for near, far in pairwise(path):
            self._left[near][far] -= lines
            self._left[far][near] += lines
        return lines

    def cut(self) -> tuple[Hop, ...]:
        """Return the hops from what the source still reaches to what it does not: the minimum cut nearest to it."""
        reached = _previous(self._left, self._source).keys() | {self._source}
        hops = ((near, far) for near in self._capacity if near in reached for far in self._capacity[near])
        return tuple((near, far) for near, far in hops if far not in reached)

    def ways(self, most: int) -> tuple[Way, ...]:
        """Return ways for at most that many of the lines, the shortest first."""
        return tuple(self._ways(most))

    def _ways(self, most: int) -> Iterator[Way]:
        used = {
            near: {far: max(0, lines - self._left[near][far]) for far, lines in found.items()}
            for near, found in self._capacity.items()
        }
        while most > 0 and (path := _shortest(used, self._source, self._sink)):
            lines = min(most, *(used[near][far] for near, far in pairwise(path)))
            for near, far in pairwise(path):
                used[near][far] -= lines
            most -= lines
            yield Way(path, lines)


def _previous(lines: Mapping[PartyId, Mapping[PartyId, int]], source: PartyId) -> dict[PartyId, PartyId]:
    """Breadth-first over hops that carry a line: each key manager reached, and the one before it."""
    previous: dict[PartyId, PartyId] = {}
    waiting = [source]
    for near in waiting:  # grows while it is read
        for far, left in lines[near].items():
            if left > 0 and far != source and far not in previous:
                previous[far] = near
                waiting.append(far)
    return previous


def _shortest(lines: Mapping[PartyId, Mapping[PartyId, int]], source: PartyId, sink: PartyId) -> tuple[PartyId, ...]:
    previous = _previous(lines, source)
    if sink not in previous:
        return ()
    steps = [sink]
    while steps[-1] != source:
        steps.append(previous[steps[-1]])
    return tuple(reversed(steps))
