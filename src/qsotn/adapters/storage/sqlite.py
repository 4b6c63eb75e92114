"""One party's state in one SQLite file: WAL, synchronous=FULL, one writer.

FULL, not NORMAL: with NORMAL a power cut may take back commits whose receipts were already given. `secure_delete`
overwrites deleted records in the file, as far as SQLite reaches; older pages may remain in the WAL until it is
checkpointed, which is why secrets are stored only wrapped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import StoreError
from qsotn.ports import Posted, Taken

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE records (collection TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (collection, key)) WITHOUT ROWID;
CREATE TABLE outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, procedure TEXT NOT NULL, next_hop TEXT NOT NULL,
    datagram BLOB NOT NULL, answers BLOB NOT NULL, expires_at INTEGER NOT NULL,
    due INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0);
CREATE INDEX outbox_due ON outbox (delivered, due, number);
CREATE INDEX outbox_answers ON outbox (procedure, answers);
CREATE TABLE journal (number INTEGER PRIMARY KEY AUTOINCREMENT, procedure TEXT NOT NULL, taken BLOB NOT NULL);
CREATE INDEX journal_procedure ON journal (procedure, number);
"""


class SqliteTransaction:
    """`ports.Transaction` over one open SQLite transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def get(self, collection: str, key: str) -> bytes | None:
        """Return one record, or None."""
        row = self._connection.execute(
            "SELECT value FROM records WHERE collection = ? AND key = ?", (collection, key)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, collection: str, key: str, value: bytes) -> None:
        """Write one record, replacing an older one."""
        self._connection.execute(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (collection, key, value),
        )

    def delete(self, collection: str, key: str) -> None:
        """Remove one record; its absence is no error."""
        self._connection.execute("DELETE FROM records WHERE collection = ? AND key = ?", (collection, key))

    def scan(self, collection: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield the records whose key begins with `prefix`, in key order."""
        rows = self._connection.execute(
            "SELECT key, value FROM records WHERE collection = ? AND key >= ? AND key < ? ORDER BY key",
            (collection, prefix, prefix + "\U0010ffff"),
        ).fetchall()
        for key, value in rows:
            yield key, bytes(value)

    def post(self, procedure: ProcedureId, next_hop: PartyId, datagram: bytes, answers: bytes, expires_at: int) -> None:
        """Put one datagram into the outbox."""
        self._connection.execute(
            "INSERT INTO outbox (procedure, next_hop, datagram, answers, expires_at) VALUES (?, ?, ?, ?, ?)",
            (procedure, next_hop, datagram, answers, expires_at),
        )

    def post_again(self, procedure: ProcedureId, answers: bytes) -> None:
        """Make the stored answers to one message due again."""
        self._connection.execute(
            "UPDATE outbox SET delivered = 0, due = 0 WHERE procedure = ? AND answers = ?", (procedure, answers)
        )

    def outbox(self, now: int, limit: int) -> Sequence[Posted]:
        """Return datagrams due and not expired, oldest first."""
        rows = self._connection.execute(
            "SELECT number, next_hop, datagram, attempts FROM outbox"
            " WHERE delivered = 0 AND due <= ? AND expires_at > ? ORDER BY number LIMIT ?",
            (now, now, limit),
        )
        return [Posted(number, PartyId(hop), bytes(datagram), attempts) for number, hop, datagram, attempts in rows]

    def is_posted(self, procedure: ProcedureId, answers: bytes) -> bool:
        """Say whether the outbox holds an answer to one message, delivered or not."""
        found = self._connection.execute(
            "SELECT 1 FROM outbox WHERE procedure = ? AND answers = ? LIMIT 1", (procedure, answers)
        )
        return found.fetchone() is not None

    def delivered(self, number: int) -> None:
        """Record that the next hop has this datagram durably."""
        self._connection.execute("UPDATE outbox SET delivered = 1 WHERE number = ?", (number,))

    def postpone(self, number: int, due: int) -> None:
        """Count one failed attempt and set when to try again."""
        self._connection.execute("UPDATE outbox SET attempts = attempts + 1, due = ? WHERE number = ?", (due, number))

    def undelivered(self, now: int) -> int:
        """Count the datagrams, not expired, that no next hop has acknowledged."""
        waiting = "SELECT count(*) FROM outbox WHERE delivered = 0 AND expires_at > ?"
        count: int = self._connection.execute(waiting, (now,)).fetchone()[0]
        return count

    def journal(self, taken: Taken) -> None:
        """Append one accepted step."""
        self._connection.execute(
            "INSERT INTO journal (procedure, taken) VALUES (?, ?)", (taken.procedure, msgspec.json.encode(taken))
        )

    def taken(self, procedure: ProcedureId) -> Sequence[Taken]:
        """Return the accepted steps of one procedure, in order."""
        rows = self._connection.execute("SELECT taken FROM journal WHERE procedure = ? ORDER BY number", (procedure,))
        return [msgspec.json.decode(taken, type=Taken) for (taken,) in rows]


class SqliteStore:
    """`ports.Store` in one file. A connection belongs to the thread that opened it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._prepare()
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be opened as a store: {error}") from error

    def _prepare(self) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StoreError(f"{self._path} has schema version {version}; this release reads {SCHEMA_VERSION}")

    @contextmanager
    def transaction(self) -> Iterator[SqliteTransaction]:
        """Open a transaction: committed and synced on a clean exit, rolled back on any exception."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield SqliteTransaction(self._connection)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} cannot be read or written: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
