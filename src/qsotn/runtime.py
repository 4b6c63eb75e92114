"""One party at work: receive → verify → handle → commit state, inbox and outbox together → send.

A `Node` is the only thing that runs step functions. What always holds:

- A datagram is opened, held against the ladder and the row, and handled inside one transaction. Any error rolls all
of it back,
  so a message that is forged, replayed, early, late or from the wrong party leaves no trace but a count.
- A row keeps the digest of everything it heard. The same bytes again get a receipt, and the stored answers become due
again byte
  for byte; other bytes for a step already heard are `ReplayedMessage`.
- Nothing is sent that is not committed. A datagram stays in the outbox until the next hop has it durably, so a crash
between
  any two writes loses nothing and repeats only what the receiver recognises.
"""

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
from qsotn.errors import (
    ExpiredMessage,
    KeyShortage,
    LineError,
    OutOfOrder,
    PeerError,
    Refusal,
    ReplayedMessage,
    WrongParty,
)
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
from qsotn.procedures.ladder import Ladder, Step, heard_key
from qsotn.procedures.turn import Outgoing, Row, State, Turn, Work

PARTIES: dict[Role, Callable[[Desk], Any]] = {
    Role.POMP: Pomp,
    Role.PMP: Pmp,
    Role.QSSP: Qssp,
    Role.KM: Km,
    Role.QKMP: Qkmp,
    Role.CPE: Cpe,
}
LIFETIME_US = 24 * 3600 * 1_000_000
"""The longest a procedure, and so a message, may live."""
SKEW_US = 300 * 1_000_000
"""How far ahead a peer's clock may be."""
FIRST_RETRY_US = 20_000
LAST_RETRY_US = 5_000_000
COURIER = ProcedureId("courier")


