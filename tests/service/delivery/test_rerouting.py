"""Supplies go round an eavesdropper while the link still has bits, and come back; with the QKMP, and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs
from tests.procedures.key_network import A, B, C, Certified, D, Network, link_of
from tests.service.delivery.ring import BELIEVED_S, LONG, PART, READY_KEYS, RING, SHORT, Ring, ring
from tests.service.desks import run

from qsotn.domain import PartyId
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import Reserve
from qsotn.keynetwork.relay import hindrance
from qsotn.procedures import pool_supply
from qsotn.service.delivery.filling import LONGEST_PAUSE, SUPPLY_US
from qsotn.service.delivery.route_metrics import RouteMetrics


@pytest.fixture(scope="module")
def certified() -> Certified:
    return Certified()


@pytest.fixture
def open_ring(tmp_path: Path, certified: Certified) -> Iterator[Callable[..., Network]]:
    opened: list[Network] = []

    def begin(units: int = 512) -> Network:
        opened.append(Network(tmp_path, certified, RING, units=units))
        return opened[-1]

    yield begin
    for network in opened:
        network.close()


Opened = Callable[..., Network]


async def begun(town: Ring) -> None:
    """Fill the pool over the shorter way, with all links quiet and told."""
    for pair in RING:
        town.light(link_of(*pair), 0.01)
    town.tell()
    await town.filled()
    assert set(town.ways()) == {SHORT}
    assert await town.ready() == READY_KEYS


def test_an_eavesdropper_on_a_link_far_away_is_gone_round_while_it_has_bits_and_used_again_when_he_is_gone(
    open_ring: Opened,
) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            left = town.units("b-c")
            town.light("b-c", 0.06)
            town.tell()
            await town.drawn()
            assert town.ways()[-1] == LONG
            assert town.units("b-c") == left > READY_KEYS, "it could have gone on"
            assert town.routes.hindered(town.network.clock()) == {"b-c": ("NOISY",)}
            town.light("b-c", 0.02)
            town.tell()
            await town.drawn()
            assert [town.ways()[-2], town.ways()[-1]] == [LONG, SHORT]
            assert town.units("b-c") == left - PART
            assert town.failed() == []
            await town.check()

    run(story())


def test_one_on_a_link_of_ones_own_is_gone_round_before_anybody_tells(open_ring: Opened) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            town.light("a-b", 0.06)
            await town.drawn()
            assert town.ways()[-1] == LONG
            town.light("a-b", 0.01)
            await town.drawn()
            assert town.ways()[-1] == SHORT
            assert town.failed() == []

    run(story())


def test_light_that_gives_no_key_is_gone_round_though_its_errors_are_below_the_limit(open_ring: Opened) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            town.light("b-c", 0.042, distils=False)
            town.tell()
            await town.drawn()
            assert town.ways()[-1] == LONG

    run(story())


def test_what_was_distilled_before_stays_good_where_there_is_no_other_way_and_that_is_told(
    open_ring: Opened,
) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            town.light("b-c", 0.06)
            town.light("d-e", 0.06)
            town.tell()
            with capture_logs() as logs:
                await town.drawn()
            assert town.ways()[-1] == SHORT
            assert await town.ready() == READY_KEYS
            told = [one["links"] for one in logs if one["event"] == "supplies cross links that are to be avoided"]
            assert told == ["b-c (NOISY)"]

    run(story())


def test_above_what_any_key_may_be_made_of_a_link_is_used_for_nothing_and_the_pool_says_why(
    open_ring: Opened,
) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            for link in ("b-c", "d-e"):
                town.light(link, 0.1, distils=False)
            town.tell()
            left = {link: town.units(link) for link in ("b-c", "d-e")}
            with capture_logs() as logs:
                await town.drawn()
            assert await town.ready() == READY_KEYS - PART
            assert {link: town.units(link) for link in left} == left
            (why,) = [one["reason"] for one in logs if one["event"] == "a pool cannot be supplied"]
            assert why.endswith("barred for their error rates are b-c, d-e")
            town.light("d-e", 0.01)
            town.tell()
            await town.filled(LONGEST_PAUSE // 8)
            assert await town.ready() == READY_KEYS
            assert town.ways()[-1] == LONG

    run(story())


# --- without the QKMP -------------------------------------------------------------------------------------------------


def test_without_a_qkmp_supplies_go_over_the_fewest_links_and_no_pool_is_short(open_ring: Opened) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            town.light("b-c", 0.06)
            await town.filled()
            await town.drawn()
            assert set(town.ways()) == {SHORT}, "nobody said that it is noisy, and its bits are good"
            assert town.failed() == []
            assert town.filling.short == ()

    run(story())


def test_a_relay_refuses_for_a_barred_link_that_the_origin_was_not_told_of_and_the_next_goes_round(
    open_ring: Opened,
) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await town.filled()
            town.light("b-c", 0.1, distils=False)
            left = town.units("b-c")
            await town.drawn()
            await town.filled(8)
            assert town.failed() == ["LINK_BARRED"]
            assert town.ways()[-1] == LONG
            assert town.units("b-c") == left
            assert await town.ready() == READY_KEYS
            await town.check()

    run(story())


def test_what_the_qkmp_told_is_believed_for_a_while_after_it_went_away_and_then_no_more(open_ring: Opened) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            town.light("b-c", 0.06)
            town.tell()
            town.network.clock.advance(int(BELIEVED_S / 2 * 1e6))
            await town.drawn()
            assert town.ways()[-1] == LONG
            town.network.clock.advance(int(BELIEVED_S * 1e6))
            await town.drawn()
            assert town.ways()[-1] == SHORT
            assert town.filling.short == ()

    run(story())


def test_a_link_that_runs_low_is_gone_round_before_it_is_empty(open_ring: Opened) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            town.network.drain(SHORT[1], "b-c", leave=9)
            town.tell()
            await town.drawn()
            assert town.ways()[-1] == LONG
            assert town.units("b-c") == 9

    run(story())


# --- a relay that names a link it has nothing to do with --------------------------------------------------------------


def refuse_once(monkeypatch: pytest.MonkeyPatch, liar: PartyId, code: str, detail: str) -> None:
    """Let a key manager refuse the next share that it would pass on."""
    honest, lies = pool_supply._next_hop, [Refusal(code, detail)]

    def next_hop(km: Any, *asked: Any) -> tuple[str, PartyId]:
        if km.desk.party == liar and lies:
            raise lies.pop()
        return honest(km, *asked)

    monkeypatch.setattr(pool_supply, "_next_hop", next_hop)


@pytest.mark.parametrize("code", ["KEY_SHORTAGE", "LINK_BARRED"])
@pytest.mark.parametrize(
    ("link", "party"),
    [
        ("a-d", B),  # one of A's own
        ("d-e", D),  # far away
        ("c-e", C),  # of one that is on the way
        ("b-c", D),  # on the way, and said by one that is not
        ("b-c", A),
        ("x-y", B),  # nowhere
    ],
)
def test_a_relay_that_names_a_link_not_ahead_on_the_way_has_the_one_towards_itself_left_out(
    open_ring: Opened, monkeypatch: pytest.MonkeyPatch, link: str, party: PartyId, code: str
) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            refuse_once(monkeypatch, B, code, hindrance(link, party, "too few"))
            with capture_logs() as logs:
                await town.drawn()
                await town.filled(12)
            assert town.failed() != []
            assert town.routes.hindered(town.network.clock()) == {"a-b": ("FAILED",)}
            assert set(town.routes._failures) == {"a-b"}
            assert town.ways()[-1] == LONG
            assert await town.ready() == READY_KEYS
            reasons = [one["named"] for one in logs if one["event"] == "a link that is not on the way was named"]
            reasons += [one for one in town.network.rows().values() if "named" in one]
            assert len(reasons) == 1
            assert f"km/b named '{link}', which is not ahead on the way" in reasons[0]

    run(story())


def test_a_relay_that_names_its_next_link_is_believed(open_ring: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            refuse_once(monkeypatch, B, "KEY_SHORTAGE", hindrance("b-c", B, "too few"))
            await town.drawn()
            await town.filled(12)
            assert town.routes.hindered(town.network.clock()) == {"b-c": ("FAILED",)}
            assert not any("named" in one for one in town.network.rows().values())

    run(story())


# --- a relay that says nothing ----------------------------------------------------------------------------------------


def test_a_silent_relay_costs_a_supply_twenty_seconds_and_the_next_one_goes_round(open_ring: Opened) -> None:
    async def story() -> None:
        async with ring(open_ring()) as town:
            await begun(town)
            town.network.mute(SHORT[1])
            pool = await town.group.call(lambda store: store.begin_pool(A, C))
            await town.group.apply(Reserve(pool, "alice", ("bob",), PART, 256, 0, held=True))
            await town.filling.look()
            town.network.run(SUPPLY_US / 1e6 + 1)
            assert town.failed() == ["TIMEOUT"]
            for _ in range(8):  # the relay has much to say meanwhile, and nobody hears it
                await town.filling.look()
                town.network.run(1)
                town.network._hand_over(C)
            assert town.ways()[-1] == LONG
            assert await town.ready() == READY_KEYS

    run(story())


def test_the_avoided_links_of_a_key_manager_are_metrics_while_they_are() -> None:
    registry, hindered = CollectorRegistry(), {"b-c": ("FAILED", "NOISY"), "a-b": ("BARRED",)}
    RouteMetrics(registry, lambda: hindered)
    shown = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    assert shown == [
        'qsotn_route_avoided{link="a-b",reason="barred"} 1.0',
        'qsotn_route_avoided{link="b-c",reason="failed"} 1.0',
        'qsotn_route_avoided{link="b-c",reason="noisy"} 1.0',
    ]
    hindered.clear()
    assert "qsotn_route_avoided{" not in generate_latest(registry).decode()
