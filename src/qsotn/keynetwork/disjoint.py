"""Ways between two key managers that share no other: for keys that no single relay shall know (`relay.join`).

A minimum-cost flow. Each key manager is split into an entry and an exit with one arc between them, so that one way at
most passes it; a link costs 1. Each way that is added is the cheapest that those before it leave, and may send these
elsewhere; the sum of hops is then the least possible for their number (Suurballe 1974, Bhandari 1999).
"""

from __future__ import annotations

from collections.abc import Mapping

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.routing import two_ends
from qsotn.keynetwork.topology import Topology

Path = tuple[PartyId, ...]
"""The key managers of a way, both ends included."""


def disjoint_paths(topology: Topology, origin: PartyId, target: PartyId, number: int) -> tuple[Path, ...]:
    """Return ways that share no key manager but their ends, over the fewest links in all; the shortest first.

    Pools and rates do not count. Raises `UsageError`, and `Refusal` TOO_FEW_PATHS, which says how many there are and
    which key managers hold them to that (Menger's theorem).
    """
    two_ends(topology, origin, target)
    if number < 1:
        raise UsageError(f"{number} paths were asked for: expected at least 1")
    network = _SplitNetwork(topology, origin, target)
    for found in range(number):
        if not network.augment():
            raise Refusal("TOO_FEW_PATHS", _too_few(network, origin, target, found, number))
    return tuple(sorted(network.paths(), key=lambda path: (len(path), path)))


_Half = tuple[PartyId, bool]
"""A key manager's entry (False) or exit (True)."""


class _SplitNetwork:
    """Residual capacities and costs of the split network: 0 from a key manager's entry to its exit, 1 for a link."""

    def __init__(self, topology: Topology, origin: PartyId, target: PartyId) -> None:
        self._source, self._sink = (origin, True), (target, False)
        self._arcs: dict[_Half, dict[_Half, int]] = {(m, side): {} for m in topology.managers for side in (False, True)}
        """The cost of each arc that has capacity left; an arc in use is there in reverse, at the negative cost."""
        for manager, links in sorted(topology.neighbours.items()):
            self._arcs[manager, False][manager, True] = 0
            for far in links:
                self._arcs[manager, True][far, False] = 1
        self._used: set[tuple[_Half, _Half]] = set()

    def augment(self) -> bool:
        """Add one way, at least cost; say whether there was one."""
        previous = self._cheapest()
        if self._sink not in previous:
            return False
        head = self._sink
        while head != self._source:
            tail = previous[head]
            self._turn(tail, head)
            head = tail
        return True

    def _cheapest(self) -> dict[_Half, _Half]:
        """Bellman–Ford with a queue: costs may be negative, but no circle's is while each way is the cheapest."""
        cost, previous, waiting = {self._source: 0}, {}, [self._source]
        for tail in waiting:  # grows while it is read
            for head, step in self._arcs[tail].items():
                if cost[tail] + step < cost.get(head, len(self._arcs)):
                    cost[head], previous[head] = cost[tail] + step, tail
                    waiting.append(head)
        return previous

    def _turn(self, tail: _Half, head: _Half) -> None:
        """Use an arc, or give back the use of its reverse."""
        self._arcs[head][tail] = -self._arcs[tail].pop(head)
        if (head, tail) in self._used:
            self._used.remove((head, tail))
        else:
            self._used.add((tail, head))

    def paths(self) -> list[Path]:
        """Return the ways in use."""
        onward = {tail: head for tail, head in self._used if tail != self._source}
        return [self._follow(head, onward) for tail, head in self._used if tail == self._source]

    def _follow(self, head: _Half, onward: Mapping[_Half, _Half]) -> Path:
        steps = [self._source[0], head[0]]
        while head != self._sink:
            head = onward[onward[head]]
            steps.append(head[0])
        return tuple(steps)

    def cut(self) -> list[PartyId]:
        """Return the key managers between without which no way would be left but a direct link."""
        reached, waiting = {self._source}, [self._source]
        for tail in waiting:
            fresh = [head for head in self._arcs[tail] if head not in reached]
            reached.update(fresh)
            waiting += fresh
        crossed = [(tail, head) for tail, head in self._used if tail in reached and head not in reached]
        # Of a link that is the bottleneck either end is one; the far end, unless that is the target.
        between = {tail[0] if head == self._sink else head[0] for tail, head in crossed}
        return sorted(between - {self._source[0]})


def _too_few(network: _SplitNetwork, origin: PartyId, target: PartyId, found: int, number: int) -> str:
    cut = network.cut()
    why = f"; every way of more than one link uses {' or '.join(cut)}" if cut else ""
    return f"{found} node-disjoint paths lead from {origin} to {target}, and {number} were asked for{why}"
