"""Someone sits on every wire: each datagram of a whole run is bent, forged, misdelivered, replayed; nothing moves.

The run is both initialisations, a line, a rekey by order, a deletion and a revocation. Before each datagram reaches
its hop, the attacks of one row of a table are tried on it. Each must raise exactly the named error, count it, and leave
all that the party has durably (records, journal, outbox) as it was, byte for byte; then the honest datagram goes
through, so that every attack is tried in the very state in which it would do most harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest
from tests.world import LIFETIME_US, Sent, World, Worlds, whole_story

from qsotn import wire
from qsotn.app.province import CPE_A, PARTIES, PMP, QSSP_B
from qsotn.crypto import envelope
from qsotn.crypto.identity import Identity
from qsotn.domain import PartyId, role_of
from qsotn.errors import (
    BadProof,
    BadSignature,
    ExpiredMessage,
    LineError,
    MalformedMessage,
    OutOfOrder,
    PeerError,
    ReplayedMessage,
    WrongParty,
)
from qsotn.interfaces import BY_NAME, IAQ, Seat
from qsotn.messages import Message
from qsotn.procedures.catalogue import LADDERS
from qsotn.runtime.admission import LIFETIME_US as LONGEST_LIFETIME_US
from qsotn.runtime.admission import SKEW_US

replace = msgspec.structs.replace


class Try(NamedTuple):
    """One attempt: these bytes to this party, and the error it must raise."""

    target: PartyId
    data: bytes
    error: type[PeerError]


Attack = Callable[[World, Worlds, Sent], Iterator[Try]]


@pytest.fixture
def fresh(open_world: Callable[..., World]) -> World:
    return open_world("provisioned")


def _couriered(sent: Sent) -> bool:
    """Whether this is the first of two hops, to the blind courier."""
    return wire.unpack(sent.data).receiver != sent.hop


def _attempt(world: World, tried: Try, seen: dict[PartyId, Any] | None = None) -> None:
    """`seen` may hold a dump of the target that is still true."""
    node, name = world.nodes[tried.target], tried.error.__name__
    before, counted = (seen or {}).get(tried.target) or world.dump(tried.target), node.rejections[name]
    with pytest.raises(PeerError) as caught:
        node.receive(tried.data)
    assert type(caught.value) is tried.error, f"{caught.value!r}, expected {name}"
    assert node.rejections[name] == counted + 1
    assert world.dump(tried.target) == before
    if seen is not None:
        seen[tried.target] = before


def _knows(world: World, party: PartyId, other: PartyId) -> bool:
    with world.desk(party) as desk:
        return desk.desk.certificates.get(other) is not None


# --- what anyone can do: bend bytes, and say whom they are from and for -----------------------------------------------


def _flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    bent = bytearray(data)
    bent[at] ^= 1 << bit
    return bytes(bent)


def _with(sent: Sent, **changes: Any) -> bytes:
    return wire.encode(replace(wire.unpack(sent.data), **changes))


def bent_body(_: World, __: Worlds, sent: Sent) -> Iterator[Try]:
    """A bit in the header, the payload, the signature; on a sealed interface in the encapsulation, text, or tag."""
    datagram = wire.unpack(sent.data)
    body, target = datagram.body, datagram.receiver
    if BY_NAME[datagram.interface].sealed:
        for at in (0, 600, 1119, 1121, len(body) // 2, len(body) - 1):
            yield Try(target, _with(sent, body=_flipped(body, at)), BadProof)
        return
    payload, signer = envelope.claimed_payload(body), envelope.claimed_signer(body)
    first = body.index(payload)
    yield Try(target, _with(sent, body=_flipped(body, 0)), MalformedMessage)
    yield Try(target, _with(sent, body=_flipped(body, body.index(signer) + len(signer) - 1)), BadSignature)
    for at in (first, first + 40, first + len(payload) - 1, len(body) - 3309, len(body) - 1):
        yield Try(target, _with(sent, body=_flipped(body, at)), BadSignature)


def cut_or_lengthened(_: World, __: Worlds, sent: Sent) -> Iterator[Try]:
    for data in (b"", sent.data[:1], sent.data[:-1], sent.data + b"\0", sent.data * 2, b"\xff" * 100):
        yield Try(sent.hop, data, MalformedMessage)


def another_interface(_: World, __: Worlds, sent: Sent) -> Iterator[Try]:
    datagram = wire.unpack(sent.data)
    sealed = BY_NAME[datagram.interface].sealed
    for name, interface in BY_NAME.items():
        if name == datagram.interface:
            continue
        if sealed:
            error: type[PeerError] = BadProof if interface.sealed else MalformedMessage
        else:
            error = BadProof if interface.sealed else WrongParty
        yield Try(datagram.receiver, _with(sent, interface=name), error)
    yield Try(sent.hop, _with(sent, interface="Iax"), MalformedMessage)


def another_sender(_: World, worlds: Worlds, sent: Sent) -> Iterator[Try]:
    datagram = wire.unpack(sent.data)
    strangers = [one.party for one in worlds.impostors.identities.values()]
    error: type[PeerError] = BadProof if BY_NAME[datagram.interface].sealed else WrongParty
    for party in (*PARTIES, *strangers):
        if party != datagram.sender:
            yield Try(datagram.receiver, _with(sent, sender=party), error)
            if _couriered(sent) and party != datagram.receiver:
                yield Try(sent.hop, _with(sent, sender=party), WrongParty)


def _readdressed(world: World, sent: Sent, party: PartyId) -> type[PeerError]:
    """The error that a datagram not made for this party raises there."""
    datagram = wire.unpack(sent.data)
    if BY_NAME[datagram.interface].sealed:
        return BadProof
    return WrongParty if datagram.introductions or _knows(world, party, datagram.sender) else BadSignature


def another_receiver(world: World, __: Worlds, sent: Sent) -> Iterator[Try]:
    """Readdressed to another party: not for the hop that gets it, nor, bent so, for the party it then names."""
    datagram = wire.unpack(sent.data)
    for party in PARTIES:
        if party not in (datagram.receiver, datagram.sender):
            if party != sent.hop:
                yield Try(sent.hop, _with(sent, receiver=party), WrongParty)
            yield Try(party, _with(sent, receiver=party), _readdressed(world, sent, party))


def swapped_names(world: World, __: Worlds, sent: Sent) -> Iterator[Try]:
    """Sender and receiver swapped, to both of them."""
    datagram = wire.unpack(sent.data)
    bent = _with(sent, sender=datagram.receiver, receiver=datagram.sender)
    yield Try(datagram.receiver, bent, WrongParty)
    yield Try(datagram.sender, bent, _readdressed(world, sent, datagram.sender))


def wrong_party(_: World, __: Worlds, sent: Sent) -> Iterator[Try]:
    """Delivered unchanged to everybody else, its own sender included; only the PMP may pass on what is on Iaq."""
    datagram = wire.unpack(sent.data)
    for party in PARTIES:
        courier = datagram.interface == IAQ.name and party == PMP
        if party != datagram.receiver and not courier:
            yield Try(party, sent.data, WrongParty)


# --- what certified parties can do: sign what they please -------------------------------------------------------------


def _signed(world: World, sent: Sent, author: Identity, **changes: Any) -> bytes:
    """The datagram's message with some fields changed, signed by `author` and sealed as its interface wants."""
    datagram, content = wire.unpack(sent.data), world.opened(sent.data).envelope
    content = replace(content, nonce=world.entropy(16), **changes)
    interface = BY_NAME[datagram.interface]
    receiver = world.verified(datagram.receiver) if interface.sealed else None
    named = replace(content, receiver=datagram.receiver)
    forged = wire.pack(interface, named, wire.sign(author, content), receiver, (author.chain,))
    return wire.encode(forged)


