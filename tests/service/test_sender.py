"""Out of the outbox: sent once it is durable, by one sender at a time, again until there is a receipt."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.service.desks import Desk, RunningClock, junk, run, until
from tests.world import LIFETIME_US, World

from qsotn.adapters.transport.http import Receipt, Unavailable
from qsotn.app.province import CPE_A, PMP, POMP, QSSP_A, QSSP_B
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import LineError, StoreError
from qsotn.ports import Posted
from qsotn.procedures import initialization, revocation
from qsotn.runtime import Node
from qsotn.runtime.node import FIRST_RETRY_US
from qsotn.service import sender as senders
from qsotn.service.sender import LARGEST_REQUEST, LARGEST_REQUEST_BYTES, LEASE_US, Sender

TAKEN, REFUSED = Receipt(202), Receipt(409, "out of order")


Answer = Callable[[int, bytes], Receipt | Exception]
"""Of the number of the attempt, and of the datagram."""


def _taken(_: int, __: bytes) -> Receipt:
    return TAKEN


@dataclass
class FakeParty:
    """A next hop: what it was sent, request by request, and how it answers."""

    clock: RunningClock
    answer: Answer = _taken
    requests: list[tuple[str, list[bytes]]] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.open.set()

    async def send(self, interface: str, datagrams: Sequence[bytes]) -> tuple[Receipt, ...]:
        self.requests.append((interface, list(datagrams)))
        self.at.append(self.clock())
        attempt = len(self.requests)
        await self.open.wait()
        return tuple(_receipt(self.answer(attempt, data)) for data in datagrams)

    @property
    def got(self) -> list[bytes]:
        return [data for _, datagrams in self.requests for data in datagrams]


def _receipt(answer: Receipt | Exception) -> Receipt:
    if isinstance(answer, Exception):
        raise answer
    return answer


class Post:
    """A POMP's desk with a sender: `worker.Outlet` and the way to its next hops."""

    def __init__(self, world: World, clock: RunningClock | None = None, *, alone: bool = False) -> None:
        self.desk = Desk(world.folder, POMP, clock)
        self.clock = self.desk.clock
        self.parties: dict[PartyId, FakeParty] = {}
        self.sender = Sender(self.desk.worker, self.parties.get, alone=alone)

    def party(self, name: PartyId, answer: Answer = _taken) -> FakeParty:
        self.parties[name] = FakeParty(self.clock, answer)
        return self.parties[name]

    def posted(self, posted: Sequence[Posted]) -> None:
        self.sender.take(posted)

    def mail(self, _: object) -> None:
        """Nobody collects at a POMP."""

    async def start(self) -> None:
        await self.desk.worker.start(self)
        await self.sender.start()

    async def stop(self) -> None:
        await self.sender.stop()
        await self.desk.worker.stop()

    async def post(self, *numbers: int, hop: PartyId = PMP, interface: str = "Ioa", due: int = 0) -> list[bytes]:
        """Put datagrams into the outbox as a transaction of another replica does: nobody here is told."""
        datagrams = [junk(hop, interface, number) for number in numbers]

        def put(node: Node) -> None:
            with node.desk() as pomp:
                for data in datagrams:
                    expires = self.clock() + LIFETIME_US
                    pomp.desk.transaction.post(ProcedureId("p"), hop, data, b"", expires_at=expires, due=due)

        await self.desk.worker.call(put)
        return datagrams

    async def undelivered(self) -> int:
        return await self.desk.worker.call(Node.settle)


