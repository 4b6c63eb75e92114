"""Group commit: what comes while a transaction is under way is taken in the next, and nobody is answered before it is
durable."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from tests.service.delivery.memory_store import MemoryKeyStore, Place
from tests.service.desks import PATIENCE_S, run, until

from qsotn.domain import PartyId, Secret
from qsotn.errors import Refusal, StoreConflict, StoreError
from qsotn.keynetwork.delivery import Collect, Deposit, Operation, Pool, Reserve, Sweep
from qsotn.service.delivery.group import Group
from qsotn.service.repeating import ATTEMPTS, Defect
from qsotn.service.worker import Overloaded

HERE = PartyId("km/jinan")
POOL = Pool(HERE, HERE, 1)


def units(count: int) -> tuple[Secret, ...]:
    return tuple(Secret(number.to_bytes(32)) for number in range(count))


def filled(count: int = 100) -> Deposit:
    return Deposit(POOL, "batch-1", 0, units(count))


def wish(number: int = 1, *, held: bool = False) -> Reserve:
    return Reserve(POOL, "alice", ("bob",), number, 256, 1, held)


@asynccontextmanager
async def opened(place: Place, limit: int = 1000) -> AsyncIterator[Group]:
    group = Group(lambda: MemoryKeyStore(place), limit)
    await group.start()
    try:
        await group.apply(filled())
        yield group
    finally:
        await group.stop()


class Gate:
    """Holds the store up before a transaction until the test opens it."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, _: Sequence[Operation]) -> None:
        self.entered.set()
        assert self.open.wait(PATIENCE_S)


def test_what_gathers_while_a_transaction_is_made_durable_is_one_transaction() -> None:
    async def story() -> None:
        place = Place()
        async with opened(place) as group:
            place.before = gate = Gate()
            first = asyncio.ensure_future(group.apply(wish()))
            await until(gate.entered.is_set)
            others = [asyncio.ensure_future(group.apply(wish())) for _ in range(20)]
            await until(lambda: group.waiting == 20)
            assert not first.done()
            gate.open.set()
            keys = [(await one)[0].key_id for one in [first, *others]]
            assert len(set(keys)) == 21
            assert keys == sorted(keys), "in the order of asking"
            assert place.commits == 3, "the deposit, the first, and all others"

    run(story())


def test_a_refusal_is_its_callers_alone() -> None:
    async def story() -> None:
        async with opened(Place()) as group:
            asked = [group.apply(wish(number)) for number in (60, 60, 30)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(one) for one in results] == [tuple, Refusal, tuple]
            assert isinstance(results[1], Refusal)
            assert results[1].code == "KEY_SHORTAGE"

    run(story())


def test_several_operations_of_one_caller_are_told_apart() -> None:
    async def story() -> None:
        async with opened(Place()) as group:
            applied, other = await asyncio.gather(group.apply_all([wish(2), wish(200), wish(3)]), group.apply(wish()))
            assert {at: len(keys) for at, keys in applied.done.items()} == {0: 2, 2: 3}
            assert list(applied.refused) == [1]
            assert len(other) == 1

    run(story())


def test_what_waits_is_bounded() -> None:
    async def story() -> None:
        place = Place()
        async with opened(place, limit=3) as group:
            place.before = gate = Gate()
            first = asyncio.ensure_future(group.apply(wish()))
            await until(gate.entered.is_set)
            waiting = [asyncio.ensure_future(group.apply(wish())) for _ in range(3)]
            await until(lambda: group.waiting == 3)
            with pytest.raises(Overloaded, match="the limit is 3"):
                await group.apply(wish())
            with pytest.raises(Overloaded):
                await group.call(lambda store: store.pools())
            gate.open.set()
            await asyncio.gather(first, *waiting)

    run(story())


def test_what_a_caller_asked_that_went_away_before_is_dropped() -> None:
    async def story() -> None:
        place = Place()
        async with opened(place) as group:
            place.before = gate = Gate()
            first = asyncio.ensure_future(group.apply(wish()))
            await until(gate.entered.is_set)
            gone, stays = (asyncio.ensure_future(group.apply(wish())) for _ in range(2))
            await until(lambda: group.waiting == 2)
            gone.cancel()
            gate.open.set()
            await asyncio.gather(first, stays)
            count = await group.call(lambda store: store.count(POOL))
            assert (count.ready, count.waiting, count.voided) == (98, 2, 0)

    run(story())


def test_keys_held_for_a_caller_that_went_away_meanwhile_are_void() -> None:
    async def story() -> None:
        place = Place()
        async with opened(place) as group:
            place.before = gate = Gate()
            gone, stays = (asyncio.ensure_future(group.apply(wish(3, held=True))) for _ in range(2))
            await until(gate.entered.is_set)
            gone.cancel()
            gate.open.set()
            assert len(await stays) == 3
            await group.apply(Sweep(0))
            count = await group.call(lambda store: store.count(POOL))
            assert (count.ready, count.waiting, count.voided) == (94, 3, 3)

    run(story())


def test_keys_collected_by_a_caller_that_went_away_can_be_collected_by_the_same_request() -> None:
    async def story() -> None:
        place = Place()
        async with opened(place) as group:
            (key,) = await group.apply(wish())
            place.before = gate = Gate()
            asked = Collect("bob", "alice", (key.key_id,), 2)
            gone = asyncio.ensure_future(group.apply(asked))
            await until(gate.entered.is_set)
            gone.cancel()
            gate.open.set()
            assert await group.apply(asked) == (key,)

    run(story())


