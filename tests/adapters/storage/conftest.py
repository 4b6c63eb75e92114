"""Every story that asks for a `place` is told twice: over SQLite, and over PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.adapters.storage.places import Place

from qsotn.domain import PartyId
from qsotn.ports import Store

_COUNT = itertools.count(1)


def _new_party() -> PartyId:
    return PartyId(f"pomp/of-test-{next(_COUNT)}")


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(f"sqlite:///{tmp_path / 'store.db'}", _new_party())
    yield place
    place.close()


@pytest.fixture
def postgres_place(postgres_dsn: str) -> Iterator[Place]:
    place = Place(postgres_dsn, _new_party())
    yield place
    place.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue("sqlite_place" if request.param == "sqlite" else "postgres_place")
    return found


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()
