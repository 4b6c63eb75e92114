"""Few statements for many keys, each of which finds its rows however many keys have come and gone."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
from tests.adapters.keystore.places import HERE, HOUR, SECOND, KeyPlace, collect, deposit, one, reserve

from qsotn.adapters.keystore import KeyLedger, sqlite, statements
from qsotn.adapters.keystore.sqlite import SqliteTables
from qsotn.keynetwork.delivery import Operation, Pool, Sweep

BATCH = 32


def statements_for(store: KeyLedger, operations: Sequence[Operation]) -> Counter[str]:
    """Do operations, and count the statements that concerned units, and the others."""
    seen: list[str] = []
    tables: Any = store._tables
    if isinstance(tables, SqliteTables):
        tables._connection.set_trace_callback(seen.append)
    else:
        _watch(tables._session, seen)
    assert not store.apply(operations).refused
    return Counter("units" if "key_units" in sql else "others" for sql in seen)


def _watch(session: Any, seen: list[str]) -> None:
    fetch = session.fetch

    def watched(sql: str, *arguments: object) -> Any:
        seen.append(sql)
        return fetch(sql, *arguments)

    session.fetch = watched


def test_a_batch_of_single_keys_is_a_few_statements(place: KeyPlace) -> None:
    store = place.open()
    pool = store.begin_pool(HERE, HERE)
    deposit(store, pool, 4 * BATCH)
    given = [one(store, reserve(pool)) for _ in range(BATCH)]
    operations: list[Operation] = [*(reserve(pool) for _ in range(BATCH)), *(collect(keys) for keys in given)]
    done = statements_for(store, operations)
    # SQLite: the units that are next, the span that they are, and what is collected. PostgreSQL: one for each kind.
    assert done["units"] == (3 if place.server is None else 2)
    # Two entries of the agenda and the tallies; SQLite shows each tally, and the beginning and the end, as one.
    assert done["others"] <= (9 if place.server is None else 3)


def test_the_number_of_statements_does_not_grow_with_that_of_pools(postgres_place: KeyPlace) -> None:
    store = postgres_place.open()
    pools = [Pool(HERE, HERE, series) for series in (1, 2, 3, 4)]
    for pool in pools:
        deposit(store, pool, 20)
    one(store, reserve(pools[0]))
    assert statements_for(store, [reserve(pool, 3) for pool in pools])["units"] == 1
    assert [store.count(pool).ready for pool in pools] == [16, 17, 17, 17]


SEARCHES = [
    sqlite._READY, sqlite._TAKE, sqlite._COLLECT, sqlite._READ, sqlite._WRITE, sqlite._DUE,
    statements.REMOVE, statements.FORGET, statements.EXPIRE_HELD, statements.EXPIRE_WAITING, statements.PUT_BACK,
    statements.RELEASE, statements.BATCH_BELOW, statements.SAME_BATCH, statements.PLACES_OF_NAMES,
    statements.REMOVE_NAMES, statements.READY_IN_POOL, statements.HELD_SINCE, statements.SERIES,
    statements.EPOCH_OF_UNITS, statements.OPEN_UNITS, statements.TAKES_IN, statements.OLD_BATCHES,
    statements.FORGET_BATCHES, statements.FORGET_MARKS, statements.LOWEST_UNIT, statements.ANY_UNIT,
    statements.FORGET_AUDIENCES, statements.ANY_DUE,
]  # fmt: skip


@pytest.mark.parametrize("sql", SEARCHES)
def test_every_search_goes_by_a_key(sqlite_place: KeyPlace, sql: str) -> None:
    sqlite_place.open()
    explained = "EXPLAIN QUERY PLAN " + sqlite.written(sql)
    given = ["[1]" if "AMONG" in sql else 1] * max(map(int, re.findall(r"\?(\d)", sql)))
    with closing(sqlite3.connect(sqlite_place.url.removeprefix("sqlite:///"))) as connection:
        plan = [step for *_, step in connection.execute(explained, given)]
    assert not [step for step in plan if step.startswith("SCAN") and "json_each" not in step], plan


def test_nothing_that_was_used_up_stays_among_what_is_searched(place: KeyPlace) -> None:
    store = place.open()
    pool = store.begin_pool(HERE, HERE)
    now = SECOND
    for round_ in range(6):
        deposit(store, pool, 100, first=100 * round_)
        keys = one(store, reserve(pool, 100, now=now))
        one(store, collect(keys, now=now))
        now += 2 * HOUR
        one(store, Sweep(now))
    assert place.rows("SELECT place FROM key_units") == []
    assert place.rows("SELECT due FROM key_agenda") == []
    assert store.count(pool).delivered == 600
    assert len(place.rows("SELECT batch FROM key_batches")) == 6
