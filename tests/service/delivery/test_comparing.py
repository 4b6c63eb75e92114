"""An origin promises no key that the far end has not: it compares their pools, and ends what was lost there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.service.delivery.houses import JINAN, QINGDAO, Town, town
from tests.service.delivery.memory_store import Place
from tests.service.desks import run

from qsotn.adapters.keystore import open_key_store
from qsotn.crypto.vault import Vault
from qsotn.domain import PartyId, Secret
from qsotn.errors import LineError, StoreError
from qsotn.keynetwork.delivery import Assign, Deposit, KeyStore, Pool, PoolCount, Reserve, Void, key_id
from qsotn.service.delivery import comparing
from qsotn.service.delivery.assignments import Stock
from qsotn.service.delivery.comparing import Comparing, contradiction


@asynccontextmanager
async def compared(units: int = 100) -> AsyncIterator[tuple[Town, Comparing]]:
    """Two houses with full pools, and what compares those of the first."""
    async with town((JINAN, QINGDAO), units) as made:
        house = made.houses[JINAN]
        far_ends = {QINGDAO: house.far_ends[QINGDAO]}
        yield made, Comparing(JINAN, house.group, far_ends, house.desk.end_lost)


async def promised(made: Town) -> int:
    """What `status` says to a master at the origin."""
    return (await made.houses[JINAN].desk.offer("alice", "bob")).stored_keys


async def reopened(made: Town, place: Place) -> None:
    """Let the far end begin again on another disk."""
    await made.close(QINGDAO)
    made.places[QINGDAO] = place
    await made.open(QINGDAO)


def test_ends_that_agree_are_left_alone_whatever_is_under_way() -> None:
    async def story() -> None:
        async with compared() as (made, comparing):
            desk = made.houses[JINAN].desk
            pool = await desk.pool(QINGDAO)
            await desk.reserve("alice", ["bob"], 3, 256)
            await made.houses[JINAN].group.apply(Reserve(pool, "alice", ("bob",), 2, 512, 0, held=True))
            extra = Deposit(pool, "not confirmed", 100, (Secret(bytes(32)),))
            await made.houses[QINGDAO].group.apply(extra)
            await comparing.compare()
            assert await promised(made) == 100 - 3 - 4
            assert (await desk.pool(QINGDAO)).series == pool.series

    run(story())


def test_a_far_end_that_begins_with_nothing_is_noticed_before_any_sae_asks_for_a_key() -> None:
    async def story() -> None:
        async with compared() as (made, comparing):
            await reopened(made, Place())
            assert await promised(made) == 100, "nobody knows yet"
            with capture_logs() as logs:
                await comparing.compare()
            assert await promised(made) == 0
            assert [one["event"] for one in logs] == ["the far end has lost a pool, which ends"]
            assert logs[0]["reason"] == "100 units were laid in here before 0 were there"
            ended = Pool(JINAN, QINGDAO, 1)
            assert await count(made, ended) == PoolCount(0, 0, 0, 0, 0, burned=100)
            assert (await made.supply(JINAN, QINGDAO, 10)).series == 2
            await comparing.compare()
            assert await promised(made) == 10

    run(story())


async def count(made: Town, pool: Pool) -> PoolCount:
    return await made.houses[JINAN].group.call(lambda store: store.count(pool))


def test_a_far_end_with_an_older_copy_is_noticed_by_what_it_never_had() -> None:
    async def story() -> None:
        async with compared() as (made, comparing):
            older = Place(made.places[QINGDAO].disk)
            await made.supply(JINAN, QINGDAO, 20)
            await comparing.compare()
            assert await promised(made) == 120
            await reopened(made, older)
            await comparing.compare()
            assert await promised(made) == 0

    run(story())


def test_a_far_end_that_destroyed_its_units_is_noticed_by_what_is_gone_there() -> None:
    async def story() -> None:
        async with compared() as (made, comparing):
            pool = Pool(JINAN, QINGDAO, 1)
            await made.houses[QINGDAO].group.apply(Void((key_id(pool.tag, 99),), "somebody did"))
            await comparing.compare()
            assert await promised(made) == 0

    run(story())


def test_what_has_arrived_at_the_far_end_counts_as_there() -> None:
    async def story() -> None:
        async with compared() as (made, comparing):
            pool = await made.houses[JINAN].desk.pool(QINGDAO)
            waiting = [Deposit(pool, "late", 100, (Secret(bytes(32)), Secret(bytes(32))))]
            await made.houses[JINAN].group.apply(waiting[0])

            async def hand_over() -> int:
                found, waiting[:] = list(waiting), []
                for one in found:
                    await made.houses[QINGDAO].group.apply(one)
                return len(found)

            made.houses[QINGDAO].assigned._hand_over = hand_over
            await comparing.compare()
            assert await promised(made) == 102

    run(story())


@pytest.mark.parametrize("failure", [LineError("cut"), StoreError("away")])
def test_a_far_end_that_does_not_answer_has_lost_nothing_and_is_told_of_once(failure: Exception) -> None:
    async def story() -> None:
        async with compared() as (made, comparing):

            def fails(_: object) -> None:
                raise failure

            made.wire(JINAN, QINGDAO).before = fails
            with capture_logs() as logs:
                await comparing.compare()
                await comparing.compare()
            assert [one["event"] for one in logs] == ["a pool is not compared with its far end now"]
            assert await promised(made) == 100
            made.houses[JINAN].far_ends[QINGDAO].check()  # SAEs are not refused for it

    run(story())


def test_a_pool_without_a_ready_key_promises_nothing_and_is_not_asked_about() -> None:
    async def story() -> None:
        async with compared(units=1) as (made, comparing):
            await made.houses[JINAN].desk.reserve("alice", ["bob"], 1, 256)
            made.wire(JINAN, QINGDAO).requests.clear()
            await comparing.compare()
            assert made.wire(JINAN, QINGDAO).requests == []

    run(story())


def test_it_compares_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "PERIOD_S", 0.001)

    async def story() -> None:
        async with compared() as (made, one):
            task = asyncio.create_task(one.run())
            await asyncio.sleep(0.05)
            await reopened(made, Place())
            while await promised(made):
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(story())


# --- what contradicts -----------------------------------------------------------------------------------------------

BEFORE = PoolCount(ready=50, waiting=10, delivered=20, voided=5, expired=5, burned=0)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (Stock(90, 40, 90), ""),
        (Stock(90, 0, 90), ""),  # nothing of it was assigned there yet
        (Stock(90, 45, 90), ""),  # assigned between our two counts
        (Stock(95, 40, 100), ""),  # a batch that was not confirmed
        (Stock(0, 0, 0), "90 units were laid in here before 0 were there"),
        (Stock(89, 40, 90), "90 units were laid in here before 89 were there"),
        (Stock(95, 40, 89), "it has no number from 89 on, and 90 is the next one here"),
        (Stock(90, 46, 90), "46 units are ready no more there, and 45 here"),
    ],
)
def test_what_a_target_says_is_held_between_two_counts_of_its_origin(told: Stock, wrong: str) -> None:
    after = PoolCount(ready=45, waiting=15, delivered=20, voided=5, expired=5, burned=0)
    assert contradiction(BEFORE, 90, told, after) == wrong


# --- over real stores -----------------------------------------------------------------------------------------------


def real(folder: Path, party: PartyId) -> KeyStore:
    vault = Vault(Secret(b"k" * 32), os.urandom)
    place = folder / party.replace("/", "-")
    place.mkdir(exist_ok=True)
    return open_key_store(f"sqlite:///{place / 'keys.db'}", party, place / "epochs", vault, os.urandom)


def stock(store: KeyStore, pool: Pool) -> Stock:
    found = store.count(pool)
    return Stock(found.ready + found.gone, found.gone, store.next_number(pool))


def done(stores: Sequence[KeyStore], *operations: Deposit | Reserve | Assign | Void) -> None:
    for store in stores:
        assert not store.apply(operations).refused


def test_real_stores_never_contradict_each_other_in_any_state_between_two_steps(tmp_path: Path) -> None:
    origin, target = real(tmp_path, JINAN), real(tmp_path, QINGDAO)
    pool = origin.begin_pool(JINAN, QINGDAO)

    def agree() -> None:
        count = origin.count(pool)
        assert contradiction(count, origin.next_number(pool), stock(target, pool), count) == ""

    units = tuple(Secret(bytes([number]) * 32) for number in range(20))
    ids = tuple(key_id(pool.tag, number) for number in (0, 3))
    steps: list[tuple[KeyStore, Deposit | Reserve | Assign | Void]] = [
        (target, Deposit(pool, "one", 0, units)),
        (origin, Deposit(pool, "one", 0, units)),
        (origin, Reserve(pool, "alice", ("bob",), 2, 768, 0, held=True)),
        (target, Assign(pool, ids, "alice", ("bob",), 768, 0)),
        (origin, Reserve(pool, "alice", ("bob",), 2, 256, 0, held=True)),
        (target, Void(tuple(key_id(pool.tag, number) for number in (6, 7)), "abandoned")),
        (origin, Void(tuple(key_id(pool.tag, number) for number in (6, 7)), "abandoned")),
    ]
    for store, operation in steps:
        done([store], operation)
        agree()
    target.end_pool(pool)
    count = origin.count(pool)
    assert "ready no more there" in contradiction(count, origin.next_number(pool), stock(target, pool), count)
    origin.close()
    target.close()
