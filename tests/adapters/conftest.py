"""A PostgreSQL server for the tests of adapters: started when the first test asks for it, one for each test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.postgresql import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server. A test that stops or kills it starts it again, or takes a server of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_dsn(postgres_server: PostgresServer) -> str:
    """A database on it, in which every test has a schema of its own by taking a party of its own."""
    return postgres_server.database("stores")
