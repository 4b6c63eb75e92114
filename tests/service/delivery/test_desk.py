"""Stories of keys at two and three key managers: given once, to whom they were meant for, or to nobody."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from tests.service.delivery.houses import CITIES, HOMES, JINAN, QINGDAO, YANTAI, Town, town
from tests.service.delivery.memory_store import EXPIRY_US, Disk
from tests.service.desks import run, until

from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import LineError, Refusal, StoreError, WrongParty
from qsotn.keynetwork.delivery import Confirm, Deposit, Operation, Pool, PoolCount, ReadyKey, Sweep, units_of
from qsotn.service.delivery.assignments import ASSIGNMENTS
from qsotn.service.delivery.voids import ORPHANED_US


def ids(keys: Sequence[ReadyKey]) -> list[KeyId]:
    return [key.key_id for key in keys]


def bits(keys: Sequence[ReadyKey]) -> list[bytes]:
    return [key.key.reveal() for key in keys]


async def count(here: Town, at: PartyId, origin: PartyId, target: PartyId) -> PoolCount:
    pool = await here.houses[origin].desk.pool(target)
    return await here.houses[at].group.call(lambda store: store.count(pool))


async def reserve(
    here: Town, slaves: Sequence[str], number: int = 1, size: int = 256, master: str = "alice"
) -> Sequence[ReadyKey]:
    return await here.houses[HOMES[master]].desk.reserve(master, slaves, number, size)


async def collect(here: Town, slave: str, keys: Sequence[ReadyKey], master: str = "alice") -> Sequence[ReadyKey]:
    return await here.houses[HOMES[slave]].desk.collect(slave, master, ids(keys))


@pytest.mark.parametrize("slave", ["bob", "anna"])
@pytest.mark.parametrize(("number", "size"), [(1, 256), (3, 64), (5, 1024), (2, 264)])
def test_the_slave_gets_the_masters_keys_in_the_order_asked(slave: str, number: int, size: int) -> None:
    async def story() -> None:
        async with town() as here:
            given = await reserve(here, [slave], number, size)
            assert len(set(bits(given))) == number
            assert {len(key) * 8 for key in bits(given)} == {size}
            asked = given[::-1]
            assert bits(await collect(here, slave, asked)) == bits(asked)
            taken = number * units_of(size)
            for end in (JINAN, HOMES[slave]):
                stands = await count(here, end, JINAN, HOMES[slave])
                assert (stands.ready, stands.waiting, stands.delivered) == (100 - taken, 0, taken)

    run(story())


def test_a_key_is_never_given_to_a_second_sae() -> None:
    async def story() -> None:
        async with town() as here:
            given = await reserve(here, ["bob"])
            with pytest.raises(Refusal) as refused:
                await collect(here, "bert", given)
            assert refused.value.code == "NOT_NAMED"
            assert bits(await collect(here, "bob", given)) == bits(given)
            assert bits(await collect(here, "bob", given)) == bits(given), "the same request again"
            here.clock.now += EXPIRY_US
            await here.houses[QINGDAO].group.apply(Sweep(here.clock.now))
            with pytest.raises(Refusal) as refused:
                await collect(here, "bob", given)
            assert refused.value.code == "KEYS_NOT_FOUND"

    run(story())


def test_nobody_is_answered_before_both_ends_hold_the_key_durably() -> None:
    async def story() -> None:
        async with town() as here:
            seen: list[str] = []
            here.wire(JINAN, QINGDAO).before = lambda _: seen.append("asked")
            here.places[QINGDAO].before = lambda operations: seen.append(type(operations[0]).__name__)
            here.places[JINAN].before = lambda operations: seen.append(type(operations[0]).__name__)
            await reserve(here, ["bob"])
            assert seen == ["Reserve", "asked", "Assign", "Confirm"]

    run(story())


def test_assignments_gather_while_a_request_is_under_way() -> None:
    async def story() -> None:
        async with town() as here:
            given = await asyncio.gather(*(reserve(here, ["bob"]) for _ in range(60)))
            wire = here.wire(JINAN, QINGDAO)
            assert len(wire.requests) <= 2
            assert len({key.key_id for keys in given for key in keys}) == 60
            for keys in given:
                assert bits(await collect(here, "bob", keys)) == bits(keys)
            assert all(key.key.reveal() not in body for keys in given for key in keys for body in wire.heard)

    run(story())


@pytest.mark.parametrize(
    ("master", "slaves", "number", "size", "code"),
    [
        ("alice", ["bob"], 1, 255, "BAD_REQUEST"),
        ("alice", ["bob"], 1, 56, "BAD_REQUEST"),
        ("alice", ["bob"], 1, 1032, "BAD_REQUEST"),
        ("alice", ["bob"], 0, 256, "BAD_REQUEST"),
        ("alice", ["bob"], 1_000_000, 256, "BAD_REQUEST"),
        ("alice", [], 1, 256, "BAD_REQUEST"),
        ("alice", ["bob"] * 18, 1, 256, "BAD_REQUEST"),
        ("alice", ["mallory"], 1, 256, "UNKNOWN_SAE"),
        ("alice", ["bob", "mallory"], 1, 256, "UNKNOWN_SAE"),
        ("alice", ["bob"], 101, 256, "KEY_SHORTAGE"),
        ("alice", ["bob", "carol"], 101, 256, "KEY_SHORTAGE"),
    ],
)
def test_what_cannot_be_had_is_refused_and_nothing_taken(
    master: str, slaves: list[str], number: int, size: int, code: str
) -> None:
    async def story() -> None:
        async with town() as here:
            with pytest.raises(Refusal) as refused:
                await reserve(here, slaves, number, size, master)
            assert refused.value.code == code
            assert (await count(here, JINAN, JINAN, QINGDAO)).ready == 100
            with pytest.raises(WrongParty):
                await here.houses[JINAN].desk.reserve("bob", ["alice"], 1, 256)
            with pytest.raises(WrongParty):
                await here.houses[JINAN].desk.collect("bob", "alice", [])

    run(story())


def test_a_pool_that_the_far_end_has_lost_ends_and_the_next_one_serves() -> None:
    async def story() -> None:
        async with town() as here:
            first = await here.houses[JINAN].desk.pool(QINGDAO)
            await here.houses[QINGDAO].group.call(lambda store: store.end_pool(first))
            with pytest.raises(Refusal) as refused:
                await reserve(here, ["bob"])
            assert refused.value.code == "KEY_SHORTAGE"
            ended = await here.houses[JINAN].group.call(lambda store: store.count(first))
            assert (ended.ready, ended.waiting) == (0, 0), "nobody is given what the far end has not"
            second = await here.supply(JINAN, QINGDAO, 10)
            assert second.series > first.series
            given = await reserve(here, ["bob"])
            assert bits(await collect(here, "bob", given)) == bits(given)

    run(story())


def test_a_replica_that_did_not_see_a_pool_end_serves_from_the_next_one() -> None:
    async def story() -> None:
        async with town() as here:
            await reserve(here, ["bob"])
            pool = await here.houses[JINAN].desk.pool(QINGDAO)
            for end in (JINAN, QINGDAO):  # as another replica of either does
                await here.houses[end].group.call(lambda store: store.end_pool(pool))
            with pytest.raises(Refusal, match="KEY_SHORTAGE"):
                await reserve(here, ["bob"])
            await here.supply(JINAN, QINGDAO, 10)
            assert (await here.houses[JINAN].desk.offer("alice", "bob")).stored_keys == 10
            given = await reserve(here, ["bob"])
            assert bits(await collect(here, "bob", given)) == bits(given)

    run(story())


def test_a_shortage_of_one_pool_of_several_takes_nothing_from_the_others_for_long() -> None:
    async def story() -> None:
        async with town() as here:
            await reserve(here, ["carol"], 100)
            with pytest.raises(Refusal, match="too few keys"):
                await reserve(here, ["bob", "carol"], 2)
            await here.houses[JINAN].voids.settle()
            stands = await count(here, JINAN, JINAN, QINGDAO)
            assert (stands.ready, stands.waiting, stands.voided) == (98, 0, 2)

    run(story())


def test_the_offer_tells_the_truth() -> None:
    async def story() -> None:
        async with town() as here:
            await reserve(here, ["bob"], 30)
            offer = await here.houses[JINAN].desk.offer("alice", "bob")
            assert (offer.source, offer.target, offer.stored_keys) == (JINAN, QINGDAO, 70)
            await here.supply(JINAN, QINGDAO, 50)
            offer = await here.houses[JINAN].desk.offer("alice", "bob")
            assert offer.stored_keys == 120 <= offer.most_stored_keys
            with pytest.raises(Refusal, match="no SAE mallory"):
                await here.houses[JINAN].desk.offer("alice", "mallory")

    run(story())


# --- several key managers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slaves",
    [["bob", "bert"], ["bob", "carol"], ["anna", "bob"], ["bob", "anna", "carol", "bert"], ["alice", "carol"]],
)
@pytest.mark.parametrize("size", [256, 520])
def test_every_slave_gets_the_same_keys_wherever_it_is(slaves: list[str], size: int) -> None:
    async def story() -> None:
        async with town() as here:
            given = await reserve(here, slaves, 3, size)
            for slave in slaves:
                assert bits(await collect(here, slave, given)) == bits(given)
            bodies = [body for wire in here.wires.values() for body in wire.heard]
            assert not any(key in body for key in bits(given) for body in bodies)

    run(story())


@pytest.mark.parametrize("lost", ["before", "after"])
def test_if_one_of_three_does_not_answer_nobody_keeps_the_key(lost: str) -> None:
    async def story() -> None:
        async with town() as here:
            wire, failing = here.wire(JINAN, YANTAI), [True]
            setattr(wire, lost, lambda _: fail(failing))
            with pytest.raises(Refusal) as refused:
                await reserve(here, ["anna", "bob", "carol"], 2)
            assert refused.value.code == "FAR_END_SILENT"
            await here.houses[JINAN].voids.settle()
            assert here.houses[JINAN].voids.waiting == 1, "the silent one is still to be told"
            failing.clear()
            await here.houses[JINAN].voids.settle()
            for target in (JINAN, QINGDAO, YANTAI):
                for end in {JINAN, target}:
                    stands = await count(here, end, JINAN, target)
                    assert (stands.ready, stands.waiting, stands.voided) == (98, 0, 2), (end, target)

    run(story())


def fail(failing: list[bool]) -> None:
    if failing:
        raise LineError("the answer was lost")


# --- the far end is silent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["before", "after"])
def test_keys_of_a_lost_request_or_answer_are_void_at_both_ends(lost: str) -> None:
    async def story() -> None:
        async with town() as here:
            failing = [True]
            setattr(here.wire(JINAN, QINGDAO), lost, lambda path: fail(failing) if path == ASSIGNMENTS else None)
            with pytest.raises(Refusal, match="does not answer"):
                await reserve(here, ["bob"], 3)
            await here.houses[JINAN].voids.settle()
            for end in (JINAN, QINGDAO):
                stands = await count(here, end, JINAN, QINGDAO)
                assert (stands.ready, stands.waiting, stands.voided) == (97, 0, 3)

    run(story())


def test_a_far_end_that_was_silent_a_moment_ago_costs_no_keys() -> None:
    async def story() -> None:
        async with town() as here:
            failing = [True]
            here.wire(JINAN, QINGDAO).before = lambda _: fail(failing)
            for _ in range(3):
                with pytest.raises(Refusal, match="does not answer"):
                    await reserve(here, ["bob"])
            assert (await count(here, JINAN, JINAN, QINGDAO)).ready == 99

    run(story())


def test_a_far_end_that_holds_its_answer_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr("qsotn.service.delivery.assignments.ANSWER_S", 0.05)
        async with town() as here:
            held = asyncio.Event()

            async def never(*_: object) -> bytes:
                await held.wait()
                raise AssertionError("unreachable")

            monkeypatch.setattr(here.wire(JINAN, QINGDAO), "_served", never)
            with pytest.raises(Refusal, match="does not answer"):
                await reserve(here, ["bob"])
            monkeypatch.undo()
            await here.houses[JINAN].voids.settle()
            assert (await count(here, QINGDAO, JINAN, QINGDAO)).voided == 1, "and a late assignment finds no unit"

    run(story())


@pytest.mark.parametrize("late_us", [ORPHANED_US // 2, ORPHANED_US])
def test_keys_that_another_replica_may_take_for_nobodys_are_not_confirmed_any_more(late_us: int) -> None:
    """A process that stood still between the far end's word and its own: others look for what is held for too long."""

    async def story() -> None:
        async with town() as here:

            def stand_still(path: str) -> None:
                here.clock.now += late_us if path == ASSIGNMENTS else 0

            here.wire(JINAN, QINGDAO).after = stand_still
            if late_us < ORPHANED_US:
                assert await collect(here, "bob", keys := await reserve(here, ["bob"])) == keys
                return
            with pytest.raises(Refusal, match="does not answer"):
                await reserve(here, ["bob"])
            await here.houses[JINAN].voids.settle()
            for end in (JINAN, QINGDAO):
                assert (await count(here, end, JINAN, QINGDAO)).voided == 1

    run(story())


