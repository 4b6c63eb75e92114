"""Several replicas of one party on one PostgreSQL database, each in a thread of its own, as processes would be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import pytest
from tests.adapters.keystore.places import (
    HERE,
    HOUR,
    OTHER,
    SECOND,
    SLAVE,
    THERE,
    KeyPlace,
    collect,
    deposit,
    ids,
    one,
    refusal,
    reserve,
    unit,
)

from qsotn.adapters.keystore import KeyLedger
from qsotn.errors import StoreConflict
from qsotn.keynetwork.delivery import Applied, Assign, Deposit, Operation, Pool, Sweep, parse_key_id

T = TypeVar("T")
UNITS = 600


@pytest.fixture
def place(postgres_place: KeyPlace) -> KeyPlace:
    return postgres_place


@pytest.fixture
def pool(place: KeyPlace) -> Pool:
    store = place.open("3")
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, UNITS)
    return pool


def on_both(place: KeyPlace, work: Callable[[KeyLedger, int], T]) -> list[T]:
    """Run the same work on two replicas at once; each opens and uses its store in its own thread."""
    start = threading.Barrier(2)

    def run(replica: int) -> T:
        store = place.open(str(replica + 1))
        start.wait(60)
        return work(store, replica)

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run, range(2)))


def until_done(store: KeyLedger, operations: list[Operation]) -> Applied:
    for _ in range(1000):
        try:
            return store.apply(operations)
        except StoreConflict:
            continue
    raise AssertionError("never got through")


@pytest.mark.parametrize("size", [256, 512])
def test_no_unit_is_given_out_twice_and_none_is_left(place: KeyPlace, pool: Pool, size: int) -> None:
    def take(store: KeyLedger, _: int) -> list[int]:
        numbers: list[int] = []
        while applied := until_done(store, [reserve(pool, size=size) for _ in range(8)]).done:
            numbers += [parsed[1] for keys in applied.values() for key in keys if (parsed := parse_key_id(key.key_id))]
        return numbers

    first, second = on_both(place, take)
    # A replica that finds too few while another is at it may say so; nothing is lost by that.
    last = place.open("4")
    rest = take(last, 0)
    taken = [unit for number in first + second + rest for unit in range(number, number + size // 256)]
    assert len(set(taken)) == len(taken)
    # A replica passes over units that another has just locked, so a key may begin where none did before, and single
    # units stay between two keys: they are ready for smaller ones.
    left = sorted(set(range(UNITS)) - set(taken))
    assert all(later - earlier > 1 for earlier, later in pairwise(left))
    assert size > 256 or not left
    assert last.count(pool).ready == len(left)
    assert min(len(first), len(second)) > 0
    assert place.open("5").count(pool).ready == 0


def test_a_key_is_collected_from_any_replica_and_once(place: KeyPlace, pool: Pool) -> None:
    keys = one(place.open("4"), reserve(pool, 200))

    def ask(store: KeyLedger, replica: int) -> int:
        """The two ask for the same keys, in different requests."""
        step = 1 if replica == 0 else 2
        asked: list[Operation] = [collect(keys[at : at + step]) for at in range(0, len(keys), step)]
        order = asked if replica == 0 else asked[::-1]
        return sum(
            len(got) for at in range(0, len(order), 5) for got in until_done(store, order[at : at + 5]).done.values()
        )

    assert sum(on_both(place, ask)) == 200
    assert place.open("5").count(pool).delivered == 200


def test_a_repeated_request_may_come_to_another_replica(place: KeyPlace, pool: Pool) -> None:
    first, second = place.open("1"), place.open("2")
    keys = one(first, reserve(pool, 3))
    assert one(second, collect(keys)) == keys
    assert one(first, collect(keys)) == keys
    assert refusal(first, collect(keys, OTHER)) == "NOT_NAMED"


def test_pools_and_audiences_that_another_replica_began_are_known(place: KeyPlace) -> None:
    first, second = place.open("1"), place.open("2")
    incoming = Pool(THERE, HERE, 1)
    deposit(first, incoming, 4)
    wanted = ids(one(first, reserve(incoming, 1, "sae/x")))
    assert one(second, collect(wanted, "sae/x")) == one(first, collect(wanted, "sae/x"))
    one(second, reserve(incoming))
    deposit(first, here := first.begin_pool(HERE, HERE), 4)
    assert second.begin_pool(HERE, HERE) == here
    (key,) = one(second, reserve(here))
    assert one(first, Assign(incoming, ids([f"{wanted[0][:-1]}2"]), "sae/a", (SLAVE,), 256, 0)) == ()
    assert one(first, collect([key])) == (key,)


def test_one_batch_that_comes_to_both_is_put_in_once(place: KeyPlace) -> None:
    incoming = Pool(THERE, HERE, 1)

    def put(store: KeyLedger, _: int) -> int:
        batches = [Deposit(incoming, str(at), at, (unit(at),)) for at in range(40)]
        return sum(len(until_done(store, [batch]).done) for batch in batches)

    assert on_both(place, put) == [40, 40]
    store = place.open("4")
    assert store.count(incoming).ready == 40
    assert len(one(store, reserve(incoming, 40))) == 40


def test_series_are_begun_once(place: KeyPlace) -> None:
    assert set(on_both(place, lambda store, _: store.begin_pool(THERE, THERE))) == {Pool(THERE, THERE, 1)}


def test_an_epoch_of_a_replica_that_is_gone_is_shredded_by_another(place: KeyPlace, pool: Pool) -> None:
    second = place.open("2")
    one(second, Sweep(SECOND))
    for late in range(4):
        one(second, Sweep(24 * HOUR + SECOND + late))
    assert [path.name for path in (place.folder / "epochs").glob("*.epoch")] == ["2.epoch"]
    assert len(one(second, reserve(pool, UNITS))) == UNITS
    third = place.open("4")
    deposit(third, pool, 5, first=UNITS)
    assert len(one(second, reserve(pool, 5))) == 5


def test_a_replica_whose_epoch_was_closed_by_another_begins_a_new_one(place: KeyPlace) -> None:
    first, second = place.open("1"), place.open("2")
    pool = first.begin_pool(HERE, THERE)
    deposit(first, pool, 5)
    one(second, Sweep(SECOND))
    one(second, Sweep(24 * HOUR))
    deposit(first, pool, 5, first=5)
    assert {epoch for (epoch,) in place.rows("SELECT epoch FROM key_units WHERE wrapped IS NOT NULL")} == {1, 2}
    assert len(one(second, reserve(pool, 10))) == 10


def test_an_epoch_that_is_closed_at_the_last_moment_is_not_wrapped_under(
    place: KeyPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could be found empty, and be shredded with what was just wrapped."""
    first, second = place.open("1"), place.open("2")
    pool = first.begin_pool(HERE, THERE)
    deposit(first, pool, 5)
    one(second, Sweep(SECOND))
    fill = first._fill_epoch

    def fill_and_be_late() -> None:
        fill()
        one(second, Sweep(24 * HOUR))

    monkeypatch.setattr(first, "_fill_epoch", fill_and_be_late)
    with pytest.raises(StoreConflict, match="closed by another replica"):
        deposit(first, pool, 5, first=5)
    monkeypatch.undo()
    deposit(first, pool, 5, first=5)
    assert first.count(pool).ready == 10
