"""A `Node`: one party, its identity, its store, and the only place where step functions run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha384
from typing import Any

from qsotn import wire
from qsotn.crypto.identity import Identity, TrustAnchors
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, LineId, PartyId, ProcedureId, Role, role_of
from qsotn.errors import LineError, PeerError, WrongParty
from qsotn.interfaces import BY_NAME, Seat
from qsotn.messages import EncryptedLine, Message, ProcedureRefusal
from qsotn.parties.cpe import Cpe
from qsotn.parties.desk import Desk
from qsotn.parties.km import Km
from qsotn.parties.pmp import Pmp
from qsotn.parties.pomp import Pomp
from qsotn.parties.qkmp import Qkmp
from qsotn.parties.qssp import Qssp
from qsotn.ports import Posted, Store, Taken, Transaction, Transport
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import Step, heard_key
from qsotn.procedures.turn import Row, State, Turn, Work
from qsotn.runtime import admission
from qsotn.runtime.failing import DECISIONS, as_refusal, fail, hear_refusal
from qsotn.runtime.posting import Poster

PARTIES: dict[Role, Callable[[Desk], Any]] = {
    Role.POMP: Pomp,
    Role.PMP: Pmp,
    Role.QSSP: Qssp,
    Role.KM: Km,
    Role.QKMP: Qkmp,
    Role.CPE: Cpe,
}
FIRST_RETRY_US = 20_000
LAST_RETRY_US = 5_000_000
COURIER = ProcedureId("courier")


class Node:
    """One party at work. `begin` gives it orders, `receive` datagrams, `flush` sends what it has to say."""

    def __init__(
        self,
        identity: Identity,
        anchors: TrustAnchors,
        store: Store,
        vault: Vault,
        entropy: Entropy,
        clock: Callable[[], int],
        courier: PartyId | None = None,
    ) -> None:
        self.identity = identity
        self.party = identity.party
        self.role = role_of(identity.party)
        self.rejections: Counter[str] = Counter()
        """How many datagrams were refused, by the name of the error."""
        self.changes = 0
        """Grows with every datagram taken and every local command: whoever watches this party's records looks again."""
        self._anchors = anchors
        self._store = store
        self._vault = vault
        self._entropy = entropy
        self._clock = clock
        self._poster = Poster(identity, entropy, courier)
        self._receipts: list[int] = []
        self._may_have_mail = True

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Take one datagram. Returning is the receipt: everything it caused is durable.

        Raises `PeerError` with the state as before; the error's class is counted in `rejections`.
        """
        try:
            datagram = wire.unpack(data)
            if datagram.receiver != self.party:
                self._forward(datagram, data)
            else:
                self._handle(datagram)
        except PeerError as error:
            self.rejections[type(error).__name__] += 1
            raise

    def begin(self, start: Callable[[Any, Work], object]) -> None:
        """Run a local command of this party (an operator's order, a timer) in one transaction."""
        with self._work() as work:
            start(self._seated(work.desk), work)
            self._poster.post_all(work, b"")

    def line_encrypted(self, line: LineId, generation: int, armed_at: int) -> None:
        """Take the line's own word (Figure 4, step 12): both ends proved this generation's keys in band."""
        message = EncryptedLine(line, generation)
        with self._work() as work:
            for row in list(work.stored.values()):
                if row.subject == line and row.state is State.RUNNING:
                    for step, far in LADDERS[row.ladder].awaited(row.seat, row.heard):
                        if step.on_line:
                            self._take_from_line(work, work.add(row), step, far, message, armed_at)
            self._poster.post_all(work, b"")

    def tick(self) -> None:
        """Fail what is past its deadline."""
        with self._work() as work:
            for row in list(work.stored.values()):
                if row.state is State.RUNNING and row.deadline <= work.desk.now:
                    late = ProcedureRefusal("TIMEOUT", f"{row.ladder} of {row.subject} did not end in time")
                    fail(work, self._seated(work.desk), work.add(row), late, None)
            self._poster.post_all(work, b"")

    # --- out --------------------------------------------------------------------------------------------------------

    def flush(self, transport: Transport, limit: int = 64) -> int:
        """Hand over what is due; return how many datagrams got their receipt."""
        if not self._may_have_mail:
            return 0
        now = self._clock()
        with self._transaction() as transaction:
            due = transaction.outbox(now, limit)
        if not due:
            self.settle()
        return sum(self._hand_over(transport, posted, now) for posted in due)

    def _hand_over(self, transport: Transport, posted: Posted, now: int) -> bool:
        try:
            transport.send(self.party, posted.next_hop, posted.datagram)
        except LineError:
            delay = min(FIRST_RETRY_US << min(posted.attempts, 16), LAST_RETRY_US)
            with self._transaction() as transaction:
                transaction.postpone(posted.number, now + delay)
            return False
        self._receipts.append(posted.number)
        return True

    def settle(self) -> int:
        """Write down the receipts that came in; return how many datagrams still wait for one."""
        with self._transaction() as transaction:
            waiting = transaction.undelivered(self._clock())
        self._may_have_mail = waiting > 0
        return waiting

    # --- transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        # A receipt may be written late: if it is lost, the receiver sees, and recognises, the same bytes again.
        receipts = list(self._receipts)
        with self._store.transaction() as transaction:
            for number in receipts:
                transaction.delivered(number)
            yield transaction
        del self._receipts[: len(receipts)]

    @contextmanager
    def _work(self) -> Iterator[Work]:
        with self._transaction() as transaction:
            work = Work(self._desk(transaction))
            yield work
            for row in work.rows.values():
                work.stored.put(row.key, row)
        self.changes += 1
        self._may_have_mail = True

    @contextmanager
    def desk(self) -> Iterator[Any]:
        """Open this party's desk: its records, in one transaction that is committed at the end."""
        with self._transaction() as transaction:
            yield self._seated(self._desk(transaction))

    @contextmanager
    def rows(self) -> Iterator[list[Row]]:
        """Read this party's rows of all procedures."""
        with self._transaction() as transaction:
            yield list(Work(self._desk(transaction)).stored.values())

    def _desk(self, transaction: Transaction) -> Desk:
        return Desk(self.identity, self._anchors, transaction, self._vault, self._entropy, self._clock())

    def _seated(self, desk: Desk) -> Any:
        return PARTIES[self.role](desk)

    # --- handling ---------------------------------------------------------------------------------------------------

    def _handle(self, datagram: wire.Datagram) -> None:
        try:
            with self._work() as work:
                self._take(work, self._open(work.desk, datagram))
        except DECISIONS as no:
            # What the step function did is rolled back; that it refused is a change of its own.
            with self._work() as work:
                self._refuse(work, self._open(work.desk, datagram), as_refusal(no))

    def _open(self, desk: Desk, datagram: wire.Datagram) -> wire.Received[Message]:
        for chain in datagram.introductions:
            if desk.certificates.get(desk.verify_chain(chain).party) is None:
                desk.remember(chain)
        received = wire.open_datagram(datagram, self.identity, desk.peer)
        admission.check_window(received.envelope, desk.now)
        return received

    def _take(self, work: Work, received: wire.Received[Message]) -> None:
        envelope = received.envelope
        ladder = admission.ladder_of(envelope)
        if isinstance(received.message, ProcedureRefusal):
            hear_refusal(work, self._seated(work.desk), received, received.message)
        else:
            step = admission.step_of(ladder, received)
            row = admission.row_for(work, ladder, step, received)
            if row is None:
                work.desk.transaction.post_again(envelope.procedure, received.digest)
            else:
                self._act(work, row, step, received)
        self._poster.post_all(work, received.digest)

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

    def _take_from_line(
        self, work: Work, row: Row, step: Step, far: Seat, message: EncryptedLine, armed_at: int
    ) -> None:
        row.heard[heard_key(step.label, far)] = b"line"
        step.act(self._seated(work.desk), Turn(work, row, message, row.seats[far], far))
        self._note(work, row, step, row.seats[far], armed_at)

    def _note(self, work: Work, row: Row, step: Step, sender: PartyId, issued_at: int) -> None:
        taken = Taken(
            procedure=row.procedure,
            ladder=row.ladder,
            number=step.number,
            part=step.part,
            message=step.message.__name__,
            sender=sender,
            receiver=self.party,
            interface=step.interface.name,
            issued_at=issued_at,
            accepted_at=self._clock(),
        )
        work.desk.transaction.journal(taken)
        if row.state is State.RUNNING and not LADDERS[row.ladder].awaited(row.seat, row.heard):
            row.state = State.COMPLETED

    def _refuse(self, work: Work, received: wire.Received[Message], refusal: ProcedureRefusal) -> None:
        ladder = admission.ladder_of(received.envelope)
        step = admission.step_of(ladder, received)
        row = admission.row_for(work, ladder, step, received)
        if row is not None:
            _hear(row, step, received)
            fail(work, self._seated(work.desk), row, refusal, None, received.message)
        self._poster.post_all(work, received.digest)

    # --- courier ----------------------------------------------------------------------------------------------------

    def _forward(self, datagram: wire.Datagram, data: bytes) -> None:
        """Pass on what is sealed between two others, unread (the PMP on Iaq)."""
        if BY_NAME[datagram.interface].courier is not self.role:
            raise WrongParty(f"{self.party} is no courier for {datagram.receiver} on {datagram.interface}")
        with self._work() as work:
            self._seated(work.desk).open_gate(datagram.sender, datagram.receiver)
            transaction, name = work.desk.transaction, sha384(data).digest()
            if transaction.is_posted(COURIER, name):
                transaction.post_again(COURIER, name)
            else:
                transaction.post(COURIER, datagram.receiver, data, name, work.desk.now + admission.LIFETIME_US)


def _hear(row: Row, step: Step, received: wire.Received[Message]) -> None:
    envelope = received.envelope
    row.heard[heard_key(step.label, envelope.sender_seat)] = received.digest
    row.seats.setdefault(envelope.sender_seat, envelope.sender)
