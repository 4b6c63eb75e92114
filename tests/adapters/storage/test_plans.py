"""How each statement finds its rows: by the index made for it, in the order it wants, and never through a whole table.

A store stays as fast with a hundred thousand rows as with ten only because of this; a clock would tell it worse.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from tests.adapters.storage.places import Place

from qsotn.adapters.storage import postgres, sqlite
from qsotn.adapters.storage import statements as common
from qsotn.adapters.storage.postgres import PostgresStore
from qsotn.adapters.storage.postgres_session import Session
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.domain import PartyId

ROWS: Final = 20_000


@dataclass(frozen=True)
class Case:
    """One statement in both dialects, example parameters, and the indexes that must serve it in each."""

    name: str
    sqlite_sql: str
    postgres_sql: str
    parameters: tuple[object, ...]
    indexes: tuple[str, ...]
    scans: bool = False
    """Whether it reads all of its indexes: a count does."""


def case(name: str, sql: str, parameters: tuple[object, ...], *indexes: str, scans: bool = False) -> Case:
    return Case(name, sql, sql, parameters, indexes, scans)


CASES: Final = [
    case("get", common.GET, ("lines", "1"), "records"),
    case("delete", common.DELETE, ("lines", "1"), "records"),
    case("take", common.TAKE, ("lines", "1", "2"), "records"),
    case("scan", common.SCAN[False, True], ("lines", "1", 10, "2"), "records"),
    case("scan, next page", common.SCAN[True, True], ("lines", "1", 10, "2"), "records"),
    case("scan of all", common.SCAN[False, False], ("lines", "", 10), "records"),
    case("scan of all, next page", common.SCAN[True, False], ("lines", "1", 10), "records"),
    case("row", common.ROW, ("1", "pmp"), "procedures"),
    case("rows of", common.ROWS_OF, ("1",), "procedures"),
    case("rows", common.ROWS, ("1", "pmp", 10), "procedures"),
    case("rows about", common.ROWS_ABOUT, ("line-1",), "procedures_subject"),
    case("late rows", common.LATE_ROWS, (10, 10), "procedures_deadline"),
    case("post again", common.POST_AGAIN, ("1", b"1"), "outbox_answers"),
    case("is posted", common.IS_POSTED, ("1", b"1"), "outbox_answers"),
    case("postpone", common.POSTPONE, (1, 2), "outbox"),
    case("prune", common.PRUNE, (10, 10), "outbox_expiry", "outbox"),
    case("undelivered", common.UNDELIVERED, (10,), "outbox_sent", "outbox_collected", scans=True),
    case("taken", common.TAKEN, ("1",), "journal_procedure"),
    Case("lease", sqlite.LEASE_SENT, postgres.LEASE_SENT, (10, 20, 10), ("outbox_sent", "outbox")),
    Case(
        "lease, collected", sqlite.LEASE_COLLECTED, postgres.LEASE_COLLECTED, (10, 20, 10, "cpe/1"),
        ("outbox_collected", "outbox"),
    ),
    Case(
        "collectors due", sqlite.COLLECTORS_DUE, postgres.COLLECTORS_DUE, (10, ["cpe/1", "cpe/2"]),
        ("outbox_collected",),
    ),
    Case("delivered to", sqlite.DELIVERED_TO, postgres.DELIVERED_TO, ([1], "cpe/1"), ("outbox",)),
]  # fmt: skip


# --- SQLite: its plans do not depend on what is in the tables ---------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sqlite_searches_by_the_index_made_for_it(sqlite_place: Place, case: Case) -> None:
    store = sqlite_place.open()
    assert isinstance(store, SqliteStore)
    parameters = ["[]" if isinstance(value, list) else value for value in case.parameters]
    plan = [row[3] for row in store._connection.execute(f"EXPLAIN QUERY PLAN {case.sqlite_sql}", parameters)]
    used = [step for step in plan if re.match("SEARCH|SCAN (?!CONSTANT|json_each)", step)]
    assert {_sqlite_index(step) for step in used} == set(case.indexes), plan
    assert case.scans or not any(step.startswith("SCAN") for step in used), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan


def _sqlite_index(step: str) -> str:
    """The index that a step names; the primary key goes by its table's name."""
    name = step.split("INDEX ")[1].split()[0] if "INDEX " in step else step.split()[1]
    return name.removeprefix("sqlite_autoindex_").removesuffix("_1")


# --- PostgreSQL: before anything was analysed, and with many rows -----------------------------------------------------


@pytest.fixture(scope="module", params=["new", "grown"])
def session(request: pytest.FixtureRequest, postgres_dsn: str) -> Iterator[Session]:
    place = Place(postgres_dsn, PartyId(f"pomp/{request.param}"))
    store = place.open()
    assert isinstance(store, PostgresStore)
    if request.param == "grown":
        _grow(store._session)
    # Plans for any parameters, as a prepared statement comes to use them.
    store._session.execute("SET plan_cache_mode = force_generic_plan")
    yield store._session
    place.close()


def _grow(session: Session) -> None:
    """Many rows of every kind: mostly ended, delivered, expired or waiting for collectors that never come."""
    numbers = f"generate_series(1, {ROWS}) AS n"
    session.execute(f"""
        INSERT INTO records SELECT 'lines', n::text, 'x' FROM {numbers};
        INSERT INTO procedures
            SELECT n::text, 'pmp', 'leased-line', 'line-' || n % 100, n % 50 = 0, n, 'x' FROM {numbers};
        INSERT INTO journal (procedure, taken) SELECT (n % 1000)::text, 'x' FROM {numbers};
        INSERT INTO outbox (procedure, next_hop, datagram, answers, expires_at, due, delivered, collected)
            SELECT n::text, 'cpe/' || n % 20, 'x', n::text::bytea, n, n % 7, n % 3 = 0, n % 3 = 1 FROM {numbers};
        ANALYZE records, procedures, journal, outbox;
    """)  # noqa: S608 -- a constant


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_postgresql_searches_by_the_index_made_for_it(session: Session, case: Case) -> None:
    plan = "\n".join(_explain(session, case))
    wanted = {index if "_" in index else f"{index}_pkey" for index in case.indexes}
    assert set(re.findall(r"Index (?:Only )?Scan using (\w+)", plan)) == wanted, plan
    assert "Seq Scan" not in plan, plan
    assert "Sort" not in plan, plan


_NAMES: Final = itertools.count()


def _explain(session: Session, case: Case) -> list[str]:
    name = f"plan_{next(_NAMES)}"
    session.execute(f"PREPARE {name} AS {case.postgres_sql.replace('?', '$')}")
    parameters = ", ".join(_literal(value) for value in case.parameters)
    return [line for (line,) in session.fetch(f"EXPLAIN EXECUTE {name}({parameters})")]


def _literal(value: object) -> str:
    if isinstance(value, list):
        return f"ARRAY[{', '.join(_literal(part) for part in value)}]"
    return str(value) if isinstance(value, int) else f"'{value.decode() if isinstance(value, bytes) else value}'"
