"""The best way, against trying every way; next hops that never lead in a circle; and what a failure changes."""

from __future__ import annotations

import time
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.keynetwork.networks import km, network, networks, path, simple_paths

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork.routing import Route, plan_all, widest_path
from qsotn.keynetwork.topology import Link, Topology


def best(topology: Topology, origin: PartyId, target: PartyId, horizon_s: int = 60) -> Route:
    """The definition, word for word: the widest, then the fewest hops, then the names."""
    ways = [Route(way, width(topology, way, horizon_s)) for way in simple_paths(topology, origin, target)]
    return min(ways, key=lambda route: (-route.width_bits, route.hops, route.managers))


def width(topology: Topology, way: tuple[PartyId, ...], horizon_s: int = 60) -> int:
    return min(topology.neighbours[near][far].width_bits(horizon_s) for near, far in pairwise(way))


@pytest.mark.parametrize(
    ("text", "ends", "expected"),
    [
        ("a-b:4 b-c:4 a-c:3", "ac", "abc"),  # wider, though longer
        ("a-b:4 b-c:4 a-c:4", "ac", "ac"),  # as wide, and shorter
        ("a-b:9 b-c:4 a-c:4", "ac", "ac"),  # what exceeds the bottleneck counts for nothing
        ("a-x:2 x-c:2 a-b:2 b-c:2", "ac", "abc"),  # as wide and as long: the name
        ("a-c:0", "ac", "ac"),  # nothing there yet, and the only way
    ],
)
def test_the_wider_way_is_better_then_the_shorter_then_the_one_whose_names_sort_first(
    text: str, ends: str, expected: str
) -> None:
    assert widest_path(network(text), km(ends[0]), km(ends[1])).managers == path(expected)


def test_pool_and_rate_count_together_over_the_horizon() -> None:
    full = Link("a-b", (km("a"), km("b")), pool_bits=10_000, rate_bits_s=10)
    fast = [Link(f"{x}-c", (km(x), km("c")), pool_bits=0, rate_bits_s=100) for x in "ab"]
    topology = Topology(path("abc"), (full, *fast))
    assert widest_path(topology, km("a"), km("b"), horizon_s=60) == Route(path("ab"), 10_600)
    assert widest_path(topology, km("a"), km("b"), horizon_s=600) == Route(path("acb"), 60_000)


@given(networks())
def test_the_way_found_is_the_best_of_all_ways_for_every_pair(topology: Topology) -> None:
    plan = plan_all(topology)
    for origin, target in permutations(topology.managers, 2):
        expected = best(topology, origin, target)
        assert plan.route(origin, target) == expected
        assert widest_path(topology, origin, target) == expected
        assert plan.next_hops(origin)[target] == expected.managers[1]


@given(networks(most=8, widths=(0, 9)))
def test_following_next_hops_arrives_at_no_less_than_the_width_the_origin_saw(topology: Topology) -> None:
    plan = plan_all(topology)
    for origin, target in permutations(topology.managers, 2):
        steps = [origin]
        while steps[-1] != target:
            steps.append(plan.next_hops(steps[-1])[target])
            assert len(set(steps)) == len(steps), f"a circle: {steps}"
        assert width(topology, tuple(steps)) >= plan.route(origin, target).width_bits


@given(networks(), st.data())
def test_no_way_uses_a_link_that_is_down_and_there_is_one_exactly_within_a_piece(
    topology: Topology, data: st.DataObject
) -> None:
    cut = data.draw(st.sets(st.sampled_from([link.name for link in topology.links])))
    parted = topology.without(cut)
    plan = plan_all(parted)
    for origin, target in permutations(topology.managers, 2):
        if target in parted.reach(origin):
            way = plan.route(origin, target).managers
            assert not {topology.neighbours[a][b].name for a, b in pairwise(way)} & cut
        else:
            assert target not in plan.next_hops(origin)
            with pytest.raises(Refusal, match="NO_ROUTE"):
                plan.route(origin, target)
            with pytest.raises(Refusal, match="NO_ROUTE"):
                widest_path(parted, origin, target)


def test_a_link_that_is_left_out_on_the_widest_way_sends_keys_round_it() -> None:
    whole = network("a-b:9 b-d:9 a-c:5 c-d:4")
    before, after = plan_all(whole), plan_all(whole.without({"b-d"}))
    assert before.route(km("a"), km("d")) == Route(path("abd"), 9 * 61)
    assert after.route(km("a"), km("d")) == Route(path("acd"), 4 * 61)
    assert (before.next_hops(km("c"))[km("d")], after.next_hops(km("c"))[km("d")]) == (km("a"), km("d"))


def test_strangers_and_ways_to_oneself_are_refused() -> None:
    line = network("a-b")
    with pytest.raises(UsageError, match="km/x is no key manager of this network"):
        widest_path(line, km("a"), km("x"))
    with pytest.raises(UsageError, match="not from km/a to itself"):
        widest_path(line, km("a"), km("a"))
    with pytest.raises(Refusal, match="NO_ROUTE"):
        plan_all(line).route(km("a"), km("x"))


def chain(widths: list[int]) -> Topology:
    names = [PartyId(f"km/{number:03}") for number in range(len(widths) + 1)]
    links = tuple(Link(f"{a}-{b}", (a, b), w) for (a, b), w in zip(pairwise(names), widths, strict=True))
    return Topology(tuple(names), links)


def grid(columns: int, rows: int) -> Topology:
    place = {(x, y): PartyId(f"km/{x:02}-{y:02}") for x in range(columns) for y in range(rows)}
    steps = [((x, y), (x + dx, y + dy)) for x, y in place for dx, dy in ((1, 0), (0, 1)) if (x + dx, y + dy) in place]
    ends = [(place[one], place[other]) for one, other in steps]
    return Topology(
        tuple(place.values()), tuple(Link(f"{a}+{b}", (a, b), n * 7919 % 997) for n, (a, b) in enumerate(ends))
    )


@pytest.mark.parametrize(
    "topology",
    [
        chain(list(range(144, 0, -1))),  # every link joins one more to a part that only grows
        chain([n & -n for n in range(1, 145)]),  # and halves that join
        chain([1] * 144),
        grid(12, 12),
    ],
    ids=["descending", "halving", "equal", "grid"],
)
def test_145_nodes_are_planned_within_a_tenth_of_a_second_however_their_widths_lie(topology: Topology) -> None:
    taken = []
    for _ in range(3):  # the best of three: the machine has other things to do
        start = time.process_time()
        plan = plan_all(topology)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.1
    assert all(len(plan.next_hops(manager)) == len(topology.managers) - 1 for manager in topology.managers)