def told(post: Post, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Tell a story between the start and the end of a sender."""

    async def whole() -> None:
        await post.start()
        try:
            await story()
        finally:
            await post.stop()

    run(whole())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the outbox often."""
    monkeypatch.setattr(senders, "SWEEP_S", 0.05)
    monkeypatch.setattr(senders, "SOONEST_SWEEP_S", 0.002)


def begin_many(count: int) -> Callable[[Node], None]:
    """Order devices into service: each order is one datagram to the PMP."""

    def order(pomp: Any, work: Any) -> None:
        for number in range(count):
            cpe = PartyId(f"cpe/jinan-{200 + number}")
            initialization.begin(pomp, work, cpe, f"QS-2026-{200_000 + number}", QSSP_A, PMP, LIFETIME_US)

    return lambda node: node.begin(order)


# --- the fast path ----------------------------------------------------------------------------------------------------


def test_what_is_posted_here_is_sent_at_once_and_without_asking_the_store(ready: World) -> None:
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP)
        await asyncio.sleep(0)
        post.desk.store.calls.clear()
        await post.desk.worker.call(begin_many(3))
        await until(lambda: len(pmp.got) == 3)
        assert "lease" not in post.desk.store.calls
        assert await post.undelivered() == 0
        await post.sender._look()
        assert len(pmp.got) == 3

    told(post, story)


def test_alone_at_its_store_a_sender_asks_it_only_while_something_can_be_due(ready: World, quick: None) -> None:
    post = Post(ready, alone=True)

    async def story() -> None:
        calls, pmp = post.desk.store.calls, post.party(PMP)
        await until(lambda: not post.sender._may_be_due())
        calls.clear()
        await asyncio.sleep(0.2)
        assert "lease" not in calls
        await post.desk.worker.call(begin_many(1))
        await until(lambda: len(pmp.got) == 1 and not post.sender._may_be_due())
        assert await post.undelivered() == 0

    told(post, story)


def test_alone_at_its_store_a_sender_tries_again_what_got_no_receipt(ready: World, quick: None) -> None:
    post = Post(ready, alone=True)

    async def story() -> None:
        await until(lambda: not post.sender._may_be_due())
        pmp = post.party(PMP, lambda _, __: LineError("no answer"))
        await post.desk.worker.call(begin_many(1))
        await until(lambda: len(pmp.got) > 1)
        pmp.answer = _taken
        await until(lambda: not post.sender._may_be_due())
        assert await post.undelivered() == 0

    told(post, story)


def test_alone_at_its_store_a_sender_sends_what_an_earlier_life_left(ready: World, quick: None) -> None:
    post = Post(ready, alone=True)

    async def story() -> None:
        await post.desk.worker.start(post)
        left = await post.post(1, 2)
        pmp = post.party(PMP)
        await post.sender.start()
        await until(lambda: pmp.got == left and not post.sender._may_be_due())
        await post.stop()

    run(story())


def test_alone_at_its_store_a_sender_looks_when_stored_answers_may_be_due_again(ready: World, quick: None) -> None:
    post = Post(ready, alone=True)

    async def story() -> None:
        pmp = post.party(PMP)
        await until(lambda: not post.sender._may_be_due())
        repeated = await post.post(1)
        await asyncio.sleep(0.1)
        assert pmp.got == []
        post.desk.node.repeats += 1
        post.sender.take([])
        await until(lambda: pmp.got == repeated)

    told(post, story)


def test_nothing_is_sent_before_it_is_committed(ready: World) -> None:
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP)
        store = post.desk.store
        store.committing.clear()
        store.may_commit.clear()
        ordering = asyncio.create_task(post.desk.worker.call(begin_many(1)))
        await until(store.committing.is_set)
        await asyncio.sleep(0.05)
        assert pmp.got == []
        store.may_commit.set()
        await ordering
        await until(lambda: len(pmp.got) == 1)

    told(post, story)


def test_what_gathers_behind_a_request_leaves_together_and_in_order(ready: World, quick: None) -> None:
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP)
        pmp.open.clear()
        (first,) = await post.post(0)
        await until(lambda: len(pmp.requests) == 1)
        rest = await post.post(*range(1, 8))
        await until(lambda: len(post.sender._held) == 8)
        pmp.open.set()
        await until(lambda: len(pmp.got) == 8)
        assert pmp.requests == [("Ioa", [first]), ("Ioa", rest)]

    told(post, story)


