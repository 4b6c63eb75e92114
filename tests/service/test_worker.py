"""The desk thread: many datagrams, one transaction; nobody hears of anything before it is durable; nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.held import gather
from tests.service.desks import FROM_POMP, Desk, Heard, orders, procedure_of, run, until
from tests.world import LIFETIME_US, World

from qsotn.app.province import CPE_A, PMP, POMP, QSSP_A, party_folder
from qsotn.domain import PartyId
from qsotn.errors import BadSignature, LocalError, MalformedMessage, Refusal, StoreConflict, StoreError
from qsotn.messages import InitializationResponse
from qsotn.parties.desk import Certificates
from qsotn.procedures import initialization, revocation
from qsotn.procedures.turn import State
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.runtime.handling import Handler
from qsotn.runtime.posting import Poster
from qsotn.service.repeating import ATTEMPTS, LONGEST_PAUSE_S, Defect
from qsotn.service.sender import LEASE_US
from qsotn.service.taking import Receipts
from qsotn.service.worker import LARGEST_BATCH, Overloaded


@pytest.fixture
def pmp(ready: World) -> Desk:
    """The PMP of a province with two READY devices."""
    return Desk(ready.folder, PMP)


def take(desk: Desk, datagrams: list[bytes]) -> list[asyncio.Task[Receipts]]:
    """Hand datagrams over, each in a request of its own."""
    return [asyncio.create_task(desk.worker.receive([data], FROM_POMP)) for data in datagrams]


def rows(folder: Path) -> int:
    """How many rows another process sees in the PMP's store now."""
    connection = sqlite3.connect(party_folder(folder, PMP) / "store.db")
    try:
        ((count,),) = connection.execute("SELECT count(*) FROM procedures").fetchall()
    finally:
        connection.close()
    return int(count)


# --- together ---------------------------------------------------------------------------------------------------------


def test_what_gathers_while_the_desk_is_busy_is_taken_in_one_transaction(ready: World, pmp: Desk) -> None:
    datagrams = orders(ready, 40)

    async def story() -> list[Receipts]:
        await pmp.worker.start()
        with pmp.busy():
            tasks = take(pmp, datagrams)
            await pmp.waiting(40)
            pmp.store.transactions = 0
        receipts = await asyncio.gather(*tasks)
        assert pmp.store.transactions == 1
        await pmp.worker.stop()
        return receipts

    receipts = run(story())
    assert [one.taken for one in receipts] == [{0: procedure_of(ready, data)} for data in datagrams]


def test_a_transaction_is_not_larger_than_its_bound_and_a_request_is_not_cut(ready: World, pmp: Desk) -> None:
    datagrams = orders(ready, LARGEST_BATCH + 8)

    async def story() -> None:
        await pmp.worker.start()
        with pmp.busy():
            sizes = (LARGEST_BATCH - 4, 8, 4)
            places = [sum(sizes[:at]) for at in range(3)]
            groups = [datagrams[at : at + size] for at, size in zip(places, sizes, strict=True)]
            tasks = [asyncio.create_task(pmp.worker.receive(group, FROM_POMP)) for group in groups]
            await pmp.waiting(len(datagrams))
            pmp.store.transactions = 0
        receipts = await asyncio.gather(*tasks)
        assert [len(one.taken) for one in receipts] == list(sizes)
        assert pmp.store.transactions == 2
        await pmp.worker.stop()

    run(story())


def test_each_request_gets_the_receipts_of_its_own_datagrams_by_their_place(ready: World, pmp: Desk) -> None:
    one, two, three = orders(ready, 3)

    async def story() -> list[Receipts]:
        await pmp.worker.start()
        with pmp.busy():
            groups = ([b"noise", one], [two, b"noise", three], [two], [b""])
            tasks = [asyncio.create_task(pmp.worker.receive(group, FROM_POMP)) for group in groups]
            await pmp.waiting(7)
        receipts = await asyncio.gather(*tasks)
        await pmp.worker.stop()
        return receipts

    first, second, third, fourth = run(story())
    assert (set(first.taken), set(first.refused)) == ({1}, {0})
    assert (set(second.taken), set(second.refused)) == ({0, 2}, {1})
    assert (set(third.taken), set(fourth.refused)) == ({0}, {0})
    assert {type(error) for one in (first, second, fourth) for error in one.refused.values()} == {MalformedMessage}
    assert second.taken[2] == procedure_of(ready, three)