def _opens(content: wire.Envelope) -> bool:
    """Whether this message is the first its receiver hears of a procedure, so that it may be a new one."""
    return LADDERS[content.ladder].inbound(content.receiver_seat)[0].label == content.step


def an_impostor_of_the_same_role(world: World, worlds: Worlds, sent: Sent) -> Iterator[Try]:
    """A certified party of another province signs the same step in its own name."""
    content = world.opened(sent.data).envelope
    if not _opens(content):
        impostor = worlds.impostors.identities[role_of(content.sender)]
        data = _signed(world, sent, impostor, sender=impostor.party)
        yield Try(content.receiver, data, WrongParty)


def an_impostor_that_begins(world: World, worlds: Worlds, sent: Sent) -> Iterator[Try]:
    """A certified PMP or POMP of another province disposes of a device, or of a line, that is not its own.

    A device nobody ordered yet may be ordered by any POMP that the platform knows: steps 1 and 5a are not among these.
    """
    content = world.opened(sent.data).envelope
    begins = {("initialization", "2"), *(("leased-line", n) for n in "126"), *(("deletion", n) for n in "126")}
    if (content.ladder, content.step) in begins and _opens(content):
        impostor = worlds.impostors.identities[role_of(content.sender)]
        data = _signed(world, sent, impostor, sender=impostor.party)
        known = (*wire.unpack(data).introductions, *wire.unpack(sent.data).introductions)
        data = wire.encode(replace(wire.unpack(data), introductions=known))
        yield Try(content.receiver, data, WrongParty)


