"""What one datagram does: opened, held against the ladder and the row, handed to its step function.

The only place where step functions run. A step function that decides *no* is undone, and its refusal is what the
datagram did instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha384
from typing import Any, Final

from qsotn import wire
from qsotn.crypto.certificates import read_certificate
from qsotn.domain import LineId, PartyId, ProcedureId, Role
from qsotn.errors import WrongParty
from qsotn.interfaces import BY_NAME, Seat
from qsotn.messages import Chain, EncryptedLine, Message, ProcedureRefusal
from qsotn.parties.cpe import Cpe
from qsotn.parties.desk import Desk
from qsotn.parties.km import Km
from qsotn.parties.pmp import Pmp
from qsotn.parties.pomp import Pomp
from qsotn.parties.qkmp import Qkmp
from qsotn.parties.qssp import Qssp
from qsotn.ports import Taken
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Step, heard_key
from qsotn.procedures.turn import Row, State, Turn, Work
from qsotn.runtime import admission
from qsotn.runtime.batch import COURIER, Batch, Forward
from qsotn.runtime.failing import DECISIONS, as_refusal, fail, hear_refusal

PARTIES: Final[dict[Role, Callable[[Desk], Any]]] = {
    Role.POMP: Pomp,
    Role.PMP: Pmp,
    Role.QSSP: Qssp,
    Role.KM: Km,
    Role.QKMP: Qkmp,
    Role.CPE: Cpe,
}


@dataclass(frozen=True)
class Handler:
    """Takes datagrams, the line's own word, and the clock's, for a party of one role."""

    role: Role
    clock: Callable[[], int]

    def take(self, batch: Batch, data: bytes, bearer: admission.Bearer | None) -> ProcedureId:
        """Take one datagram and return the procedure it belongs to. Raises `PeerError` with nothing changed."""
        datagram = wire.unpack(data)
        if bearer is not None:
            admission.check_bearer(datagram, bearer)
        if datagram.receiver == batch.desk.party:
            return self._handle(batch, datagram)
        self._forward(batch, datagram, data)
        return COURIER

    def _handle(self, batch: Batch, datagram: wire.Datagram) -> ProcedureId:
        try:
            with batch.part(datagram.traceparent) as work:
                received = _open(work.desk, datagram)
                self._take(work, received)
        except DECISIONS as no:
            # What the step function did is rolled back; that it refused is a change of its own.
            with batch.part(datagram.traceparent) as work:
                received = _open(work.desk, datagram)
                self._refuse(work, received, as_refusal(no))
        batch.answer(work, received.digest)
        return received.envelope.procedure

    def _take(self, work: Work, received: wire.Received[Message]) -> None:
        ladder = admission.ladder_of(received.envelope)
        if isinstance(received.message, ProcedureRefusal):
            hear_refusal(work, self._seated(work.desk), received, received.message)
            return
        step = admission.step_of(ladder, received)
        row = admission.row_for(work, ladder, step, received)
        if row is None:
            work.desk.transaction.post_again(received.envelope.procedure, received.digest)
        else:
            self._act(work, row, step, received)

    def _act(self, work: Work, row: Row, step: Step, received: wire.Received[Message]) -> None:
        envelope = received.envelope
        _hear(row, step, received)
        complete = all(heard_key(step.label, sender) in row.heard for sender in step.senders_to(row.seat))
        turn = Turn(
            work=work,
            row=row,
            message=received.message,
            sender=envelope.sender,
            sender_seat=envelope.sender_seat,
            signed=received.signed,
            digest=received.digest,
            complete=complete,
        )
        step.act(self._seated(work.desk), turn)
        self._note(work, row, step, envelope.sender, envelope.issued_at)

    def _refuse(self, work: Work, received: wire.Received[Message], refusal: ProcedureRefusal) -> None:
        ladder = admission.ladder_of(received.envelope)
        step = admission.step_of(ladder, received)
        row = admission.row_for(work, ladder, step, received)
        if row is not None:
            _hear(row, step, received)
            fail(work, self._seated(work.desk), row, refusal, None, received.message)

    # --- what no datagram brings ------------------------------------------------------------------------------------

    def take_from_line(self, batch: Batch, line: LineId, generation: int, armed_at: int) -> None:
        """Advance the procedures that wait for this line to be encrypted (Figure 4, step 12)."""
        message = EncryptedLine(line, generation)
        with batch.part() as work:
            # What waits for an older generation waits no longer; a newer one has not been proved by this.
            for row in (row for row in work.about(line) if row.generation <= generation):
                for step, far in LADDERS[row.ladder].awaited(row.seat, row.heard):
                    if step.on_line:
                        self._prove(work, row, step, far, message, armed_at)
        batch.answer(work, b"")

    def _prove(self, work: Work, row: Row, step: Step, far: Seat, message: EncryptedLine, armed_at: int) -> None:
        row.heard[heard_key(step.label, far)] = b"line"
        step.act(self._seated(work.desk), Turn(work, row, message, row.seats[far], far))
        self._note(work, row, step, row.seats[far], armed_at)

    def fail_late(self, batch: Batch, limit: int) -> None:
        """Fail procedures that did not end in time."""
        with batch.part() as work:
            for row in work.late(limit):
                late = ProcedureRefusal("TIMEOUT", f"{row.ladder} of {row.subject} did not end in time")
                fail(work, self._seated(work.desk), row, late, None)
        batch.answer(work, b"")

    def _note(self, work: Work, row: Row, step: Step, sender: PartyId, issued_at: int) -> None:
        taken = Taken(
            procedure=row.procedure,
            ladder=row.ladder,
            number=step.number,
            part=step.part,
            message=step.message.__name__,
            sender=sender,
            receiver=work.desk.party,
            interface=step.interface.name,
            issued_at=issued_at,
            accepted_at=self.clock(),
        )
        work.desk.transaction.journal(taken)
        work.taken.append(taken)
        if row.state is State.RUNNING and not LADDERS[row.ladder].awaited(row.seat, row.heard):
            row.state = State.COMPLETED

    # --- courier ----------------------------------------------------------------------------------------------------

    def _forward(self, batch: Batch, datagram: wire.Datagram, data: bytes) -> None:
        """Pass on what is sealed between two others, unread (the PMP on Iaq)."""
        if BY_NAME[datagram.interface].courier is not self.role:
            raise WrongParty(f"{batch.desk.party} is no courier for {datagram.receiver} on {datagram.interface}")
        with batch.part() as work:
            self._seated(work.desk).open_gate(datagram.sender, datagram.receiver)
            transaction, name = work.desk.transaction, sha384(data).digest()
            if transaction.is_posted(COURIER, name):
                transaction.post_again(COURIER, name)
                return
        batch.forwards[name] = Forward(
            datagram.receiver, data, batch.desk.now + admission.LIFETIME_US, datagram.interface
        )

    def _seated(self, desk: Desk) -> Any:
        return PARTIES[self.role](desk)


def _open(desk: Desk, datagram: wire.Datagram) -> wire.Received[Message]:
    for chain in datagram.introductions:
        _take_introduction(desk, chain)
    received = wire.open_datagram(datagram, desk.identity, desk.peer)
    admission.check_window(received.envelope, desk.now)
    return received


def _take_introduction(desk: Desk, chain: Chain) -> None:
    """Keep a party's certificate if it is the first one seen, or a renewal of it. Raises `BadProof`."""
    known = desk.certificates.get(desk.verify_chain(chain).party)
    if known is None or (known.chain != chain and _expiry(chain) > _expiry(known.chain)):
        desk.remember(chain)


def _expiry(chain: Chain) -> datetime:
    return read_certificate(chain[0]).not_valid_after_utc


def _hear(row: Row, step: Step, received: wire.Received[Message]) -> None:
    envelope = received.envelope
    row.heard[heard_key(step.label, envelope.sender_seat)] = received.digest
    row.seats.setdefault(envelope.sender_seat, envelope.sender)