def test_a_request_is_bounded_in_datagrams_and_in_bytes() -> None:
    def posted(*sizes: int) -> deque[Posted]:
        return deque(Posted(number, PMP, bytes(size), 0) for number, size in enumerate(sizes))

    many = posted(*[1] * (LARGEST_REQUEST + 5))
    assert [len(senders._next_request(many)), len(many)] == [LARGEST_REQUEST, 5]
    half = LARGEST_REQUEST_BYTES // 2
    large = posted(half, half, 1, LARGEST_REQUEST_BYTES + 1, 1)
    assert [[one.number for one in senders._next_request(large)] for _ in range(4)] == [[0, 1], [2], [3], [4]]


def test_interfaces_and_next_hops_have_ways_of_their_own(ready: World, quick: None) -> None:
    """One next hop does not answer, one has no address, one wants to be left alone: the fourth is served."""
    post = Post(ready)

    async def story() -> None:
        silent, busy = post.party(PMP), post.party(QSSP_B, lambda *_: Unavailable("later", 30.0))
        silent.open.clear()
        served = post.party(QSSP_A)
        await post.post(1, hop=PMP, interface="Ioa")
        await post.post(2, hop=QSSP_B, interface="Ioq")
        await post.post(3, hop=PartyId("pmp/hebei"), interface="Ioa")
        await until(lambda: len(silent.requests) == len(busy.requests) == 1)
        (data,) = await post.post(4, hop=QSSP_A, interface="Ioq")
        await until(lambda: served.requests == [("Ioq", [data])])
        await post.post(5, hop=PMP, interface="Iqssp")
        await until(lambda: [interface for interface, _ in silent.requests] == ["Ioa", "Iqssp"])
        assert await post.undelivered() == 4

    told(post, story)


# --- again ------------------------------------------------------------------------------------------------------------


def test_what_was_taken_but_for_its_receipt_is_sent_again_and_then_forgotten(ready: World, quick: None) -> None:
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP, lambda attempt, _: LineError("the receipt was lost") if attempt == 1 else TAKEN)
        (data,) = await post.post(1)
        await until(lambda: len(pmp.got) == 2)
        assert pmp.got == [data, data]
        await asyncio.sleep(0.1)
        assert (len(pmp.got), await post.undelivered()) == (2, 0)

    told(post, story)


@pytest.mark.parametrize("answer", [REFUSED, LineError("nobody there")], ids=["refused", "not reached"])
def test_what_gets_no_receipt_is_tried_again_after_growing_delays(
    ready: World, quick: None, answer: Receipt | LineError
) -> None:
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP, lambda attempt, _: answer if attempt < 5 else TAKEN)
        await post.post(1)
        await until(lambda: len(pmp.requests) == 5)
        pauses = [later - earlier for earlier, later in zip(pmp.at, pmp.at[1:], strict=False)]
        assert all(pause >= FIRST_RETRY_US << attempt for attempt, pause in enumerate(pauses))
        assert pauses[3] > pauses[0]
        await until(lambda: not post.sender._held)
        assert await post.undelivered() == 0

    told(post, story)


def test_one_that_is_refused_does_not_hold_back_the_others_of_its_request(ready: World, quick: None) -> None:
    post = Post(ready)

    async def story() -> None:
        refused, *others = [junk(PMP, "Ioa", number) for number in range(4)]
        pmp = post.party(PMP, lambda _, data: REFUSED if data == refused else TAKEN)
        await post.post(*range(4))
        await until(lambda: pmp.got.count(refused) >= 3)
        assert [pmp.got.count(data) for data in others] == [1, 1, 1]
        assert await post.undelivered() == 1

    told(post, story)


def test_a_next_hop_that_gets_an_address_gets_its_datagrams(ready: World, quick: None) -> None:
    post = Post(ready)

    async def story() -> None:
        (data,) = await post.post(1, hop=QSSP_B, interface="Ioq")
        await asyncio.sleep(0.05)
        qssp = post.party(QSSP_B)
        await until(lambda: qssp.got == [data])

    told(post, story)