def test_what_the_far_end_has_not_got_is_given_to_nobody_here() -> None:
    async def story() -> None:
        async with town() as here:
            pool = await here.houses[JINAN].desk.pool(QINGDAO)
            here.places[QINGDAO].disk.ready[pool.tag].clear()
            with pytest.raises(Refusal) as refused:
                await reserve(here, ["bob"], 2)
            assert refused.value.code == "KEY_SHORTAGE"
            await here.houses[JINAN].voids.settle()
            stands = await here.houses[JINAN].group.call(lambda store: store.count(pool))
            assert (stands.ready, stands.waiting, stands.delivered, stands.burned) == (0, 0, 0, 100)

    run(story())


def test_units_that_somebody_else_lays_in_at_that_moment_are_not_lost() -> None:
    """The far end's other replica, or another task, has them in hand: whoever waits for that finds nothing to do."""

    async def story() -> None:
        async with town(units=0) as here:
            pool = await here.houses[JINAN].desk.pool(QINGDAO)
            deposit = Deposit(pool, "batch", 0, tuple(Secret(bytes([at]) * 32) for at in range(4)))
            await here.houses[JINAN].group.apply(deposit)

            async def done_by_another() -> int:
                await here.houses[QINGDAO].group.apply(deposit)
                return 0

            here.houses[QINGDAO].assigned._hand_over = done_by_another
            assert await collect(here, "bob", keys := await reserve(here, ["bob"], 2)) == keys
            assert (await count(here, JINAN, JINAN, QINGDAO)).burned == 0

    run(story())


