"""What makes a network, what is said about one that is none, and what a failure leaves of it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from tests.keynetwork.networks import km, network, path

from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.keynetwork.topology import Link, Topology

SQUARE = network("a-b a-c b-d c-d")
A_B, B_C = Link("a-b", (km("a"), km("b"))), Link("b-c", (km("b"), km("c")))


@pytest.mark.parametrize(
    ("managers", "links", "complaint"),
    [
        ("", (), "a network has at least one key manager; this one has none"),
        ("aba", (A_B,), "two of this network's key managers are named 'km/a'; give each its own name"),
        ("abc", (A_B, replace(B_C, name="a-b")), "two of this network's links are named 'a-b'; give each its own name"),
        ("ab", (A_B, B_C), "link 'b-c' ends at 'km/c'; there are km/a, km/b"),
        ("a", (Link("loop", (km("a"), km("a"))),), "both ends of link 'loop' are 'km/a'; a link joins two"),
        ("ab", (A_B, Link("b-a", (km("b"), km("a")))), "links 'a-b' and 'b-a' join the same two; make them one"),
        ("abcd", (A_B, Link("c-d", (km("c"), km("d")))), "no links lead from km/a to km/c, km/d; join them"),
        ("ab", (replace(A_B, rate_bits_s=-1),), "link 'a-b' has a rate_bits_s of -1; expected zero or more"),
        ("ab", (replace(A_B, pool_bits=-8),), "link 'a-b' has a pool_bits of -8; expected zero or more"),
        ("ab", (replace(A_B, length_km=float("nan")),), "link 'a-b' has a length_km of nan; expected zero or more"),
        ("ab", (replace(A_B, qber=1.5),), "link 'a-b' has a qber of 1.5; expected 0 to 1"),
        ("ab", (replace(A_B, qber=float("nan")),), "link 'a-b' has a qber of nan; expected 0 to 1"),
    ],
)
def test_a_network_that_is_none_is_refused_with_what_is_wrong(
    managers: str, links: tuple[Link, ...], complaint: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)):
        Topology(path(managers), links)


def test_one_key_manager_without_links_is_a_network() -> None:
    assert Topology(path("a"), ()).reach(km("a")) == {km("a")}


def test_neighbours_stand_in_the_order_of_their_names_whatever_the_order_of_the_links() -> None:
    star = network("m-z m-a m-k")
    assert list(star.neighbours[km("m")]) == list(path("akz"))
    assert star.neighbours[km("a")][km("m")].name == "m-a"


def test_a_link_that_is_down_has_no_neighbours_and_still_makes_it_one_network() -> None:
    parted = SQUARE.without({"a-b", "c-d"})
    assert parted.reach(km("a")) == set(path("ac"))
    assert list(parted.neighbours[km("b")]) == [km("d")]
    assert SQUARE.reach(km("a")) == set(path("abcd"))
    assert parted.without({"a-c"}).reach(km("a")) == {km("a")}


def test_taking_down_a_link_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no link 'a-d'; there are a-b, a-c, b-d, c-d"):
        SQUARE.without({"a-b", "a-d"})


def test_a_stranger_is_refused_with_a_short_list_of_those_there_are() -> None:
    large = network(" ".join(f"m-{name}" for name in "abcdefghij"))
    with pytest.raises(UsageError, match=r"km/x is no key manager .* km/h and 3 more$"):
        large.require(PartyId("km/x"))


def test_the_width_of_a_link_is_what_it_has_and_what_it_will_have_made() -> None:
    assert replace(A_B, pool_bits=1000, rate_bits_s=50).width_bits(60) == 4000
