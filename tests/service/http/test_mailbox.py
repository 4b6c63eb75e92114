"""A device collects what is for it, says what it has, and nobody waits in the place of one that has gone."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import cbor2
import pytest
from tests.service.http.driver import Client, DirectMailbox, Incoming, Reply, application_of, ask, scope_of
from tests.world import World

from qsotn.app.province import CPE_A, CPE_B, PMP
from qsotn.domain import PartyId, Role, role_of
from qsotn.parties.pomp import DeviceState
from qsotn.ports import Posted

MAILBOX = "/ax/v1/mailbox"


def is_device(party: PartyId) -> bool:
    return role_of(party) is Role.CPE


def collected(reply: Reply) -> dict[int, bytes]:
    """What a mailbox handed out, by number."""
    stream, found = io.BytesIO(reply.body), dict[int, bytes]()
    while stream.tell() < len(reply.body):
        number, datagram = cbor2.load(stream)
        found[number] = datagram
    return found


@pytest.fixture
def collecting(open_world: Callable[..., World]) -> World:
    """A province whose PMP sends devices nothing: they collect. The first one was ordered into service."""
    world = open_world("provisioned")
    node = world.nodes[PMP]
    node._poster = dataclasses.replace(node._poster, collects=is_device)
    world.initialize(CPE_A)
    world.pump()
    return world


def test_a_device_comes_into_service_by_collecting(collecting: World) -> None:
    pmp = application_of(collecting, PMP)
    device = Client(pmp, CPE_A)
    for _ in range(40):
        reply = device("GET", f"{MAILBOX}?wait=0&limit=4")
        for number, datagram in collected(reply).items():
            collecting.nodes[CPE_A].receive(datagram)
            assert device("POST", f"{MAILBOX}/receipts", json={"numbers": [number]}).status == 204
        collecting.pump()
    assert collecting.device_state(CPE_A) is DeviceState.READY
    assert (device("GET", MAILBOX).status, device("GET", MAILBOX).body) == (204, b"")


def test_what_is_not_acknowledged_comes_again_and_what_is_does_not(collecting: World) -> None:
    device = Client(application_of(collecting, PMP), CPE_A)
    first = collected(device("GET", MAILBOX))
    assert (len(first), collected(device("GET", MAILBOX))) == (1, first)
    device("POST", f"{MAILBOX}/receipts", json={"numbers": list(first)})
    assert device("GET", MAILBOX).status == 204


def test_nothing_is_collected_without_being_handed_out(collecting: World) -> None:
    device = Client(application_of(collecting, PMP), CPE_A)
    reply = device("HEAD", MAILBOX)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, OPTIONS")
    assert len(collected(device("GET", MAILBOX))) == 1


def test_nobody_collects_or_acknowledges_for_another(collecting: World) -> None:
    pmp = application_of(collecting, PMP)
    other, device = Client(pmp, CPE_B), Client(pmp, CPE_A)
    numbers = list(collected(device("GET", MAILBOX)))
    assert other("GET", MAILBOX).status == 204
    assert other("POST", f"{MAILBOX}/receipts", json={"numbers": numbers}).status == 204
    assert list(collected(device("GET", MAILBOX))) == numbers


@pytest.mark.parametrize("query", ["wait=31", "wait=-1", "wait=0.5", "limit=0", "limit=65", "wait=1&wait=1", "x=1"])
def test_a_query_that_is_not_as_declared_is_refused(collecting: World, query: str) -> None:
    assert Client(application_of(collecting, PMP), CPE_A)("GET", f"{MAILBOX}?{query}").status == 400


@pytest.mark.parametrize(
    "numbers",
    [None, 1, ["1"], [0], [-1], [2**63], [1.5], [True], list(range(1, 1026))],
    ids=lambda value: str(value)[:9],
)
def test_receipts_are_positive_numbers(collecting: World, numbers: Any) -> None:
    reply = Client(application_of(collecting, PMP), CPE_A)("POST", f"{MAILBOX}/receipts", json={"numbers": numbers})
    assert (reply.status, reply.problem) == (422, "invalid-request")


class Waiting:
    """A mailbox into which something comes when the test says so."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.waiting, self.given_up = 0, 0
        self.asked: tuple[float, int] | None = None
        self.receipts: list[int] = []

    async def collect(
        self, device: PartyId, wait_s: float, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        self.asked, self.receipts, self.waiting = (wait_s, limit), list(received), self.waiting + 1
        try:
            await self.arrived.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return [Posted(7, device, b"datagram", 0)]

    async def acknowledge(self, device: PartyId, numbers: Sequence[int]) -> None:
        raise AssertionError(f"{device} acknowledges {numbers}")


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():
            await asyncio.sleep(0)


def test_a_device_waits_for_its_mail(province: World) -> None:
    async def story() -> None:
        mailbox = Waiting()
        pmp = application_of(province, PMP, mailbox=mailbox)
        asked = scope_of("GET", f"{MAILBOX}?wait=30&limit=2&received=3,41", (), CPE_A)
        asking = asyncio.create_task(ask(pmp, asked, Incoming([])))
        await until(lambda: mailbox.waiting == 1)
        assert (asking.done(), mailbox.receipts) == (False, [3, 41])
        mailbox.arrived.set()
        reply = await asyncio.wait_for(asking, 5)
        assert (mailbox.asked, reply.status, collected(reply)) == ((30, 2), 200, {7: b"datagram"})
        assert reply.headers["content-type"] == "application/cbor-seq"

    asyncio.run(story())


def test_nobody_waits_in_the_place_of_a_device_that_has_gone(province: World) -> None:
    async def story() -> None:
        mailbox = Waiting()
        pmp = application_of(province, PMP, mailbox=mailbox)
        leaving = asyncio.Event()

        async def incoming() -> dict[str, Any]:
            await leaving.wait()
            return {"type": "http.disconnect"}

        asking = asyncio.create_task(ask(pmp, scope_of("GET", f"{MAILBOX}?wait=30", (), CPE_A), incoming))
        await until(lambda: mailbox.waiting == 1)
        leaving.set()
        reply = await asyncio.wait_for(asking, 5)
        assert (reply.status, mailbox.given_up) == (0, 1)

    asyncio.run(story())


def test_a_service_that_stops_gives_its_waiting_up(province: World) -> None:
    async def story() -> None:
        mailbox = Waiting()
        pmp = application_of(province, PMP, mailbox=mailbox)
        asking = asyncio.create_task(ask(pmp, scope_of("GET", f"{MAILBOX}?wait=30", (), CPE_A), Incoming([])))
        await until(lambda: mailbox.waiting == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert mailbox.given_up == 1

    asyncio.run(story())


def test_a_mailbox_passes_on_how_long_to_wait(province: World) -> None:
    mailbox = DirectMailbox(province.nodes[PMP])
    device = Client(application_of(province, PMP, mailbox=mailbox), CPE_A)
    device("GET", MAILBOX)
    device("GET", f"{MAILBOX}?wait=30")
    assert mailbox.waits == [0, 30]
