"""What the core needs from the outside, as protocols: a store, and someone to hand datagrams to.

A store is one party's own. Everything one received message changes (the procedure's row, the record that it was
heard, the party's records, the answers) is committed in one transaction or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from qsotn.domain import PartyId, ProcedureId


class Posted(msgspec.Struct, frozen=True):
    """One datagram in the outbox, on loan to whoever asked for it. `number` grows with every datagram posted."""

    number: int
    next_hop: PartyId
    datagram: bytes
    attempts: int
    interface: str = ""
    """Over which interface it travels, if whoever posted it is at hand to say so; the datagram says it too."""


class StoredRow(msgspec.Struct, frozen=True):
    """One seat's part of one procedure as a store keeps it: what it is found by, and its `content`, opaque here."""

    procedure: ProcedureId
    seat: str
    ladder: str
    subject: str
    running: bool
    deadline: int
    """Microseconds since the epoch; a running row past it has failed."""
    content: bytes


class Taken(msgspec.Struct, frozen=True):
    """One step that was accepted here: a line of the printed ladder. Times in microseconds since the epoch."""

    procedure: ProcedureId
    ladder: str
    number: int
    part: str
    message: str
    sender: PartyId
    receiver: PartyId
    interface: str
    issued_at: int
    accepted_at: int


class Transaction(Protocol):
    """One atomic change of one party's store."""

    def get(self, collection: str, key: str) -> bytes | None:
        """Return one record, or None."""

    def put(self, collection: str, key: str, value: bytes) -> None:
        """Write one record, replacing an older one."""

    def delete(self, collection: str, key: str) -> None:
        """Remove one record; its absence is no error."""

    def take(self, collection: str, first: str, last: str) -> Sequence[tuple[str, bytes]]:
        """Remove the records from `first` to `last`, both included, and return them in key order."""

    def scan(
        self, collection: str, prefix: str = "", *, after: str = "", limit: int | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the records whose key begins with `prefix` and sorts behind `after`, in key order (by code point)."""

    # --- procedures ---

    def put_row(self, row: StoredRow) -> None:
        """Write one seat's row, replacing an older one."""

    def row(self, procedure: ProcedureId, seat: str) -> bytes | None:
        """Return the content of one row, or None."""

    def rows_of(self, procedure: ProcedureId) -> Sequence[bytes]:
        """Return the rows of one procedure: one, or several where this party sits in several seats. By seat."""

    def rows_about(self, subject: str) -> Sequence[bytes]:
        """Return the running rows about one subject (a device, a line), by procedure and seat."""

    def late_rows(self, now: int, limit: int) -> Sequence[bytes]:
        """Return running rows whose deadline has come, the oldest deadline first."""

    def rows(self, *, after: str = "", limit: int | None = None) -> Sequence[bytes]:
        """Return rows of any state by `procedure/seat`, behind `after` in that order."""

    # --- outbox ---

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
        """Put one datagram into the outbox and return its number; it is sent only after the commit.

        It may be leased from `due` on and not after it expired. `answers` is the digest of the received message that
        caused it. A `collected` one waits for its next hop to fetch it (a device without an address).
        """

    def post_again(self, procedure: ProcedureId, answers: bytes) -> None:
        """Make the stored answers to one message due again, byte for byte, also those on loan."""

    def is_posted(self, procedure: ProcedureId, answers: bytes) -> bool:
        """Say whether the outbox holds an answer to one message, delivered or not."""

    def lease(self, now: int, until: int, limit: int, collector: PartyId | None = None) -> Sequence[Posted]:
        """Take due datagrams on loan, oldest first: nobody else gets them before `until`, and then anybody may.

        Without a `collector` those that are sent; with one, those that this party collects. Two replicas never hold
        the same datagram, and neither waits for the other: this comes first in its transaction (`delivered` may precede
        it), and the outbox is all that such a transaction may touch.
        """

    def collectors_due(self, now: int, collectors: Sequence[PartyId]) -> Sequence[PartyId]:
        """Return which of these collectors have a datagram due. Like `lease`, it comes first in its transaction."""

    def delivered(self, numbers: Sequence[int], next_hop: PartyId | None = None) -> None:
        """Record that the next hop has these datagrams durably; `next_hop` restricts it to that party's own."""

    def postpone(self, number: int, due: int) -> None:
        """Count one failed attempt and set when to try again (microseconds since the epoch)."""

    def undelivered(self, now: int) -> int:
        """Count the datagrams, not expired, that no next hop has acknowledged."""

    def prune(self, now: int, limit: int) -> int:
        """Forget datagrams that have expired, at most `limit`; return how many."""

    # --- journal ---

    def journal(self, taken: Taken) -> None:
        """Append one accepted step."""

    def taken(self, procedure: ProcedureId) -> Sequence[Taken]:
        """Return the accepted steps of one procedure, in the order they were accepted."""

    # --- parts of a transaction ---

    def part(self) -> AbstractContextManager[None]:
        """Open a part that is undone alone if it raises (a savepoint); the transaction around it goes on."""


class Store(Protocol):
    """One party's durable state. All changes of one transaction are on disk when it has ended, or none is.

    Transactions are serialisable: what one reads is not changed by another before it ends. Where several replicas share
    a store, one of two that collide raises `StoreConflict` at any call or at its end; it changed nothing and may be
    tried again as a whole.
    """

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction: committed and durable on a clean exit, rolled back on any exception."""

    def close(self) -> None:
        """Release the store."""


class Transport(Protocol):
    """Carries a datagram one hop. Returning means that the next hop has it durably; anything else is `LineError`."""

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        """Hand over one datagram. Raises `LineError` if no receipt came back; the sender tries again later."""
