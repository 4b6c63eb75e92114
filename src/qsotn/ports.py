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
    """One datagram in the outbox. `number` grows; `answers` is the digest of the received message that caused it."""

    number: int
    next_hop: PartyId
    datagram: bytes
    attempts: int


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

    def scan(self, collection: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield the records whose key begins with `prefix`, in key order."""

    def post(self, procedure: ProcedureId, next_hop: PartyId, datagram: bytes, answers: bytes, expires_at: int) -> None:
        """Put one datagram into the outbox; it is sent only after the commit, and not after it expired."""

    def post_again(self, procedure: ProcedureId, answers: bytes) -> None:
        """Make the stored answers to one message due again, byte for byte."""

    def is_posted(self, procedure: ProcedureId, answers: bytes) -> bool:
        """Say whether the outbox holds an answer to one message, delivered or not."""

    def outbox(self, now: int, limit: int) -> Sequence[Posted]:
        """Return datagrams not yet acknowledged, due and not expired, oldest first."""

    def delivered(self, number: int) -> None:
        """Record that the next hop has this datagram durably."""

    def postpone(self, number: int, due: int) -> None:
        """Count one failed attempt and set when to try again (microseconds since the epoch)."""

    def undelivered(self, now: int) -> int:
        """Count the datagrams, not expired, that no next hop has acknowledged."""

    def journal(self, taken: Taken) -> None:
        """Append one accepted step."""

    def taken(self, procedure: ProcedureId) -> Sequence[Taken]:
        """Return the accepted steps of one procedure, in the order they were accepted."""


class Store(Protocol):
    """One party's durable state."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Open a transaction: committed on a clean exit, rolled back on any exception."""

    def close(self) -> None:
        """Release the store."""


class Transport(Protocol):
    """Carries a datagram one hop. Returning means that the next hop has it durably; anything else is `LineError`."""

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        """Hand over one datagram. Raises `LineError` if no receipt came back; the sender tries again later."""