class Node:
    """One party: its identity, its store, and the rules above."""

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
        self.changes = 0
        """Grows with every datagram taken and every local command: whoever watches this party's records looks again."""
        self._anchors = anchors
        self._store = store
        self._vault = vault
        self._entropy = entropy
        self._clock = clock
        self._courier = courier
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
            start(self._seated(work), work)
            self._post_all(work, b"")

    def line_encrypted(self, line: str, generation: int, armed_at: int) -> None:
        """Take the line's own word (Figure 4, step 12): both ends proved this generation's keys in band."""
        with self._work() as work:
            for _, row in list(work.stored.items()):
                awaited = LADDERS[row.ladder].awaited(row.seat, row.heard) if row.state is State.RUNNING else []
                if row.subject == line and awaited and awaited[0][0].on_line:
                    self._take_from_line(
                        work, work.add(row), awaited[0], EncryptedLine(LineId(line), generation), armed_at
                    )
            self._post_all(work, b"")

    def tick(self) -> None:
        """Fail what is past its deadline."""
        with self._work() as work:
            for _, row in list(work.stored.items()):
                if row.state is State.RUNNING and row.deadline <= work.desk.now:
                    self._fail(work, work.add(row), ProcedureRefusal("TIMEOUT", f"{row.ladder} of {row.subject}"), None)
            self._post_all(work, b"")

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
            waiting: int = transaction.undelivered(self._clock())
        self._may_have_mail = waiting > 0
        return waiting

    # --- transactions -----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        # A receipt may be written late: losing it only means that the receiver sees, and recognises, the same bytes
        # again.
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
            yield self._seated(Work(self._desk(transaction)))

    @contextmanager
    def rows(self) -> Iterator[list[Row]]:
        """Read this party's rows of all procedures."""
        with self._transaction() as transaction:
            yield list(Work(self._desk(transaction)).stored.values())

    def _desk(self, transaction: Transaction) -> Desk:
        return Desk(self.identity, self._anchors, transaction, self._vault, self._entropy, self._clock())

    def _seated(self, work: Work) -> Any:
        return PARTIES[self.role](work.desk)

    # --- handling ---------------------------------------------------------------------------------------------------

    def _handle(self, datagram: wire.Datagram) -> None:
        try:
            with self._work() as work:
                self._take(work, self._open(work, datagram))
        except (Refusal, KeyShortage) as no:
            with self._work() as work:
                self._refuse(work, self._open(work, datagram), no)

    def _open(self, work: Work, datagram: wire.Datagram) -> wire.Received[Message]:
        desk = work.desk
        for chain in datagram.introductions:
            if desk.certificates.get(desk.verify_chain(chain).party) is None:
                desk.remember(chain)
        received = wire.open_datagram(datagram, self.identity, desk.peer)
        self._check_window(received.envelope, desk.now)
        return received

    def _check_window(self, envelope: wire.Envelope, now: int) -> None:
        if envelope.issued_at > now + SKEW_US or envelope.expires_at > envelope.issued_at + LIFETIME_US:
            raise ExpiredMessage(f"{envelope!r} claims a time or a lifetime that cannot be")
        if envelope.expires_at <= now:
            raise ExpiredMessage(f"{envelope!r} expired {(now - envelope.expires_at) / 1e6:.0f} s ago")

    def _take(self, work: Work, received: wire.Received[Message]) -> None:
        envelope = received.envelope
        ladder = _ladder(envelope)
        if isinstance(received.message, ProcedureRefusal):
            self._hear_refusal(work, received, received.message)
        else:
            step = self._step_of(ladder, received)
            row = self._row_for(work, ladder, step, received)
            if row is None:
                work.desk.transaction.post_again(envelope.procedure, received.digest)
                return
            self._act(work, row, step, received)
        self._post_all(work, received.digest)

    def _step_of(self, ladder: Ladder, received: wire.Received[Message]) -> Step:
        envelope = received.envelope
        if envelope.step not in ladder or ladder[envelope.step].message is not type(received.message):
            raise WrongParty(f"{ladder.name} has no step {envelope.step} with {envelope.message}")
        step = ladder[envelope.step]
        edge = (envelope.sender_seat, envelope.receiver_seat)
        if step.on_line or edge not in step.edges or step.interface.name != envelope.interface:
            raise WrongParty(f"{envelope!r} does not travel from {edge[0]} to {edge[1]} over {envelope.interface}")
        if role_of(envelope.sender) is not edge[0].role or self.role is not edge[1].role:
            raise WrongParty(f"{envelope!r}: {envelope.sender} cannot sit in {edge[0]}")
        return step

    def _row_for(self, work: Work, ladder: Ladder, step: Step, received: wire.Received[Message]) -> Row | None:
        """Return the row this message may advance, or None for one that was already taken."""
        envelope = received.envelope
        row = work.find(envelope.procedure, envelope.receiver_seat)
        if row is None:
            return self._opened(work, ladder, step, envelope)
        if row.ladder != ladder.name or row.seats.get(envelope.sender_seat, envelope.sender) != envelope.sender:
            raise WrongParty(f"{envelope.sender} does not sit in {envelope.sender_seat} of {row.procedure}")
        if row.state is State.FAILED:
            return None  # too late to matter: the receipt lets the sender stop
        known = row.heard.get(heard_key(step.label, envelope.sender_seat))
        if known is not None:
            if known != received.digest:
                raise ReplayedMessage(f"{envelope!r}: this step was taken with another message")
            return None
        self._check_awaited(ladder, row, step, envelope)
        return row

    def _opened(self, work: Work, ladder: Ladder, step: Step, envelope: wire.Envelope) -> Row:
        seat = envelope.receiver_seat
        if ladder.inbound(seat)[0] is not step or any(one is seat for one, _ in next(iter(ladder)).edges):
            raise OutOfOrder(f"{envelope!r}: {self.party} knows no such procedure yet")
        seats = {seat: self.party, envelope.sender_seat: envelope.sender}
        return work.add(Row(envelope.procedure, ladder.name, seat, "", seats, envelope.expires_at, work.desk.now))

    def _check_awaited(self, ladder: Ladder, row: Row, step: Step, envelope: wire.Envelope) -> None:
        if (step, envelope.sender_seat) not in ladder.awaited(row.seat, row.heard):
            raise OutOfOrder(f"{envelope!r} is not awaited now")
        if step.answers is not None:
            said = row.said.get(heard_key(step.answers, envelope.sender_seat))
            if said != envelope.answers:
                raise WrongParty(f"{envelope!r} answers another message than the one sent in step {step.answers}")

    def _act(self, work: Work, row: Row, step: Step, received: wire.Received[Message]) -> None:
        envelope = received.envelope
        row.heard[heard_key(step.label, envelope.sender_seat)] = received.digest
        row.seats.setdefault(envelope.sender_seat, envelope.sender)
        complete = self._complete(row, step)
        turn = Turn(
            work,
            row,
            received.message,
            envelope.sender,
            envelope.sender_seat,
            received.signed,
            received.digest,
            complete,
        )
        step.act(self._seated(work), turn)
        self._journal(work, row, step, envelope.sender, envelope.issued_at)

    def _complete(self, row: Row, step: Step) -> bool:
        return all(heard_key(step.label, sender) in row.heard for sender in step.senders_to(row.seat))

    def _take_from_line(
        self, work: Work, row: Row, awaited: tuple[Step, Seat], message: EncryptedLine, armed_at: int
    ) -> None:
        step, far = awaited
        row.heard[heard_key(step.label, far)] = b"line"
        step.act(self._seated(work), Turn(work, row, message, row.seats[far], far))
        self._journal(work, row, step, row.seats[far], armed_at)

    def _journal(self, work: Work, row: Row, step: Step, sender: PartyId, issued_at: int) -> None:
        work.desk.transaction.journal(
            Taken(
                row.procedure,
                row.ladder,
                step.number,
                step.part,
                step.message.__name__,
                sender,
                self.party,
                step.interface.name,
                issued_at,
                self._clock(),
            )
        )
        self._conclude(row)

    def _conclude(self, row: Row) -> None:
        ladder = LADDERS[row.ladder]
        if row.state is State.RUNNING and not ladder.awaited(row.seat, row.heard):
            row.state = State.COMPLETED

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _refuse(self, work: Work, received: wire.Received[Message], no: Refusal | KeyShortage) -> None:
        envelope = received.envelope
        ladder = _ladder(envelope)
        step = self._step_of(ladder, received)
        row = self._row_for(work, ladder, step, received)
        if row is None:
            return
        row.heard[heard_key(step.label, envelope.sender_seat)] = received.digest
        row.seats.setdefault(envelope.sender_seat, envelope.sender)
        code = no.code if isinstance(no, Refusal) else "KEY_SHORTAGE"
        self._fail(work, row, ProcedureRefusal(code, str(no)), None)
        self._post_all(work, received.digest)

    def _hear_refusal(self, work: Work, received: wire.Received[Message], refusal: ProcedureRefusal) -> None:
        envelope = received.envelope
        row = work.find(envelope.procedure, envelope.receiver_seat)
        if row is None:
            raise OutOfOrder(f"{envelope!r}: {self.party} knows no such procedure yet")
        if row.seats.get(envelope.sender_seat) != envelope.sender:
            raise WrongParty(f"{envelope.sender} does not sit in {envelope.sender_seat} of {row.procedure}")
        if row.state is not State.FAILED:
            self._fail(work, row, refusal, envelope.sender_seat)

    def _fail(self, work: Work, row: Row, refusal: ProcedureRefusal, came_from: Seat | None) -> None:
        row.state, row.failure = State.FAILED, refusal.code
        ladder = LADDERS[row.ladder]
        undo = ladder.compensations.get(self.role)
        if undo is not None:
            undo(self._seated(work), Turn(work, row, refusal, self.party, row.seat))
        while work.failing:
            further, reason = work.failing.pop()
            if further.state is not State.FAILED:
                self._fail(work, further, reason, None)
        for seat in _neighbours(row):
            if seat is not came_from and ladder.interface_between(row.seat, seat) is not None:
                work.outgoing.append(Outgoing(row, seat, refusal))

    # --- posting ----------------------------------------------------------------------------------------------------

    def _post_all(self, work: Work, cause: bytes) -> None:
        for outgoing in work.outgoing:
            self._post(work, outgoing, cause)
        work.outgoing.clear()

    def _post(self, work: Work, outgoing: Outgoing, cause: bytes) -> None:
        row, ladder = outgoing.row, LADDERS[outgoing.row.ladder]
        if isinstance(outgoing.message, ProcedureRefusal):
            label, interface, answers, introduces = (
                "refusal",
                ladder.interface_between(row.seat, outgoing.to),
                b"",
                False,
            )
        else:
            step = ladder.of_message(type(outgoing.message))
            if (row.seat, outgoing.to) not in step.edges:
                raise WrongParty(f"{ladder.name} step {step.label} does not go from {row.seat} to {outgoing.to}")
            answers = b"" if step.answers is None else row.heard[heard_key(step.answers, outgoing.to)]
            label, interface, introduces = step.label, step.interface, step.introduces
        if interface is None:
            raise WrongParty(f"{row.seat} and {outgoing.to} never meet in {row.ladder}")
        envelope = wire.Envelope(
            version=wire.VERSION,
            interface=interface.name,
            procedure=row.procedure,
            ladder=row.ladder,
            step=label,
            message=type(outgoing.message).__name__,
            sender=self.party,
            receiver=row.seats[outgoing.to],
            sender_seat=row.seat,
            receiver_seat=outgoing.to,
            issued_at=work.desk.now,
            expires_at=row.deadline,
            nonce=self._entropy(16),
            answers=answers,
            body=wire.body_of(outgoing.message),
        )
        self._dispatch(work, row, envelope, introduces, cause)

    def _dispatch(self, work: Work, row: Row, envelope: wire.Envelope, introduces: bool, cause: bytes) -> None:
        interface = BY_NAME[envelope.interface]
        signed = wire.sign(self.identity, envelope)
        row.said[heard_key(envelope.step, envelope.receiver_seat)] = wire.digest(signed)
        receiver = work.desk.peer(envelope.receiver) if interface.sealed else None
        datagram = wire.pack(interface, envelope, signed, receiver, self._introductions(work, introduces))
        hop = envelope.receiver if interface.courier is None or self._courier is None else self._courier
        work.desk.transaction.post(row.procedure, hop, wire.encode(datagram), cause, envelope.expires_at)

    def _introductions(self, work: Work, introduces: bool) -> tuple[tuple[bytes, ...], ...]:
        if not introduces:
            return ()
        known = (certificates.chain for certificates in work.desk.certificates.values("pomp/"))
        return (self.identity.chain, *known)

    # --- courier ----------------------------------------------------------------------------------------------------

    def _forward(self, datagram: wire.Datagram, data: bytes) -> None:
        """Pass on what is sealed between two others, unread (the PMP on Iaq)."""
        if BY_NAME[datagram.interface].courier is not self.role:
            raise WrongParty(f"{self.party} is no courier for {datagram.receiver} on {datagram.interface}")
        with self._work() as work:
            self._seated(work).open_gate(datagram.sender, datagram.receiver)
            expires_at = work.desk.now + LIFETIME_US
            work.desk.transaction.post(COURIER, datagram.receiver, data, sha384(data).digest(), expires_at)


def _ladder(envelope: wire.Envelope) -> Ladder:
    if envelope.ladder not in LADDERS:
        raise WrongParty(f"no procedure {envelope.ladder!r}")
    return LADDERS[envelope.ladder]


def _neighbours(row: Row) -> list[Seat]:
    met = {Seat(key.partition(":")[2]) for key in (*row.heard, *row.said)}
    return sorted(seat for seat in met if seat in row.seats)
