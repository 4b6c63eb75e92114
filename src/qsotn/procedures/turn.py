"""What a step function gets, and what it may ask for: one received message and the procedure's row.

A step function reads the message, lets its party decide, and *sends*; nothing leaves before the runtime has committed
everything at once. A function that raises changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, TypeVar

import msgspec

from qsotn import wire
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import ExpiredMessage, ReplayedMessage, StoreError, WrongParty
from qsotn.interfaces import Seat
from qsotn.messages import Chain, Message, ProcedureRefusal
from qsotn.parties.desk import Desk
from qsotn.ports import StoredRow, Taken

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
    traceparent: str = ""
    """The trace this run belongs to (W3C Trace Context), the same at every party."""
    version: int = 0
    """Grows with every transaction that changed the row."""

    @property
    def key(self) -> str:
        """The row's name within its party."""
        return row_key(self.procedure, self.seat)

    def copy(self) -> Row:
        """Return a row that can change without this one."""
        return msgspec.structs.replace(self, heard=dict(self.heard), said=dict(self.said), seats=dict(self.seats))

    def stored(self) -> StoredRow:
        """The row as a store keeps it."""
        running, content = self.state is State.RUNNING, msgspec.json.encode(self)
        return StoredRow(self.procedure, self.seat, self.ladder, self.subject, running, self.deadline, content)


def row_key(procedure: ProcedureId, seat: Seat) -> str:
    """The name of one seat's row."""
    return f"{procedure}/{seat}"


_ROW: Final = msgspec.json.Decoder(Row)


def read_row(content: bytes) -> Row:
    """Inverse of `Row.stored`. Raises `StoreError` for anything else."""
    try:
        return _ROW.decode(content)
    except msgspec.DecodeError as error:
        raise StoreError(f"a stored row is not one: {error}") from None


@dataclass(frozen=True)
class Outgoing:
    """A message to be signed, addressed to a seat of a row."""

    row: Row
    to: Seat
    message: Message


@dataclass
class Work:
    """All that one message, or one order, changes: rows by key, and messages in the order they were sent.

    `settled` are rows as earlier messages of the same transaction left them; they are not in the store yet.
    """

    desk: Desk
    settled: Mapping[str, Row] = field(default_factory=dict)
    loaded: dict[str, bytes] = field(default_factory=dict)
    """What the store has of the rows that were looked at."""
    traceparent: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    failing: list[tuple[Row, ProcedureRefusal]] = field(default_factory=list)
    """Further rows that fail because this one did."""
    taken: list[Taken] = field(default_factory=list)
    """The steps accepted, for whoever watches."""

    def find(self, procedure: ProcedureId, seat: Seat) -> Row | None:
        """Return a row as it stands in this transaction."""
        key = row_key(procedure, seat)
        if key not in self.rows:
            row = self._earlier(key) or self._stored(procedure, seat)
            if row is None:
                return None
            self.rows[key] = row
        return self.rows[key]

    def _earlier(self, key: str) -> Row | None:
        settled = self.settled.get(key)
        return None if settled is None else settled.copy()

    def _stored(self, procedure: ProcedureId, seat: Seat) -> Row | None:
        content = self.desk.transaction.row(procedure, seat)
        if content is None:
            return None
        self.loaded[row_key(procedure, seat)] = content
        return read_row(content)

    def about(self, subject: str) -> list[Row]:
        """Return the running rows about one subject (a device, a line)."""
        return [row for row in self._known(self.desk.transaction.rows_about(subject)) if row.subject == subject]

    def late(self, limit: int) -> list[Row]:
        """Return running rows that are past their deadline."""
        rows = self._known(self.desk.transaction.late_rows(self.desk.now, limit))
        return [row for row in rows if row.deadline <= self.desk.now]

    def _known(self, contents: Iterable[bytes]) -> list[Row]:
        """Stored rows and those of this transaction, each as it stands now, if it runs."""
        found = {row.key: row for row in map(read_row, contents)} | dict(self.settled)
        rows = (self.find(row.procedure, row.seat) for row in (found | self.rows).values())
        return [row for row in rows if row is not None and row.state is State.RUNNING]

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
        row.traceparent = self.row.traceparent
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
