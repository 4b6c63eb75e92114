"""Stories of links that run low: leased lines are served first, and ready pools are never left with nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.links import use_up
from tests.procedures.key_network import A, B, C, D, Network, link_of

from qsotn.errors import KeyShortage
from qsotn.parties import km_shares
from qsotn.parties.km import BlockState, Km

AB, BC, CD = link_of(A, B), link_of(B, C), link_of(C, D)
UNITS = 64
"""What each end of every link has at first. Of the mark of 32, 16 are saved up for the lines and 8 for the pools."""


def lines_take(network: Network, units: int, link: str = AB) -> None:
    with network.desk(A) as km:
        km.allocate(link, units, 256)


def pools_take(network: Network, units: int) -> None:
    with network.desk(A) as km:
        km.draw(AB, units)


def until_refused(take: Callable[[Network, int], None], network: Network) -> int:
    """Take one unit after the other; return how many there were."""
    taken = 0
    while True:
        try:
            take(network, 1)
        except KeyShortage:
            return taken
        taken += 1


def left(network: Network) -> int:
    with network.desk(A) as km:
        bits: int = km.available_bits(AB)
    return bits // 256


def test_filling_pools_stops_before_the_lines_are_short(chain: Network) -> None:
    assert until_refused(pools_take, chain) == UNITS - 16 - 4
    assert left(chain) == 20
    assert until_refused(lines_take, chain) == 20


def test_lines_leave_the_pools_their_minimum(chain: Network) -> None:
    assert until_refused(lines_take, chain) == UNITS - 8
    assert until_refused(pools_take, chain) == 8
    assert left(chain) == 0


def test_of_what_a_low_link_brings_the_lines_have_half_and_the_pools_a_quarter(chain: Network) -> None:
    until_refused(pools_take, chain)
    until_refused(lines_take, chain)
    given = {"pools": 0, "lines": 0}
    for number in range(2, 12):
        chain.fill(8, number)
        given["pools"] += until_refused(pools_take, chain)
        given["lines"] += until_refused(lines_take, chain)
    assert given == {"pools": 20, "lines": 60}, "what is for both is the lines' when it is low"


def test_a_supply_stops_at_the_origin_with_the_shortage_that_is_known_there(chain: Network) -> None:
    chain.supply("first", units=44)
    chain.settle()
    told = "km/a has too few bits on a-b: ready pools may have 0 units now, and 8 were asked for"
    with pytest.raises(KeyShortage, match=told):
        chain.supply("second", first=44)
    lines_take(chain, 16)


def test_a_relay_keeps_its_lines_share_too_and_names_its_link(chain: Network) -> None:
    with chain.desk(B) as km:
        use_up(km, BC, leave=24)
    chain.supply(units=16)
    chain.settle()
    assert (chain.batch().state, chain.batch().code, chain.batch().link) == ("FAILED", "KEY_SHORTAGE", BC)
    assert "ready pools may have 8 units now, and 16 were asked for" in chain.batch().detail
    with chain.desk(B) as km:
        km.allocate(BC, 12, 256)
    chain.supply("smaller", units=6, first=16)
    chain.settle()
    assert chain.batch("smaller").state == "ARRIVED"


def test_a_restart_changes_nothing_of_what_was_shared_out(chain: Network) -> None:
    until_refused(pools_take, chain)
    before = shares(chain)
    chain.restart(A)
    assert shares(chain) == before
    with pytest.raises(KeyShortage):
        pools_take(chain, 1)
    lines_take(chain, 20)


def shares(network: Network) -> km_shares.LinkShares | None:
    with network.desk(A) as km:
        return km_shares.link_shares(km.desk).get(AB)


def test_the_account_says_how_many_units_there_are(chain: Network) -> None:
    for number, (take, units) in enumerate([(pools_take, 30), (lines_take, 9), (pools_take, 3)] * 2, 2):
        take(chain, units)
        known = shares(chain)
        assert known is not None
        assert sum(account.credit for account in known.accounts.values()) <= known.units <= left(chain)
        chain.fill(20, number)
    with chain.desk(A) as km:
        km.draw(AB, km.available_bits(AB) // 256 - 24)
    known = shares(chain)
    assert known is not None
    assert known.units == left(chain) == 24


def test_units_that_are_written_off_are_not_shared_out(chain: Network) -> None:
    """A block that was agreed on turns out not to be: the lines' share is of what is left."""
    chain.fill(20, number=2)
    with chain.desk(A) as km:
        km.draw(AB, 1)
        km.set_state(km.block(AB, 1), BlockState.DISCARDED)
    assert until_refused(pools_take, chain) == 20 - 10 - 4
    assert until_refused(lines_take, chain) == 14


def test_a_link_with_much_in_stock_is_not_counted_through_for_every_key(
    chain: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    really = Km.available_bits

    def counting(km: Km, link: str) -> int:
        counted.append(link)
        return really(km, link)

    for number in range(2, 20):
        chain.fill(10, number)
    monkeypatch.setattr(Km, "available_bits", counting)
    for _ in range(100):
        pools_take(chain, 1)
        lines_take(chain, 1)
    assert len(counted) <= 2
