"""One party's state in one schema of a PostgreSQL database, shared by all replicas of its service.

Transactions are SERIALIZABLE: one of two that collide gets a `StoreConflict`, has written nothing, and is repeated by
its caller. So is one whose connection was lost. If that happened while COMMIT was on its way, whether it was committed
is unknown, and the error says so; repeating is safe all the same, because everything a party does is recognised when
it comes again: the same bytes are answered from the outbox, a receipt is written down twice.

*Leases* are not serialisable work. Two replicas that look for due datagrams read and change the same end of the same
index, and under SERIALIZABLE one of them would always lose. A transaction that begins with a lease therefore runs READ
COMMITTED, takes the datagrams row by row and skips those that another holds (SKIP LOCKED): nobody waits, nobody fails,
and since a row is looked at again once it is locked, nobody gets what another has just taken. Such a transaction
concerns the outbox alone; it is refused everything else.

*Receipts* usually come first in a transaction that goes on to handle datagrams. They are kept until it is known whether
a lease or work follows, and are written without looking (`DELIVERED`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from qsotn.adapters.storage.migrations import Migration, migrate
from qsotn.adapters.storage.postgres_session import Session, quoted
from qsotn.adapters.storage.statements import POSTPONE, PRUNE, UNDELIVERED, SqlTransaction, on_loan
from qsotn.domain import PartyId
from qsotn.errors import StoreConflict, StoreError, UsageError
from qsotn.ports import Posted

LONGEST_IDENTIFIER: Final = 63
"""Bytes (NAMEDATALEN - 1): PostgreSQL cuts a longer name off, and two parties would meet in one schema."""

SERIALIZABLE: Final = "SERIALIZABLE"
READ_COMMITTED: Final = "READ COMMITTED"

# An array, so that the rows are chosen once, before any is changed.
LEASE_SENT: Final = (
    "UPDATE outbox SET due = ?2 WHERE number = ANY(ARRAY(SELECT number FROM outbox WHERE NOT delivered AND NOT collected"
    " AND due <= ?1 AND expires_at > ?1 ORDER BY due, number LIMIT ?3 FOR UPDATE SKIP LOCKED))"
    " RETURNING number, next_hop, datagram, attempts"
)
LEASE_COLLECTED: Final = (
    "UPDATE outbox SET due = ?2 WHERE number = ANY(ARRAY(SELECT number FROM outbox WHERE NOT delivered AND collected"
    " AND next_hop = ?4 AND due <= ?1 AND expires_at > ?1 ORDER BY due, number LIMIT ?3 FOR UPDATE SKIP LOCKED))"
    " RETURNING number, next_hop, datagram, attempts"
)
# An UPDATE would have to find the rows, and a serialisable search locks the page of the index where it finds them: the
# last one, where every other replica is posting. Of two busy replicas, each would fail half of its transactions. An
# INSERT that meets the row changes it without having read anything. Should the row be gone (expired and pruned), an
# empty one takes its place, delivered and expired: never sent, and pruned as well. A number not yet given is ignored.
DELIVERED: Final = (
    "INSERT INTO outbox (number, procedure, next_hop, datagram, answers, expires_at, due, delivered, collected)"
    " OVERRIDING SYSTEM VALUE SELECT number, '', '', '', '', 0, 0, true, false FROM unnest(?1::bigint[]) AS number"
    " WHERE number <= (SELECT last_value FROM outbox_number_seq)"
    " ON CONFLICT (number) DO UPDATE SET delivered = true"
)
DELIVERED_TO: Final = "UPDATE outbox SET delivered = true WHERE number = ANY(?1::bigint[]) AND next_hop = ?2"

LEASES: Final = frozenset({LEASE_SENT, LEASE_COLLECTED})
OUTBOX_ALONE: Final = LEASES | {DELIVERED, DELIVERED_TO, POSTPONE, UNDELIVERED, PRUNE}

SAVEPOINT: Final = "SAVEPOINT part"
RELEASE: Final = "RELEASE SAVEPOINT part"
UNDO: Final = "ROLLBACK TO SAVEPOINT part"
# Without its own limit, the statement timeout would end the wait for a synchronous standby, and the server would report
# success for a commit that only one machine has.
COMMIT: Final = "SET LOCAL statement_timeout = 0; COMMIT"


class PostgresTransaction(SqlTransaction):
    """`ports.Transaction` over one PostgreSQL transaction, begun by its first statement.

    Once a statement has failed, all others fail too, whether or not somebody caught the error, and so does the commit.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._isolation = ""
        self._receipts: list[int] = []
        self._control: list[str] = []
        """Savepoints to be set or left: they travel with the next statement that needs them."""
        self._failure: StoreError | None = None

    # --- the outbox -------------------------------------------------------------------------------------------------

    def lease(self, now: int, until: int, limit: int, collector: PartyId | None = None) -> Sequence[Posted]:
        """Take the datagrams that are due the longest on loan, and return them in the order they were posted.

        Comes first in its transaction (receipts may precede it), or it may collide with another replica's.
        """
        if collector is None:
            return on_loan(self._fetch(LEASE_SENT, now, until, limit))
        return on_loan(self._fetch(LEASE_COLLECTED, now, until, limit, collector))

    def delivered(self, numbers: Sequence[int], next_hop: PartyId | None = None) -> None:
        """Record that the next hop has these datagrams durably; `next_hop` restricts it to that party's own."""
        if next_hop is not None:
            self._fetch(DELIVERED_TO, list(numbers), next_hop)
        elif self._isolation or self._control:
            self._fetch(DELIVERED, _in_order(numbers))
        else:
            self._receipts += numbers

    # --- statements -------------------------------------------------------------------------------------------------

    def _fetch(self, sql: str, *arguments: object) -> Sequence[Any]:
        with self._failing_for_good():
            self._begin(READ_COMMITTED if sql in LEASES else SERIALIZABLE)
            if self._isolation == READ_COMMITTED and sql not in OUTBOX_ALONE:
                raise StoreError("a transaction that began with a lease concerns the outbox alone")
            if self._control:
                self._session.execute("; ".join(self._control))
                self._control.clear()
            return self._session.fetch(sql, *arguments)

    def _begin(self, isolation: str) -> None:
        if self._isolation:
            return
        self._session.begin(f"BEGIN ISOLATION LEVEL {isolation}")
        self._isolation = isolation
        if self._receipts:
            self._session.fetch(DELIVERED, _in_order(self._receipts))

    @contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except StoreError as error:
            self._failure = error
            raise

    # --- parts ------------------------------------------------------------------------------------------------------

    @contextmanager
    def part(self) -> Iterator[None]:
        """Open a part that is undone alone if it raises; the transaction around it goes on."""
        self._control.append(SAVEPOINT)
        try:
            yield
        except BaseException:
            self._leave_part(UNDO, RELEASE)
            raise
        self._leave_part(RELEASE)

    def _leave_part(self, *control: str) -> None:
        if self._control and self._control[-1] == SAVEPOINT:
            self._control.pop()
        else:
            self._control += control

    # --- the end ----------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit. Raises `StoreConflict`, or `StoreError` where it failed or its outcome is unknown."""
        with self._failing_for_good():
            if self._receipts:
                self._begin(READ_COMMITTED)
            if self._isolation:
                self._commit()

    def _commit(self) -> None:
        try:
            tag = self._session.execute("; ".join([*self._control, COMMIT]))
        except StoreConflict:
            raise
        except StoreError as error:
            raise StoreError(f"whether a transaction was committed is unknown; it may be repeated: {error}") from error
        if tag != "COMMIT":
            raise StoreError(f"{self._session.name} answered COMMIT with {tag}: nothing was written")

    def roll_back(self) -> None:
        """Undo everything."""
        if self._isolation and self._session.connected:
            # If this fails, the connection is gone, and the server has rolled back for that reason.
            with suppress(StoreError):
                self._session.execute("ROLLBACK")


