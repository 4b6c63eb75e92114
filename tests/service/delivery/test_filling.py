"""Pools that fill: from the QKDN into the key stores of both ends, every unit once, whoever dies in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from tests.links import use_up
from tests.service.delivery.memory_store import Disk, MemoryKeyStore, Place
from tests.service.desks import run
from tests.service.http.driver import DirectWorker
from tests.world import World, deposit

from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINKS
from qsotn.domain import PartyId
from qsotn.errors import StoreError
from qsotn.keynetwork.delivery import Deposit, Operation, Pool, Reserve
from qsotn.parties import km_pool
from qsotn.service.delivery.filling import LONGEST_PAUSE, Filling, Supply, most_units
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.routes import Routes

MARK = 40


@dataclass
class End:
    """One key manager's key store, and who fills it."""

    place: Place
    group: Group
    filling: Filling

    def units(self, pool: Pool) -> dict[int, bytes]:
        return self.place.disk.ready.get(pool.tag, {})


@asynccontextmanager
async def end(
    world: World, party: PartyId, targets: Sequence[PartyId] = (), place: Place | None = None
) -> AsyncIterator[End]:
    there = place or Place()
    group = Group(lambda: MemoryKeyStore(there), 1000)
    await group.start()
    try:
        worker = DirectWorker(world.nodes[party])
        supply = Supply(Routes(party, LINKS), world.clock)
        yield End(there, group, Filling(party, targets, MARK, group, worker, supply))
    finally:
        await group.stop()


@asynccontextmanager
async def both(world: World, targets: Sequence[PartyId] = (KM_B,)) -> AsyncIterator[tuple[End, End]]:
    async with end(world, KM_A, targets) as near, end(world, KM_B) as far:
        yield near, far


def pool_of(near: End) -> Pool:
    (pool,) = near.place.disk.pools.values()
    return pool


@pytest.mark.parametrize(("mark", "most"), [(16, 64), (256, 64), (512, 128), (2048, 512), (100_000, 512)])
def test_a_supply_is_a_quarter_of_its_pool_within_bounds(mark: int, most: int) -> None:
    assert most_units(mark) == most