def test_datagrams_that_have_gathered_go_together_and_a_call_waits_for_no_more_than_them(
    ready: World, pmp: Desk
) -> None:
    datagrams = orders(ready, 4)
    procedures = [procedure_of(ready, data) for data in datagrams]

    def known(node: Node) -> list[bool]:
        with node.rows() as stored:
            return [procedure in {row.procedure for row in stored} for procedure in procedures]

    async def story() -> tuple[list[bool], ...]:
        await pmp.worker.start()
        with pmp.busy():
            first, seen = take(pmp, datagrams[:1]), [asyncio.create_task(pmp.worker.call(known))]
            await pmp.waiting(2)
            rest = take(pmp, datagrams[1:3])
            await pmp.waiting(4)
            seen.append(asyncio.create_task(pmp.worker.call(known)))
            await pmp.waiting(5)
            rest += take(pmp, datagrams[3:])
            await pmp.waiting(6)
        await asyncio.gather(*first, *rest)
        await pmp.worker.stop()
        return tuple([await one for one in seen])

    assert run(story()) == ([True, True, True, True], [True, True, True, True])


def test_a_call_that_came_first_is_done_first(ready: World, pmp: Desk) -> None:
    (datagram,) = orders(ready, 1)
    procedure = procedure_of(ready, datagram)

    def known(node: Node) -> bool:
        with node.rows() as stored:
            return procedure in {row.procedure for row in stored}

    async def story() -> tuple[bool, bool]:
        await pmp.worker.start()
        with pmp.busy():
            before = asyncio.create_task(pmp.worker.call(known))
            await pmp.waiting(1)
            taken = take(pmp, [datagram])
            await pmp.waiting(2)
            after = asyncio.create_task(pmp.worker.call(known))
            await pmp.waiting(3)
        await asyncio.gather(*taken)
        seen = await before, await after
        await pmp.worker.stop()
        return seen

    assert run(story()) == (False, True)


# --- durable ----------------------------------------------------------------------------------------------------------


def test_nobody_hears_of_anything_before_it_is_committed(ready: World, pmp: Desk) -> None:
    (datagram,), heard = orders(ready, 1), Heard()

    async def story() -> None:
        await pmp.worker.start(heard)
        before = rows(ready.folder)
        pmp.store.may_commit.clear()
        pmp.store.committing.clear()
        (task,) = take(pmp, [datagram])
        await until(pmp.store.committing.is_set)
        await asyncio.sleep(0.05)
        assert (task.done(), heard.sent, heard.waiting, rows(ready.folder)) == (False, [], set(), before)
        pmp.store.may_commit.set()
        assert (await task).taken
        assert rows(ready.folder) == before + 1
        assert heard.waiting == {"cpe/jinan-100"}
        await pmp.worker.stop()

    run(story())


def test_an_order_is_sent_when_it_is_durable_and_by_nobody_else_before_its_lease_ends(ready: World) -> None:
    pomp, heard = Desk(ready.folder, POMP), Heard()

    async def story() -> None:
        await pomp.worker.start(heard)
        await pomp.worker.call(lambda node: node.begin(_order))
        (posted,) = heard.sent
        assert posted.next_hop == PMP
        assert await pomp.worker.call(lambda node: node.lease(8)) == []
        pomp.clock.advance(LEASE_US)
        assert await pomp.worker.call(lambda node: [one.number for one in node.lease(8)]) == [posted.number]
        await pomp.worker.stop()

    run(story())