def test_a_conflict_with_another_replica_is_repeated_and_a_lost_store_is_told_to_everybody() -> None:
    async def story() -> None:
        place, failures = Place(), list[StoreError]([StoreConflict("another replica was faster")] * 3)

        def before(_: Sequence[Operation]) -> None:
            if failures:
                raise failures.pop()

        async with opened(place) as group:
            place.before = before
            assert len(await group.apply(wish())) == 1
            failures += [StoreError("the disk is full")]
            results = await asyncio.gather(*(group.apply(wish()) for _ in range(3)), return_exceptions=True)
            assert [str(one) for one in results] == ["the disk is full"] * 3
            failures += [StoreConflict("again")] * ATTEMPTS
            with pytest.raises(StoreConflict):
                await group.apply(wish())
            assert len(await group.apply(wish())) == 1, "and it goes on"

    run(story())


def test_a_defect_is_told_to_whoever_met_it_and_to_nobody_else() -> None:
    async def story() -> None:
        place = Place()

        def before(operations: Sequence[Operation]) -> None:
            if any(isinstance(one, Reserve) and one.number == 7 for one in operations):
                raise ZeroDivisionError("secret material")

        async with opened(place) as group:
            place.before = before
            asked = (group.apply(wish(number)) for number in (1, 7, 2))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(one) for one in results] == [tuple, Defect, tuple]
            assert "secret" not in str(results[1])

    run(story())


# --- prepared in the event loop, committed in the thread --------------------------------------------------------------


def test_nobody_is_answered_before_what_was_prepared_is_committed() -> None:
    async def story() -> None:
        place = Place(prepares=True)
        async with opened(place) as group:
            gate = Gate()
            place.before_commit = lambda: gate(())
            first = asyncio.ensure_future(group.apply(wish()))
            await until(gate.entered.is_set)
            others = [asyncio.ensure_future(group.apply(wish())) for _ in range(20)]
            await until(lambda: group.waiting == 20)
            assert not first.done()
            assert place.commits == 1, "the deposit"
            gate.open.set()
            keys = [(await one)[0].key_id for one in [first, *others]]
            assert keys == sorted(set(keys)), "in the order of asking, none twice"
            assert place.commits == 3

    run(story())


def test_a_commit_that_fails_is_told_to_everybody_and_nothing_was_done() -> None:
    async def story() -> None:
        place, failures = Place(prepares=True), [StoreError("the disk is full")]

        def before_commit() -> None:
            if failures:
                raise failures.pop()

        async with opened(place) as group:
            place.before_commit = before_commit
            results = await asyncio.gather(*(group.apply(wish()) for _ in range(3)), return_exceptions=True)
            assert [str(one) for one in results] == ["the disk is full"] * 3
            assert (await group.call(lambda store: store.count(POOL))).ready == 100
            assert len(await group.apply(wish())) == 1, "and it goes on"

    run(story())


def test_what_cannot_be_prepared_is_done_by_the_thread_which_tells_why_it_failed() -> None:
    async def story() -> None:
        place, failures = Place(prepares=True), list[Exception]([StoreConflict("another process keeps the file")])

        def before(_: Sequence[Operation]) -> None:
            if failures:
                raise failures.pop()

        async with opened(place) as group:
            place.before = before
            assert len(await group.apply(wish())) == 1
            failures += [StoreError("the disk is full")] * 2
            with pytest.raises(StoreError, match="the disk is full"):
                await group.apply(wish())

    run(story())


def test_keys_of_a_caller_that_went_away_before_the_commit_are_void() -> None:
    async def story() -> None:
        place = Place(prepares=True)
        async with opened(place) as group:
            gate = Gate()
            place.before_commit = lambda: gate(())
            gone, stays = (asyncio.ensure_future(group.apply(wish(3, held=True))) for _ in range(2))
            await until(gate.entered.is_set)
            gone.cancel()
            gate.open.set()
            assert len(await stays) == 3
            await group.apply(Sweep(0))
            count = await group.call(lambda store: store.count(POOL))
            assert (count.ready, count.waiting, count.voided) == (94, 3, 3)

    run(story())


def test_others_are_served_between_the_parts_of_a_long_sweep() -> None:
    async def story() -> None:
        place = Place(slices=5)
        async with opened(place) as group:
            sweeping = asyncio.ensure_future(group.apply(Sweep(0)))
            served = 0
            while not sweeping.done():
                await group.apply(wish())
                served += 1
            await sweeping
            assert place.slices == 0
            assert served >= 5

    run(story())


def test_stopping_finishes_what_waits_and_takes_nothing_more() -> None:
    async def story() -> None:
        place = Place()
        group = Group(lambda: MemoryKeyStore(place), 100)
        await group.start()
        await group.apply(filled())
        asked = [asyncio.ensure_future(group.apply(wish())) for _ in range(5)]
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(group.stop())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="closed"):
            await group.apply(wish())
        assert len(await asyncio.gather(*asked)) == 5
        await stopping

    run(story())


def test_a_store_that_cannot_be_opened_is_told_to_whoever_starts_it() -> None:
    def fails() -> MemoryKeyStore:
        raise StoreError("keys.db is of another version")

    async def story() -> None:
        with pytest.raises(StoreError, match="another version"):
            await Group(fails, 10).start()

    run(story())
