"""One party's state in one schema of a PostgreSQL database, shared by all replicas of its service.

Transactions are SERIALIZABLE: one of two that collide gets a `StoreConflict`, has written nothing, and is repeated by
its caller. A lost connection is a `StoreError`, and repeated as well. If it was lost while COMMIT was on its way,
whether that was carried out is unknown, and the error says so. Repeating is safe all the same where what comes again is
recognised: the same datagram is answered from the outbox, a receipt is written twice, an order has a name of its own.

*Looking for mail* is not serialisable work. Two replicas that lease due datagrams read and change the same end of the
same index, and under SERIALIZABLE one of them would always lose. A transaction that begins with a lease therefore runs
READ COMMITTED, takes the datagrams row by row and skips those that another holds (SKIP LOCKED): nobody waits, nobody
fails, and since a row is looked at again once it is locked, nobody gets what another has just taken. Such a transaction
concerns the outbox alone; it is refused everything else.

*Receipts* usually come first in a transaction that goes on to handle datagrams. They are kept until it is known whether
a lease or work follows, and are written without looking (`DELIVERED`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from qsotn.adapters.storage.migrations import Migration, migrate
from qsotn.adapters.storage.postgres_session import Session, quoted, require_no_running_loop
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
    "UPDATE outbox SET due = ?2 WHERE number = ANY(ARRAY(SELECT number FROM outbox WHERE NOT delivered"
    " AND NOT collected AND due <= ?1 AND expires_at > ?1 ORDER BY due, number LIMIT ?3 FOR UPDATE SKIP LOCKED))"
    " RETURNING number, next_hop, datagram, attempts"
)
LEASE_COLLECTED: Final = (
    "UPDATE outbox SET due = ?2 WHERE number = ANY(ARRAY(SELECT number FROM outbox WHERE NOT delivered AND collected"
    " AND next_hop = ?4 AND due <= ?1 AND expires_at > ?1 ORDER BY due, number LIMIT ?3 FOR UPDATE SKIP LOCKED))"
    " RETURNING number, next_hop, datagram, attempts"
)
# One search for each collector, that ends with what it finds first.
COLLECTORS_DUE: Final = (
    "SELECT collector FROM unnest(?2::text[]) AS collector CROSS JOIN LATERAL (SELECT 1 FROM outbox WHERE NOT delivered"
    ' AND collected AND next_hop = collector COLLATE "C" AND due <= ?1 AND expires_at > ?1 LIMIT 1) AS found'
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

LOOKING_FOR_MAIL: Final = frozenset({LEASE_SENT, LEASE_COLLECTED, COLLECTORS_DUE})
OUTBOX_ALONE: Final = LOOKING_FOR_MAIL | {DELIVERED, DELIVERED_TO, POSTPONE, UNDELIVERED, PRUNE}

SAVEPOINT: Final = "SAVEPOINT part"
RELEASE: Final = "RELEASE SAVEPOINT part"
UNDO: Final = "ROLLBACK TO SAVEPOINT part"
# The statement timeout would end the wait for a synchronous standby, and the server would report success for a commit
# that only one machine has. Besides, a transaction that failed refuses SET, while COMMIT would just undo it.
COMMIT: Final = "SET LOCAL statement_timeout = 0; COMMIT"


class PostgresTransaction(SqlTransaction):
    """`ports.Transaction` over one PostgreSQL transaction, begun by its first statement.

    Once a statement has failed, all others fail too, whether or not somebody caught the error, and so does the commit.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._isolation = ""
        self._receipts: list[tuple[Any, ...]] = []
        """Statements with their arguments, for the beginning."""
        self._control: list[str] = []
        """Savepoints to be set or left: they travel with the next statement, or with COMMIT."""
        self._failure: StoreError | None = None

    # --- the outbox -------------------------------------------------------------------------------------------------

    def lease(self, now: int, until: int, limit: int, collector: PartyId | None = None) -> Sequence[Posted]:
        """Take the datagrams that are due the longest on loan, and return them in the order they were posted.

        Comes first in its transaction (receipts may precede it), or it may collide with another replica's.
        """
        if collector is None:
            return on_loan(self._fetch(LEASE_SENT, now, until, limit))
        return on_loan(self._fetch(LEASE_COLLECTED, now, until, limit, collector))

    def collectors_due(self, now: int, collectors: Sequence[PartyId]) -> Sequence[PartyId]:
        """Return which of these collectors have a datagram due. Comes first in its transaction, as a lease does."""
        return [PartyId(collector) for (collector,) in self._fetch(COLLECTORS_DUE, now, list(collectors))]

    def delivered(self, numbers: Sequence[int], next_hop: PartyId | None = None) -> None:
        """Record that the next hop has these datagrams durably; `next_hop` restricts it to that party's own."""
        receipt = (DELIVERED, _in_order(numbers)) if next_hop is None else (DELIVERED_TO, list(numbers), next_hop)
        if self._isolation or self._control:
            self._fetch(*receipt)
        else:
            self._receipts.append(receipt)

    # --- statements -------------------------------------------------------------------------------------------------

    def _fetch(self, sql: str, *arguments: object) -> Sequence[Any]:
        with self._failing_for_good():
            self._begin(READ_COMMITTED if sql in LOOKING_FOR_MAIL else SERIALIZABLE)
            if self._isolation == READ_COMMITTED and sql not in OUTBOX_ALONE:
                raise StoreError("a transaction that began by looking for mail concerns the outbox alone")
            if self._control:
                self._session.execute("; ".join(self._control))
                self._control.clear()
            return self._session.fetch(sql, *arguments)

    def _begin(self, isolation: str) -> None:
        if self._isolation:
            return
        # Noted before it is so: whatever interrupts what follows, the end is ROLLBACK.
        self._isolation = isolation
        self._session.begin(f"BEGIN ISOLATION LEVEL {isolation}")
        for receipt in self._receipts:
            self._session.fetch(*receipt)

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
            self._control += (UNDO, RELEASE)
            raise
        self._control.append(RELEASE)

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
            self._session.execute("; ".join([*self._control, COMMIT]))
        except StoreConflict:
            raise
        except StoreError as error:
            raise StoreError(f"whether a transaction was committed is unknown; it may be repeated: {error}") from error

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
        require_no_running_loop()
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
        if not self._is_made("to_regclass", f"{quoted(self._schema)}.schema_version"):
            return 0
        ((version,),) = self._session.fetch("SELECT version FROM schema_version")
        return int(version)

    def _apply(self, migration: Migration) -> None:
        # READ COMMITTED: whoever waited for the lock has to see what was done while it waited.
        self._session.begin(f"BEGIN ISOLATION LEVEL {READ_COMMITTED}")
        self._session.fetch("SELECT pg_advisory_xact_lock(hashtextextended(?1, 0))", f"qsotn {self._schema}")
        self._make_schema()
        if self._version() < migration.number:
            self._session.execute(migration.sql)
            self._session.fetch("UPDATE schema_version SET version = ?1", migration.number)
        self._session.execute("COMMIT")

    def _make_schema(self) -> None:
        # Whoever may not make schemas in this database can be given one.
        if not self._is_made("to_regnamespace", quoted(self._schema)):
            self._session.execute(f"CREATE SCHEMA {quoted(self._schema)}")
        if not self._is_made("to_regclass", f"{quoted(self._schema)}.schema_version"):
            self._session.execute("CREATE TABLE schema_version AS SELECT 0 AS version")

    def _is_made(self, lookup: str, name: str) -> bool:
        ((made,),) = self._session.fetch(f"SELECT {lookup}(?1) IS NOT NULL", name)
        return bool(made)


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
