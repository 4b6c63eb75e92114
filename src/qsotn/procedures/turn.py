"""What a step function gets, and what it may ask for: one received message and the procedure's row.

A step function reads the message, lets its party decide, and *sends*; nothing leaves before the runtime has committed
everything at once. A function that raises changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

from qsotn import wire
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import ExpiredMessage, ReplayedMessage, StoreError, WrongParty
from qsotn.interfaces import Seat
from qsotn.messages import Chain, Message, ProcedureRefusal
from qsotn.parties.desk import Collection, Desk

M = TypeVar("M")
E = TypeVar("E", bound=Message)


class State(StrEnum):
    """Where a seat's part of a procedure stands."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class Row(msgspec.Struct):
    """One seat's part of one procedure. `heard` and `said` map `"3:cpe-a"` to the digest of the signed message."""

    procedure: ProcedureId
    ladder: str
    seat: Seat
    subject: str
    seats: dict[Seat, PartyId]
    deadline: int
    started: int
    heard: dict[str, bytes] = {}
    said: dict[str, bytes] = {}
    state: State = State.RUNNING
    failure: str = ""
    generation: int = 0
    """Which generation of session keys this run is about, where it is about one."""

    @property
    def key(self) -> str:
        """The row's key in its collection."""
        return row_key(self.procedure, self.seat)


def row_key(procedure: ProcedureId, seat: Seat) -> str:
    """The key of one seat's row."""
    return f"{procedure}/{seat}"


@dataclass(frozen=True)
class Outgoing:
    """A message to be signed, addressed to a seat of a row."""

    row: Row
    to: Seat
    message: Message


@dataclass
class Work:
    """All that one transaction touches: rows by key, and messages in the order they were sent."""

    desk: Desk
    rows: dict[str, Row] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    failing: list[tuple[Row, ProcedureRefusal]] = field(default_factory=list)
    """Further rows that fail because this one did."""

    @property
    def stored(self) -> Collection[Row]:
        """The rows as the store has them."""
        return self.desk.collection("procedures", Row)

    def find(self, procedure: ProcedureId, seat: Seat) -> Row | None:
        """Return a row as it stands in this transaction."""
        key = row_key(procedure, seat)
        if key not in self.rows:
            stored = self.stored.get(key)
            if stored is None:
                return None
            self.rows[key] = stored
        return self.rows[key]

    def add(self, row: Row) -> Row:
        """Begin a row."""
        self.rows[row.key] = row
        return row


@dataclass
class Turn(Generic[M]):
    """One message taken by one seat: `message` is verified, `signed` are its author's exact bytes.

    `complete` says that every sender of this step has now been heard (both ends, where a step has two).
    """

    work: Work
    row: Row
    message: M
    sender: PartyId
    sender_seat: Seat
    signed: bytes = field(default=b"", repr=False)
    digest: bytes = b""
    complete: bool = True
    refused: Message | None = None
    """In a compensation: the message this party itself refused, whose step function was rolled back."""

    def send(self, to: Seat, message: Message) -> None:
        """Send a message of this ladder to the party that sits in `to`."""
        if to not in self.row.seats:
            raise WrongParty(f"nobody sits in {to} of {self.row.procedure}")
        self.work.outgoing.append(Outgoing(self.row, to, message))

    def seat(self, seat: Seat, party: PartyId) -> None:
        """Bind a party to a seat. Raises `WrongParty` if another party, or the wrong role, would sit there."""
        if not party.startswith(f"{seat.role}/"):
            raise WrongParty(f"{party} cannot sit in {seat} of {self.row.procedure}")
        if self.row.seats.setdefault(seat, party) != party:
            raise WrongParty(f"{self.row.seats[seat]} sits in {seat} of {self.row.procedure}, not {party}")

    def open(
        self, ladder: str, procedure: ProcedureId, seat: Seat, subject: str, seats: dict[Seat, PartyId]
    ) -> Turn[None]:
        """Begin a further procedure in the same transaction, with this party in `seat`."""
        row = Row(procedure, ladder, seat, subject, {**seats, seat: self.work.desk.party}, self.row.deadline, self.now)
        return Turn(self.work, self.work.add(row), None, self.work.desk.party, seat)

    def resume(self, procedure: ProcedureId, seat: Seat) -> Turn[None]:
        """Go on with another row of this party. Raises `StoreError` if there is none."""
        row = self.work.find(procedure, seat)
        if row is None:
            raise StoreError(f"{self.work.desk.party} has no procedure {procedure} in seat {seat}")
        return Turn(self.work, row, None, self.work.desk.party, seat)

    def evidence(self, expected: type[E], signed: bytes, author: PartyId) -> wire.Received[E]:
        """Verify a message of this very procedure that another party relays. Raises `ReplayedMessage` for another's."""
        return self._of_this_procedure(self.work.desk.open_as(expected, signed, author))

    def introduced(
        self, expected: type[E], signed: bytes, author: PartyId, chain_of: Callable[[E], Chain]
    ) -> wire.Received[E]:
        """Like `evidence`, for an author whose certificates are in the message itself."""
        return self._of_this_procedure(self.work.desk.open_introduced(expected, signed, author, chain_of))

    def _of_this_procedure(self, received: wire.Received[E]) -> wire.Received[E]:
        shown = received.envelope
        if (shown.procedure, shown.ladder) != (self.row.procedure, self.row.ladder):
            raise ReplayedMessage(f"{shown!r} was shown as evidence in {self.row.ladder} {self.row.procedure}")
        if shown.expires_at <= self.now:
            raise ExpiredMessage(f"{shown!r} was shown after its time")
        return received

    def fail(self, procedure: ProcedureId, seat: Seat, refusal: ProcedureRefusal) -> None:
        """Fail another row of this party too, for the same reason."""
        self.work.failing.append((self.resume(procedure, seat).row, refusal))

    @property
    def now(self) -> int:
        """Microseconds since the epoch."""
        return self.work.desk.now

    @property
    def procedure(self) -> ProcedureId:
        """The procedure this message belongs to."""
        return self.row.procedure

    @property
    def subject(self) -> str:
        """What the procedure is about: a CPE, or a line."""
        return self.row.subject
