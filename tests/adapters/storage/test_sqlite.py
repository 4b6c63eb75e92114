"""What only SQLite does: a file, its write-ahead log, its turns, a disk that is full, and stores of version 1."""

from __future__ import annotations

import sqlite3
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.adapters.storage.places import DEVICE, HOP, NEVER, Place, refused, taken
from tests.adapters.storage.test_conformance import change_all, everything

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import StoreConflict, StoreError
from qsotn.interfaces import Seat
from qsotn.ports import Posted
from qsotn.procedures.turn import Row, State, read_row

ONE = ProcedureId("one")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def pragma(store: SqliteStore, name: str) -> Any:
    return store._connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.parametrize(
    ("name", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("secure_delete", 1), ("user_version", 2)]
)
def test_a_store_is_durable_and_overwrites_what_it_deletes(path: Path, name: str, value: object) -> None:
    store = SqliteStore(path)
    assert pragma(store, name) == value
    store.close()


def test_only_a_test_gives_durability_away(path: Path) -> None:
    store = SqliteStore(path, synchronous="NORMAL")
    assert pragma(store, "synchronous") == 1
    store.close()


def test_a_file_that_is_no_store_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"store\.db"):
        SqliteStore(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent"):
        SqliteStore(tmp_path / "absent" / "store.db")


def test_a_store_without_a_write_ahead_log_is_refused() -> None:
    with pytest.raises(StoreError, match="write-ahead log"):
        SqliteStore(Path(":memory:"))


def test_who_does_not_get_its_turn_may_try_again(path: Path) -> None:
    first, second = SqliteStore(path), SqliteStore(path)
    second._connection.execute("PRAGMA busy_timeout=0")
    with first.transaction() as transaction:
        transaction.put("records", "1", b"first")
        with pytest.raises(StoreConflict), second.transaction():
            raise AssertionError("both had their turn")
    with second.transaction() as transaction:
        assert transaction.get("records", "1") == b"first"
    first.close()
    second.close()


def test_a_full_disk_undoes_the_transaction_and_says_so(path: Path) -> None:
    store = SqliteStore(path)
    before = everything(store)
    store._connection.execute(f"PRAGMA max_page_count={pragma(store, 'page_count') + 2}")
    with refused(StoreError, "full"), store.transaction() as transaction:
        change_all(transaction)
        with transaction.part():
            transaction.put("lines", "large", bytes(100_000))
    assert everything(store) == before
    with store.transaction() as transaction:
        transaction.put("lines", "small", b"")
    store.close()


@pytest.mark.parametrize("in_a_part", [False, True])
def test_an_error_at_which_sqlite_itself_undoes_everything_keeps_its_words(path: Path, in_a_part: bool) -> None:
    """So it does when memory or the disk fails it, at its own choice; a trigger makes it choose so here."""
    store = SqliteStore(path)
    store._connection.execute(
        "CREATE TEMP TRIGGER failing BEFORE INSERT ON records WHEN new.key = 'last'"
        " BEGIN SELECT RAISE(ROLLBACK, 'the disk fails'); END"
    )
    with refused(StoreError, "the disk fails"), store.transaction() as transaction:
        transaction.put("records", "first", b"")
        with transaction.part() if in_a_part else nullcontext():
            transaction.put("records", "last", b"")
    with store.transaction() as transaction:
        assert transaction.get("records", "first") is None
    store.close()


# --- stores of version 1 --------------------------------------------------------------------------------------------


def old_row(procedure: str, seat: Seat, state: State, deadline: int) -> Row:
    seats = {seat: PartyId("cpe/济南-1")}
    return Row(
        ProcedureId(procedure), "leased-line", seat, "line-ü", seats, deadline, 1, {"1:pomp": b"\xff"}, state=state
    )


OLD_ROWS = [
    old_row("a", Seat.PMP, State.RUNNING, 30),
    old_row("a", Seat.CPE_A, State.COMPLETED, 10),
    old_row("b", Seat.PMP, State.FAILED, 10),
    old_row("c", Seat.PMP, State.RUNNING, 20),
]


def written_by_version_1(path: Path, rows: int = 0) -> None:
    """Make a file as version 1 did, with everything in it that it could hold."""
    schema = resources.files("qsotn.adapters.storage.migrations").joinpath("sqlite", "0001_records.sql").read_text()
    with sqlite3.connect(path) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; {schema} PRAGMA user_version=1;")
        documents = [("procedures", row.key, msgspec.json.encode(row)) for row in OLD_ROWS]
        documents += [("lines", "1", b'{"state":"RUNNING"}'), ("line-services", "procedures", b"\x00\xff")]
        connection.executemany("INSERT INTO records VALUES (?, ?, ?)", documents)
        connection.executemany(
            "INSERT INTO outbox (procedure, next_hop, datagram, answers, expires_at, due, attempts, delivered)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [("a", HOP, b"waits", b"d1", NEVER, 5, 3, 0), ("a", DEVICE, b"delivered", b"d2", NEVER, 0, 0, 1)],
        )
        for number in (2, 1):
            step = taken("a", number)
            connection.execute("INSERT INTO journal (procedure, taken) VALUES (?, ?)", ("a", msgspec.json.encode(step)))
    connection.close()


def test_a_store_of_version_1_is_migrated_without_loss(path: Path) -> None:
    written_by_version_1(path)
    store = SqliteStore(path)
    with store.transaction() as transaction:
        assert [read_row(content) for content in transaction.rows()] == sorted(OLD_ROWS, key=lambda row: row.key)
        assert [read_row(content).procedure for content in transaction.rows_about("line-ü")] == ["a", "c"]
        assert [read_row(content).procedure for content in transaction.late_rows(25, 10)] == ["c"]
        assert list(transaction.scan("procedures")) == []
        assert transaction.get("lines", "1") == b'{"state":"RUNNING"}'
        assert transaction.get("line-services", "procedures") == b"\x00\xff"
        assert transaction.taken(ProcedureId("a")) == [taken("a", 2), taken("a", 1)]
        assert transaction.undelivered(0) == 1
        assert transaction.is_posted(ProcedureId("a"), b"d2")
        assert transaction.post(ONE, HOP, b"new", b"", expires_at=NEVER, due=100) == 3
    with store.transaction() as transaction:
        assert transaction.lease(4, 10, 10) == []
        assert transaction.lease(5, 10, 10) == [Posted(1, HOP, b"waits", 3)]
        transaction.post_again(ProcedureId("a"), b"d2")
        assert transaction.lease(5, 10, 10) == [Posted(2, DEVICE, b"delivered", 0)]
    store.close()


def test_a_migration_that_fails_leaves_the_old_store(path: Path) -> None:
    written_by_version_1(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE procedures (in_the_way)")
        before = connection.execute("SELECT * FROM records").fetchall()
    with pytest.raises(StoreError, match="procedures"):
        SqliteStore(path)
    assert connection.execute("SELECT * FROM records").fetchall() == before
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


def test_a_migrated_store_is_as_a_new_one(path: Path, tmp_path: Path) -> None:
    written_by_version_1(path)
    schemas = []
    for place in (path, tmp_path / "new.db"):
        store = SqliteStore(place)
        schemas.append(store._connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall())
        store.close()
    assert schemas[0] == schemas[1]


def test_a_place_keeps_its_name(sqlite_place: Place, path: Path) -> None:
    sqlite_place.open()
    assert path.is_file()