def test_a_defect_on_one_way_does_not_close_it(ready: World, quick: None) -> None:
    """What no transport should raise ends one request; when the lease has ended, the same way is used again."""
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP, lambda attempt, _: ZeroDivisionError("a defect") if attempt == 1 else TAKEN)
        (data,) = await post.post(1)
        await until(lambda: len(pmp.got) == 1 and not post.sender._queues)
        assert post.sender._held == set()
        post.clock.advance(LEASE_US)
        await until(lambda: pmp.got == [data, data])

    told(post, story)


@pytest.mark.parametrize("ticks", range(5))
def test_stopping_in_the_very_moment_something_falls_due_stops_it(ready: World, ticks: int) -> None:
    post = Post(ready)

    async def story() -> None:
        await post.start()
        await asyncio.sleep(0.02)
        post.sender.look_soon()
        for _ in range(ticks):
            await asyncio.sleep(0)
        await asyncio.wait_for(post.sender.stop(), 1)
        await post.desk.worker.stop()

    run(story())


# --- two senders ------------------------------------------------------------------------------------------------------


def test_two_replicas_send_each_datagram_once(ready: World, quick: None) -> None:
    clock = RunningClock()
    one, other = Post(ready, clock), Post(ready, clock)

    async def story() -> None:
        pmp = one.party(PMP)
        other.parties[PMP] = pmp
        await one.start()
        await other.start()
        sent = [*await one.post(*range(10)), *await other.post(*range(10, 20))]
        await until(lambda: len(pmp.got) >= len(sent))
        await asyncio.sleep(0.1)
        assert sorted(pmp.got) == sorted(sent)
        await one.stop()
        await other.stop()

    run(story())


def test_what_a_killed_sender_had_in_hand_leaves_from_another_when_its_lease_ends(ready: World, quick: None) -> None:
    """Posted by the first in memory alone, under way to a party that never answers; nothing of it is lost."""
    clock = RunningClock()
    killed, survivor = Post(ready, clock), Post(ready, clock)

    async def story() -> None:
        silent = killed.party(PMP)
        silent.open.clear()
        await killed.start()
        await killed.desk.worker.call(begin_many(2))
        await until(lambda: len(silent.requests) == 1)
        await killed.desk.worker.call(lambda node: node.begin(_revocation))  # gathers behind the request
        await killed.sender.stop()
        pmp = survivor.party(PMP)
        await survivor.start()
        await asyncio.sleep(0.15)
        assert pmp.got == []  # on lease to the one that was killed
        clock.advance(LEASE_US)
        await until(lambda: len(pmp.got) == 3)
        assert set(silent.got) <= set(pmp.got)
        assert await survivor.undelivered() == 0
        await killed.desk.worker.stop()
        await survivor.stop()

    run(story())


def _revocation(pomp: Any, work: Any) -> None:
    revocation.begin(pomp, work, CPE_A, "test", PMP, LIFETIME_US)


def test_a_receipt_that_was_not_written_down_costs_one_more_sending(ready: World, quick: None) -> None:
    """The first replica has its receipt in memory when it is killed."""
    clock = RunningClock()
    killed, survivor = Post(ready, clock), Post(ready, clock)

    async def story() -> None:
        pmp = killed.party(PMP)
        survivor.parties[PMP] = pmp
        await killed.desk.worker.start(killed)
        await killed.desk.worker.call(begin_many(1))
        await until(lambda: len(pmp.got) == 1)
        await until(lambda: not killed.sender._held)
        await survivor.start()
        clock.advance(LEASE_US)
        await until(lambda: len(pmp.got) == 2)
        assert pmp.got[0] == pmp.got[1]
        assert await survivor.undelivered() == 0
        await killed.stop()
        await survivor.stop()

    run(story())


def test_a_store_that_cannot_be_asked_is_asked_again(ready: World, quick: None) -> None:
    post = Post(ready)

    async def story() -> None:
        pmp = post.party(PMP)
        failed: list[str] = []
        (data,) = await post.post(1)

        def away(what: str) -> None:
            if what == "lease" and len(failed) < 3:
                failed.append(what)
                raise StoreError("the disk is away")

        post.desk.store.fails = away
        await until(lambda: pmp.got == [data])
        assert len(failed) == 3

    told(post, story)
