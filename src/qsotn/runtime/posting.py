"""How an answer leaves: from a message a step function sent to a signed, sealed, stored datagram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from qsotn import wire
from qsotn.crypto.identity import Identity
from qsotn.domain import Entropy, PartyId, ProcedureId
from qsotn.errors import WrongParty
from qsotn.interfaces import BY_NAME, Interface, Seat
from qsotn.messages import Chain, ProcedureRefusal
from qsotn.parties.desk import Desk
from qsotn.ports import Posted
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.ladder import heard_key
from qsotn.procedures.turn import Row
from qsotn.runtime.batch import COURIER, REFUSAL, Answer, Batch, Forward

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
class _Datagram:
    """A datagram as it leaves, and what it is remembered by."""

    procedure: ProcedureId
    cause: bytes
    leaving: Forward


@dataclass
class Postings:
    """What one transaction put into the outbox."""

    sent: list[Posted] = field(default_factory=list)
    """To be sent; on loan to its poster."""
    mail: dict[PartyId, list[Posted]] = field(default_factory=dict)
    """For whom something is to be collected, and what of it is on loan, since they wait for it here."""


@dataclass(frozen=True)
class Poster:
    """Signs and stores what one party sends.

    `courier` is handed the datagrams of interfaces that have one. `collects` says which next hops fetch their datagrams
    themselves, `expects` which of them wait here for what is posted now; it is asked once a transaction. What is sent,
    or expected here, is on loan to its poster for `lease` microseconds: nobody else sends it before.
    """

    identity: Identity
    entropy: Entropy
    courier: PartyId | None
    collects: Callable[[PartyId], bool]
    expects: Callable[[PartyId], bool]
    lease: int

    def post_all(self, batch: Batch) -> Postings:
        """Sign everything a transaction has to say and put it into the outbox; return it."""
        ways = [_way_of(answer) for answer in batch.answers]
        envelopes = [
            self._envelope(batch.desk.now, answer, way) for answer, way in zip(batch.answers, ways, strict=True)
        ]
        signed = wire.sign_all(self.identity, envelopes)
        expects, postings = cache(self.expects), Postings()
        for answer, way, envelope, message in zip(batch.answers, ways, envelopes, signed, strict=True):
            one = self._datagram(batch, answer, way, envelope, message)
            self._store(batch, one, expects, postings)
        batch.answers.clear()
        for name, forward in batch.forwards.items():
            self._store(batch, _Datagram(COURIER, name, forward), expects, postings)
        return postings

    def _datagram(self, batch: Batch, answer: Answer, way: _Way, envelope: wire.Envelope, signed: bytes) -> _Datagram:
        to, row = answer.outgoing.to, batch.rows[answer.outgoing.row.key]
        row.said[heard_key(way.label, to)] = wire.digest(signed)
        receiver = batch.desk.peer(envelope.receiver) if way.interface.sealed else None
        introductions = self._introductions(batch.desk) if way.introduces else ()
        datagram = wire.pack(way.interface, envelope, signed, receiver, introductions, row.traceparent)
        hop, encoded = self._next_hop(envelope), wire.encode(datagram)
        return _Datagram(row.procedure, answer.cause, Forward(hop, encoded, envelope.expires_at, way.interface.name))

    def _store(self, batch: Batch, one: _Datagram, expects: Callable[[PartyId], bool], postings: Postings) -> None:
        hop, content = one.leaving.hop, one.leaving.datagram
        collected = self.collects(hop)
        held = not collected or (self.lease > 0 and expects(hop))
        number = batch.desk.transaction.post(
            one.procedure,
            hop,
            content,
            one.cause,
            expires_at=one.leaving.expires_at,
            due=batch.desk.now + self.lease if held else 0,
            collected=collected,
        )
        leaves = postings.mail.setdefault(hop, []) if collected else postings.sent
        if held:
            leaves.append(Posted(number, hop, content, 0, one.leaving.interface))

    def _envelope(self, now: int, answer: Answer, way: _Way) -> wire.Envelope:
        row, to, message = answer.outgoing.row, answer.outgoing.to, answer.outgoing.message
        return wire.Envelope(
            version=wire.VERSION,
            interface=way.interface.name,
            procedure=row.procedure,
            ladder=row.ladder,
            step=way.label,
            message=type(message).__name__,
            sender=self.identity.party,
            receiver=row.seats[to],
            sender_seat=row.seat,
            receiver_seat=to,
            issued_at=now,
            expires_at=now + REFUSAL_LIFETIME_US if way.label == REFUSAL else row.deadline,
            nonce=self.entropy(16),
            answers=way.answers,
            body=wire.body_of(message),
        )

    def _next_hop(self, envelope: wire.Envelope) -> PartyId:
        if BY_NAME[envelope.interface].courier is None:
            return envelope.receiver
        if self.courier is None:
            raise WrongParty(f"{envelope.interface} needs a courier and {envelope.sender} was given none")
        return self.courier

    def _introductions(self, desk: Desk) -> tuple[Chain, ...]:
        """The sender's own certificates and its POMP's: what a device needs before it can verify step 2."""
        known = (certificates.chain for certificates in desk.certificates.values("pomp/"))
        return (self.identity.chain, *known)


def _way_of(answer: Answer) -> _Way:
    row, to, message = answer.outgoing.row, answer.outgoing.to, answer.outgoing.message
    ladder = LADDERS[row.ladder]
    if isinstance(message, ProcedureRefusal):
        return _way_of_refusal(row, to)
    step = ladder.of_message(type(message))
    if (row.seat, to) not in step.edges:
        raise WrongParty(f"{ladder.name} step {step.label} does not go from {row.seat} to {to}")
    answers = b"" if step.answers is None else row.heard[heard_key(step.answers, to)]
    return _Way(step.label, step.interface, answers, step.introduces)


def _way_of_refusal(row: Row, to: Seat) -> _Way:
    ladder = LADDERS[row.ladder]
    interface = ladder.interface_between(row.seat, to)
    if interface is None:
        raise WrongParty(f"{row.seat} and {to} never meet in {ladder.name}")
    # Who brings its certificates in a step may have to refuse before that step.
    introduces = any(step.introduces and (row.seat, to) in step.edges for step in ladder)
    return _Way(REFUSAL, interface, b"", introduces)
