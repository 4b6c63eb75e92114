"""How an answer leaves: from a message a step function sent to a signed, sealed, stored datagram."""

from __future__ import annotations

from dataclasses import dataclass

from qsotn import wire
from qsotn.crypto.identity import Identity
from qsotn.domain import Entropy, PartyId
from qsotn.errors import WrongParty
from qsotn.interfaces import BY_NAME, Interface, Seat
from qsotn.messages import Chain, Message, ProcedureRefusal
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import heard_key
from qsotn.procedures.turn import Outgoing, Row, Work

REFUSAL = "refusal"
"""The label of the one message that is no step: it may travel wherever the procedure has been."""
REFUSAL_LIFETIME_US = 3600 * 1_000_000
"""A refusal outlives its procedure: a timeout is told after the deadline that it tells of."""


@dataclass(frozen=True)
class _Way:
    """How one message travels: its label, its interface, what it answers, whether it brings certificates."""

    label: str
    interface: Interface
    answers: bytes
    introduces: bool


@dataclass(frozen=True)
class Poster:
    """Signs and stores what one party sends. `courier` is handed the datagrams of interfaces that have one."""

    identity: Identity
    entropy: Entropy
    courier: PartyId | None

    def post_all(self, work: Work, cause: bytes) -> None:
        """Put everything that was sent in this transaction into the outbox, as the answer to `cause`."""
        for outgoing in work.outgoing:
            self._post(work, outgoing, cause)
        work.outgoing.clear()

    def _post(self, work: Work, outgoing: Outgoing, cause: bytes) -> None:
        row, way = outgoing.row, _way_of(outgoing.row, outgoing.to, outgoing.message)
        envelope = self._envelope(work.desk.now, row, way, outgoing)
        signed = wire.sign(self.identity, envelope)
        row.said[heard_key(way.label, outgoing.to)] = wire.digest(signed)
        receiver = work.desk.peer(envelope.receiver) if way.interface.sealed else None
        introductions = self._introductions(work) if way.introduces else ()
        datagram = wire.pack(way.interface, envelope, signed, receiver, introductions)
        hop = self._next_hop(envelope)
        work.desk.transaction.post(row.procedure, hop, wire.encode(datagram), cause, envelope.expires_at)

    def _envelope(self, now: int, row: Row, way: _Way, outgoing: Outgoing) -> wire.Envelope:
        return wire.Envelope(
            version=wire.VERSION,
            interface=way.interface.name,
            procedure=row.procedure,
            ladder=row.ladder,
            step=way.label,
            message=type(outgoing.message).__name__,
            sender=self.identity.party,
            receiver=row.seats[outgoing.to],
            sender_seat=row.seat,
            receiver_seat=outgoing.to,
            issued_at=now,
            expires_at=now + REFUSAL_LIFETIME_US if way.label == REFUSAL else row.deadline,
            nonce=self.entropy(16),
            answers=way.answers,
            body=wire.body_of(outgoing.message),
        )

    def _next_hop(self, envelope: wire.Envelope) -> PartyId:
        if BY_NAME[envelope.interface].courier is None:
            return envelope.receiver
        if self.courier is None:
            raise WrongParty(f"{envelope.interface} needs a courier and {envelope.sender} was given none")
        return self.courier

    def _introductions(self, work: Work) -> tuple[Chain, ...]:
        """The sender's own certificates and its POMP's: what a device needs before it can verify step 2."""
        known = (certificates.chain for certificates in work.desk.certificates.values("pomp/"))
        return (self.identity.chain, *known)


def _way_of(row: Row, to: Seat, message: Message) -> _Way:
    ladder = LADDERS[row.ladder]
    if isinstance(message, ProcedureRefusal):
        interface = ladder.interface_between(row.seat, to)
        if interface is None:
            raise WrongParty(f"{row.seat} and {to} never meet in {ladder.name}")
        # Who brings its certificates in a step may have to refuse before that step.
        introduces = any(step.introduces and (row.seat, to) in step.edges for step in ladder)
        return _Way(REFUSAL, interface, b"", introduces)
    step = ladder.of_message(type(message))
    if (row.seat, to) not in step.edges:
        raise WrongParty(f"{ladder.name} step {step.label} does not go from {row.seat} to {to}")
    answers = b"" if step.answers is None else row.heard[heard_key(step.answers, to)]
    return _Way(step.label, step.interface, answers, step.introduces)
