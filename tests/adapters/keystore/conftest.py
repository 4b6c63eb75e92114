"""Every story that asks for a `place` is told twice: over SQLite, and over PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.adapters.keystore.places import HERE, THERE, KeyPlace, deposit
from tests.postgresql import PostgresServer

from qsotn.adapters.keystore import KeyLedger
from qsotn.domain import PartyId
from qsotn.keynetwork.delivery import Pool

_COUNT = itertools.count(1)


@pytest.fixture(scope="session")
def keys_dsn(postgres_server: PostgresServer) -> str:
    return postgres_server.database("keys")


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[KeyPlace]:
    place = KeyPlace(f"sqlite:///{tmp_path / 'keys.db'}", HERE, tmp_path)
    yield place
    place.close()


@pytest.fixture
def postgres_place(keys_dsn: str, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[KeyPlace]:
    place = KeyPlace(keys_dsn, PartyId(f"km/of-test-{next(_COUNT)}"), tmp_path, postgres_server)
    yield place
    place.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> KeyPlace:
    found: KeyPlace = request.getfixturevalue("sqlite_place" if request.param == "sqlite" else "postgres_place")
    return found


@pytest.fixture
def store(place: KeyPlace) -> KeyLedger:
    return place.open()


@pytest.fixture
def pool(store: KeyLedger) -> Pool:
    """A pool of 20 units, numbered from 0."""
    pool = store.begin_pool(HERE, THERE)
    deposit(store, pool, 20)
    return pool
