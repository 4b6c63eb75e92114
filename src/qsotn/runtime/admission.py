"""What a verified message must be before it may advance a row: in its window, of a step, seated, awaited, an answer."""

from __future__ import annotations

from dataclasses import dataclass

from qsotn import wire
from qsotn.domain import PartyId, role_of
from qsotn.errors import ExpiredMessage, OutOfOrder, ReplayedMessage, WrongParty
from qsotn.interfaces import BY_NAME
from qsotn.messages import Message
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Ladder, Step, heard_key
from qsotn.procedures.turn import Row, State, Work

LIFETIME_US = 24 * 3600 * 1_000_000
"""The longest a message, and so a procedure, may live."""
SKEW_US = 300 * 1_000_000
"""How far ahead a peer's clock may be."""


@dataclass(frozen=True)
class Bearer:
    """Who handed a datagram over, by its certificate on the connection, and over which interface, if over one alone."""

    party: PartyId
    interface: str | None


def check_bearer(datagram: wire.Datagram, bearer: Bearer) -> None:
    """Check that a datagram was handed over by its sender or by its interface's courier. Raises `WrongParty`."""
    couriered = BY_NAME[datagram.interface].courier is role_of(bearer.party)
    if bearer.party != datagram.sender and not couriered:
        raise WrongParty(f"{bearer.party} handed over a datagram of {datagram.sender}")
    if bearer.interface not in (None, datagram.interface):
        raise WrongParty(f"a datagram of {datagram.interface} was handed over on {bearer.interface}")


def check_window(envelope: wire.Envelope, now: int) -> None:
    """Hold a message against its own window of validity. Raises `ExpiredMessage`."""
    if envelope.issued_at > now + SKEW_US or envelope.expires_at > envelope.issued_at + LIFETIME_US:
        raise ExpiredMessage(f"{envelope!r} claims a time or a lifetime that cannot be")
    if envelope.expires_at <= now:
        raise ExpiredMessage(f"{envelope!r} expired {(now - envelope.expires_at) / 1e6:.0f} s ago")


def ladder_of(envelope: wire.Envelope) -> Ladder:
    """Return the ladder a message names. Raises `WrongParty` if there is none."""
    if envelope.ladder not in LADDERS:
        raise WrongParty(f"no procedure {envelope.ladder!r}")
    return LADDERS[envelope.ladder]


def step_of(ladder: Ladder, received: wire.Received[Message]) -> Step:
    """Return the step a message takes; both parties must have the roles of the seats it names. Raises `WrongParty`."""
    envelope = received.envelope
    if envelope.step not in ladder or ladder[envelope.step].message is not type(received.message):
        raise WrongParty(f"{ladder.name} has no step {envelope.step} with {envelope.message}")
    step = ladder[envelope.step]
    edge = (envelope.sender_seat, envelope.receiver_seat)
    if step.on_line or edge not in step.edges or step.interface.name != envelope.interface:
        raise WrongParty(f"{envelope!r} does not travel from {edge[0]} to {edge[1]} over {envelope.interface}")
    for party, seat in zip((envelope.sender, envelope.receiver), edge, strict=True):
        if role_of(party) is not seat.role:
            raise WrongParty(f"{envelope!r}: {party} cannot sit in {seat}")
    return step


def row_for(work: Work, ladder: Ladder, step: Step, received: wire.Received[Message]) -> Row | None:
    """Return the row this message may advance, or None for one that changes nothing any more.

    Raises `WrongParty`, `ReplayedMessage` or `OutOfOrder`.
    """
    envelope = received.envelope
    row = work.find(envelope.procedure, envelope.receiver_seat)
    if row is None:
        return _opened(work, ladder, step, envelope)
    if row.ladder != ladder.name or row.seats.get(envelope.sender_seat, envelope.sender) != envelope.sender:
        raise WrongParty(f"{envelope.sender} does not sit in {envelope.sender_seat} of {row.procedure}")
    known = row.heard.get(heard_key(step.label, envelope.sender_seat))
    if known is not None and known != received.digest:
        raise ReplayedMessage(f"{envelope!r}: this step was taken with another message")
    if known is not None or row.state is State.FAILED:
        return None  # heard before, or too late to matter: the receipt lets the sender stop
    _check_awaited(ladder, row, step, envelope)
    return row


def _opened(work: Work, ladder: Ladder, step: Step, envelope: wire.Envelope) -> Row:
    seat, party = envelope.receiver_seat, envelope.receiver
    initiates = any(seat is sender for sender, _ in next(iter(ladder)).edges)
    if initiates or ladder.inbound(seat)[0] is not step:
        raise OutOfOrder(f"{envelope!r}: {party} knows no such procedure yet")
    seats = {seat: party, envelope.sender_seat: envelope.sender}
    return work.add(Row(envelope.procedure, ladder.name, seat, "", seats, envelope.expires_at, work.desk.now))


def _check_awaited(ladder: Ladder, row: Row, step: Step, envelope: wire.Envelope) -> None:
    if (step, envelope.sender_seat) not in ladder.awaited(row.seat, row.heard):
        raise OutOfOrder(f"{envelope!r} is not awaited now")
    if step.answers is not None:
        said = row.said.get(heard_key(step.answers, envelope.sender_seat))
        if not said or said != envelope.answers:
            raise WrongParty(f"{envelope!r} answers another message than the one sent in step {step.answers}")
