"""Which way keys are relayed between key managers: over the fewest links."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from qsotn.domain import PartyId


def next_hops(links: Iterable[tuple[PartyId, PartyId]]) -> dict[PartyId, dict[PartyId, PartyId]]:
    """Return, for each end of a link, the neighbour on a shortest way to every other that it can reach.

    Breadth-first search; among ways of the same length it takes the neighbour whose name sorts first, whatever the
    order of the links. Each hop is one link nearer to its target, so that keys never run in a circle.
    """
    neighbours: dict[PartyId, set[PartyId]] = {}
    for one, other in links:
        neighbours.setdefault(one, set()).add(other)
        neighbours.setdefault(other, set()).add(one)
    return {origin: _from(origin, neighbours) for origin in sorted(neighbours)}


def _from(origin: PartyId, neighbours: dict[PartyId, set[PartyId]]) -> dict[PartyId, PartyId]:
    first = {neighbour: neighbour for neighbour in sorted(neighbours[origin])}
    waiting = deque(first)
    while waiting:
        reached = waiting.popleft()
        for further in neighbours[reached] - first.keys() - {origin}:
            first[further] = first[reached]
            waiting.append(further)
    return dict(sorted(first.items()))