@pytest.mark.parametrize("where", ["Reserve", "Assign", "Confirm"])
def test_a_master_that_goes_away_leaves_no_keys_behind(where: str) -> None:
    async def story() -> None:
        async with town() as here:
            reached = asyncio.Event()
            loop, place = asyncio.get_running_loop(), here.places[QINGDAO if where == "Assign" else JINAN]

            def before(operations: Sequence[Operation]) -> None:
                if type(operations[0]).__name__ == where:
                    loop.call_soon_threadsafe(reached.set)
                    loop.call_soon_threadsafe(asking.cancel)

            place.before = before
            asking = asyncio.ensure_future(reserve(here, ["bob"], 2))
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert reached.is_set()
            await until(lambda: here.houses[JINAN].far_ends[QINGDAO]._draining is None)
            await until(lambda: here.houses[JINAN].group._idle.is_set())
            await here.houses[JINAN].voids.settle()
            for end in (JINAN, QINGDAO):
                stands = await count(here, end, JINAN, QINGDAO)
                assert (stands.ready, stands.waiting) == (98, 0)

    run(story())


# --- deaths ---------------------------------------------------------------------------------------------------------


class Death:
    """Jinan dies at a step: its disk is as it was then, and nothing that it says afterwards is heard."""

    def __init__(self, here: Town) -> None:
        self.here, self.place = here, here.places[JINAN]
        self.disk: Disk | None = None
        self.wires = [here.wire(JINAN, other) for other in (QINGDAO, YANTAI)]

    def plant(self, step: str) -> None:
        for wire in self.wires:
            wire.before = lambda _: self.dies(step == "held")
            wire.after = lambda _: self.dies(step == "assigned")
        self.place.before = lambda operations: self.dies(step == "unconfirmed" and isinstance(operations[0], Confirm))

    def dies(self, now: bool) -> None:
        if now and self.disk is None:
            self.disk = copy.deepcopy(self.place.disk)
        if self.disk is not None:
            raise LineError("dead") if threading.current_thread() is threading.main_thread() else StoreError("dead")

    async def resurrect(self) -> None:
        await self.here.close(JINAN)
        self.place.disk = self.disk or self.place.disk
        self.place.before = lambda _: None
        for wire in self.wires:
            wire.before = wire.after = lambda _: None
        await self.here.open(JINAN)


