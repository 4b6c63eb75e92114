"""Small networks for the tests, written as text or drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from hypothesis import strategies as st

from qsotn.domain import PartyId
from qsotn.keynetwork.topology import Link, Topology


def km(name: str) -> PartyId:
    return PartyId(f"km/{name}")


def path(names: str) -> tuple[PartyId, ...]:
    return tuple(km(name) for name in names)


def network(text: str) -> Topology:
    """`a-b:4 b-c:2` are links with pools of 4 and 2 bits and rates of 4 and 2 bit/s; `a-b` has 1."""
    links = [_link(word) for word in text.split()]
    managers = sorted({end for link in links for end in link.ends})
    return Topology(tuple(managers), tuple(links))


def _link(word: str) -> Link:
    ends, _, width = word.partition(":")
    one, _, other = ends.partition("-")
    bits = int(width or 1)
    return Link(ends, (km(one), km(other)), rate_bits_s=bits, pool_bits=bits)


@st.composite
def networks(draw: st.DrawFn, most: int = 6, widths: tuple[int, int] = (0, 4)) -> Topology:
    """Connected networks of two to `most` key managers."""
    names = "abcdefgh"[: draw(st.integers(2, most))]
    tree = [(names[draw(st.integers(0, number - 1))], names[number]) for number in range(1, len(names))]
    others = [pair for pair in combinations(names, 2) if pair not in tree]
    more = [pair for pair in others if draw(st.booleans())]
    bits = st.integers(*widths)
    links = [Link(f"{a}-{b}", (km(a), km(b)), rate_bits_s=draw(bits)) for a, b in [*tree, *more]]
    return Topology(path(names), tuple(draw(st.permutations(links))))


def simple_paths(topology: Topology, origin: PartyId, target: PartyId) -> Iterator[tuple[PartyId, ...]]:
    """Yield every way that passes no key manager twice: by trying all of them."""
    waiting: list[tuple[PartyId, ...]] = [(origin,)]
    while waiting:
        steps = waiting.pop()
        if steps[-1] == target:
            yield steps
            continue
        waiting += [(*steps, far) for far in topology.neighbours[steps[-1]] if far not in steps]