def _order(pomp: Any, work: Any) -> str:
    return revocation.begin(pomp, work, CPE_A, "test", PMP, LIFETIME_US)


def _order_of(number: int) -> Callable[[Any, Any], str]:
    """Order a device into service; `number` -1 is an order that nobody can carry out."""

    def start(pomp: Any, work: Any) -> str:
        if number < 0:
            pomp.desk.certificates.put("half done", Certificates(()))
            raise Refusal("NO_SUCH_DEVICE", "there is none")
        cpe = PartyId(f"cpe/jinan-{300 + number}")
        return initialization.begin(pomp, work, cpe, f"QS-2026-{300_000 + number}", QSSP_A, PMP, LIFETIME_US)

    return start


def test_orders_that_gather_are_given_in_one_transaction_and_each_stands_alone(ready: World) -> None:
    pomp, heard = Desk(ready.folder, POMP), Heard()

    async def story() -> None:
        await pomp.worker.start(heard)
        with pomp.busy():
            given = [asyncio.create_task(pomp.worker.order(_order_of(number))) for number in (0, -1, 1)]
            await pomp.waiting(3)
            before = pomp.store.transactions
        outcomes = await asyncio.gather(*given, return_exceptions=True)
        assert pomp.store.transactions == before + 1
        assert isinstance(outcomes[1], Refusal)
        rows = [row.procedure for row in await pomp.worker.call(_rows) if row.state is State.RUNNING]
        assert set(rows) == {outcomes[0], outcomes[2]}
        assert await pomp.worker.call(_half_done) is None, "what a refused order wrote is undone"
        await until(lambda: len(heard.sent) == 2)
        await pomp.worker.stop()

    run(story())


def _half_done(node: Node) -> Certificates | None:
    with node.desk() as pomp:
        found: Certificates | None = pomp.desk.certificates.get("half done")
        return found


def test_orders_that_collide_with_another_replica_are_given_once(ready: World, in_no_hurry: list[float]) -> None:
    pomp, heard, rival = Desk(ready.folder, POMP), Heard(), Rival(ATTEMPTS)

    async def story() -> None:
        await pomp.worker.start(heard)
        with pomp.busy():
            given = [asyncio.create_task(pomp.worker.order(_order_of(number))) for number in range(2)]
            await pomp.waiting(2)
            pomp.store.fails = rival
        procedures = await asyncio.gather(*given)
        rows = [row.procedure for row in await pomp.worker.call(_rows) if row.state is State.RUNNING]
        assert sorted(rows) == sorted(procedures)
        assert rival.met == ATTEMPTS
        await pomp.worker.stop()

    run(story())


def test_a_datagram_that_comes_again_is_noted_since_its_answers_are_due_again(ready: World, pmp: Desk) -> None:
    (order,) = orders(ready, 1)

    async def story() -> None:
        await pmp.worker.start()
        for expected in (0, 1):
            assert (await pmp.worker.receive([order], FROM_POMP)).taken
            assert pmp.worker.repeats == expected
        await pmp.worker.stop()

    run(story())


def test_what_a_call_committed_is_sent_even_if_the_call_then_fails(ready: World) -> None:
    pomp, heard = Desk(ready.folder, POMP), Heard()

    def order_and_stumble(node: Node) -> None:
        node.begin(_order)
        raise ZeroDivisionError

    async def story() -> None:
        await pomp.worker.start(heard)
        with pytest.raises(ZeroDivisionError):
            await pomp.worker.call(order_and_stumble)
        assert [posted.next_hop for posted in heard.sent] == [PMP]
        await pomp.worker.stop()

    run(story())


# --- too much ---------------------------------------------------------------------------------------------------------


