"""The tables of a key store in one SQLite file: WAL, synchronous=FULL, secure_delete; one process at a time.

FULL, so that no power cut takes back what an SAE was told. `secure_delete` overwrites deleted rows in the file; copies
of older pages stay in the log until it begins anew, which is why every unit is wrapped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from qsotn.adapters.keystore import migrations
from qsotn.adapters.keystore.statements import FILLS, Collected, Fate, Ready, Tally, Unit, Want
from qsotn.adapters.storage.migrations import Migration, migrate
from qsotn.adapters.storage.sqlite import statements_of
from qsotn.errors import StoreConflict, StoreError

TURN_SECONDS: Final = 5.0
"""How long a transaction waits for its turn while another process (a backup, say) keeps the file."""
CACHE_KIB: Final = 32 * 1024
_PATIENCE: Final = f"PRAGMA busy_timeout={TURN_SECONDS * 1000:.0f}"

_READY: Final = (
    "SELECT place, epoch, wrapped FROM key_units WHERE place >= ?1 AND place < ?2 AND state = 0 ORDER BY place LIMIT ?3"
)
_TAKE: Final = "UPDATE key_units SET state = ?3, audience = ?4, size = ?5, handed = ?6 WHERE place BETWEEN ?1 AND ?2"
_COLLECT: Final = (
    "UPDATE key_units SET until = ?2, request = ?3 WHERE place IN (SELECT value FROM json_each(?1)) AND state >= 2"
    " AND until IS NULL AND handed IS NULL RETURNING place, audience, size, epoch, wrapped"
)
_READ: Final = (
    "SELECT place, state, audience, size, until, request, handed, epoch, wrapped"
    " FROM key_units WHERE place IN (SELECT value FROM json_each(?1))"
)
_WRITE: Final = (
    "UPDATE key_units SET state = ?2, audience = ?3, size = ?4, until = ?5, request = ?6, handed = ?7, epoch = ?8,"
    " wrapped = ?9 WHERE place = ?1"
)
_INSERT: Final = "INSERT INTO key_units (place, epoch, wrapped) VALUES (?1, ?2, ?3)"
_TALLY: Final = (
    "INSERT INTO key_tallies (what, subject, value, replica) VALUES (?1, ?2, ?3, ?4)"
    " ON CONFLICT (what, subject, replica) DO UPDATE SET value = value + excluded.value"
)
_COUNT: Final = f"{_TALLY} RETURNING value"
_DUE: Final = (
    "DELETE FROM key_agenda WHERE number IN (SELECT number FROM key_agenda WHERE due <= ?1 ORDER BY due LIMIT ?2)"
    " RETURNING due, kind, places"
)
_AMONG: Final = "IN (SELECT value FROM json_each(?1))"


class SqliteTables:
    """`Tables` in one file. They belong to one thread at a time.

    `synchronous` other than FULL gives durability away; it is for tests that prove that somebody would notice.
    """

    def __init__(self, path: Path, replica: str, synchronous: Literal["FULL", "NORMAL", "OFF"] = "FULL") -> None:
        self.name = str(path)
        self._replica = replica
        with self._errors():
            self._connection = sqlite3.connect(
                path, isolation_level=None, timeout=TURN_SECONDS, cached_statements=256, check_same_thread=False
            )
        try:
            with self._errors():
                self._prepare(synchronous)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, synchronous: str) -> None:
        (mode,) = self._connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{self.name} cannot have a write-ahead log (its journal mode stays {mode})")
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        self._connection.execute("PRAGMA secure_delete=ON")
        self._connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        migrate("sqlite", self.name, self._version, self._apply, migrations.__name__)

    def _version(self) -> int:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _apply(self, migration: Migration) -> None:
        with self.transaction(exclusive=True):
            if self._version() < migration.number:
                for statement in statements_of(migration.sql):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={migration.number}")

    @contextmanager
    def transaction(self, exclusive: bool = False) -> Iterator[None]:  # noqa: ARG002  (every writer is alone here)
        """Open a transaction: committed and synced on a clean exit, rolled back on any exception."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self.roll_back()
                raise

    def begin_at_once(self) -> bool:
        """Open a transaction, unless another process keeps the file just now."""
        with self._errors():
            self._connection.execute("PRAGMA busy_timeout=0")
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if _is_busy(error):
                    return False
                raise
            finally:
                self._connection.execute(_PATIENCE)
        return True

    def commit(self) -> None:
        """Make the transaction that is open durable; undo it if that fails."""
        with self._errors():
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self.roll_back()
                raise

    def roll_back(self) -> None:
        """Undo the transaction that is open, if one is."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _is_busy(error):
                raise StoreConflict(f"{self.name} was kept by another process for {TURN_SECONDS:.0f} s") from error
            raise StoreError(f"{self.name} cannot be opened, read or written: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # --- units ------------------------------------------------------------------------------------------------------

    def take(self, wants: Sequence[Want]) -> list[list[Ready]]:
        """Find them, and change them span by span: neighbours mostly share a fate."""
        taken: list[list[Ready]] = []
        spans: list[tuple[Any, ...]] = []
        for floor, ceiling, fates in wants:
            found = self.ready(floor, ceiling, len(fates))
            taken.append(found)
            spans += _spans(found, fates)
        self._connection.executemany(_TAKE, spans)
        return taken

    def collect(self, requests: Sequence[tuple[int, Sequence[int]]], until: int) -> Sequence[Collected]:
        """Mark keys as collected, request by request; those for one key each are one request here."""
        found: list[Collected] = []
        for digest, places in requests:
            found += map(Collected._make, self._connection.execute(_COLLECT, (_listed(places), until, digest)))
        return found

    def ready(self, floor: int, ceiling: int, limit: int) -> list[Ready]:
        """Return ready units in order of place."""
        return list(map(Ready._make, self._connection.execute(_READY, (floor, ceiling, limit))))

    def read(self, places: Sequence[int]) -> Sequence[Unit]:
        """Return the rows at these places."""
        return list(map(Unit._make, self._connection.execute(_READ, (_listed(places),))))

    def write(self, units: Sequence[Unit]) -> None:
        """Write rows that exist."""
        self._connection.executemany(_WRITE, units)

    def insert(self, units: Sequence[Ready]) -> None:
        """Add units that are ready."""
        self._connection.executemany(_INSERT, units)

    # --- the rest ---------------------------------------------------------------------------------------------------

    def tally(self, changes: Sequence[tuple[int, int, int]]) -> int:
        """Add to tallies, count this transaction, and return how many there were."""
        self._connection.executemany(_TALLY, [(*change, self._replica) for change in changes])
        return int(self._connection.execute(_COUNT, (Tally.TRANSACTIONS, 0, 1, self._replica)).fetchone()[0])

    def due(self, now: int, limit: int) -> Sequence[tuple[int, int, bytes]]:
        """Take the oldest entries that are due off the agenda."""
        return self._connection.execute(_DUE, (now, limit)).fetchall()

    def fills(self, epoch: int) -> bool:
        """Whether an epoch is still being filled, and will be until this transaction ends."""
        return bool(self.fetch(FILLS, epoch))

    def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run a statement and return its rows."""
        given = [_listed(argument) if isinstance(argument, list) else argument for argument in arguments]
        return self._connection.execute(written(sql), given).fetchall()


def _is_busy(error: sqlite3.Error) -> bool:
    # The low byte is the kind of error, the rest its variety.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


@cache
def written(sql: str) -> str:
    """Write a common statement in this dialect."""
    return sql.replace("AMONG_TEXTS(?1)", _AMONG).replace("AMONG(?1)", _AMONG)


def _listed(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()


def _spans(found: Sequence[Ready], fates: Sequence[Fate]) -> Iterator[tuple[Any, ...]]:
    """Join neighbours of one fate: first place, last place, fate."""
    first = last = -1
    fate: Fate | None = None
    for (place, _, _), its in zip(found, fates, strict=False):
        if place == last + 1 and its == fate:
            last = place
            continue
        if fate is not None:
            yield (first, last, *fate)
        first = last = place
        fate = its
    if fate is not None:
        yield (first, last, *fate)
