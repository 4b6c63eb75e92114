"""A device's mail at its PMP: kept until it is collected, told at once, given to one question at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import pytest
from tests.service.desks import FROM_POMP, Desk, RunningClock, junk, orders, run, until
from tests.world import LIFETIME_US, World

from qsotn.app.province import PMP
from qsotn.domain import PartyId, ProcedureId
from qsotn.ports import Posted
from qsotn.runtime import Node
from qsotn.service import mailbox as mailboxes
from qsotn.service.mailbox import Mailbox
from qsotn.service.sender import LEASE_US
from qsotn.service.worker import Overloaded

DEVICE, OTHER = PartyId("cpe/jinan-100"), PartyId("cpe/jinan-101")
"""Those whom the first two of `desks.orders` are about."""


class Office:
    """A PMP's desk with a mailbox: `worker.Outlet`."""

    box: Mailbox

    def __init__(self, world: World, clock: RunningClock | None = None, *, alone: bool = False) -> None:
        self.desk = Desk(world.folder, PMP, clock, expects=lambda device: self.box.expects(device))
        self.box = Mailbox(self.desk.worker, alone=alone)

    def posted(self, posted: Sequence[Posted]) -> None:
        assert posted == [], "what is for a device is not sent"

    def mail(self, mail: Mapping[PartyId, Sequence[Posted]]) -> None:
        self.box.deliver(mail)

    async def start(self) -> None:
        await self.desk.worker.start(self)
        await self.box.start()

    async def stop(self) -> None:
        await self.box.stop()
        await self.desk.worker.stop()

    def asks(self, device: PartyId = DEVICE, wait_s: float = 10.0) -> asyncio.Task[Sequence[Posted]]:
        return asyncio.create_task(self.box.collect(device, wait_s, 16))

    async def arrive(self, datagram: bytes) -> None:
        """Have the PMP make mail for a device."""
        receipts = await self.desk.worker.receive([datagram], FROM_POMP)
        assert receipts.taken