@pytest.mark.parametrize("slaves", [["bob"], ["bob", "carol"]])
@pytest.mark.parametrize("step", ["held", "assigned", "unconfirmed"])
def test_a_death_between_any_two_steps_leaves_no_key_to_anybody(step: str, slaves: list[str]) -> None:
    async def story() -> None:
        async with town() as here:
            death = Death(here)
            death.plant(step)
            with pytest.raises((Refusal, StoreError)):
                await reserve(here, slaves, 2)
            await death.resurrect()
            await destroy(here)
            assert (await count(here, JINAN, JINAN, QINGDAO)).waiting == 2, "another replica may still be at it"
            here.clock.now += ORPHANED_US + 1
            await destroy(here)
            for target in {HOMES[slave] for slave in slaves}:
                for end in (JINAN, target):
                    stands = await count(here, end, JINAN, target)
                    assert (stands.ready, stands.waiting, stands.voided) == (98, 0, 2)

    run(story())


async def destroy(here: Town) -> None:
    await here.houses[JINAN].voids.recover()
    await here.houses[JINAN].voids.settle()


def test_held_keys_outlive_a_far_end_that_is_away_and_a_second_death() -> None:
    async def story() -> None:
        async with town() as here:
            death = Death(here)
            death.plant("assigned")
            with pytest.raises(Refusal):
                await reserve(here, ["bob"], 2)
            await here.close(QINGDAO)
            await death.resurrect()
            here.clock.now += ORPHANED_US + 1
            await destroy(here)
            await here.close(JINAN)
            await here.open(JINAN)
            assert (await count(here, JINAN, JINAN, QINGDAO)).waiting == 2
            await here.open(QINGDAO)
            assert (await count(here, QINGDAO, JINAN, QINGDAO)).waiting == 2
            await destroy(here)
            for end in (JINAN, QINGDAO):
                stands = await count(here, end, JINAN, QINGDAO)
                assert (stands.ready, stands.waiting, stands.voided) == (98, 0, 2)

    run(story())


