"""One party's state in one SQLite file: WAL, synchronous=FULL, one writer at a time.

FULL, not NORMAL: with NORMAL a power cut may take back commits whose receipts were already given. `secure_delete`
overwrites deleted records in the file, as far as SQLite reaches; older pages may remain in the WAL until it is
checkpointed, which is why secrets are stored only wrapped.

Transactions begin as writers (BEGIN IMMEDIATE), so they follow each other, also those of other processes on the same
file, and none can read what another is about to change. One that does not get its turn is a `StoreConflict`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from qsotn.adapters.storage.migrations import Migration, migrate
from qsotn.adapters.storage.statements import SqlTransaction, on_loan
from qsotn.domain import PartyId
from qsotn.errors import StoreConflict, StoreError
from qsotn.ports import Posted

TURN_SECONDS: Final = 5.0
"""How long a transaction waits for its turn while another process writes."""

CACHE_KIB: Final = 16 * 1024
"""With SQLite's own 2 MiB, a store of a hundred thousand rows spends half as much again on reading pages it had."""

LEASE_SENT: Final = (
    "UPDATE outbox SET due = ?2 WHERE number IN (SELECT number FROM outbox WHERE NOT delivered AND NOT collected"
    " AND due <= ?1 AND expires_at > ?1 ORDER BY due, number LIMIT ?3) RETURNING number, next_hop, datagram, attempts"
)
LEASE_COLLECTED: Final = (
    "UPDATE outbox SET due = ?2 WHERE number IN (SELECT number FROM outbox WHERE NOT delivered AND collected"
    " AND next_hop = ?4 AND due <= ?1 AND expires_at > ?1 ORDER BY due, number LIMIT ?3)"
    " RETURNING number, next_hop, datagram, attempts"
)
COLLECTORS_DUE: Final = (
    "SELECT value FROM json_each(?2) WHERE EXISTS (SELECT 1 FROM outbox WHERE NOT delivered AND collected"
    " AND next_hop = value AND due <= ?1 AND expires_at > ?1)"
)
DELIVERED: Final = "UPDATE outbox SET delivered = true WHERE number = ?1"
DELIVERED_TO: Final = "UPDATE outbox SET delivered = true WHERE number = ?1 AND next_hop = ?2"


class SqliteTransaction(SqlTransaction):
    """`ports.Transaction` over one open SQLite transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def _fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        return self._connection.execute(sql, arguments).fetchall()

    def lease(self, now: int, until: int, limit: int, collector: PartyId | None = None) -> Sequence[Posted]:
        """Take the datagrams that are due the longest on loan, and return them in the order they were posted."""
        if collector is None:
            return on_loan(self._fetch(LEASE_SENT, now, until, limit))
        return on_loan(self._fetch(LEASE_COLLECTED, now, until, limit, collector))

    def collectors_due(self, now: int, collectors: Sequence[PartyId]) -> Sequence[PartyId]:
        """Return which of these collectors have a datagram due."""
        asked = msgspec.json.encode(list(collectors)).decode()
        return [PartyId(collector) for (collector,) in self._fetch(COLLECTORS_DUE, now, asked)]

    def delivered(self, numbers: Sequence[int], next_hop: PartyId | None = None) -> None:
        """Record that the next hop has these datagrams durably; `next_hop` restricts it to that party's own."""
        if next_hop is None:
            self._connection.executemany(DELIVERED, [(number,) for number in numbers])
        else:
            self._connection.executemany(DELIVERED_TO, [(number, next_hop) for number in numbers])

    @contextmanager
    def part(self) -> Iterator[None]:
        """Open a part that is undone alone if it raises; the transaction around it goes on."""
        self._connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            # A full disk, for one, has already undone the whole transaction, and with it the part.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO part")
                self._connection.execute("RELEASE part")
            raise
        self._connection.execute("RELEASE part")


class SqliteStore:
    """`ports.Store` in one file. A store belongs to the thread that opened it.

    `synchronous` other than FULL gives durability away; it is for tests that prove that somebody would notice.
    """

    def __init__(self, path: Path, synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL") -> None:
        self._path = path
        with self._errors():
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=TURN_SECONDS)
        try:
            with self._errors():
                self._prepare(synchronous)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, synchronous: str) -> None:
        mode = self._journal_mode()
        if mode != "wal":
            raise StoreError(f"{self._path} cannot have a write-ahead log (its journal mode stays {mode})")
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        self._connection.execute("PRAGMA secure_delete=ON")
        self._connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        migrate("sqlite", str(self._path), self._version, self._apply)

    def _journal_mode(self) -> str:
        """Ask for the write-ahead log. SQLite does not wait where two ask for it in a new file: one is refused."""
        ends = time.monotonic() + TURN_SECONDS
        while True:
            try:
                (mode,) = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                    raise
                time.sleep(0.005)
            else:
                return str(mode)

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _apply(self, migration: Migration) -> None:
        with self._transaction():
            if self._version() < migration.number:
                for statement in statements_of(migration.sql):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={migration.number}")

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Open a transaction: committed and synced on a clean exit, rolled back on any exception.

        Raises `StoreConflict` if another process kept the file to itself for too long, `StoreError` if it cannot be
        read or written.
        """
        with self._errors(), self._transaction():
            yield SqliteTransaction(self._connection)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The low byte is the kind of error, the rest its variety.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise StoreConflict(f"{self._path} was kept by another process for {TURN_SECONDS:.0f} s") from error
            raise StoreError(f"{self._path} cannot be opened, read or written: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def statements_of(script: str) -> Iterator[str]:
    """Split a script, so that its statements can be run inside a transaction that is already open."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
