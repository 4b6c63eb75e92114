"""Which way keys are relayed: the widest, for every pair of a network.

The order of preference is exact, so that everybody who knows the same topology finds the same way:

1. the *width* of a way is the smallest of its links' `Link.width_bits(horizon_s)`, pool and rate together; the wider
   way is better, because a link that runs dry stops every key that crosses it;
2. of equally wide ways the one over fewer links, because a key costs its own length in bits on each of them;
3. of those the one whose key managers' names sort first, read from the origin.

A link that is down is on no way; one without bits is, at width 0, for as long as there is no other: supplies then wait.

Next hops made from these ways never lead in a circle, whichever key manager follows its own: from one hop to the next
the width of the best way left grows, or stays while its hops become fewer. A key that follows them meets at least the
width that its origin saw.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.topology import Topology

HORIZON_S: Final = 60
"""How far ahead a link's rate counts, if nobody says otherwise: one rekey interval."""

Neighbours = list[list[int]]


@dataclass(frozen=True, slots=True)
class Route:
    """A way from the first of its key managers to the last."""

    managers: tuple[PartyId, ...]
    width_bits: int

    @property
    def hops(self) -> int:
        """Links on this way."""
        return len(self.managers) - 1


@dataclass(frozen=True, slots=True)
class _Tree:
    """The shortest ways between one key manager and all that it reaches, both ways; numbers stand for names."""

    source: int
    parent: list[int]
    """The one before, on the best way from the source."""
    toward: list[int]
    """The one after, on the best way to the source: the other direction may choose otherwise among equals."""
    first: list[int]
    """The source's next hop."""

    def path(self, far: int, *, outward: bool) -> list[int]:
        """Return the way from the source to `far`, or (not `outward`) from `far` to the source."""
        pointers, steps = (self.parent if outward else self.toward), [far]
        while steps[-1] != self.source:
            steps.append(pointers[steps[-1]])
        return steps[::-1] if outward else steps


class _Tables:
    """By origin and target, as numbers: the next hop (-1 for none), the width, and the search that found the way."""

    def __init__(self, size: int) -> None:
        self.hops = [[-1] * size for _ in range(size)]
        self.widths = [[-1] * size for _ in range(size)]
        self.trees: list[list[_Tree | None]] = [[None] * size for _ in range(size)]

    def enter(self, tree: _Tree, targets: list[int], width: int) -> None:
        """Enter the ways between a tree's source and some of those that it reaches."""
        source, hops, widths, trees = tree.source, self.hops, self.widths, self.trees
        for far in targets:
            hops[source][far], hops[far][source] = tree.first[far], tree.toward[far]
            widths[source][far] = widths[far][source] = width
            trees[source][far] = trees[far][source] = tree


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """The best way between every two key managers of a topology."""

    managers: tuple[PartyId, ...]
    """In the order of their names."""
    _numbers: Mapping[PartyId, int]
    _tables: _Tables

    def route(self, origin: PartyId, target: PartyId) -> Route:
        """Return the best way. Raises `Refusal` NO_ROUTE, also for a key manager that is not in the plan."""
        one, other = self._numbers.get(origin, -1), self._numbers.get(target, -1)
        tree = self._tables.trees[one][other] if one >= 0 and other >= 0 else None
        if tree is None:
            raise no_route(origin, target)
        outward = tree.source == one
        steps = tree.path(other if outward else one, outward=outward)
        return Route(tuple(self.managers[step] for step in steps), self._tables.widths[one][other])

    def next_hops(self, manager: PartyId) -> dict[PartyId, PartyId]:
        """Return one key manager's next hop towards every other that it can reach."""
        hops = self._tables.hops[self._numbers[manager]]
        return {self.managers[far]: self.managers[hop] for far, hop in enumerate(hops) if hop >= 0}


