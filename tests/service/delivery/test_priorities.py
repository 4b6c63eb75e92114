"""Stories of pools that run low: who is refused first, and what nobody else can take."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.service.delivery.houses import HOMES, JINAN, QINGDAO, YANTAI, Clock, Town, town
from tests.service.desks import run

from qsotn.domain import PartyId
from qsotn.errors import Refusal, StoreError
from qsotn.keynetwork.delivery import Pool, Reserve
from qsotn.keynetwork.throttle import ServiceClass
from qsotn.service.delivery.priorities import LOOK_US, REFUSED_US, ClassCount, Priorities, Stock
from qsotn.service.delivery.saes import Saes

CLASSES = (ServiceClass("gold", 40), ServiceClass("bronze", 20))
"""Of a mark of 50 units, 20 and 10; of the other 20, bronze leaves half to gold."""


@asynccontextmanager
async def classed(units: int = 100, mark: int = 50) -> AsyncIterator[Town]:
    """Alice is of gold, Anna beside her of bronze."""
    made = Town(classes=CLASSES, of_class={"alice": "gold"}, mark=mark)
    async with town(units=units, made=made) as here:
        yield here


async def ask(here: Town, master: str, number: int = 1, slaves: tuple[str, ...] = ("bob",)) -> int:
    return len(await here.houses[JINAN].desk.reserve(master, slaves, number, 256))


async def ask_until_refused(here: Town, master: str, slaves: tuple[str, ...] = ("bob",)) -> int:
    """Ask for one key after the other; return how many were given."""
    given = 0
    while True:
        try:
            given += await ask(here, master, 1, slaves)
        except Refusal:
            return given


async def ready(here: Town, target: PartyId = QINGDAO) -> int:
    pool = await here.houses[JINAN].desk.pool(target)
    return (await here.houses[JINAN].group.call(lambda store: store.count(pool))).ready


async def arrive(here: Town, units: int, target: PartyId = QINGDAO) -> None:
    """Units come in, and it is time to look again."""
    await here.supply(JINAN, target, units)
    here.clock.now += REFUSED_US


def counts(here: Town) -> dict[str, ClassCount]:
    priorities = here.houses[JINAN].desk._priorities
    assert isinstance(priorities, Priorities)
    return priorities.counts


@pytest.mark.parametrize("slaves", [("bob",), ("anna",)], ids=["far", "here"])
def test_a_greedy_low_class_leaves_the_high_one_its_minimum_and_a_part_of_what_is_common(
    slaves: tuple[str, ...],
) -> None:
    target = QINGDAO if slaves == ("bob",) else JINAN

    async def story() -> None:
        async with classed() as here:
            assert await ask_until_refused(here, "anna", slaves) == 70
            assert await ready(here, target) == 30
            assert await ask(here, "alice", 30, slaves) == 30
            assert await ready(here, target) == 0

    run(story())


def test_a_greedy_high_class_leaves_the_low_one_its_minimum() -> None:
    async def story() -> None:
        async with classed() as here:
            assert await ask_until_refused(here, "alice") == 90
            assert await ask(here, "anna", 10) == 10

    run(story())


def test_when_the_pool_is_full_everybody_is_served() -> None:
    async def story() -> None:
        async with classed() as here:
            for _ in range(10):
                assert await ask(here, "anna", 50) == 50
                await arrive(here, 50)

    run(story())


def test_of_what_arrives_under_pressure_each_class_gets_its_percent() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask_until_refused(here, "anna")
            await ask_until_refused(here, "alice")
            given = {"anna": 0, "alice": 0}
            for _ in range(5):
                await arrive(here, 10)
                for master in given:
                    given[master] += await ask_until_refused(here, master)
            assert given == {"anna": 10, "alice": 40}, "what is guaranteed to nobody is the highest's"

    run(story())


def test_the_refused_hear_of_which_class_they_are_and_what_they_may_have() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask(here, "anna", 67)
            with pytest.raises(Refusal) as refused:
                await ask(here, "anna", 4)
            assert refused.value.code == "KEY_SHORTAGE"
            assert refused.value.detail == (
                "keys from km/jinan to km/qingdao run low, and the rest is kept for other classes: "
                "an SAE of class bronze may have 3 keys of this size now, and asked for 4"
            )
            await ask(here, "alice", 20)
            with pytest.raises(Refusal, match="too few keys are ready from km/jinan to km/qingdao"):
                await ask(here, "alice", 20)

    run(story())


def test_a_key_of_several_units_takes_as_many_of_its_class() -> None:
    async def story() -> None:
        async with classed() as here:
            desk = here.houses[JINAN].desk
            await desk.reserve("anna", ["bob"], 17, 1024)
            with pytest.raises(Refusal, match="may have 0 keys of this size now"):
                await desk.reserve("anna", ["bob"], 1, 1024)
            await desk.reserve("anna", ["bob"], 1, 512)

    run(story())


def test_the_offer_to_each_class_is_what_it_may_have() -> None:
    async def story() -> None:
        async with classed() as here:
            desk = here.houses[JINAN].desk
            assert [(await desk.offer(sae, "bob")).stored_keys for sae in ("alice", "anna")] == [90, 70]
            await ask_until_refused(here, "anna")
            assert [(await desk.offer(sae, "bob")).stored_keys for sae in ("alice", "anna")] == [30, 0]
            await here.supply(JINAN, QINGDAO, 10)
            assert [(await desk.offer(sae, "bob")).stored_keys for sae in ("alice", "anna")] == [38, 10], (
                "gold has saved up"
            )

    run(story())


def test_who_was_given_and_refused_is_counted_by_class() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask(here, "anna", 60)
            for _ in range(3):
                with pytest.raises(Refusal):
                    await ask(here, "anna", 20)
            await ask(here, "alice", 5, ("bob", "carol"))
            assert counts(here) == {"gold": ClassCount(5, 0), "bronze": ClassCount(60, 3)}

    run(story())


def test_many_refusals_cost_the_store_one_look_and_no_transaction() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask_until_refused(here, "anna")
            here.clock.now += REFUSED_US
            before = here.houses[JINAN].group.batches
            for _ in range(100):
                with pytest.raises(Refusal):
                    await ask(here, "anna")
            assert here.houses[JINAN].group.batches == before + 1

    run(story())


def test_who_is_served_costs_the_store_no_look_but_four_times_a_second() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask(here, "anna", 1, ("anna",))
            before = here.houses[JINAN].group.batches
            for _ in range(10):
                await ask(here, "anna", 1, ("anna",))
            assert here.houses[JINAN].group.batches == before + 10
            here.clock.now += LOOK_US
            await ask(here, "anna", 1, ("anna",))
            assert here.houses[JINAN].group.batches == before + 12

    run(story())


def test_a_clock_that_is_put_back_does_not_blind_anybody() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask_until_refused(here, "anna")
            await here.supply(JINAN, QINGDAO, 100)
            here.clock.now -= 3_600_000_000
            assert await ask(here, "anna", 50) == 50

    run(story())


def test_a_key_for_several_key_managers_needs_what_its_class_may_have_of_every_pool() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask_until_refused(here, "anna", ("carol",))
            left = await ready(here)
            with pytest.raises(Refusal, match="from km/jinan to km/yantai run low"):
                await ask(here, "anna", 1, ("bob", "carol"))
            assert await ready(here) == left, "nothing of the other pool was taken"
            assert await ask(here, "alice", 1, ("bob", "carol")) == 1
            assert (await ready(here), await ready(here, YANTAI)) == (left - 1, 29)

    run(story())


def test_what_another_replica_gives_out_is_counted_as_gone() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask(here, "anna")
            house = here.houses[JINAN]
            pool = await house.desk.pool(QINGDAO)
            await house.group.apply(Reserve(pool, "another", ("bob",), 65, 256, here.clock(), held=True))
            here.clock.now += LOOK_US
            assert await ask_until_refused(here, "anna") == 10, "what is common went first"
            assert await ask(here, "alice", 24) == 24

    run(story())


def test_units_that_come_while_others_are_lost_count_as_arrived() -> None:
    """Twenty came and another replica gave twenty out: of those that came, bronze has its four all the same."""

    async def story() -> None:
        async with classed(units=20) as here:
            for master in ("anna", "alice"):
                await ask_until_refused(here, master)
            house = here.houses[JINAN]
            pool = await house.desk.pool(QINGDAO)
            await arrive(here, 20)
            await house.group.apply(Reserve(pool, "another", ("bob",), 8, 256, here.clock(), held=True))
            assert await ask_until_refused(here, "anna") == 4
            assert await ask_until_refused(here, "alice") == 8

    run(story())


def test_units_of_a_reservation_that_the_store_could_not_make_are_shared_out_again() -> None:
    async def story() -> None:
        async with classed() as here:
            await ask(here, "anna", 40)
            here.places[JINAN].before = fails
            with pytest.raises(StoreError):
                await ask(here, "anna", 30)
            here.places[JINAN].before = lambda _: None
            with pytest.raises(Refusal):
                await ask(here, "anna", 30)
            here.clock.now += REFUSED_US
            assert await ask_until_refused(here, "anna") >= 24
            assert await ask(here, "alice", 20) == 20

    run(story())


def fails(_: object) -> None:
    raise StoreError("the disk is full")


@pytest.mark.parametrize("later_us", [0, LOOK_US], ids=["by the reservation", "by the look before it"])
def test_a_pool_that_ended_is_followed_by_the_next_one(later_us: int) -> None:
    async def story() -> None:
        async with classed() as here:
            await ask(here, "anna", 50)
            pool = await here.houses[JINAN].desk.pool(QINGDAO)
            for end in (JINAN, QINGDAO):  # as another replica of either does
                await here.houses[end].group.call(lambda store: store.end_pool(pool))
            here.clock.now += later_us
            with pytest.raises(Refusal, match="too few keys are ready"):
                await ask(here, "anna", 1)
            assert (await here.supply(JINAN, QINGDAO, 100)).series == pool.series + 1
            here.clock.now += LOOK_US
            assert await ask_until_refused(here, "anna") == 70

    run(story())


@dataclass
class SlowCount:
    """A key store that answers what it was asked only when it is let."""

    stock: Stock
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: PartyId) -> Stock:
        told = self.stock
        await self.gate.wait()
        return told


def test_a_count_that_is_older_than_a_reservation_gives_its_units_to_nobody_else() -> None:
    async def story() -> None:
        now = Clock()
        saes = Saes(JINAN, HOMES, {"alice": "gold"}, "bronze")
        priorities, pool = Priorities(CLASSES, saes, 50, now), Pool(JINAN, QINGDAO, 1)
        count = SlowCount(Stock(pool, 100, 100))
        count.gate.set()
        await priorities.take("anna", [QINGDAO], 70, 1, count)
        priorities.answered([QINGDAO], 70)
        count.stock = Stock(pool, 30, 100)
        count.gate.clear()
        now.now += REFUSED_US
        refused = asyncio.create_task(priorities.take("anna", [QINGDAO], 1, 1, count))
        await asyncio.sleep(0)
        await priorities.take("alice", [QINGDAO], 20, 1, count)
        count.gate.set()
        with pytest.raises(Refusal, match="KEY_SHORTAGE"):
            await refused
        assert await priorities.allowance("alice", QINGDAO, count) == 10
        priorities.answered([QINGDAO], 20)  # and the store could not do it
        assert await priorities.allowance("alice", QINGDAO, count) > 20

    run(story())


@pytest.mark.parametrize("seed", range(3))
def test_however_requests_and_looks_cross_each_other_the_high_class_has_its_minimum(seed: int) -> None:
    """Bronze presses from many connections at once while units come in; gold gets its percent whenever it asks."""
    chance = random.Random(seed)

    async def story() -> None:
        async with classed(units=1) as here:
            given = dict.fromkeys(("alice", "anna"), 0)

            async def one(master: str, number: int) -> None:
                here.clock.now += chance.randrange(REFUSED_US)
                slaves = chance.choice((("bob",), ("anna",)))
                try:
                    async with asyncio.timeout(chance.choice((0.001, 1.0, 1.0))):
                        count = await ask(here, master, number, slaves)
                    given[master] += count if slaves == ("bob",) else 0
                except (Refusal, TimeoutError):
                    pass

            for _ in range(12):
                await arrive(here, 10)
                await asyncio.gather(*(one("anna", chance.choice((1, 2))) for _ in range(20)))
            here.clock.now += LOOK_US
            left = await ready(here)
            allowed = (await here.houses[JINAN].desk.offer("alice", "bob")).stored_keys
            assert 20 <= allowed <= left, "gold saved up all that it may: 40 % of the mark"
            assert await ask(here, "alice", allowed) == allowed
            assert given["anna"] > 40, "and bronze was not refused what nobody else can want"
            assert await ready(here) == left - allowed

    run(story())
