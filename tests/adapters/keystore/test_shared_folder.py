"""Replicas that share a database share its folder, too; and all of them notice when the database is an older copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.adapters.keystore.places import (
    HERE,
    SECOND,
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

from qsotn.adapters.keystore import KeyLedger, StaleStore
from qsotn.adapters.keystore.epochs import EpochUnreadable
from qsotn.adapters.keystore.opening import MOST_UNSAID
from qsotn.errors import StoreConflict, StoreError
from qsotn.keynetwork.delivery import Assign, Deposit, Operation, Pool, ReadyKey, Sweep, key_id


@pytest.fixture
def place(postgres_place: KeyPlace) -> KeyPlace:
    return postgres_place


def elsewhere(place: KeyPlace, tmp_path: Path) -> KeyPlace:
    """The same database, seen from a machine with a folder of its own."""
    return replace(place, folder=tmp_path / "elsewhere", _opened=[])


def carried(place: KeyPlace, there: KeyPlace) -> None:
    """Copy the folder, as with a party's folder that is carried to another machine."""
    shutil.copytree(place.folder / "epochs", there.folder / "epochs")


def end(place: KeyPlace, store: KeyLedger) -> None:
    """Close one store."""
    place._opened.remove(store)
    store.close()


# --- one folder -------------------------------------------------------------------------------------------------------


def test_a_replica_with_a_folder_of_its_own_is_refused(place: KeyPlace, tmp_path: Path) -> None:
    store, there = place.open("1"), elsewhere(place, tmp_path)
    deposit(store, pool := store.begin_pool(HERE, THERE), 4)
    with pytest.raises(StoreError, match=r"1\.witness is not in .*uses the folder of the others, and not a copy"):
        there.open("2")
    assert len(one(store, reserve(pool, 4))) == 4


Use = Callable[[Pool, list[ReadyKey]], Operation]
USES: dict[str, Use] = {
    "reserve": lambda pool, _: reserve(pool, 1, now=SECOND),
    "reserve more than a unit": lambda pool, _: reserve(pool, 1, size=512, now=SECOND),
    "collect": lambda _, keys: collect(keys, now=SECOND),
}


@pytest.mark.parametrize("use", USES)
def test_a_replica_with_a_copied_folder_spoils_no_key_that_it_cannot_read(
    place: KeyPlace, tmp_path: Path, use: str
) -> None:
    end(place, place.open("1"))
    there = elsewhere(place, tmp_path)
    carried(place, there)
    store, stranger = place.open("1"), there.open("2")
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 8)
    keys = list(one(store, reserve(pool, 2)))
    before = store.count(pool)
    with pytest.raises(EpochUnreadable, match="which all replicas share"):
        stranger.apply([USES[use](pool, keys)])
    assert store.count(pool) == before
    assert list(one(store, collect(keys))) == keys
    assert len(one(store, reserve(pool, 6))) == 6
    there.close()


def test_a_key_that_cannot_be_read_is_not_assigned(place: KeyPlace, tmp_path: Path) -> None:
    end(place, place.open("1"))
    there = elsewhere(place, tmp_path)
    carried(place, there)
    store, stranger = place.open("1"), there.open("2")
    deposit(store, incoming := Pool(THERE, HERE, 1), 2)
    asked = Assign(incoming, (key_id(incoming.tag, 0),), "sae/a", ("sae/b",), 512, SECOND)
    with pytest.raises(EpochUnreadable):
        stranger.apply([asked])
    one(store, asked)
    there.close()


def test_a_replica_with_a_copied_folder_sees_that_the_others_write_elsewhere(place: KeyPlace, tmp_path: Path) -> None:
    end(place, place.open("1"))
    there = elsewhere(place, tmp_path)
    carried(place, there)
    store, stranger = place.open("1"), there.open("2")
    pool = store.begin_pool(HERE, THERE)
    one(stranger, Sweep(1))
    ahead(place, "1", MOST_UNSAID + 10)
    with pytest.raises(StaleStore, match=r"1\.witness is not the one that replica '1' keeps: this folder is a copy"):
        stranger.apply([Sweep(2)])
    there.close()
    with pytest.raises(StaleStore, match="this folder is a copy"):
        there.open("2")
    deposit(store, pool, 4)
    assert len(one(store, reserve(pool, 4))) == 4


def ahead(place: KeyPlace, replica: str, by: int) -> None:
    """Have a replica's counter say that it has committed so much more, without so many transactions."""
    assert place.server is not None
    schema = place._schema
    place.server.execute(
        f"UPDATE \"{schema}\".key_tallies SET value = value + {by} WHERE what = 7 AND replica = '{replica}'",  # noqa: S608
        "keys",
    )


def test_commits_of_which_no_answer_came_are_no_copied_folder(place: KeyPlace) -> None:
    store = place.open("1")
    place.open("2")
    ahead(place, "2", MOST_UNSAID - 10)
    one(store, Sweep(1))
    assert not place.open("3").restored


# --- an older copy beneath several ------------------------------------------------------------------------------------


def test_when_one_replica_destroys_an_older_copy_the_others_have_to_open_it_anew(place: KeyPlace) -> None:
    """As after a failover to a standby that lacked commits: the second replica had done nothing that was lost."""
    first, second = place.open("1"), place.open("2")
    pool = first.begin_pool(HERE, THERE)
    deposit(first, pool, 8)
    place.back_up()
    given = one(first, reserve(pool, 2))
    place.restore()
    end(place, first)
    reopened = place.open("1")
    assert reopened.restored
    for use in (Sweep(SECOND), Deposit(Pool(THERE, HERE, 1), "batch", 0, (unit(0),))):
        assert first_to_say(second, use) is StaleStore
    end(place, second)
    again = place.open("2")
    assert not again.restored
    fresh = again.begin_pool(HERE, THERE)
    assert fresh.series > pool.series
    deposit(again, fresh, 2)
    assert refusal(again, collect(ids(given))) == "KEYS_NOT_FOUND"
    assert one(reopened, collect(one(again, reserve(fresh)))) != given
    for store in (again, reopened):
        one(store, Sweep(2 * SECOND))


def first_to_say(store: KeyLedger, use: Operation) -> type[Exception] | None:
    """What a store raises, conflicts apart; None if it does as it was asked, or refuses."""
    for _ in range(5):
        try:
            applied = store.apply([use])
        except StoreConflict:
            continue
        except StoreError as error:
            return type(error)
        return None if not applied.refused else next(map(type, applied.refused.values()))
    raise AssertionError("never got through")
