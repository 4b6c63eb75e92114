"""How many more lines two cities can carry: by hand, against every cut, and no yes without its ways."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.keynetwork.networks import km, network, networks, path

from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.keynetwork.admission import Assessment, Demand, Upgrade, Way, assess
from qsotn.keynetwork.topology import Topology


def demand(ends: str, lines: int, interval_s: int = 60, key_bits: int = 256, way: str = "") -> Demand:
    return Demand(km(ends[0]), km(ends[1]), lines, interval_s, key_bits, path(way))


@pytest.mark.parametrize(
    ("rate", "interval_s", "key_bits", "fit"),
    [
        # Two keys of 256 bits a minute are 8.53 bit/s; half of 8000 bit/s carries ⌊4000·60/512⌋ of them.
        (8000, 60, 256, 468),
        (8000, 1, 256, 7),
        (8000, 60, 128, 468),  # a key takes whole units of 256 bits
        (8000, 60, 257, 234),
        (1024, 1, 256, 1),  # exactly one
        (1023, 1, 256, 0),  # and a bit too little
        (0, 60, 256, 0),
    ],
)
def test_a_link_carries_what_half_its_rate_pays_for(rate: int, interval_s: int, key_bits: int, fit: int) -> None:
    told = assess(network(f"a-b:{rate}"), [], demand("ab", fit, interval_s, key_bits))
    assert told.lines_fit == fit
    assert told.admitted
    assert not assess(network(f"a-b:{rate}"), [], demand("ab", fit + 1, interval_s, key_bits)).admitted


def test_every_hop_costs_the_key_s_length_so_the_narrowest_decides_and_is_named() -> None:
    told = assess(network("a-b:8000 b-c:2000 c-d:5000"), [], demand("ad", 200))
    assert (told.lines_fit, told.admitted) == (117, False)
    assert told.limiting == ("b-c",)
    assert told.ways == (Way(path("abcd"), 117),)
    assert told.upgrades == (Upgrade("b-c", 117),)  # twice 2000 is 4000, still the narrowest


def test_lines_spread_over_all_ways_and_the_upgrade_that_adds_most_comes_first() -> None:
    """a-b-d carries 58 lines and a-c-d 117; a-b may grow to twice its rate, a-c only to what c-d has."""
    told = assess(network("a-b:1000 b-d:9000 a-c:2000 c-d:2200"), [], demand("ad", 175))
    assert told.admitted
    assert sorted(told.ways, key=lambda way: way.path) == [Way(path("abd"), 58), Way(path("acd"), 117)]
    assert told.limiting == ("a-b", "a-c")
    assert told.upgrades == (Upgrade("a-b", 59), Upgrade("a-c", 11))


def test_where_no_single_upgrade_helps_none_adds_a_line() -> None:
    told = assess(network("a-b:1000 b-c:1000"), [], demand("ac", 1))
    assert told.upgrades == (Upgrade("a-b", 0),)


def test_the_lines_that_exist_come_off_first_along_the_path_they_name() -> None:
    square = network("a-b:1024 b-d:1024 a-c:1024 c-d:1024")
    there = demand("ad", 30, way="abd")
    told = assess(square, [there], demand("ad", 90))
    assert told.existing == ((there, (Way(path("abd"), 30),)),)
    assert (told.lines_fit, told.admitted) == (30 + 60, True)
    assert {way.path: way.lines for way in told.ways} == {path("abd"): 30, path("acd"): 60}


def test_lines_the_other_way_round_use_the_other_half() -> None:
    line = network("a-b:1024")
    assert assess(line, [demand("ba", 60)], demand("ab", 60)).admitted
    assert not assess(line, [demand("ab", 1)], demand("ab", 60)).admitted


def test_a_later_way_may_send_an_earlier_one_elsewhere() -> None:
    """a-b-e-f is the shortest, and leaves no second way once others fill e-b the other way round."""
    trap = network("a-b:1024 b-e:1024 e-f:1024 a-c:1024 c-d:1024 d-e:1024 b-g:1024 g-h:1024 h-f:1024")
    told = assess(trap, [demand("eb", 60, way="eb")], demand("af", 120))
    assert told.admitted
    assert {way.path: way.lines for way in told.ways} == {path("abghf"): 60, path("acdef"): 60}


def test_lines_of_different_intervals_are_counted_in_exact_fractions() -> None:
    """512 bit/s, of which 7 lines at 7 s take all: 7·512/7. One line a year more is one too many."""
    line = network("a-b:1024")
    assert assess(line, [demand("ab", 6, 7)], demand("ab", 1, 7)).admitted
    assert not assess(line, [demand("ab", 7, 7)], demand("ab", 1, 365 * 86_400)).admitted


def test_an_existing_demand_that_finds_too_little_is_named_with_what_holds_it_back() -> None:
    overloaded = demand("ac", 100)
    told = assess(network("a-b:9000 b-c:1024 a-d:9000"), [overloaded], demand("ad", 1))
    assert (told.lines_fit, told.admitted, told.ways) == (0, False, ())
    assert told.unplaced == overloaded
    assert told.limiting == ("b-c",)
    assert told.existing == ((overloaded, (Way(path("abc"), 60),)),)


def test_a_question_about_one_path_is_answered_for_that_path() -> None:
    told = assess(network("a-b:1024 b-d:1024 a-c:9000 c-d:9000"), [], demand("ad", 61, way="abd"))
    assert (told.lines_fit, told.limiting) == (60, ("a-b",))


def test_a_link_that_is_down_carries_nothing() -> None:
    square = network("a-b:1024 b-d:1024 a-c:1024 c-d:1024")
    assert assess(square.without({"a-c"}), [], demand("ad", 120)).lines_fit == 60
    parted = assess(square.without({"a-c", "b-d"}), [], demand("ad", 1))
    assert (parted.lines_fit, parted.limiting, parted.upgrades) == (0, (), ())


# --- against trying everything --------------------------------------------------------------------------------------


def smallest_cut(topology: Topology, asked: Demand) -> int:
    """The least that any set of key managers with the origin, and without the target, lets out: in whole lines."""
    others = [manager for manager in topology.managers if manager not in (asked.origin, asked.target)]
    sides = [{asked.origin, *side} for size in range(len(others) + 1) for side in combinations(others, size)]
    per_line = 2 * asked.bits_s_per_line
    return min(
        sum(int(x.rate_bits_s / per_line) for x in topology.links if (x.ends[0] in side) != (x.ends[1] in side))
        for side in sides
    )


RATES = (0, 5000)


@given(networks(widths=RATES))
def test_in_an_empty_network_as_many_lines_fit_as_the_smallest_cut_lets_through(topology: Topology) -> None:
    asked = Demand(topology.managers[0], topology.managers[-1], 10**9)
    told = assess(topology, [], asked)
    assert told.lines_fit == smallest_cut(topology, asked)
    assert told.lines_fit == sum(way.lines for way in told.ways)
    through = sum(int(topology.by_name[name].rate_bits_s / (2 * asked.bits_s_per_line)) for name in told.limiting)
    assert through == told.lines_fit
    assert not topology.without(told.limiting).reach(asked.origin) & {asked.target}


def load(told: Assessment) -> dict[tuple[PartyId, PartyId], Fraction]:
    """Bits a second that each direction of each link carries if all is done as the answer says."""
    carried: dict[tuple[PartyId, PartyId], Fraction] = {}
    for one, ways in (*told.existing, (told.asked, told.ways)):
        for way in ways:
            assert (way.path[0], way.path[-1]) == (one.origin, one.target)
            assert len(set(way.path)) == len(way.path)
            for hop in pairwise(way.path):
                carried[hop] = carried.get(hop, Fraction(0)) + way.lines * Fraction(512, one.interval_s)
    return carried


@st.composite
def demands(draw: st.DrawFn, topology: Topology) -> Demand:
    origin, target = draw(st.permutations(topology.managers))[:2]
    return Demand(origin, target, draw(st.integers(0, 200)), draw(st.integers(1, 90)))


@given(networks(widths=RATES), st.data())
def test_a_yes_comes_with_ways_for_every_line_within_every_link_s_rate(topology: Topology, data: st.DataObject) -> None:
    existing: Sequence[Demand] = data.draw(st.lists(demands(topology), max_size=3))
    asked = data.draw(demands(topology))
    told = assess(topology, existing, asked)
    for (near, far), bits_s in load(told).items():
        assert 2 * bits_s <= topology.neighbours[near][far].rate_bits_s
    if told.admitted:
        carried = [(one, sum(way.lines for way in ways)) for one, ways in told.existing]
        assert carried == [(one, one.lines) for one in existing]
        assert sum(way.lines for way in told.ways) == asked.lines


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (demand("ax", 1), "km/x is no key manager of this network"),
        (demand("aa", 1), "not from km/a to itself"),
        (demand("ac", -1), "-1 lines with keys of 256 bits every 60 s: expected zero or more lines, and at least 1"),
        (demand("ac", 1, 0), "every 0 s: expected"),
        (demand("ac", 1, 60, 0), "keys of 0 bits every 60 s: expected"),
        (demand("ac", 1, way="ac"), "the path km/a–km/c needs a link that is up from km/a to km/c"),
        (demand("ac", 1, way="ab"), "the path km/a–km/b does not lead from km/a to km/c"),
        (demand("ac", 1, way="abxc"), "km/x is no key manager of this network"),
        (demand("ac", 1, way="ababc"), "does not lead from km/a to km/c"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_wherever_it_stands(asked: Demand, complaint: str) -> None:
    line = network("a-b:1024 b-c:1024")
    with pytest.raises(UsageError, match=complaint):
        assess(line, [], asked)
    with pytest.raises(UsageError, match=complaint):
        assess(line, [asked], demand("ac", 1))
