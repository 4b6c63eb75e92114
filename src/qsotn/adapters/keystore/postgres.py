"""The tables of a key store in the party's schema of a PostgreSQL database, shared by the replicas of its service.

Transactions are READ COMMITTED: a row is looked at again once it is locked, and every rule of a key concerns rows that
are locked. Reserving skips rows that another replica has locked (SKIP LOCKED), so nobody waits and no unit is taken
twice. With the last units of a pool, one replica may be told that there are too few while another has them locked and
then leaves some: it is refused, and nothing is lost. Rows that are named (collecting, assigning) are locked in the
order of their places, so that no two wait for each other. Tallies are each replica's own.

A batch of reservations is one statement, whatever pools it concerns, and a batch of collections is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from qsotn.adapters.keystore import migrations
from qsotn.adapters.keystore.statements import FILLS, Collected, Ready, Unit, Want
from qsotn.adapters.storage.migrations import Migration, migrate
from qsotn.adapters.storage.postgres import COMMIT, schema_of
from qsotn.adapters.storage.postgres_session import Session, quoted, require_no_running_loop
from qsotn.domain import PartyId
from qsotn.errors import StoreConflict, StoreError

_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended(?1, 0))"
_READY: Final = (
    "SELECT place, epoch, wrapped FROM key_units WHERE place >= ?1 AND place < ?2 AND state = 0 ORDER BY place LIMIT ?3"
    " FOR UPDATE SKIP LOCKED"
)
# Rows are chosen and locked first, then numbered within their pool, then each is given the fate of that number.
_TAKE: Final = (
    "WITH taken AS MATERIALIZED ("
    "SELECT want, place FROM unnest(?1::bigint[], ?2::bigint[], ?3::bigint[]) WITH ORDINALITY"
    " AS wanted(floor, ceiling, need, want) CROSS JOIN LATERAL (SELECT place FROM key_units WHERE place >= floor"
    " AND place < ceiling AND state = 0 ORDER BY place LIMIT need FOR UPDATE SKIP LOCKED) AS found),"
    " numbered AS (SELECT want, place, row_number() OVER (PARTITION BY want ORDER BY place) AS nth FROM taken)"
    " UPDATE key_units SET state = fate.state, audience = fate.audience, size = fate.size, handed = fate.handed"
    " FROM numbered JOIN unnest(?4::bigint[], ?5::bigint[], ?6::smallint[], ?7::bigint[], ?8::bigint[], ?9::text[])"
    " AS fate(want, nth, state, audience, size, handed) USING (want, nth) WHERE key_units.place = numbered.place"
    " RETURNING want, key_units.place, epoch, wrapped"
)
_COLLECT: Final = (
    "WITH wanted AS MATERIALIZED (SELECT key_units.place, asked.request"
    " FROM unnest(?1::bigint[], ?2::bigint[]) AS asked(place, request) JOIN key_units USING (place)"
    " WHERE state >= 2 AND until IS NULL AND handed IS NULL ORDER BY place FOR UPDATE OF key_units)"
    " UPDATE key_units SET until = ?3, request = wanted.request FROM wanted WHERE key_units.place = wanted.place"
    " RETURNING key_units.place, audience, size, epoch, wrapped"
)
_READ: Final = (
    "SELECT place, state, audience, size, until, request, handed, epoch, wrapped"
    " FROM key_units WHERE place = ANY(?1::bigint[]) ORDER BY place FOR UPDATE"
)
_WRITE: Final = (
    "UPDATE key_units SET state = new.state, audience = new.audience, size = new.size, until = new.until,"
    " request = new.request, handed = new.handed, epoch = new.epoch, wrapped = new.wrapped"
    " FROM unnest(?1::bigint[], ?2::smallint[], ?3::bigint[], ?4::bigint[], ?5::bigint[], ?6::bigint[], ?7::text[],"
    " ?8::bigint[], ?9::bytea[]) AS new(place, state, audience, size, until, request, handed, epoch, wrapped)"
    " WHERE key_units.place = new.place"
)
_INSERT: Final = (
    "INSERT INTO key_units (place, epoch, wrapped) SELECT * FROM unnest(?1::bigint[], ?2::bigint[], ?3::bytea[])"
)
_TALLY: Final = (
    "INSERT INTO key_tallies (what, subject, value, replica)"
    " SELECT change.what, subject, by, ?4 FROM unnest(?1::smallint[], ?2::bigint[], ?3::bigint[])"
    " AS change(what, subject, by)"
    " ON CONFLICT (what, subject, replica) DO UPDATE SET value = key_tallies.value + excluded.value"
    " RETURNING what, value"
)
_DUE: Final = (
    "DELETE FROM key_agenda WHERE number = ANY(ARRAY(SELECT number FROM key_agenda WHERE due <= ?1 ORDER BY due"
    " LIMIT ?2 FOR UPDATE SKIP LOCKED)) RETURNING due, kind, places"
)
_TRANSACTIONS: Final = 7


class PostgresTables:
    """`Tables` in the schema of one party. They belong to one thread at a time, outside any event loop."""

    def __init__(self, dsn: str, party: PartyId, replica: str) -> None:
        self._schema = schema_of(party)
        self._replica = replica
        self._session = Session(dsn, self._schema)
        self.name = self._session.name
        try:
            self._session.connect()
            migrate("postgresql", self.name, self._version, self._apply, migrations.__name__)
        except BaseException:
            self._session.close()
            raise

    @contextmanager
    def transaction(self, exclusive: bool = False) -> Iterator[None]:
        """Open a transaction: durable on a clean exit. If its connection is lost, the next one connects again."""
        require_no_running_loop()
        self._session.begin(_BEGIN)
        try:
            if exclusive:
                self._session.fetch(_LOCK, f"qsotn keys {self._schema}")
            yield
            self.commit()
        except BaseException:
            self.roll_back()
            raise

    def begin_at_once(self) -> bool:
        """Never: every statement waits for the server."""
        return False

    def commit(self) -> None:
        """Make the transaction that is open durable."""
        try:
            self._session.execute(COMMIT)
        except StoreConflict:
            raise
        except StoreError as error:
            raise StoreError(f"whether a transaction was committed is unknown; it may be repeated: {error}") from error

    def roll_back(self) -> None:
        """Undo the transaction that is open, as far as there is a connection."""
        if self._session.connected:
            # If this fails, the connection is gone, and the server has rolled back for that reason.
            with suppress(StoreError):
                self._session.execute("ROLLBACK")

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    # --- migrations -------------------------------------------------------------------------------------------------

    def _version(self) -> int:
        if not self._is_made("to_regclass", f"{quoted(self._schema)}.key_schema_version"):
            return 0
        ((version,),) = self._session.fetch("SELECT version FROM key_schema_version")
        return int(version)

    def _apply(self, migration: Migration) -> None:
        with self.transaction(exclusive=True):
            if not self._is_made("to_regnamespace", quoted(self._schema)):
                self._session.execute(f"CREATE SCHEMA {quoted(self._schema)}")
            if not self._is_made("to_regclass", f"{quoted(self._schema)}.key_schema_version"):
                self._session.execute("CREATE TABLE key_schema_version AS SELECT 0 AS version")
            if self._version() < migration.number:
                self._session.execute(migration.sql)
                self._session.fetch("UPDATE key_schema_version SET version = ?1", migration.number)

    def _is_made(self, lookup: str, name: str) -> bool:
        ((made,),) = self._session.fetch(f"SELECT {lookup}(?1) IS NOT NULL", name)
        return bool(made)

    # --- units ------------------------------------------------------------------------------------------------------

    def take(self, wants: Sequence[Want]) -> list[list[Ready]]:
        """Give ready units their fates, in order of place."""
        spans = _columns([(want.floor, want.ceiling, len(want.fates)) for want in wants], 3)
        fates = [(want, nth, *fate) for want, (_, _, its) in enumerate(wants, 1) for nth, fate in enumerate(its, 1)]
        taken: list[list[Ready]] = [[] for _ in wants]
        for want, *unit in self._session.fetch(_TAKE, *spans, *_columns(fates, 6)):
            taken[want - 1].append(Ready._make(unit))
        for its in taken:
            its.sort()
        return taken

    def collect(self, requests: Sequence[tuple[int, Sequence[int]]], until: int) -> Sequence[Collected]:
        """Mark keys as collected."""
        asked = _columns([(place, digest) for digest, places in requests for place in places], 2)
        return list(map(Collected._make, self._session.fetch(_COLLECT, *asked, until)))

    def ready(self, floor: int, ceiling: int, limit: int) -> Sequence[Ready]:
        """Return ready units in order of place, and keep them from other replicas."""
        return list(map(Ready._make, self._session.fetch(_READY, floor, ceiling, limit)))

    def read(self, places: Sequence[int]) -> Sequence[Unit]:
        """Return the rows at these places, and keep them from other replicas."""
        return list(map(Unit._make, self._session.fetch(_READ, list(places))))

    def write(self, units: Sequence[Unit]) -> None:
        """Write rows that exist."""
        self._session.fetch(_WRITE, *_columns(units, 9))

    def insert(self, units: Sequence[Ready]) -> None:
        """Add units that are ready."""
        self._session.fetch(_INSERT, *_columns(units, 3))

    # --- the rest ---------------------------------------------------------------------------------------------------

    def tally(self, changes: Sequence[tuple[int, int, int]]) -> int:
        """Add to tallies, count this transaction, and return how many there were."""
        columns = _columns([*changes, (_TRANSACTIONS, 0, 1)], 3)
        counted = {what: int(value) for what, value in self._session.fetch(_TALLY, *columns, self._replica)}
        return counted[_TRANSACTIONS]

    def due(self, now: int, limit: int) -> Sequence[tuple[int, int, bytes]]:
        """Take the oldest entries that are due, and nobody else is at, off the agenda."""
        return [(due, kind, places) for due, kind, places in self._session.fetch(_DUE, now, limit)]

    def fills(self, epoch: int) -> bool:
        """Whether an epoch is still being filled, and will be until this transaction ends."""
        return bool(self._session.fetch(f"{FILLS} FOR SHARE", epoch))

    def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run a statement and return its rows."""
        return self._session.fetch(written(sql), *arguments)


@cache
def written(sql: str) -> str:
    """Write a common statement in this dialect."""
    return sql.replace("AMONG_TEXTS(?1)", "= ANY(?1::text[])").replace("AMONG(?1)", "= ANY(?1::bigint[])")


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Turn rows into columns: an array is one parameter."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