def the_same_role_in_the_other_city(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    """An honest party's twin, enrolled in this very province and known to all, signs the same step."""
    content = world.opened(sent.data).envelope
    for twin in PARTIES:
        same_role = role_of(twin) is role_of(content.sender) and twin not in (content.sender, content.receiver)
        if same_role and not _opens(content):
            yield Try(content.receiver, _signed(world, sent, world.nodes[twin].identity, sender=twin), WrongParty)


def any_party_in_anothers_seat(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    """Every other party of the province, of whatever role, signs the same step in its own name."""
    content = world.opened(sent.data).envelope
    for other in PARTIES:
        if role_of(other) is not role_of(content.sender) and other != content.receiver:
            yield Try(content.receiver, _signed(world, sent, world.nodes[other].identity, sender=other), WrongParty)


def an_impostor_in_anothers_name(world: World, worlds: Worlds, sent: Sent) -> Iterator[Try]:
    """Signed by an impostor, in the name of the honest sender."""
    content = world.opened(sent.data).envelope
    impostor = worlds.impostors.identities[role_of(content.sender)]
    yield Try(content.receiver, _signed(world, sent, impostor), BadSignature)


def _same(world: World, sent: Sent, **changes: Any) -> bytes:
    """Changed by the honest sender itself."""
    return _signed(world, sent, world.nodes[wire.unpack(sent.data).sender].identity, **changes)


def another_seat_or_step(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    content = world.opened(sent.data).envelope
    target, own = content.receiver, LADDERS[content.ladder][content.step]
    for seat in (Seat.POMP, Seat.CPE_B, Seat.QSSP_A):
        for edge in ((seat, content.receiver_seat), (content.sender_seat, seat)):
            if edge == (content.sender_seat, content.receiver_seat) or (edge in own.edges and _opens(content)):
                continue  # at the other end of the line the honest sender's own word may begin a row
            nobody_there = edge in own.edges and edge[1] is not content.receiver_seat
            data = _same(world, sent, sender_seat=edge[0], receiver_seat=edge[1])
            yield Try(target, data, OutOfOrder if nobody_there else WrongParty)
    for label in ("1", "9"):
        if label != content.step:
            yield Try(target, _same(world, sent, step=label), WrongParty)
    yield Try(target, _same(world, sent, ladder="another"), WrongParty)
    yield Try(target, _same(world, sent, step="13"), WrongParty)


def another_type_or_version(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    content = world.opened(sent.data).envelope
    bent: tuple[dict[str, Any], ...] = (
        {"message": "KeyRelay" if content.message == "KeyFileResponse" else "KeyFileResponse"},
        {"message": "NoSuchMessage"},
        {"version": 2},
        {"body": {}},
        {"body": {**content.body, "more": 1}},
    )
    for changes in bent:
        yield Try(content.receiver, _same(world, sent, **changes), MalformedMessage)


def another_procedure(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    content = world.opened(sent.data).envelope
    if not _opens(content):
        unknown = str(UUID(bytes=world.entropy(16), version=4))
        yield Try(content.receiver, _same(world, sent, procedure=unknown), OutOfOrder)


def another_answer(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    """The right party answers, in the right step, a message it was never sent."""
    content = world.opened(sent.data).envelope
    if LADDERS[content.ladder][content.step].answers is not None:
        for answers in (b"", bytes(48)):
            yield Try(content.receiver, _same(world, sent, answers=answers), WrongParty)


def outside_its_time(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    content = world.opened(sent.data).envelope
    now = world.clock()
    for issued, expires in (
        (content.issued_at, now),
        (now - LIFETIME_US, now - 1),
        (now + SKEW_US + 1, now + SKEW_US + 1000),
        (now, now + LONGEST_LIFETIME_US + 1),
    ):
        data = _same(world, sent, issued_at=issued, expires_at=expires)
        yield Try(content.receiver, data, ExpiredMessage)


def other_names_than_signed(world: World, _: Worlds, sent: Sent) -> Iterator[Try]:
    """Honestly signed for somebody else, over another interface."""
    content = world.opened(sent.data).envelope
    for party in (PMP, QSSP_B):
        if party != content.receiver:
            yield Try(content.receiver, _same(world, sent, receiver=party), WrongParty)
    for name in ("Iaq", "line"):
        if name != content.interface:
            yield Try(content.receiver, _same(world, sent, interface=name), WrongParty)


ATTACKS: tuple[Attack, ...] = (
    bent_body,
    cut_or_lengthened,
    another_interface,
    another_sender,
    another_receiver,
    swapped_names,
    wrong_party,
    an_impostor_of_the_same_role,
    an_impostor_that_begins,
    the_same_role_in_the_other_city,
    any_party_in_anothers_seat,
    an_impostor_in_anothers_name,
    another_seat_or_step,
    another_type_or_version,
    another_procedure,
    another_answer,
    outside_its_time,
    other_names_than_signed,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_nothing_moves_for_any_datagram_of_a_whole_run(fresh: World, worlds: Worlds, attack: Attack) -> None:
    tried = 0

    def before(sent: Sent) -> None:
        nonlocal tried
        seen: dict[PartyId, Any] = {}
        for one in attack(fresh, worlds, sent):
            _attempt(fresh, one, seen)
            tried += 1

    fresh.wire.before = before
    whole_story(fresh)
    assert tried >= (10 if attack is an_impostor_that_begins else 40)
    assert set(fresh.states().values()) == {"COMPLETED"}


# --- again, late, early, never ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world after the whole run, with all that was sent in it. Tests here must leave it as it is."""
    world = worlds.begin(worlds.provisioned, tmp_path_factory.mktemp("told") / "world")
    world.clock.advance(2 * SKEW_US)
    whole_story(world)
    yield world
    world.close()


def _last_hops(world: World) -> list[Sent]:
    return [sent for sent in world.wire.sent if not _couriered(sent)]


def test_every_datagram_again_is_recognised_and_changes_nothing(told: World) -> None:
    before, known = told.dump_all(), len(told.wire.sent)
    for sent in _last_hops(told):
        told.nodes[sent.hop].receive(sent.data)
    assert told.dump_all() == before
    for node in told.nodes.values():  # what the repeated messages caused is sent again, and recognised again
        node.flush(told.wire)
    again = {sent.data for sent in told.wire.sent[known:]}
    assert len(again) > 40
    assert again <= {sent.data for sent in told.wire.sent[:known]}
    after = told.dump_all()
    del before[PMP]["outbox"], after[PMP]["outbox"]  # the courier cannot tell a sealed datagram it passed before
    assert after == before


def test_another_message_for_a_step_that_was_taken_is_a_replay(told: World) -> None:
    """The honest sender's own second version of each message: signed, in time, and too late."""
    for sent in _last_hops(told):
        _attempt(told, Try(sent.hop, _same(told, sent), ReplayedMessage))


def test_every_datagram_after_its_time_is_expired(told: World) -> None:
    now = told.clock()
    try:
        told.clock.advance(LIFETIME_US)
        for sent in _last_hops(told):
            _attempt(told, Try(sent.hop, sent.data, ExpiredMessage))
    finally:
        told.clock.now = now


def test_every_datagram_that_comes_before_it_could_have_been_made_is_expired(told: World) -> None:
    now = told.clock()
    try:
        for sent in _last_hops(told):
            told.clock.now = told.opened(sent.data).envelope.issued_at - SKEW_US - 1
            _attempt(told, Try(sent.hop, sent.data, ExpiredMessage))
    finally:
        told.clock.now = now


def test_a_message_whose_procedure_has_not_come_there_yet_is_out_of_order(told: World, fresh: World) -> None:
    """All of a run's messages, shown to a province in which nothing has begun."""
    fresh.clock.now = told.clock()
    shown = 0
    for sent in _last_hops(told):
        content = told.opened(sent.data).envelope
        if not _opens(content) and content.ladder != "key-block":
            heard = wire.unpack(sent.data).introductions or _knows(fresh, sent.hop, content.sender)
            _attempt(fresh, Try(sent.hop, sent.data, OutOfOrder if heard else BadSignature))
            shown += 1
    assert shown > 30


def test_a_dropped_datagram_advances_nothing_until_it_comes_again(fresh: World) -> None:
    """The first attempt of each datagram is lost; its receiver is as it was, and the sender's second one succeeds."""
    lost: set[tuple[PartyId, bytes]] = set()

    def lose(sent: Sent) -> None:
        if (sent.hop, sent.data) not in lost:
            lost.add((sent.hop, sent.data))
            raise LineError("lost")

    fresh.wire.before = lose
    fresh.initialize(CPE_A)
    before = fresh.dump_all()
    fresh.pump()
    assert fresh.dump_all() == before
    fresh.settle()
    assert set(fresh.states().values()) == {"COMPLETED"}
    assert len(lost) > 15


def test_a_message_out_of_the_figures_order_waits_for_the_one_before_it(ready: World) -> None:
    """Both cities' 8b wait at the PMP for their 7b."""
    held: list[Sent] = []

    def hold(sent: Sent) -> None:
        if isinstance(ready.opened(sent.data).message, _type("KeyServiceResponseCopy")) and len(held) < 40:
            held.append(sent)
            raise LineError("late")

    ready.wire.before = hold
    procedure = ready.order_line()
    ready.settle(rounds=4000)
    assert ready.nodes[PMP].rejections["OutOfOrder"] > 0
    assert set(ready.nodes[PMP].rejections) == {"OutOfOrder"}
    labels = [taken.number for taken in _journal(ready, procedure) if taken.number in (7, 8)]
    assert labels == [7, 7, 8, 8]


def _type(name: str) -> type[Message]:
    return wire.MESSAGE_TYPES[name]


def _journal(world: World, procedure: Any) -> list[Any]:
    with world.province.stores[PMP].transaction() as transaction:
        return list(transaction.taken(procedure))