class PostgresStore:
    """`ports.Store` in the schema of one party. A store belongs to one thread at a time, outside any event loop."""

    def __init__(self, dsn: str, party: PartyId) -> None:
        self._schema = schema_of(party)
        self._session = Session(dsn, self._schema)
        try:
            self._session.connect()
            migrate("postgresql", self._session.name, self._version, self._apply)
        except BaseException:
            self._session.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[PostgresTransaction]:
        """Open a transaction: committed and durable on a clean exit, rolled back on any exception.

        Raises `StoreConflict` if another replica was in the way, `StoreError` if the server cannot be reached; the next
        transaction connects again.
        """
        transaction = PostgresTransaction(self._session)
        try:
            yield transaction
            transaction.commit()
        except BaseException:
            transaction.roll_back()
            raise

    def close(self) -> None:
        """End the connection."""
        self._session.close()

    # --- migrations -------------------------------------------------------------------------------------------------

    def _version(self) -> int:
        ((made,),) = self._session.fetch("SELECT to_regclass(?1) IS NOT NULL", f"{quoted(self._schema)}.schema_version")
        if not made:
            return 0
        ((version,),) = self._session.fetch("SELECT version FROM schema_version")
        return int(version)

    def _apply(self, migration: Migration) -> None:
        # READ COMMITTED: whoever waited for the lock has to see what was done while it waited.
        self._session.begin(f"BEGIN ISOLATION LEVEL {READ_COMMITTED}")
        self._session.fetch("SELECT pg_advisory_xact_lock(hashtextextended(?1, 0))", f"qsotn {self._schema}")
        self._make_schema()
        if self._version() < migration.number:
            self._session.execute(f"{migration.sql}; UPDATE schema_version SET version = {migration.number}")
        self._session.execute("COMMIT")

    def _make_schema(self) -> None:
        ((made,),) = self._session.fetch("SELECT to_regnamespace(?1) IS NOT NULL", quoted(self._schema))
        if not made:
            self._session.execute(f"CREATE SCHEMA {quoted(self._schema)}")
            self._session.execute("CREATE TABLE schema_version AS SELECT 0 AS version")


def schema_of(party: PartyId) -> str:
    """Return the schema of a party: `pomp/shandong` lives in `pomp_shandong`.

    Raises `UsageError` for an identifier that is too long for one. No two parties share a schema: no role has an
    underscore in its name, and the rest of the identifier stays as it is.
    """
    schema = party.replace("/", "_", 1)
    if len(schema.encode()) > LONGEST_IDENTIFIER:
        raise UsageError(f"{party} is too long for a PostgreSQL schema: at most {LONGEST_IDENTIFIER} bytes")
    return schema


def _in_order(numbers: Sequence[int]) -> list[int]:
    """Once each, and in order, so that two replicas that write the same receipts do not lock each other out."""
    return sorted(set(numbers))
