"""A transaction in two steps, for whoever has an event loop: what is short is prepared, and committed elsewhere."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest
from tests.adapters.keystore.places import HERE, HOUR, OTHER, KeyPlace, collect, deposit, one, reserve, unit

from qsotn.adapters.keystore.sweeping import DUE_AT_ONCE
from qsotn.adapters.keystore.witness import evidence_in
from qsotn.errors import StoreError, UsageError
from qsotn.keynetwork.delivery import Deposit, Operation, Sweep


def test_what_was_prepared_is_done_once_it_is_committed(sqlite_place: KeyPlace) -> None:
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 3)
    keys = one(store, reserve(pool))
    prepared = store.prepare([reserve(pool), collect(keys), reserve(pool, 9)])
    assert prepared is not None
    assert prepared.done[1] == keys
    assert list(prepared.refused) == [2]
    assert sqlite_place.rows("SELECT count(*) FROM key_units WHERE state = 0") == [(2,)], "nobody sees it yet"
    store.commit()
    assert sqlite_place.rows("SELECT count(*) FROM key_units WHERE state = 0") == [(1,)]
    assert (store.count(pool).ready, store.count(pool).delivered) == (1, 1)
    ((counted,),) = sqlite_place.rows("SELECT value FROM key_tallies WHERE what = 7")
    assert evidence_in(sqlite_place.folder / "epochs")["1"].transactions == counted, "its witness knows of it"


def test_what_was_prepared_and_never_committed_was_not_done(sqlite_place: KeyPlace) -> None:
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 3)
    one(store, reserve(pool))
    assert store.prepare([reserve(pool)]) is not None
    again = sqlite_place.again()
    assert not again.restored
    assert again.count(pool).ready == 2


def test_after_a_commit_that_failed_the_store_begins_anew(sqlite_place: KeyPlace) -> None:
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 3)
    first = one(store, reserve(pool))
    tables: Any = store._tables
    prepared = store.prepare([reserve(pool), collect(first)])
    tables._connection.execute("ROLLBACK")  # as SQLite does by itself when the disk is full
    with pytest.raises(StoreError):
        store.commit()
    with pytest.raises(UsageError):
        store.commit()
    assert prepared is not None
    assert one(store, reserve(pool)) == prepared.done[0], "nobody was given it"
    assert one(store, collect(first)) == first


@pytest.mark.parametrize("long", ["deposit", "sweep", "new audience", "many keys", "several units"])
def test_what_takes_long_or_is_new_is_not_prepared(sqlite_place: KeyPlace, long: str) -> None:
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 3)
    one(store, reserve(pool))
    operations: dict[str, Operation] = {
        "deposit": Deposit(pool, "b", 3, (unit(3),)),
        "sweep": Sweep(1),
        "new audience": reserve(pool, 1, OTHER),
        "many keys": reserve(pool, 513),
        "several units": reserve(pool, size=512),
    }
    assert store.prepare([reserve(pool), operations[long]]) is None
    assert store.count(pool).ready == 2


def test_while_another_process_keeps_the_file_nothing_is_prepared(sqlite_place: KeyPlace) -> None:
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 3)
    one(store, reserve(pool))
    with closing(sqlite3.connect(sqlite_place.url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert store.prepare([reserve(pool)]) is None
        assert time.monotonic() - began < 1, "it does not wait for its turn"
    assert store.prepare([reserve(pool)]) is not None
    store.commit()


def test_postgresql_is_not_asked_in_two_steps(postgres_place: KeyPlace) -> None:
    store = postgres_place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 3)
    one(store, reserve(pool))
    assert store.prepare([reserve(pool)]) is None


def test_a_sweep_removes_a_bounded_number_and_says_that_there_is_more(place: KeyPlace) -> None:
    store = place.open()
    pool = store.begin_pool(HERE, HERE)
    number = 2 * DUE_AT_ONCE + 100
    deposit(store, pool, number)
    for some in (DUE_AT_ONCE + 300, DUE_AT_ONCE - 200):
        one(store, reserve(pool, some))
    left = []
    while (swept := store.apply([Sweep(HOUR)])).unfinished:
        assert swept.done == {0: ()}
        left.append(store.count(pool).waiting)
    assert left == [DUE_AT_ONCE + 100, 100], "the oldest first, in whole parts"
    assert (store.count(pool).waiting, store.count(pool).expired) == (0, number)
