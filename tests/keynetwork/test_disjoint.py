"""Ways that share no key manager, against trying every choice of ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from hypothesis import given
from tests.keynetwork.networks import km, network, networks, path, simple_paths

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.disjoint import disjoint_paths
from qsotn.keynetwork.topology import Topology

Way = tuple[PartyId, ...]


def are_disjoint(ways: Sequence[Way]) -> bool:
    between = [manager for way in ways for manager in way[1:-1]]
    return len(between) == len(set(between)) and len(set(ways)) == len(ways)


def choices(ways: Sequence[Way], number: int, chosen: tuple[Way, ...] = ()) -> Iterator[tuple[Way, ...]]:
    """Yield every choice of that many disjoint ways: by trying."""
    if len(chosen) == number:
        yield chosen
        return
    for place, way in enumerate(ways):
        if are_disjoint((*chosen, way)):
            yield from choices(ways[place + 1 :], number, (*chosen, way))


@given(networks())
def test_the_ways_are_disjoint_and_over_the_fewest_links_and_as_many_as_there_are(topology: Topology) -> None:
    origin, target = topology.managers[0], topology.managers[-1]
    every = list(simple_paths(topology, origin, target))
    for number in count(1):
        least = min((sum(len(way) - 1 for way in ways) for ways in choices(every, number)), default=None)
        if least is None:
            with pytest.raises(Refusal, match=f"TOO_FEW_PATHS: {number - 1} node-disjoint paths lead"):
                disjoint_paths(topology, origin, target, number)
            return
        ways = disjoint_paths(topology, origin, target, number)
        assert len(ways) == number
        assert are_disjoint(ways)
        assert sum(len(way) - 1 for way in ways) == least
        assert set(ways) <= set(every)


def test_a_second_way_may_send_the_first_elsewhere() -> None:
    """The trap for whoever takes the shortest way and looks for another beside it: a-b-e-f leaves none."""
    trap = network("a-b b-e e-f a-c c-d d-e b-g g-h h-f")
    assert disjoint_paths(trap, km("a"), km("f"), 1) == (path("abef"),)
    assert disjoint_paths(trap, km("a"), km("f"), 2) == (path("abghf"), path("acdef"))


def test_a_direct_link_is_a_way_and_has_no_relay() -> None:
    assert disjoint_paths(network("a-b a-c c-b"), km("a"), km("b"), 2) == (path("ab"), path("acb"))


def test_links_that_are_down_are_on_no_way() -> None:
    square = network("a-b b-d a-c c-d")
    with pytest.raises(Refusal, match="1 node-disjoint paths lead from km/a to km/d, and 2 were asked for"):
        disjoint_paths(square.without({"c-d"}), km("a"), km("d"), 2)


@given(networks())
def test_the_key_managers_named_in_a_refusal_are_those_without_which_only_a_direct_link_is_left(
    topology: Topology,
) -> None:
    origin, target = topology.managers[0], topology.managers[-1]
    with pytest.raises(Refusal) as refused:
        disjoint_paths(topology, origin, target, 9)
    named = {PartyId(word) for word in refused.value.detail.partition(" uses ")[2].split(" or ") if word}
    found = int(refused.value.detail.split()[0])
    direct = target in topology.neighbours[origin]
    assert len(named) == found - direct
    ways = [way for way in simple_paths(topology, origin, target) if not named & set(way)]
    assert ways == [(origin, target)] * direct


def test_a_bridge_is_told_by_the_relay_behind_it() -> None:
    with pytest.raises(Refusal, match=r"every way of more than one link uses km/b$"):
        disjoint_paths(network("a-b b-c b-d c-e d-e"), km("a"), km("e"), 2)


def test_no_paths_strangers_and_paths_to_oneself_are_refused() -> None:
    square = network("a-b b-d a-c c-d")
    for ends, number, complaint in (
        ("ad", 0, "0 paths were asked for: expected at least 1"),
        ("ax", 1, "km/x is no key manager of this network"),
        ("aa", 1, "not from km/a to itself"),
    ):
        with pytest.raises(UsageError, match=complaint):
            disjoint_paths(square, km(ends[0]), km(ends[1]), number)
