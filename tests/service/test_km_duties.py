"""What a key manager's process does by itself: accounts go after their time, and what protects bits stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs
from tests.service.desks import run
from tests.service.http.driver import DirectWorker
from tests.world import World, deposit

from qsotn.app.province import KM_A, KM_RELAY, LINK_A, QSSP_A, QSSP_B
from qsotn.domain import KeyId, Secret
from qsotn.errors import KeyReuse, Refusal, StoreError
from qsotn.keynetwork.delivery import Pool
from qsotn.keynetwork.provenance import Order
from qsotn.keynetwork.relay import Mode
from qsotn.parties import km_pool, km_retention
from qsotn.parties.km import Allocation, BlockState, Km, SupplyRecord
from qsotn.parties.km_losses import LostBlock, Withdrawal, lost_blocks, withdrawals
from qsotn.parties.km_pool import Batch, BatchState, BurntUnits, Passage, PassageState
from qsotn.parties.km_records import new_key_run
from qsotn.parties.link_totals import totals
from qsotn.procedures.block_account import EXPIRES_US
from qsotn.procedures.key_supply import Hop, hops
from qsotn.service.km_duties import REST_S, STEP_S, DutyMetrics, KmDuties

DAY_US = 24 * 3600 * 1_000_000
KEPT_US = 30 * DAY_US
POOL = Pool(KM_A, KM_RELAY, 1)


@pytest.fixture
def world(open_world: Callable[..., World]) -> World:
    return open_world("provisioned")


def duties(world: World, registry: CollectorRegistry | None = None) -> KmDuties:
    return KmDuties(DirectWorker(world.nodes[KM_A]), KEPT_US, DutyMetrics(registry or CollectorRegistry()))


def swept(world: World, days: int, registry: CollectorRegistry | None = None) -> int:
    """Let days pass, and make a whole pass over the accounts; return how many steps it took."""
    world.clock.advance(days * DAY_US)

    async def story() -> int:
        one, steps = duties(world, registry), 1
        while await one.sweep() != REST_S:
            steps += 1
        return steps

    return run(story())


def at_desk(world: World, function: Callable[[Km], Any]) -> Any:
    with world.desk(KM_A) as km:
        return function(km)


def there(world: World, kind: str) -> set[str]:
    found: set[str] = at_desk(world, lambda km: {key for key, _ in km.desk.transaction.scan(kind)})
    return found


# --- records of every kind ------------------------------------------------------------------------------------------


def order(batch: str) -> Order:
    return Order(
        batch=batch,
        share=0,
        shares=1,
        origin=KM_A,
        target=KM_RELAY,
        series=1,
        first=0,
        units=8,
        mode=Mode.ONE_TIME_PAD,
        path=(),
        expires_at=0,
    )


def passage(km: Km, name: str, state: PassageState) -> None:
    one = Passage(order(name), 0, state, (), (), (b"signed",), LINK_A, KM_RELAY, "", "", km.desk.now)
    km_pool.passages(km.desk).put(name, one)


def batch(km: Km, name: str, state: BatchState) -> None:
    km_pool.batches(km.desk).put(name, Batch((order(name),), state, km.desk.now))


def supply(km: Km, *, waits: bool = False) -> KeyId:
    ids = new_key_run(3, km.desk.entropy)
    taken = Allocation(LINK_A, 1, 0, 3)
    record = SupplyRecord(ids[0], 3, "destination", taken, None, (KM_A,), QSSP_A, QSSP_B, km.desk.now)
    km.keys.supplies.put(ids[0], record)
    hops(km.desk).put(f"hop of {ids[0]}", Hop(ids))
    if waits:
        km.store_keys(ids[2:], [Secret(bytes(32))], QSSP_A, QSSP_B, (KM_A,))
    return ids[0]


def test_accounts_go_after_their_time_and_not_before(world: World) -> None:
    def write(km: Km) -> None:
        passage(km, "share", PassageState.RELAYED)
        batch(km, "batch", BatchState.ARRIVED)
        km_pool.burnt_units(km.desk).put("share/b", BurntUnits((), "KEY_MISMATCH", KM_RELAY, km.desk.now))
        lost_blocks(km.desk).put(f"{LINK_A}/00000009", LostBlock(LINK_A, 9, 4, "why", km.desk.now))
        withdrawals(km.desk).put(f"{LINK_A}/00000009", Withdrawal(LINK_A, 9, 4, "why"))
        supply(km)

    at_desk(world, write)
    kinds = ("passages", "pool-batches", "burnt-units", "lost-blocks", "block-withdrawals", "supplied-keys", "hops")
    swept(world, KEPT_US // DAY_US)
    assert [kind for kind in kinds if not there(world, kind)] == []
    swept(world, 1)
    swept(world, 0)  # a hop goes when its supply has gone
    assert [kind for kind in kinds if there(world, kind)] == []


@pytest.mark.parametrize("state", [PassageState.PASSED_ON, PassageState.HELD])
def test_a_share_that_is_under_way_is_kept_however_old_it_is(world: World, state: PassageState) -> None:
    at_desk(world, lambda km: passage(km, "share", state))
    at_desk(world, lambda km: batch(km, "batch", BatchState.CONFIRMING))
    swept(world, 100)
    assert there(world, "passages") == {"share"}
    assert there(world, "pool-batches") == {"batch"}


def test_a_supply_whose_keys_wait_for_an_sae_is_kept_and_they_can_be_collected(world: World) -> None:
    first = at_desk(world, lambda km: supply(km, waits=True))
    swept(world, 100)
    assert there(world, "supplied-keys") == {first}
    assert there(world, "hops") == {f"hop of {first}"}
    with world.desk(KM_A) as km:
        for key, _ in list(km.stored.items()):
            km.stored.delete(key)
    swept(world, 0)
    assert there(world, "supplied-keys") == set()


def test_a_block_goes_when_it_is_old_and_not_one_unit_of_it_is_left(world: World) -> None:
    first = f"{LINK_A}/00000001"

    def own_half_is_used(km: Km) -> None:
        block = km.block(LINK_A, 1)
        km._allocated(block, km._own_half(block))

    at_desk(world, own_half_is_used)
    swept(world, 100)
    assert first in there(world, "key-blocks"), "the far end may name units of its half"
    at_desk(world, lambda km: km.desk.transaction.take("key-units", f"{first}/", f"{first}/999999"))
    agreed = at_desk(world, lambda km: totals(km, LINK_A).agreed_units)
    swept(world, 0)
    swept(world, 0)
    assert first not in there(world, "key-blocks") | there(world, "block-proofs")
    assert at_desk(world, lambda km: totals(km, LINK_A).agreed_units) == agreed > 0
    with pytest.raises(KeyReuse):
        at_desk(world, lambda km: km.deposit(LINK_A, 1, Secret(bytes(1024)), {}))


def test_a_block_that_is_not_in_the_sum_of_its_link_is_kept(world: World) -> None:
    """It is behind a block of which there is something left."""
    deposit(world, LINK_A, 2, blocks=(bytes(8192), b"\1" * 8192))
    world.settle()
    counted = at_desk(world, lambda km: totals(km, LINK_A))
    swept(world, 100)
    assert there(world, "key-blocks") >= {f"{LINK_A}/00000001", f"{LINK_A}/00000002"}
    assert at_desk(world, lambda km: totals(km, LINK_A)) == counted


def test_numbers_of_a_pool_stay_used_when_its_batches_are_forgotten(world: World) -> None:
    at_desk(world, lambda km: km_pool.take_numbers(km.desk, POOL, 0, 8))
    at_desk(world, lambda km: batch(km, "batch", BatchState.ARRIVED))
    swept(world, 100)
    assert there(world, "pool-batches") == set()
    assert at_desk(world, lambda km: km_pool.next_number(km.desk, POOL)) == 8
    with pytest.raises(Refusal, match="was given to a batch of this pool before"):
        at_desk(world, lambda km: km_pool.take_numbers(km.desk, POOL, 7, 8))


# --- in small steps -------------------------------------------------------------------------------------------------


def test_a_pass_is_made_in_small_steps_and_goes_on_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(km_retention, "AT_ONCE", 4)
    for number in range(30):
        state = PassageState.HELD if number % 3 else PassageState.ARRIVED
        with world.desk(KM_A) as km:
            passage(km, f"share-{number:02}", state)
    world.clock.advance(100 * DAY_US)
    registry = CollectorRegistry()

    async def steps(count: int) -> list[float]:
        one = duties(world, registry)
        return [await one.sweep() for _ in range(count)]

    assert run(steps(3)) == [STEP_S] * 3
    assert len(there(world, "passages")) == 30 - 4, "of the first twelve records, four"
    world.restart(KM_A)
    registry = CollectorRegistry()
    assert swept(world, 0, registry) > 5
    assert len(there(world, "passages")) == 20
    assert 'qsotn_accounts_deleted_total{kind="passages"} 6.0' in generate_latest(registry).decode()


# --- blocks ---------------------------------------------------------------------------------------------------------


def test_a_block_that_is_written_off_is_told_and_counted(world: World) -> None:
    registry = CollectorRegistry()
    with world.desk(KM_A) as km:
        km.deposit(LINK_A, 2, Secret(world.entropy(1024)), {})
    world.clock.advance(EXPIRES_US)
    with capture_logs() as logs:
        run(duties(world, registry).look_after_blocks())
    (told,) = (one for one in logs if one["event"] == "a block is written off")
    assert (told["link"], told["block"], told["bits"], told["log_level"]) == (LINK_A, 2, 8192, "error")
    assert f'qsotn_lost_blocks{{link="{LINK_A}"}} 1.0' in generate_latest(registry).decode()


def test_blocks_that_both_ends_hold_are_left_alone(world: World) -> None:
    deposit(world, LINK_A, 2)
    world.settle()
    before = world.dump(KM_A)
    world.clock.advance(2 * EXPIRES_US)
    run(duties(world).look_after_blocks())
    assert at_desk(world, lambda km: km.block(LINK_A, 2).state) is BlockState.AVAILABLE
    assert world.dump(KM_A) == before


def test_a_store_that_is_away_ends_no_duty(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Over(Exception):
        """The test has seen enough."""

    async def away() -> float:
        raise StoreError("the store is away")

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise Over

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with capture_logs() as logs, pytest.raises(Over):
        run(duties(world)._again(away))
    assert [one["event"] for one in logs] == ["links and accounts are not looked after now"] * 2