def told(office: Office, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        await office.start()
        try:
            await story()
        finally:
            await office.stop()

    run(whole())


async def asked(office: Office, device: PartyId = DEVICE) -> asyncio.Task[Sequence[Posted]]:
    """A question that has been looked at, and waits."""
    calls = office.desk.store.calls
    before = calls.count("lease")
    task = office.asks(device)
    await until(lambda: calls.count("lease") > before)
    await asyncio.sleep(0.02)
    assert not task.done()
    return task


def test_a_device_that_waits_hears_of_its_mail_at_once(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "LOOK_S", 3600.0)
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        waiting = await asked(office)
        await office.arrive(order)
        (mail,) = await asyncio.wait_for(waiting, 2)
        assert mail.next_hop == DEVICE

    told(office, story)


def test_mail_for_a_device_that_waits_is_handed_over_on_lease_and_the_store_is_not_asked_for_it(ready: World) -> None:
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        waiting = await asked(office)
        before = office.desk.store.calls.count("lease")
        await office.arrive(order)
        (mail,) = await asyncio.wait_for(waiting, 2)
        assert office.desk.store.calls.count("lease") == before
        assert list(await office.box.collect(DEVICE, 0, 16)) == []
        office.desk.clock.advance(LEASE_US)
        assert [one.number for one in await office.box.collect(DEVICE, 0, 16)] == [mail.number]

    told(office, story)


def test_what_is_posted_before_a_device_has_its_answer_is_there_for_its_next_question(ready: World) -> None:
    """Two transactions may end before the first one's mail has left: only that one was promised to the question."""
    office, datagrams = Office(ready, alone=True), orders(ready, 1)

    async def story() -> None:
        waiting = await asked(office)
        assert office.box.expects(DEVICE)
        assert not office.box.expects(DEVICE)
        await office.arrive(datagrams[0])  # by the side of the promise
        (mail,) = await asyncio.wait_for(waiting, 2)
        assert mail.next_hop == DEVICE

    told(office, story)


def test_more_than_was_asked_for_comes_with_the_next_question(ready: World) -> None:
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        waiting = asyncio.create_task(office.box.collect(DEVICE, 10, 1))
        await until(lambda: office.desk.store.calls.count("lease") > 0)
        await asyncio.sleep(0.02)
        await office.arrive(order)
        (first,) = await waiting
        extra = [Posted(first.number, DEVICE, b"1", 0), Posted(first.number + 1, DEVICE, b"2", 0)]
        again = asyncio.create_task(office.box.collect(DEVICE, 10, 1))
        await asyncio.sleep(0.05)
        office.box.deliver({DEVICE: extra})
        assert [one.datagram for one in await again] == [b"1"]
        await until(lambda: "postpone" in office.desk.store.calls)

    told(office, story)


def test_what_was_promised_to_a_question_that_has_gone_is_due_again(ready: World) -> None:
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        waiting = await asked(office)
        waiting.cancel()
        office.box.expects(DEVICE)  # what a transaction asks that is under way at this moment
        await asyncio.gather(waiting, return_exceptions=True)
        await office.arrive(order)
        (mail,) = await office.box.collect(DEVICE, 0, 16)
        office.box.deliver({DEVICE: [mail]})
        await until(lambda: "postpone" in office.desk.store.calls)
        office.desk.clock.advance(1_000_000)
        assert [one.number for one in await office.box.collect(DEVICE, 0, 16)] == [mail.number]

    told(office, story)


def test_alone_at_its_store_a_mailbox_asks_it_no_more_for_a_device_that_has_all(ready: World) -> None:
    office, (order,) = Office(ready, alone=True), orders(ready, 1)

    async def story() -> None:
        calls = office.desk.store.calls
        assert list(await office.box.collect(DEVICE, 0, 16)) == []
        asked_once = calls.count("lease")
        waiting = office.asks()
        await asyncio.sleep(0.05)
        await office.arrive(order)
        (mail,) = await asyncio.wait_for(waiting, 2)
        again = asyncio.create_task(office.box.collect(DEVICE, 10, 16, [mail.number]))
        await asyncio.sleep(0.05)
        assert calls.count("lease") == asked_once
        assert await office.desk.worker.call(Node.settle) == 0, "the receipt is written with the next transaction"
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    told(office, story)


def test_alone_at_its_store_a_mailbox_still_finds_what_was_posted_while_a_device_did_not_wait(ready: World) -> None:
    office, (order,) = Office(ready, alone=True), orders(ready, 1)

    async def story() -> None:
        assert list(await office.box.collect(DEVICE, 0, 16)) == []
        await office.arrive(order)
        assert len(await office.box.collect(DEVICE, 0, 16)) == 1

    told(office, story)


def test_alone_at_its_store_a_mailbox_gives_again_what_nobody_acknowledged(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailboxes, "LOOK_S", 0.05)
    office, (order,) = Office(ready, alone=True), orders(ready, 1)

    async def story() -> None:
        await office.arrive(order)
        (mail,) = await office.box.collect(DEVICE, 0, 16)
        assert list(await office.box.collect(DEVICE, 0, 16)) == []
        office.desk.clock.advance(LEASE_US)
        assert [one.number for one in await asyncio.wait_for(office.asks(), 2)] == [mail.number]

    told(office, story)


def test_mail_that_waits_is_given_at_once_and_on_lease_until_it_is_acknowledged(ready: World) -> None:
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        await office.arrive(order)
        (mail,) = await office.box.collect(DEVICE, 10, 16)
        assert await office.box.collect(DEVICE, 0, 16) == []
        office.desk.clock.advance(LEASE_US)
        assert [one.number for one in await office.box.collect(DEVICE, 0, 16)] == [mail.number]
        await office.box.acknowledge(DEVICE, [mail.number])
        office.desk.clock.advance(LEASE_US)
        assert await office.box.collect(DEVICE, 0, 16) == []
        assert await office.desk.worker.call(Node.settle) == 0

    told(office, story)


def test_another_devices_receipts_change_nothing(ready: World) -> None:
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        await office.arrive(order)
        (mail,) = await office.box.collect(DEVICE, 0, 16)
        await office.box.acknowledge(OTHER, [mail.number, mail.number + 1, 2**62])
        office.desk.clock.advance(LEASE_US)
        assert [one.number for one in await office.box.collect(DEVICE, 0, 16)] == [mail.number]

    told(office, story)


@pytest.mark.parametrize("alone", [False, True])
def test_receipts_come_with_the_next_question_and_are_for_ones_own_mail_alone(ready: World, *, alone: bool) -> None:
    office, datagrams = Office(ready, alone=alone), orders(ready, 2)

    async def story() -> None:
        for order in datagrams:
            await office.arrive(order)
        (mine,) = await office.box.collect(DEVICE, 0, 16)
        (other,) = await office.box.collect(OTHER, 0, 16)
        asking = asyncio.create_task(office.box.collect(DEVICE, 10, 16, [mine.number, other.number]))
        await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        office.desk.clock.advance(LEASE_US)
        assert list(await office.box.collect(DEVICE, 0, 16)) == []
        assert [one.number for one in await office.box.collect(OTHER, 0, 16)] == [other.number]

    told(office, story)


def test_a_device_gets_its_own_mail_and_no_more_than_it_asks_for(ready: World) -> None:
    office, datagrams = Office(ready), orders(ready, 2)

    async def story() -> None:
        waiting = await asked(office)
        await office.arrive(datagrams[1])
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert {one.next_hop for one in await office.box.collect(OTHER, 0, 1)} == {OTHER}
        await office.arrive(datagrams[0])
        assert {one.next_hop for one in await waiting} == {DEVICE}

    told(office, story)


def test_a_question_that_nobody_answers_ends_with_nothing(ready: World) -> None:
    office = Office(ready)

    async def story() -> None:
        assert list(await office.box.collect(DEVICE, 0.05, 16)) == []
        assert office.box._waiting == {}

    told(office, story)


def test_a_device_that_asks_again_is_answered_there_and_its_older_question_ends(ready: World) -> None:
    """The older connection may be dead: what would be given to it would be lost until its lease ends."""
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        older = await asked(office)
        newer = asyncio.create_task(office.box.collect(DEVICE, 10, 16))
        assert list(await asyncio.wait_for(older, 2)) == []
        await office.arrive(order)
        assert [one.next_hop for one in await newer] == [DEVICE]
        assert office.box._waiting == {}

    told(office, story)


def test_an_older_question_takes_nothing_away_from_the_newer_one(ready: World) -> None:
    """There is more than the newer one asks for at once, and nobody was told of it: another process left it."""
    office, clock = Office(ready), RunningClock()

    def leave(node: Node) -> None:
        with node.desk() as pmp:
            for number in range(2):
                data, expires = junk(DEVICE, "Ax", number, PMP), clock() + LIFETIME_US
                pmp.desk.transaction.post(ProcedureId("p"), DEVICE, data, b"", expires_at=expires, collected=True)

    async def story() -> None:
        older = await asked(office)
        await office.desk.worker.call(leave)
        (one,) = await office.box.collect(DEVICE, 10, 1)
        assert list(await older) == []
        (other,) = await office.box.collect(DEVICE, 0, 16)
        assert one.number != other.number

    told(office, story)


def test_a_question_that_is_given_up_takes_nothing(ready: World) -> None:
    office, (order,) = Office(ready), orders(ready, 1)

    async def story() -> None:
        waiting = await asked(office)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await office.arrive(order)
        assert len(await office.box.collect(DEVICE, 0, 16)) == 1

    told(office, story)


@pytest.mark.parametrize("ticks", range(5))
def test_a_question_that_is_given_up_in_the_very_moment_mail_comes_takes_nothing(ready: World, ticks: int) -> None:
    office = Office(ready)

    async def story() -> None:
        waiting = await asked(office)
        before = office.desk.store.calls.count("lease")
        with office.desk.busy():  # or a quick desk would have answered before it is given up
            office.box.wake([DEVICE])
            for _ in range(ticks):
                await asyncio.sleep(0)
            given_up = waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert given_up
        assert waiting.cancelled()
        assert office.desk.store.calls.count("lease") <= before + (ticks > 0)

    told(office, story)


def test_mail_that_another_process_left_is_found_soon(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "LOOK_S", 0.05)
    clock = RunningClock()
    office, replica, (order,) = Office(ready, clock), Desk(ready.folder, PMP, clock), orders(ready, 1)

    async def story() -> None:
        await replica.worker.start()
        waiting = await asked(office)
        assert (await replica.worker.receive([order], FROM_POMP)).taken
        assert [one.next_hop for one in await asyncio.wait_for(waiting, 2)] == [DEVICE]
        await replica.worker.stop()

    told(office, story)


def test_two_processes_give_a_device_each_datagram_once(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailboxes, "LOOK_S", 0.02)
    clock = RunningClock()
    office, replica, (order,) = Office(ready, clock), Office(ready, clock), orders(ready, 1)

    async def story() -> None:
        await replica.start()
        here, there = await asked(office), await asked(replica)
        await office.arrive(order)
        done, waiting = await asyncio.wait((here, there), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0.1)
        mail = [one for task in (here, there) if task.done() for one in task.result()]
        assert len(mail) == 1
        assert done
        for task in waiting:
            task.cancel()
        await replica.stop()

    told(office, story)


def test_when_it_ends_everybody_is_let_go(ready: World) -> None:
    office = Office(ready)

    async def story() -> None:
        await office.start()
        waiting = await asked(office)
        await office.box.stop()
        assert list(await asyncio.wait_for(waiting, 2)) == []
        await office.desk.worker.stop()

    run(story())


def test_a_desk_with_too_much_to_do_says_so_to_who_asks(ready: World) -> None:
    office = Office(ready)

    async def story() -> None:
        await office.desk.worker.start(office)
        await office.desk.worker.stop()
        with pytest.raises(Overloaded):
            await office.box.collect(DEVICE, 10, 16)
        assert office.box._waiting == {}

    run(story())