@pytest.mark.parametrize("most", [64, 16])
def test_a_pool_is_filled_to_its_mark_and_both_ends_hold_the_same_units(
    open_world: Callable[..., World], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsotn.service.delivery.filling.MOST_UNITS", most)
    world = open_world()

    async def story() -> None:
        async with both(world) as (near, far):
            for _ in range(4):
                await near.filling.look()
                await far.filling.look()
                world.settle()
            pool = pool_of(near)
            assert len(near.units(pool)) == MARK
            assert near.units(pool) == far.units(pool)
            assert near.filling.short == ()
            assert not arrived(world, KM_A), "nothing is left in the party's own store"
            assert not arrived(world, KM_B)

    run(story())


def arrived(world: World, party: PartyId) -> list[Deposit]:
    with world.nodes[party].desk() as km:
        return list(km_pool.arrived(km.desk))


def test_a_pool_of_two_saes_of_one_key_manager_is_filled_too(open_world: Callable[..., World]) -> None:
    world = open_world()

    async def story() -> None:
        async with end(world, KM_A, (KM_A,)) as near:
            for _ in range(4):
                await near.filling.look()
                world.settle()
            assert len(near.units(pool_of(near))) == MARK

    run(story())


def test_a_pool_is_filled_again_only_when_a_part_of_it_is_gone(open_world: Callable[..., World]) -> None:
    world = open_world()
    for link in LINKS:
        deposit(world, link, 2)
    world.settle()

    async def story() -> None:
        async with both(world) as (near, _):
            for _ in range(2):
                await near.filling.look()
                world.settle()
            await near.filling.look()
            pool = pool_of(near)
            for taken, asked in ((MARK // 4 - 1, 0), (1, MARK // 4)):
                await near.group.apply(Reserve(pool, "alice", ("bob",), taken, 256, 0, held=True))
                await near.filling.look()
                with world.nodes[KM_A].desk() as km:
                    assert km_pool.units_under_way(km.desk, pool) == asked

    run(story())


def test_while_a_supply_is_under_way_no_other_is_asked_for(open_world: Callable[..., World]) -> None:
    world = open_world()

    async def story() -> None:
        async with both(world) as (near, _):
            for _ in range(3):
                await near.filling.look()
            with world.nodes[KM_A].desk() as km:
                assert km_pool.units_under_way(km.desk, pool_of(near)) == MARK

    run(story())


@pytest.mark.parametrize("who", [KM_A, KM_B])
@pytest.mark.parametrize("when", ["before the deposit", "after the deposit"])
def test_a_death_in_the_hand_over_loses_and_doubles_nothing(
    open_world: Callable[..., World], who: PartyId, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world()

    async def story() -> None:
        async with both(world) as (near, far):
            await near.filling.look()
            world.settle()
            dying = near if who == KM_A else far
            with monkeypatch.context() as planted:
                if when == "before the deposit":
                    dying.place.before = dies
                else:
                    planted.setattr(km_pool, "handed_over", dies)
                await dying.filling.look()
            dying.place.before = lambda _: None
            async with end(world, who, (), dying.place) as risen:
                assert await risen.filling.hand_over() == 1
                assert await risen.filling.hand_over() == 0
            for one in (near, far):
                await one.filling.hand_over()
            pool = pool_of(near)
            assert len(near.units(pool)) == MARK
            assert near.units(pool) == far.units(pool)

    run(story())


def dies(*_: Sequence[Operation] | object) -> None:
    raise StoreError("the process died here")


def test_a_shortage_is_told_and_the_pool_is_filled_when_there_are_bits_again(open_world: Callable[..., World]) -> None:
    world = open_world()

    async def story() -> None:
        async with both(world) as (near, far):
            drain(world)
            await near.filling.look()
            world.settle()
            assert set(near.filling.short) == {KM_B}
            for link in LINKS:
                deposit(world, link, 2)
            world.settle()
            for _ in range(LONGEST_PAUSE):
                await near.filling.look()
                await far.filling.look()
                world.settle()
            assert not near.filling.short
            assert len(near.units(pool_of(near))) == MARK

    run(story())


def drain(world: World) -> None:
    """Take all that Jinan may still allocate."""
    with world.nodes[KM_A].desk() as km:
        for link in km.configuration.links:
            use_up(km, link)


def test_a_supply_that_fails_on_its_way_is_not_repeated_at_once(open_world: Callable[..., World]) -> None:
    world = open_world()

    async def story() -> None:
        async with both(world) as (near, _):
            empty_the_relay(world)
            await near.filling.look()
            world.settle()
            await near.filling.look()
            assert near.filling.short == (KM_B,)
            with world.nodes[KM_A].desk() as km:
                assert km_pool.units_under_way(km.desk, pool_of(near)) == 0
            await near.filling.look()
            with world.nodes[KM_A].desk() as km:
                assert km_pool.units_under_way(km.desk, pool_of(near)) == 0, "it is left alone"

    run(story())


def empty_the_relay(world: World) -> None:
    with world.nodes[KM_RELAY].desk() as km:
        for link, far in km.configuration.links.items():
            if far == KM_B:
                use_up(km, link)


def test_after_an_older_copy_was_put_back_the_next_series_is_filled(open_world: Callable[..., World]) -> None:
    world = open_world()

    async def story() -> None:
        async with both(world) as (near, far):
            await near.filling.look()
            world.settle()
            old = pool_of(near)
            near.place.disk = Disk(ended=1)
            for link in LINKS:
                deposit(world, link, 2)
            world.settle()
            for _ in range(4):
                await near.filling.look()
                await far.filling.look()
                world.settle()
            new = Pool(KM_A, KM_B, 2)
            assert not near.units(old), "what was on its way for the ended series is thrown away"
            assert len(near.units(new)) == MARK
            assert near.units(new) == far.units(new)
            assert not set(near.units(new).values()) & set(far.units(old).values())

    run(story())