def plan_all(topology: Topology, horizon_s: int = HORIZON_S) -> Plan:
    """Return the best ways between all key managers.

    Links are added from the widest down. Those that join two parts decide the width of every pair across them, and the
    ways of the smaller part's members are then sought with the links added so far; a key manager is in the smaller part
    at most log2(n) times, so that all is n·log2(n) searches at worst.
    """
    names = tuple(sorted(topology.managers))
    numbers = {name: number for number, name in enumerate(names)}
    near: Neighbours = [[] for _ in names]
    tables = _Tables(len(names))
    for width, parts in _joined(_wide_links(topology, numbers, horizon_s), near):
        parts.sort(key=len)
        for number, part in enumerate(parts[:-1]):
            larger = [far for other in parts[number + 1 :] for far in other]
            for source in part:
                tables.enter(_search(source, near), larger, width)
    return Plan(names, numbers, tables)


def widest_path(topology: Topology, origin: PartyId, target: PartyId, horizon_s: int = HORIZON_S) -> Route:
    """Return the best way between two. Raises `UsageError` for an unknown one, `Refusal` NO_ROUTE."""
    two_ends(topology, origin, target)
    names = sorted(topology.managers)
    numbers = {name: number for number, name in enumerate(names)}
    near: Neighbours = [[] for _ in names]
    pair = {numbers[origin], numbers[target]}
    for width, parts in _joined(_wide_links(topology, numbers, horizon_s), near):
        if pair <= {member for part in parts for member in part}:
            steps = _search(numbers[origin], near).path(numbers[target], outward=True)
            return Route(tuple(names[step] for step in steps), width)
    raise no_route(origin, target)


def two_ends(topology: Topology, origin: PartyId, target: PartyId) -> None:
    """Raise `UsageError` for an unknown key manager, or for a way from one to itself."""
    topology.require(origin, target)
    if origin == target:
        raise UsageError(f"a way leads from one key manager to another, not from {origin} to itself")


def no_route(origin: PartyId, target: PartyId) -> Refusal:
    """Say that no way leads from one key manager to another over links that are up."""
    return Refusal("NO_ROUTE", f"no links that are up lead from {origin} to {target}")


# --- searching ------------------------------------------------------------------------------------------------------

_Wide = tuple[int, int, int]
"""A link: its width, and its ends' numbers."""


def _wide_links(topology: Topology, numbers: Mapping[PartyId, int], horizon_s: int) -> list[_Wide]:
    up = (link for link in topology.links if link.up)
    wide = [(link.width_bits(horizon_s), numbers[link.ends[0]], numbers[link.ends[1]]) for link in up]
    return sorted(wide, reverse=True)


def _joined(links: list[_Wide], near: Neighbours) -> Iterator[tuple[int, list[list[int]]]]:
    """Add links to `near` from the widest down; yield each width, and the parts that it makes one of."""
    leader = list(range(len(near)))
    members = {number: [number] for number in leader}
    for width, group in groupby(links, key=lambda link: link[0]):
        parts: dict[int, list[list[int]]] = {}
        for _, one, other in group:
            insort(near[one], other)
            insort(near[other], one)
            keep, gone = leader[one], leader[other]
            if keep != gone:
                parts[keep] = parts.get(keep, [members[keep]]) + parts.pop(gone, [members[gone]])
                for number in members[gone]:
                    leader[number] = keep
                members[keep] = members[keep] + members.pop(gone)
        for joined in parts.values():
            yield width, joined


def _search(source: int, near: Neighbours) -> _Tree:
    """Breadth-first over neighbours in the order of their names.

    Whoever is found first on a level has the way that sorts first, so the first parent is the best one outwards. In the
    other direction the best next hop is the neighbour one hop nearer whose name sorts first.
    """
    hops, first = [-1] * len(near), [-1] * len(near)
    parent, toward = [-1] * len(near), [-1] * len(near)
    hops[source] = 0
    waiting = [source]
    for one in waiting:  # grows while it is read
        for other in near[one]:
            if hops[other] < 0:
                hops[other] = hops[one] + 1
                parent[other] = toward[other] = one
                first[other] = other if one == source else first[one]
                waiting.append(other)
            elif hops[other] == hops[one] + 1 and one < toward[other]:
                toward[other] = one
    return _Tree(source, parent, toward, first)
