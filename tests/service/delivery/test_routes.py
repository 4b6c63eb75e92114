"""The ways of supplies: the shortest, another one after a failure, and several that share nobody."""

from __future__ import annotations

import pytest

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.service.delivery.routes import AVOIDED_US, Routes

A, B, C, D, E = (PartyId(f"km/{name}") for name in "abcde")
RING = {"a-b": (A, B), "b-c": (B, C), "a-d": (A, D), "d-e": (D, E), "e-c": (E, C)}
SHORT, LONG = (A, B, C), (A, D, E, C)


def test_the_way_over_the_fewest_links_is_taken_until_a_supply_failed_on_it() -> None:
    routes = Routes(A, RING)
    assert routes.ways(C, 0) == (SHORT,)
    routes.avoid("b-c", 0)
    assert routes.ways(C, 1) == (LONG,)
    assert routes.ways(C, AVOIDED_US) == (SHORT,), "after a while it is tried again"


def test_where_every_way_has_failed_the_first_is_tried_again() -> None:
    routes = Routes(A, RING)
    for link in ("b-c", "d-e"):
        routes.avoid(link, 0)
    assert routes.ways(C, 1) == (SHORT,)


def test_shares_go_over_ways_that_share_nobody() -> None:
    assert Routes(A, RING, shares=2).ways(C, 0) == (SHORT, LONG)
    with pytest.raises(Refusal, match="TOO_FEW_PATHS"):
        Routes(A, RING, shares=3).ways(C, 0)


def test_without_a_network_and_for_a_pool_of_ones_own_no_way_is_named() -> None:
    assert Routes(A, {}).ways(C, 0) == ()
    assert Routes(A, RING).ways(A, 0) == ()


def test_who_is_not_in_the_network_has_no_way() -> None:
    with pytest.raises(UsageError, match="km/x"):
        Routes(A, RING).ways(PartyId("km/x"), 0)
