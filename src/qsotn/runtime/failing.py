"""How a refusal travels: along the edges the procedure has used, each party undoing its own part once."""

from __future__ import annotations

from qsotn import wire
from qsotn.domain import role_of
from qsotn.errors import KeyReuse, KeyShortage, Refusal, WrongParty
from qsotn.interfaces import Seat
from qsotn.messages import Message, ProcedureRefusal
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.turn import Outgoing, Row, State, Turn, Work

DECISIONS = (Refusal, KeyShortage, KeyReuse)
"""What a step function raises to end a procedure; everything else leaves the row as it was."""


def as_refusal(no: Refusal | KeyShortage | KeyReuse) -> ProcedureRefusal:
    """Put a decision into the words that travel."""
    match no:
        case Refusal():
            return ProcedureRefusal(no.code, no.detail)
        case KeyShortage():
            return ProcedureRefusal("KEY_SHORTAGE", str(no))
        case _:
            return ProcedureRefusal("KEY_REUSED", str(no))


def hear_refusal(work: Work, party: object, received: wire.Received[Message], refusal: ProcedureRefusal) -> None:
    """Take a neighbour's refusal. Raises `WrongParty` for a stranger, or for seats that never meet in this ladder."""
    envelope = received.envelope
    _check_edge(envelope)
    row = work.find(envelope.procedure, envelope.receiver_seat)
    if row is None:
        work.add(_stillborn(envelope, refusal, work.desk.now))
        return
    if row.ladder != envelope.ladder or row.seats.get(envelope.sender_seat) != envelope.sender:
        raise WrongParty(f"{envelope.sender} does not sit in {envelope.sender_seat} of {row.procedure}")
    heard = LADDERS[row.ladder].revocable.get(row.seat)
    if row.state is State.COMPLETED and heard is not None and envelope.sender_seat not in heard:
        return  # what this seat has completed is not for its neighbour to undo
    fail(work, party, row, refusal, envelope.sender_seat)


def _check_edge(envelope: wire.Envelope) -> None:
    seats = (envelope.sender_seat, envelope.receiver_seat)
    interface = LADDERS[envelope.ladder].interface_between(*seats)
    roles = (role_of(envelope.sender), role_of(envelope.receiver))
    if interface is None or interface.name != envelope.interface or roles != tuple(seat.role for seat in seats):
        raise WrongParty(f"{envelope!r} does not travel from {seats[0]} to {seats[1]} over {envelope.interface}")


def _stillborn(envelope: wire.Envelope, refusal: ProcedureRefusal, now: int) -> Row:
    """A refusal may overtake, or outlive, the message that would have begun this row: then it never begins."""
    seats = {envelope.receiver_seat: envelope.receiver, envelope.sender_seat: envelope.sender}
    row = Row(envelope.procedure, envelope.ladder, envelope.receiver_seat, "", seats, envelope.expires_at, now)
    row.state, row.failure = State.FAILED, refusal.code
    return row


def fail(
    work: Work,
    party: object,
    row: Row,
    refusal: ProcedureRefusal,
    came_from: Seat | None,
    refused: Message | None = None,
) -> None:
    """End a row: undo this party's part, tell every neighbour but the one it came from, end the rows that hang on it.

    A row that failed before is left alone. `refused` is the message that this party itself said no to.
    """
    if row.state is State.FAILED:
        return
    row.state, row.failure = State.FAILED, refusal.code
    ladder = LADDERS[row.ladder]
    undo = ladder.compensations.get(row.seat.role)
    if undo is not None:
        undo(party, Turn(work, row, refusal, work.desk.party, row.seat, refused=refused))
    for seat in _neighbours(row):
        if seat is not came_from and ladder.interface_between(row.seat, seat) is not None:
            work.outgoing.append(Outgoing(row, seat, refusal))
    while work.failing:
        further, reason = work.failing.pop()
        fail(work, party, further, reason, None)


def _neighbours(row: Row) -> list[Seat]:
    met = {Seat(key.partition(":")[2]) for key in (*row.heard, *row.said)}
    return sorted(seat for seat in met if seat in row.seats)