def test_at_its_limit_the_desk_says_so_at_once_and_takes_more_when_it_has_caught_up(ready: World) -> None:
    datagrams, pmp = orders(ready, 8), Desk(ready.folder, PMP, limit=4)

    async def story() -> None:
        await pmp.worker.start()
        with pmp.busy():
            await pmp.waiting(0)
            tasks = [asyncio.create_task(pmp.worker.receive(datagrams[:3], FROM_POMP))]
            await pmp.waiting(3)
            with pytest.raises(Overloaded, match="the limit is 4"):
                await pmp.worker.receive(datagrams[3:5], FROM_POMP)
            tasks += take(pmp, datagrams[3:4])
            await pmp.waiting(4)
            for refused in (pmp.worker.receive(datagrams[4:5], FROM_POMP), pmp.worker.call(lambda _: None)):
                with pytest.raises(Overloaded):
                    await refused
            assert pmp.worker.waiting == 4
        await asyncio.gather(*tasks)
        assert pmp.worker.waiting == 0
        assert len((await pmp.worker.receive(datagrams[4:], FROM_POMP)).taken) == 4
        await pmp.worker.stop()

    run(story())


def test_stopping_finishes_what_waits_and_takes_nothing_more(ready: World, pmp: Desk) -> None:
    datagrams = orders(ready, 6)

    async def story() -> None:
        await pmp.worker.start()
        with pmp.busy():
            tasks = take(pmp, datagrams[:5])
            await pmp.waiting(5)
            stopping = asyncio.create_task(pmp.worker.stop())
            await asyncio.sleep(0.02)
            with pytest.raises(Overloaded, match="stopping"):
                await pmp.worker.receive(datagrams[5:], FROM_POMP)
        await stopping
        assert all(receipts.taken for receipts in await asyncio.gather(*tasks))
        assert not pmp.worker.failed.done()
        with pytest.raises(sqlite3.ProgrammingError):
            pmp.store.inner._connection.execute("SELECT 1")

    run(story())


def test_someone_who_no_longer_waits_disturbs_nobody_and_the_work_is_done(ready: World, pmp: Desk) -> None:
    gone, stays = orders(ready, 2)

    async def story() -> None:
        await pmp.worker.start()
        before = rows(ready.folder)
        with pmp.busy():
            leaving, staying = take(pmp, [gone, stays])
            await pmp.waiting(2)
            leaving.cancel()
        assert (await staying).taken
        assert rows(ready.folder) == before + 2
        await pmp.worker.stop()

    run(story())


# --- one's fault is not another's -------------------------------------------------------------------------------------


