"""What both stores say in the same words: the statements of `ports.Transaction`, over tables of the same names.

SQLite and PostgreSQL understand all of them (parameters are `?1` for the one and `$1` for the other). What remains for
each store is how a statement is run, and what the two differ in: leases, receipts, and the parts of a transaction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from qsotn.adapters.storage.keys import end_of_prefix, split_row_key
from qsotn.domain import PartyId, ProcedureId
from qsotn.ports import Posted, StoredRow, Taken

NO_LIMIT: Final = 2**63 - 1

GET: Final = "SELECT value FROM records WHERE collection = ?1 AND key = ?2"
PUT: Final = (
    "INSERT INTO records (collection, key, value) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (collection, key) DO UPDATE SET value = excluded.value"
)
DELETE: Final = "DELETE FROM records WHERE collection = ?1 AND key = ?2"
TAKE: Final = "DELETE FROM records WHERE collection = ?1 AND key >= ?2 AND key <= ?3 RETURNING key, value"
# One lower bound, never two: a search with two begins at whichever the planner likes, and may pass over all between.
SCAN: Final = {
    (strictly, bounded): f"SELECT key, value FROM records WHERE collection = ?1 AND key {begin} ?2{end}"  # noqa: S608 -- constants
    " ORDER BY key LIMIT ?3"
    for strictly, begin in ((False, ">="), (True, ">"))
    for bounded, end in ((False, ""), (True, " AND key < ?4"))
}

PUT_ROW: Final = (
    "INSERT INTO procedures (procedure, seat, ladder, subject, running, deadline, content)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (procedure, seat) DO UPDATE SET ladder = excluded.ladder,"
    " subject = excluded.subject, running = excluded.running, deadline = excluded.deadline, content = excluded.content"
)
ROW: Final = "SELECT content FROM procedures WHERE procedure = ?1 AND seat = ?2"
ROWS_OF: Final = "SELECT content FROM procedures WHERE procedure = ?1 ORDER BY seat"
ROWS_ABOUT: Final = "SELECT content FROM procedures WHERE running AND subject = ?1 ORDER BY procedure, seat"
LATE_ROWS: Final = (
    "SELECT content FROM procedures WHERE running AND deadline <= ?1 ORDER BY deadline, procedure, seat LIMIT ?2"
)
ROWS: Final = "SELECT content FROM procedures WHERE (procedure, seat) > (?1, ?2) ORDER BY procedure, seat LIMIT ?3"

POST: Final = (
    "INSERT INTO outbox (procedure, next_hop, datagram, answers, expires_at, due, collected)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) RETURNING number"
)
POST_AGAIN: Final = "UPDATE outbox SET delivered = false, due = 0 WHERE procedure = ?1 AND answers = ?2"
IS_POSTED: Final = "SELECT 1 FROM outbox WHERE procedure = ?1 AND answers = ?2 LIMIT 1"
POSTPONE: Final = "UPDATE outbox SET attempts = attempts + 1, due = ?2 WHERE number = ?1"
# Two counts, since each is answered by one index alone; the sum keeps both from being answered by the index on
# expires_at, through all that was delivered.
UNDELIVERED: Final = (
    "SELECT (SELECT count(*) FROM outbox WHERE NOT delivered AND NOT collected AND expires_at + 0 > ?1)"
    " + (SELECT count(*) FROM outbox WHERE NOT delivered AND collected AND expires_at + 0 > ?1)"
)
PRUNE: Final = (
    "DELETE FROM outbox WHERE number IN (SELECT number FROM outbox WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)"
    " RETURNING number"
)

JOURNAL: Final = "INSERT INTO journal (procedure, taken) VALUES (?1, ?2)"
TAKEN: Final = "SELECT taken FROM journal WHERE procedure = ?1 ORDER BY number"

_TAKEN: Final = msgspec.json.Decoder(Taken)


class SqlTransaction(ABC):
    """`ports.Transaction`, but for what the dialects differ in."""

    @abstractmethod
    def _fetch(self, sql: str, *arguments: object) -> Sequence[Any]:
        """Run one statement and return its rows."""

    # --- records ----------------------------------------------------------------------------------------------------

    def get(self, collection: str, key: str) -> bytes | None:
        """Return one record, or None."""
        return _content(self._fetch(GET, collection, key))

    def put(self, collection: str, key: str, value: bytes) -> None:
        """Write one record, replacing an older one."""
        self._fetch(PUT, collection, key, value)

    def delete(self, collection: str, key: str) -> None:
        """Remove one record; its absence is no error."""
        self._fetch(DELETE, collection, key)

    def take(self, collection: str, first: str, last: str) -> Sequence[tuple[str, bytes]]:
        """Remove the records from `first` to `last`, both included, and return them in key order."""
        return sorted((key, value) for key, value in self._fetch(TAKE, collection, first, last))

    def scan(
        self, collection: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Return the records whose key begins with `prefix` and sorts behind `after`, in key order, as they are now."""
        strictly = after != "" and after >= prefix
        bounds: list[object] = [after if strictly else prefix, NO_LIMIT if limit is None else limit]
        end = end_of_prefix(prefix)
        if end is not None:
            bounds.append(end)
        return ((key, value) for key, value in self._fetch(SCAN[strictly, end is not None], collection, *bounds))

    # --- procedures -------------------------------------------------------------------------------------------------

    def put_row(self, row: StoredRow) -> None:
        """Write one seat's row, replacing an older one."""
        found_by = (row.procedure, row.seat, row.ladder, row.subject, row.running, row.deadline)
        self._fetch(PUT_ROW, *found_by, row.content)

    def row(self, procedure: ProcedureId, seat: str) -> bytes | None:
        """Return the content of one row, or None."""
        return _content(self._fetch(ROW, procedure, seat))

    def rows_of(self, procedure: ProcedureId) -> Sequence[bytes]:
        """Return the rows of one procedure, by seat."""
        return _contents(self._fetch(ROWS_OF, procedure))

    def rows_about(self, subject: str) -> Sequence[bytes]:
        """Return the running rows about one subject, by procedure and seat."""
        return _contents(self._fetch(ROWS_ABOUT, subject))

    def late_rows(self, now: int, limit: int) -> Sequence[bytes]:
        """Return running rows whose deadline has come, the oldest deadline first."""
        return _contents(self._fetch(LATE_ROWS, now, limit))

    def rows(self, *, after: str = "", limit: int | None = None) -> Sequence[bytes]:
        """Return rows of any state by procedure, then seat, behind the row that is named `procedure/seat`."""
        procedure, seat = split_row_key(after)
        return _contents(self._fetch(ROWS, procedure, seat, NO_LIMIT if limit is None else limit))

    # --- outbox -----------------------------------------------------------------------------------------------------

    def post(
        self,
        procedure: ProcedureId,
        next_hop: PartyId,
        datagram: bytes,
        answers: bytes,
        *,
        expires_at: int,
        due: int = 0,
        collected: bool = False,
    ) -> int:
        """Put one datagram into the outbox and return its number."""
        (posted,) = self._fetch(POST, procedure, next_hop, datagram, answers, expires_at, due, collected)
        number: int = posted[0]
        return number

    def post_again(self, procedure: ProcedureId, answers: bytes) -> None:
        """Make the stored answers to one message due again, byte for byte, also those on loan."""
        self._fetch(POST_AGAIN, procedure, answers)

    def is_posted(self, procedure: ProcedureId, answers: bytes) -> bool:
        """Say whether the outbox holds an answer to one message, delivered or not."""
        return len(self._fetch(IS_POSTED, procedure, answers)) > 0

    def postpone(self, number: int, due: int) -> None:
        """Count one failed attempt and set when to try again."""
        self._fetch(POSTPONE, number, due)

    def undelivered(self, now: int) -> int:
        """Count the datagrams, not expired, that no next hop has acknowledged. Takes as long as there are such."""
        ((count,),) = self._fetch(UNDELIVERED, now)
        waiting: int = count
        return waiting

    def prune(self, now: int, limit: int) -> int:
        """Forget datagrams that have expired, the oldest first; return how many."""
        return len(self._fetch(PRUNE, now, limit))

    # --- journal ----------------------------------------------------------------------------------------------------

    def journal(self, taken: Taken) -> None:
        """Append one accepted step."""
        self._fetch(JOURNAL, taken.procedure, msgspec.json.encode(taken))

    def taken(self, procedure: ProcedureId) -> Sequence[Taken]:
        """Return the accepted steps of one procedure, in the order they were accepted."""
        return [_TAKEN.decode(taken) for (taken,) in self._fetch(TAKEN, procedure)]


def on_loan(rows: Iterable[Any]) -> Sequence[Posted]:
    """Return leased rows (number, next hop, datagram, attempts) in the order they were posted."""
    return [Posted(*row) for row in sorted(rows, key=_number)]


def _number(row: Any) -> int:
    number: int = row[0]
    return number


def _content(rows: Sequence[Any]) -> bytes | None:
    return rows[0][0] if rows else None


def _contents(rows: Sequence[Any]) -> Sequence[bytes]:
    return [content for (content,) in rows]
