"""Accounts go after their time, and nothing that protects an ID from a second use goes with them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from importlib import resources
from typing import Final

import pytest
from tests.adapters.keystore.places import (
    HERE,
    HOUR,
    MASTER,
    SLAVE,
    THERE,
    TIMES,
    KeyPlace,
    collect,
    deposit,
    ids,
    one,
    refusal,
    reserve,
    unit,
)

from qsotn.adapters.keystore import KeyLedger, forgetting, migrations, statements
from qsotn.adapters.keystore.forgetting import MARKS
from qsotn.adapters.keystore.statements import NUMBER_BITS
from qsotn.errors import UsageError
from qsotn.keynetwork.delivery import Assign, Deposit, Forgotten, Pool, PoolCount, Sweep, key_id

DAY: Final = 24 * HOUR
KEPT: Final = TIMES.retention
NOTHING: Final = Forgotten(0, 0, 0, unfinished=False)


def used_up(store: KeyLedger, pool: Pool, now: int) -> None:
    """Give all that is ready to a slave, and forget the answers."""
    one(store, collect(one(store, reserve(pool, store.count(pool).ready, now=now)), now=now))
    one(store, Sweep(now + HOUR))


def passed(store: KeyLedger, days: Sequence[int]) -> Forgotten:
    """Let days pass, as the service does; return what was deleted."""
    found = [store.forget(day * DAY) for day in days]
    return Forgotten(
        sum(each.batches for each in found),
        sum(each.audiences for each in found),
        sum(each.units for each in found),
        found[-1].unfinished,
    )


# --- how keys came ----------------------------------------------------------------------------------------------------


def test_how_a_key_came_is_kept_for_its_time_after_the_key_was_gone_and_then_deleted(
    store: KeyLedger, pool: Pool, place: KeyPlace
) -> None:
    key = key_id(pool.tag, 3)
    assert passed(store, range(40)).batches == 0, "units of it are ready, however old it is"
    used_up(store, pool, 40 * DAY)
    assert passed(store, range(41, 40 + KEPT // DAY)).batches == 0
    assert store.provenance(key) == b"came by link 1"
    assert passed(store, range(40 + KEPT // DAY, 43 + KEPT // DAY)).batches == 1
    assert store.provenance(key) is None
    assert place.rows("SELECT batch FROM key_batches") == []
    assert store.count(pool) == PoolCount(0, 0, 20, 0, 0, 0), "the sums stay"


@pytest.mark.parametrize("opened_again", [False, True])
@pytest.mark.parametrize(("first", "number", "batch"), [(0, 20, "batch-0"), (0, 1, "new"), (19, 2, "new"), (7, 1, "x")])
def test_no_number_is_taken_in_again_when_its_batch_is_forgotten(
    store: KeyLedger, pool: Pool, place: KeyPlace, opened_again: bool, first: int, number: int, batch: str
) -> None:
    used_up(store, pool, DAY)
    assert passed(store, range(1, 40)).batches == 1
    if opened_again:
        store = place.again()
    units = tuple(unit(first + at) for at in range(number))
    assert refusal(store, Deposit(pool, batch, first, units)) == "KEY_REUSED"
    assert store.count(pool).ready == 0
    assert refusal(store, collect([key_id(pool.tag, 0)], now=40 * DAY)) == "KEYS_NOT_FOUND"
    assert store.next_number(pool) == 20, "where the next supply begins"
    assert store.begin_pool(HERE, THERE) == pool
    deposit(store, pool, 2, first=20)
    assert ids(one(store, reserve(pool, 2, now=40 * DAY))) == (key_id(pool.tag, 20), key_id(pool.tag, 21))


def test_batches_go_in_the_order_of_their_numbers_and_none_goes_that_has_a_unit(store: KeyLedger, pool: Pool) -> None:
    for at in range(1, 5):
        deposit(store, pool, 20, first=20 * at)
    one(store, collect(one(store, reserve(pool, 50))))
    one(store, Sweep(HOUR))
    assert passed(store, range(40)).batches == 2
    assert [store.provenance(key_id(pool.tag, number)) is not None for number in (0, 39, 40, 99)] == [0, 0, 1, 1]


def test_a_batch_that_came_late_with_lower_numbers_keeps_its_account_while_it_has_units(store: KeyLedger) -> None:
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 5, first=10)
    store.forget(0)
    deposit(store, pool, 5, first=0)
    assert passed(store, range(1, 40)).batches == 0
    assert store.provenance(key_id(pool.tag, 4)) == b"came by link 1"
    used_up(store, pool, 40 * DAY)
    assert passed(store, range(41, 90)).batches == 2


def test_keys_that_wait_for_their_slave_keep_their_account(store: KeyLedger, pool: Pool) -> None:
    now = KEPT - HOUR // 2
    one(store, reserve(pool, 20, now=now))
    store.forget(0)
    assert store.forget(now + HOUR // 4).batches == 0
    assert store.provenance(key_id(pool.tag, 0)) is not None


def test_accounts_go_in_small_parts(store: KeyLedger, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "BATCHES_AT_ONCE", 2)
    for at in range(1, 5):
        deposit(store, pool, 20, first=20 * at)
    used_up(store, pool, 0)
    assert passed(store, range(1, KEPT // DAY)) == NOTHING
    parts = [store.forget(KEPT + 2 * DAY) for _ in range(4)]
    assert [(one.batches, one.unfinished) for one in parts] == [(2, True), (2, True), (1, False), (0, False)]


def test_marks_do_not_pile_up(store: KeyLedger, pool: Pool, place: KeyPlace) -> None:
    for day in range(100):
        deposit(store, pool, 10, first=100 + 10 * day)
        used_up(store, pool, day * DAY)
        for hour in range(4):
            store.forget(day * DAY + hour * 6 * HOUR)
    assert len(place.rows("SELECT at FROM key_marks")) <= MARKS + 1
    assert len(place.rows("SELECT batch FROM key_batches")) <= KEPT // DAY + 2


def test_an_older_copy_that_was_put_back_takes_in_nothing_that_was_forgotten(place: KeyPlace) -> None:
    store = place.open()
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 20)
    used_up(store, pool, 0)
    place.close()
    place.back_up()
    assert passed(place.open(), range(1, 40)).batches == 1
    place.close()
    place.restore()
    risen = place.open()
    assert risen.restored
    assert refusal(risen, Deposit(pool, "again", 0, (unit(0),))) == "KEY_REUSED"
    assert risen.begin_pool(HERE, THERE).series == 2


# --- who shared keys with whom ----------------------------------------------------------------------------------------


def audiences(place: KeyPlace) -> int:
    return len(place.rows("SELECT number FROM key_audiences"))


def test_who_shared_no_key_for_long_is_forgotten_and_may_come_again(
    store: KeyLedger, pool: Pool, place: KeyPlace
) -> None:
    for number in range(5):
        one(store, collect(one(store, reserve(pool, 1, f"slave-{number}")), f"slave-{number}"))
    one(store, Sweep(HOUR))
    assert audiences(place) == 5
    assert store.forget(KEPT - 1).audiences == 0
    one(store, reserve(pool, 1, "slave-3", now=KEPT - 1))
    assert store.forget(KEPT + HOUR // 2).audiences == 4
    assert audiences(place) == 1
    for slave in ("slave-0", "slave-3"):
        keys = one(store, reserve(pool, 1, slave, now=KEPT + HOUR // 2))
        assert refusal(store, collect(keys, "slave-1", now=KEPT + HOUR // 2)) == "NOT_NAMED"
        assert one(store, collect(keys, slave, now=KEPT + HOUR // 2)) == keys


def test_an_audience_in_use_is_never_forgotten_though_it_is_rarely_written_down(
    store: KeyLedger, pool: Pool, place: KeyPlace
) -> None:
    deposit(store, pool, 200, first=20)
    waiting, now = one(store, reserve(pool)), 0
    for _ in range(200):
        now += KEPT // 50
        one(store, Sweep(now))
        assert store.forget(now).audiences == 0
        assert refusal(store, collect(waiting, now=now)) == "KEYS_NOT_FOUND"
        waiting = one(store, reserve(pool, now=now))
    assert one(store, collect(waiting, now=now)) == waiting


def test_no_audience_goes_before_the_keys_that_name_it_are_swept(store: KeyLedger, pool: Pool) -> None:
    keys = one(store, reserve(pool))
    assert store.forget(2 * KEPT).audiences == 0, "nobody swept: the key is there, and may be asked for"
    assert one(store, collect(keys, now=2 * KEPT)) == keys
    one(store, Sweep(3 * KEPT))
    assert store.forget(3 * KEPT).audiences == 1


def test_audiences_of_an_older_release_are_kept_from_the_first_look_on(
    store: KeyLedger, pool: Pool, place: KeyPlace
) -> None:
    one(store, reserve(pool))
    store._tables.fetch("UPDATE key_audiences SET used = NULL")
    one(place.again(), Sweep(2 * KEPT))
    assert place.again().forget(2 * KEPT).audiences == 0
    assert place.again().forget(3 * KEPT).audiences == 1


def test_a_replica_forgets_no_audience_that_another_one_uses(postgres_place: KeyPlace) -> None:
    one_replica, other = postgres_place.open("1"), postgres_place.open("2")
    pool = one_replica.begin_pool(HERE, HERE)
    deposit(one_replica, pool, 20)
    for replica in (one_replica, other):
        one(replica, collect(one(replica, reserve(pool))))
    one(one_replica, Sweep(HOUR))
    one(other, reserve(pool, now=KEPT))
    assert one_replica.forget(KEPT).audiences == 0
    keys = one(one_replica, reserve(pool, now=KEPT))
    assert one(other, collect(keys, now=KEPT)) == keys
    one(one_replica, Sweep(2 * KEPT))
    assert one_replica.forget(2 * KEPT).audiences == 1
    keys = one(other, reserve(pool, now=2 * KEPT))  # it remembers a row that is no more, and writes it anew
    assert one(one_replica, collect(keys, now=2 * KEPT)) == keys


def test_an_audience_that_another_replica_is_touching_is_not_forgotten(postgres_place: KeyPlace) -> None:
    one_replica, other = postgres_place.open("1"), postgres_place.open("2")
    pool = one_replica.begin_pool(HERE, HERE)
    deposit(one_replica, pool, 20)
    one(one_replica, collect(one(one_replica, reserve(pool))))
    one(one_replica, Sweep(KEPT))
    found: list[Forgotten] = []
    forgets = threading.Thread(target=lambda: found.append(one_replica.forget(2 * KEPT)))
    with other._tables.transaction():
        other._tables.fetch(statements.USE_AUDIENCE, MASTER, '["sae/b"]', 2 * KEPT)
        forgets.start()
        forgets.join(0.3)
        assert forgets.is_alive(), "it waits for the row"
    forgets.join()
    assert [each.audiences for each in found] == [0]
    assert audiences(postgres_place) == 1


# --- pools that have ended --------------------------------------------------------------------------------------------


def series_at_the_target(store: KeyLedger) -> tuple[Pool, Pool]:
    """The target of a pool whose origin goes from one series to the next; a key of the old one waits for its slave."""
    old, new = Pool(THERE, HERE, 1), Pool(THERE, HERE, 2)
    deposit(store, old, 20)
    one(store, Assign(old, (key_id(old.tag, 0),), MASTER, (SLAVE,), 256, 0))
    deposit(store, new, 5, batch="of-the-next-series")
    return old, new


def test_the_first_units_of_a_series_end_the_one_before_and_what_was_ready_of_it_is_burned(store: KeyLedger) -> None:
    old, new = series_at_the_target(store)
    assert refusal(store, Deposit(old, "late", 20, (unit(20),))) == "KEY_REUSED"
    assert store.forget(HOUR // 2) == Forgotten(0, 0, 19, unfinished=False)
    assert store.count(old) == PoolCount(ready=0, waiting=1, delivered=0, voided=0, expired=0, burned=19)
    assert store.count(new).ready == 5
    assert store.forget(HOUR // 2) == NOTHING


def test_what_waits_for_its_slave_outlives_the_end_of_its_series(store: KeyLedger) -> None:
    old, _ = series_at_the_target(store)
    store.forget(0)
    store.end_pool(old)
    (key,) = one(store, collect([key_id(old.tag, 0)]))
    assert key.key == unit(0)
    assert store.count(old) == PoolCount(ready=0, waiting=0, delivered=1, voided=0, expired=0, burned=19)


def test_a_series_that_ended_is_burned_in_small_parts(store: KeyLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "UNITS_AT_ONCE", 8)
    old, _ = series_at_the_target(store)
    parts = [store.forget(0) for _ in range(4)]
    assert [(one.units, one.unfinished) for one in parts] == [(8, True), (8, True), (3, False), (0, False)]
    assert store.count(old).burned == 19


def test_pools_of_others_do_not_end_with_a_series(store: KeyLedger) -> None:
    others = [Pool(HERE, THERE, 1), Pool(THERE, THERE, 1), Pool(HERE, HERE, 1)]
    for other in others:
        deposit(store, other, 3)
    series_at_the_target(store)
    store.forget(0)
    assert [store.count(other).ready for other in others] == [3, 3, 3]


def test_accounts_cannot_go_before_keys_do(place: KeyPlace) -> None:
    with pytest.raises(UsageError, match="at least twice as long as a key may wait"):
        place.open(times=replace(TIMES, retention=2 * HOUR))


def test_accounts_are_kept_for_as_long_as_it_is_said(place: KeyPlace) -> None:
    store = place.open(times=replace(TIMES, retention=3 * DAY))
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 1)
    used_up(store, pool, 0)
    assert passed(store, range(1, 4)).batches == 0
    assert store.forget(4 * DAY).batches == 1


def test_a_store_of_an_older_release_goes_on_and_forgets_in_its_time(sqlite_place: KeyPlace) -> None:
    first = resources.files(migrations).joinpath("sqlite", "0001_keys.sql").read_text()
    with closing(sqlite3.connect(sqlite_place.url.removeprefix("sqlite:///"))) as connection:
        connection.executescript(first)
        connection.execute("INSERT INTO key_pools VALUES (1, ?, ?, 1, 0)", (HERE, THERE))
        place = 1 << NUMBER_BITS
        connection.execute("INSERT INTO key_batches VALUES (?, ?, 1, 'old', ?)", (place, place + 19, b"came by link 1"))
        connection.execute("PRAGMA user_version=1")
        connection.commit()
    store = sqlite_place.open()
    pool = store.begin_pool(HERE, THERE)
    assert (pool.series, store.next_number(pool)) == (1, 20)
    assert store.provenance(key_id(pool.tag, 7)) == b"came by link 1"
    assert passed(store, range(32)).batches == 1
    assert store.next_number(pool) == 20
    assert refusal(store, Deposit(pool, "new", 7, (unit(7),))) == "KEY_REUSED"