def test_keys_that_were_confirmed_before_a_death_are_never_given_to_another_master() -> None:
    async def story() -> None:
        async with town() as here:
            unheard = await reserve(here, ["bob"], 2)
            await here.close(JINAN)
            await here.open(JINAN)
            assert not set(bits(await reserve(here, ["bob"], 98))) & set(bits(unheard))
            here.clock.now += EXPIRY_US
            await here.houses[QINGDAO].group.apply(Sweep(here.clock.now))
            assert (await count(here, QINGDAO, JINAN, QINGDAO)).expired == 100, "nobody ever asked for them"

    run(story())


# --- a randomised schedule ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_lost_no_key_is_given_twice_and_every_unit_is_accounted_for(seed: int) -> None:
    async def story() -> None:
        chance = random.Random(seed)
        async with town(units=200) as here:
            for wire in (here.wire(JINAN, QINGDAO), here.wire(JINAN, YANTAI), here.wire(QINGDAO, JINAN)):
                wire.before = wire.after = lambda _: fail([True] * (chance.random() < 0.1))
            book = Book()
            for _ in range(20):
                await asyncio.gather(*(one_exchange(here, chance, book) for _ in range(6)))
                here.clock.now += 2_000_000
                for far_end in (end for house in here.houses.values() for end in house.far_ends.values()):
                    far_end._silent_until = 0.0
                if chance.random() < 0.2:
                    city = chance.choice((JINAN, QINGDAO, YANTAI))
                    await here.close(city)
                    await here.open(city)
            for wire in here.wires.values():
                wire.before = wire.after = lambda _: None
            here.clock.now += ORPHANED_US + 1
            for house in here.houses.values():
                await house.voids.recover()
                await house.voids.settle()
            await account(here, book)

    run(story())


@dataclass
class Book:
    """What SAEs were told: by key ID, the bits, and who has them."""

    given: dict[KeyId, bytes] = field(default_factory=dict)
    holders: dict[KeyId, list[str]] = field(default_factory=dict)
    failed: int = 0


async def one_exchange(here: Town, chance: random.Random, book: Book) -> None:
    master = chance.choice(("alice", "bob"))
    slaves = chance.sample(sorted(set(HOMES) - {master}), chance.choice((1, 1, 1, 2, 3)))
    number, size = chance.choice((1, 1, 2)), chance.choice((256, 256, 512))
    try:
        async with asyncio.timeout(chance.choice((0.0005, 0.002, 1.0, 1.0, 1.0))):
            keys = await reserve(here, slaves, number, size, master)
    except (Refusal, TimeoutError):
        book.failed += 1
        return
    for key in keys:
        assert key.key_id not in book.given, "a second master"
        assert key.key.reveal() not in book.given.values(), "the same bits twice"
        book.given[key.key_id], book.holders[key.key_id] = key.key.reveal(), [master]
    for slave in slaves:
        if chance.random() < 0.9:
            assert bits(await collect(here, slave, keys, master)) == bits(keys)
            for key in keys:
                book.holders[key.key_id].append(slave)


async def account(here: Town, book: Book) -> None:
    assert len(book.given) > 50
    assert book.failed
    assert all(len(set(holders)) == len(holders) for holders in book.holders.values())
    for house in here.houses.values():
        assert not await house.group.call(lambda store: store.held(here.clock.now)), "held for nobody"
        assert house.voids.waiting == 0
    for (origin, target), pool in [((one, other), Pool(one, other, 1)) for one in CITIES for other in CITIES]:
        ends = [await count(here, end, origin, target) for end in (origin, target)]
        for stands in ends:
            assert stands.ready + stands.waiting + stands.delivered + stands.voided + stands.expired == 200
        ready = [set(here.places[end].disk.ready[pool.tag]) for end in (origin, target)]
        assert ready[0] == ready[1], "what one end may give, the other has"