def test_one_that_cannot_be_handled_takes_no_other_with_it(
    ready: World, pmp: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, *others = orders(ready, 4)
    handle = Handler.take

    def stumble(handler: Handler, batch: Any, data: bytes, bearer: Any) -> Any:
        if data == poison:
            raise ZeroDivisionError("a defect")
        return handle(handler, batch, data, bearer)

    monkeypatch.setattr(Handler, "take", stumble)

    async def story() -> list[Receipts]:
        await pmp.worker.start()
        with pmp.busy():
            tasks = take(pmp, [others[0], poison, *others[1:]])
            await pmp.waiting(4)
        receipts = await asyncio.gather(*tasks)
        await pmp.worker.stop()
        return receipts

    first, poisoned, *rest = run(story())
    assert all(one.taken for one in (first, *rest))
    (defect,) = poisoned.refused.values()
    assert isinstance(defect, Defect)
    assert isinstance(defect.__cause__, ZeroDivisionError)
    assert "a defect" not in str(defect)


def test_a_record_that_one_datagram_needs_and_the_store_lost_is_that_ones_trouble(
    open_world: Callable[..., World],
) -> None:
    """A device answers a work order that the PMP no longer has: the store is there, and the others are taken."""
    world = open_world("provisioned")
    statement = _statement(world)
    with world.desk(PMP) as desk:
        desk.work_orders.delete(CPE_A)
    others, pmp = orders(world, 2), Desk(world.folder, PMP)

    async def story() -> list[Receipts]:
        await pmp.worker.start()
        with pmp.busy():
            one = asyncio.create_task(pmp.worker.receive([statement], Bearer(CPE_A, "Ax")))
            tasks = [one, *take(pmp, others)]
            await pmp.waiting(3)
        receipts = await asyncio.gather(*tasks)
        await pmp.worker.stop()
        return receipts

    lost, *taken = run(story())
    assert type(lost.refused[0]) is StoreError
    assert all(one.taken for one in taken)


def _statement(world: World) -> bytes:
    """What CPE A answers in step 3 of its initialisation."""
    world.initialize(CPE_A)
    (statement,) = gather(world, PMP, InitializationResponse)
    return statement


def test_a_store_that_is_gone_is_asked_twice_and_not_for_every_datagram(ready: World, pmp: Desk) -> None:
    datagrams, asked = orders(ready, 20), []

    def gone(what: str) -> None:
        if what == "transaction":
            asked.append(what)
            raise StoreError("the disk is away")

    async def story() -> None:
        await pmp.worker.start()
        pmp.store.fails = gone
        receipts = await pmp.worker.receive(datagrams, FROM_POMP)
        assert [type(receipts.refused[at]) for at in range(20)] == [StoreError] * 20
        assert len(asked) == 2
        with pytest.raises(StoreError):
            await pmp.worker.call(lambda node: node.begin(lambda *_: None))
        pmp.store.fails = lambda _: None
        assert len((await pmp.worker.receive(datagrams, FROM_POMP)).taken) == 20
        await pmp.worker.stop()

    run(story())


def test_what_cannot_be_answered_is_counted_once(ready: World, pmp: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a transaction fails for one of three: each alone is tried, and one of them refused."""
    bad, *good = orders(ready, 3)
    post_all = Poster.post_all

    def cannot(poster: Poster, batch: Any) -> Any:
        if any(answer.outgoing.row.procedure == procedure_of(ready, bad) for answer in batch.answers):
            raise BadSignature("no certificate of the receiver")
        return post_all(poster, batch)

    monkeypatch.setattr(Poster, "post_all", cannot)

    async def story() -> Receipts:
        await pmp.worker.start()
        receipts = await pmp.worker.receive([good[0], bad, good[1]], FROM_POMP)
        await pmp.worker.stop()
        return receipts

    receipts = run(story())
    assert (set(receipts.taken), type(receipts.refused[1])) == ({0, 2}, BadSignature)
    assert pmp.node.rejections == {"BadSignature": 1}


# --- conflicts --------------------------------------------------------------------------------------------------------


class Rival:
    """Another replica that is faster so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.met = times, 0

    def __call__(self, what: str) -> None:
        if what == "commit" and self.left:
            self.left -= 1
            self.met += 1
            raise StoreConflict("another replica was faster")


@pytest.fixture
def in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, not waited for."""
    pauses: list[float] = []
    monkeypatch.setattr("qsotn.service.repeating.time.sleep", pauses.append)
    return pauses


def test_an_order_that_collides_is_done_again_and_once(ready: World, in_no_hurry: list[float]) -> None:
    pomp, heard, rival = Desk(ready.folder, POMP), Heard(), Rival(ATTEMPTS - 1)

    async def story() -> None:
        await pomp.worker.start(heard)
        pomp.store.fails = rival
        procedure = await pomp.worker.call(lambda node: node.begin(_order))
        with_procedure = [row.procedure for row in await pomp.worker.call(_rows) if row.ladder == "revocation"]
        assert with_procedure == [procedure]
        assert len(heard.sent) == 1
        await pomp.worker.stop()

    run(story())
    assert (rival.met, len(in_no_hurry)) == (ATTEMPTS - 1, ATTEMPTS - 1)
    assert max(in_no_hurry) <= LONGEST_PAUSE_S


def _rows(node: Node) -> list[Any]:
    with node.rows() as stored:
        return stored


def test_attempts_are_bounded_and_the_last_conflict_is_told(ready: World, in_no_hurry: list[float]) -> None:
    pomp, heard, rival = Desk(ready.folder, POMP), Heard(), Rival(ATTEMPTS)

    async def story() -> None:
        await pomp.worker.start(heard)
        pomp.store.fails = rival
        with pytest.raises(StoreConflict):
            await pomp.worker.call(lambda node: node.begin(_order))
        assert heard.sent == []
        assert not [row for row in await pomp.worker.call(_rows) if row.ladder == "revocation"]
        await pomp.worker.stop()

    run(story())
    assert rival.met == ATTEMPTS


def test_a_batch_that_collides_is_taken_one_by_one(ready: World, pmp: Desk, in_no_hurry: list[float]) -> None:
    datagrams, rival = orders(ready, 3), Rival(2)

    async def story() -> Receipts:
        await pmp.worker.start()
        pmp.store.fails = rival
        receipts = await pmp.worker.receive(datagrams, FROM_POMP)
        await pmp.worker.stop()
        return receipts

    assert set(run(story()).taken) == {0, 1, 2}
    assert (rival.met, len(in_no_hurry)) == (2, 1)


def test_what_is_no_conflict_is_not_repeated(ready: World) -> None:
    pomp, tried = Desk(ready.folder, POMP), []

    def refuse(_: Node) -> None:
        tried.append(1)
        raise Refusal("NO", "as things stand")

    async def story() -> None:
        await pomp.worker.start()
        with pytest.raises(Refusal):
            await pomp.worker.call(refuse)
        await pomp.worker.stop()

    run(story())
    assert tried == [1]


# --- its end ----------------------------------------------------------------------------------------------------------


def test_a_desk_that_dies_says_so_and_leaves_nobody_waiting(ready: World) -> None:
    (one, two, three), dead = orders(ready, 3), []

    def die(_: Node) -> None:
        dead.append(True)
        raise MemoryError("out of memory")

    pmp = Desk(ready.folder, PMP, before=die)

    async def story() -> None:
        await pmp.worker.start()
        with pmp.busy():
            tasks = [*take(pmp, [one]), asyncio.create_task(pmp.worker.call(lambda _: 1)), *take(pmp, [two])]
            await pmp.waiting(3)
        with pytest.raises(MemoryError):
            await pmp.worker.failed
        for task in tasks:
            with pytest.raises(Overloaded, match="ended"):
                await task
        with pytest.raises(Overloaded):
            await pmp.worker.receive([three], FROM_POMP)
        await pmp.worker.stop()

    run(story())
    assert dead == [True]


def test_a_desk_that_dies_while_it_is_idle_says_so_too(ready: World) -> None:
    def die(_: Node) -> float:
        raise LocalError("the port is gone")

    pmp = Desk(ready.folder, PMP, idle=die)

    async def story() -> None:
        await pmp.worker.start()
        with pytest.raises(LocalError, match="the port is gone"):
            await pmp.worker.failed
        await pmp.worker.stop()

    run(story())


def test_a_party_that_cannot_be_opened_does_not_start(ready: World, tmp_path: Path) -> None:
    nobody = Desk(tmp_path / "nowhere", PMP)

    async def story() -> None:
        with pytest.raises(StoreError):
            await nobody.worker.start()
        await nobody.worker.stop()

    run(story())


def test_idle_work_is_done_as_often_as_it_asks_also_while_others_wait(ready: World) -> None:
    looked: list[int] = []

    def look(node: Node) -> float:
        looked.append(node.changes)
        return 0.01

    pmp, datagrams = Desk(ready.folder, PMP, idle=look), orders(ready, 8)

    async def story() -> None:
        await pmp.worker.start()
        await until(lambda: len(looked) >= 3)
        for data in datagrams:
            await pmp.worker.receive([data], FROM_POMP)
            await asyncio.sleep(0.02)
        await pmp.worker.stop()

    run(story())
    assert len(set(looked)) > 4
