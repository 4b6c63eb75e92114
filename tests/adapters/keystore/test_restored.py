"""An older copy of the database gives nothing out: a witness beside it knows better."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.keystore.places import (
    HERE,
    HOUR,
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
from qsotn.adapters.keystore.witness import Evidence, Witness, evidence_in
from qsotn.errors import StoreError, UsageError
from qsotn.keynetwork.delivery import Confirm, Deposit, Pool, PoolCount, Sweep, Void, key_id

IDENTITY = b"of this store..."


def test_keys_of_an_older_copy_are_destroyed_and_counted(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    waiting, held = one(store, reserve(pool, 2)), one(store, reserve(pool, 1, size=512, held=True))
    place.close()
    place.back_up()
    store = place.open()
    one(store, collect(waiting))
    given = one(store, reserve(pool, 3))
    place.close()
    place.restore()
    store = place.open()
    assert store.restored
    assert store.count(pool) == PoolCount(0, 0, 0, 0, 0, 20)
    for keys in (waiting, given):
        assert refusal(store, collect(keys)) == "KEYS_NOT_FOUND"
    assert refusal(store, Confirm(ids(held))) == "KEYS_NOT_FOUND"
    assert refusal(store, reserve(pool)) == "KEY_SHORTAGE"
    assert place.rows("SELECT place FROM key_units") == []
    store = place.again()
    assert not store.restored
    assert store.count(pool).burned == 20


def test_after_that_a_pool_goes_on_in_a_new_series(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    place.close()
    place.back_up()
    seen = {pool.series}
    for _ in range(3):
        store = place.again()
        deposit(store, store.begin_pool(HERE, THERE), 1, first=50)
        place.close()
        place.restore()
        store = place.open()
        fresh = store.begin_pool(HERE, THERE)
        assert store.begin_pool(HERE, THERE) == fresh
        assert fresh.series not in seen, "the copy that was restored knew nothing of the last one"
        seen.add(fresh.series)
        assert refusal(store, Deposit(pool, "late", 60, (unit(60),))) == "KEY_REUSED"
        deposit(store, fresh, 2)
        given = one(store, reserve(fresh))
        assert one(store, collect(given)) == given


@pytest.mark.parametrize("units", [20, 5000])
def test_a_pool_whose_far_end_lost_its_units_is_ended(place: KeyPlace, units: int) -> None:
    store = place.open()
    pool, other = store.begin_pool(HERE, THERE), store.begin_pool(HERE, HERE)
    deposit(store, pool, units)
    deposit(store, other, 3)
    given, held = one(store, reserve(pool)), one(store, reserve(pool, 2, size=512, held=True))
    one(store, collect(given))
    store.end_pool(pool)
    assert store.count(pool) == PoolCount(0, 0, 1, 0, 0, units - 1)
    assert refusal(store, Confirm(ids(held))) == "KEYS_NOT_FOUND"
    assert refusal(store, Deposit(pool, "late", 6000, (unit(0),))) == "KEY_REUSED"
    assert one(store, collect(given)) == given, "an answer that was given is still repeated"
    assert len(one(store, reserve(other, 3))) == 3
    assert store.begin_pool(HERE, THERE) == Pool(HERE, THERE, 2)
    store.end_pool(Pool(THERE, THERE, 1))


@pytest.mark.parametrize("what", ["deposit", "reserve", "collect", "void", "sweep", "begin"])
def test_every_change_since_the_copy_is_noticed(store: KeyLedger, place: KeyPlace, pool: Pool, what: str) -> None:
    given = one(store, reserve(pool))
    place.close()
    place.back_up()
    store = place.open()
    match what:
        case "deposit":
            deposit(store, pool, 1, first=50)
        case "reserve":
            one(store, reserve(pool))
        case "collect":
            one(store, collect(given))
        case "void":
            one(store, Void((key_id(pool.tag, 9),), "to be void"))
        case "sweep":
            one(store, Sweep(2 * HOUR))
        case "begin":
            store.begin_pool(THERE, HERE)
    place.close()
    place.restore()
    assert place.open().restored


def test_a_database_that_is_lost_begins_anew_in_a_new_series(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    place.close()
    place.wipe()
    store = place.open()
    assert store.restored
    assert store.pools() == []
    assert store.begin_pool(HERE, THERE).series > pool.series
    store = place.again()
    assert not store.restored


def test_without_its_witness_a_database_is_not_opened(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    place.close()
    witness = place.folder / "epochs" / "1.witness"
    kept = witness.read_bytes()
    witness.unlink()
    with pytest.raises(StoreError, match=r"1\.witness is not in .*Put it back; if it is lost, set the database aside"):
        place.open()
    assert not witness.exists(), "an empty one would have made the next attempt succeed"
    witness.write_bytes(kept)
    store = place.open()
    assert store.count(pool).ready == 20


def test_if_the_witness_is_lost_all_keys_go_and_series_leap(store: KeyLedger, place: KeyPlace, pool: Pool) -> None:
    place.close()
    (place.folder / "epochs" / "1.witness").unlink()
    store = place.open(discard=True)
    assert store.restored
    assert store.count(pool) == PoolCount(0, 0, 0, 0, 0, 20)
    assert store.begin_pool(HERE, THERE).series > 1000
    assert place.again().count(pool).burned == 20


def test_the_witness_of_another_database_is_none(store: KeyLedger, place: KeyPlace) -> None:
    place.close()
    Witness(place.folder / "epochs", "2", Evidence(IDENTITY, 0, 0)).close()
    with pytest.raises(StoreError, match="of another database"):
        place.open()


def test_two_processes_are_not_the_same_replica(store: KeyLedger, place: KeyPlace) -> None:
    with pytest.raises(StoreError, match="in use"):
        place.open()
    with pytest.raises(UsageError, match="no name for a replica"):
        place.open("../1")


def test_a_replica_that_runs_notices_the_copy_before_it_gives_a_key(
    postgres_place: KeyPlace,
) -> None:
    place = postgres_place
    store = place.open()
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 20)
    place.back_up()
    one(store, reserve(pool))
    place.restore()
    with pytest.raises(StoreError, match="older copy of itself"):
        store.apply([reserve(pool)])
    with pytest.raises(StoreError, match="older copy of itself"):
        store.begin_pool(THERE, HERE)
    assert place.again().count(pool).burned == 20


def test_what_one_replica_gave_another_knows_of(postgres_place: KeyPlace) -> None:
    """The one that gave it never comes back; the other had done nothing since the copy was made."""
    place = postgres_place
    first, second = place.open("1"), place.open("2")
    pool = first.begin_pool(HERE, THERE)
    deposit(first, pool, 20)
    one(second, reserve(pool))
    place.back_up()
    one(first, reserve(pool))
    place.restore()
    with pytest.raises(StoreError, match="older copy of itself"):
        second.apply([Sweep(1)])
    place.close()
    assert place.open("2").count(pool).burned == 20


# --- the witness file -------------------------------------------------------------------------------------------------


def test_a_torn_write_leaves_what_was_said_before(sqlite_place: KeyPlace) -> None:
    folder = sqlite_place.folder
    witness = Witness(folder, "1", Evidence(IDENTITY, 0, 0))
    for number in range(1, 6):
        witness.write(Evidence(IDENTITY, number, 1))
        _tear_next(folder, number)
    witness.close()
    again = Witness(folder, "1", Evidence(IDENTITY, 0, 0))
    again.write(Evidence(IDENTITY, 6, 1))
    again.close()
    assert evidence_in(folder) == {"1": Evidence(IDENTITY, 6, 1)}


def _tear_next(folder: Path, number: int) -> None:
    """Overwrite part of the slot that would be written next, and find that the last one still stands."""
    with (folder / "1.witness").open("r+b") as file:
        file.seek((number + 1) % 2 * 4096 + 20)
        file.write(b"torn")
    assert evidence_in(folder)["1"].transactions == number


def test_a_damaged_witness_is_said_to_be_one(store: KeyLedger, place: KeyPlace) -> None:
    place.close()
    (place.folder / "epochs" / "1.witness").write_bytes(bytes(8192))
    with pytest.raises(StoreError, match="damaged"):
        place.open()
