"""The schema of both stores: numbered files, a newer store refused, one migrated once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.storage.places import Place

import qsotn
from qsotn.adapters.keystore import migrations as keystore
from qsotn.adapters.storage import migrations as storage
from qsotn.adapters.storage.migrations import migrate, migrations
from qsotn.adapters.storage.postgres import PostgresStore
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.errors import StoreError
from qsotn.ports import Store

DIALECTS = ["sqlite", "postgresql"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_migrations_are_numbered_from_one_without_a_gap(dialect: str) -> None:
    numbers = [migration.number for migration in migrations(dialect)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("found", [0, 1, 2])
def test_a_store_gets_what_it_lacks_in_order(found: int) -> None:
    applied: list[int] = []
    migrate("sqlite", "store.db", lambda: found, lambda migration: applied.append(migration.number))
    assert applied == [1, 2][found:]


def set_version(store: Store, version: int) -> None:
    if isinstance(store, SqliteStore):
        store._connection.execute(f"PRAGMA user_version={version}")
    if isinstance(store, PostgresStore):
        store._session.fetch("UPDATE schema_version SET version = ?1", version)


def test_a_store_of_a_newer_release_is_refused_with_both_versions(place: Place) -> None:
    store = place.open()
    latest = migrations("sqlite" if isinstance(store, SqliteStore) else "postgresql")[-1].number
    set_version(store, latest + 1)
    with pytest.raises(StoreError, match=f"version {latest + 1}; this release reads versions up to {latest}"):
        place.open()


def test_a_store_is_opened_again_as_it_is(place: Place) -> None:
    with place.open().transaction() as transaction:
        transaction.put("records", "1", b"kept")
    with place.open().transaction() as transaction:
        assert transaction.get("records", "1") == b"kept"


def test_every_sql_file_of_the_package_is_a_migration() -> None:
    files = [path.read_text(encoding="utf-8") for path in Path(qsotn.__file__).parent.rglob("*.sql")]
    packages = (storage.__name__, keystore.__name__)
    known = [one.sql for package in packages for dialect in DIALECTS for one in migrations(dialect, package)]
    assert sorted(files) == sorted(known)
