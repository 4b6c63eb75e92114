"""A wire that attacks every datagram of a whole run before it lets the genuine one through.

Whatever arrives changed, re-addressed, re-signed by another party of the province, early, late or a second time, the
receiver's records are byte for byte what they were, and the error has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from tests.runtime.province import EPOCH, World

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, KM_A, KM_B, PARTIES, PMP, QKMP, QSSP_A, QSSP_B
from qsotn.crypto import envelope as cose
from qsotn.domain import PartyId
from qsotn.errors import (
    BadProof,
    BadSignature,
    ExpiredMessage,
    MalformedMessage,
    OutOfOrder,
    PeerError,
    ReplayedMessage,
    WrongParty,
)
from qsotn.interfaces import BY_NAME
from qsotn.procedures.turn import State

TWIN = {CPE_A: CPE_B, CPE_B: CPE_A, QSSP_A: QSSP_B, QSSP_B: QSSP_A, KM_A: KM_B, KM_B: KM_A}
"""For each party, another of the same role with keys and certificates of its own."""


def damaged(data: bytes) -> Iterator[bytes]:
    """Single flipped bits over the whole datagram, a byte less, a byte more."""
    for place in (0, 3, len(data) // 7, len(data) // 3, len(data) // 2, 2 * len(data) // 3, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        yield bytes(changed)
    yield data[:-1]
    yield data + b"\0"


def readdressed(data: bytes) -> Iterator[bytes]:
    """The same body under other outer names."""
    datagram = wire.unpack(data)
    twin = TWIN.get(datagram.sender, QKMP)
    yield wire.encode(msgspec.structs.replace(datagram, sender=twin))
    for interface in BY_NAME:
        if interface != datagram.interface:
            yield wire.encode(msgspec.structs.replace(datagram, interface=interface))


class Attacker:
    """Stands on every wire; knows every datagram, and has one enrolled accomplice of each role, but not the keys."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.met: Counter[str] = Counter()

    def attack(self, _sender: PartyId, hop: PartyId, data: bytes) -> None:
        """Try everything on the receiver; it must stay as it was."""
        if wire.unpack(data).receiver != hop:
            return  # the courier sees only the outer names; the attack waits for the far end
        before = self.world.dump(hop)
        for forged in (*damaged(data), *readdressed(data), *self.by_accomplice(hop, data)):
            self.must_fail(hop, forged)
        for other in PARTIES:
            courier = other == PMP and wire.unpack(data).interface == "Iaq"  # carries it on once more, as it should
            if other != hop and not courier:
                self.must_fail(other, data)
        assert self.world.dump(hop) == before

    def must_fail(self, party: PartyId, data: bytes) -> None:
        """Deliver, and expect a named error."""
        try:
            self.world.nodes[party].receive(data)
        except PeerError as error:
            self.met[type(error).__name__] += 1
        else:
            if wire.unpack(data).receiver == party:
                pytest.fail(f"{party} took a forged {wire.unpack(data).interface} datagram")

    def by_accomplice(self, hop: PartyId, data: bytes) -> Iterator[bytes]:
        """The message as it is, but sent and signed by another party of the same role."""
        datagram = wire.unpack(data)
        twin = TWIN.get(datagram.sender)
        if twin is None or twin == hop:
            return
        world, receiver = self.world, self.world.nodes[hop].identity
        with world.nodes[PMP].desk() as pmp:
            genuine = pmp.desk.verify_chain(world.nodes[datagram.sender].identity.chain)
        received = wire.open_datagram(datagram, receiver, lambda _: genuine)
        forged = msgspec.structs.replace(received.envelope, sender=twin)
        signed = wire.sign(world.nodes[twin].identity, forged)
        with world.nodes[PMP].desk() as pmp:
            sealed_to = pmp.desk.verify_chain(receiver.chain)
        yield wire.encode(wire.pack(BY_NAME[datagram.interface], forged, signed, sealed_to))


def test_no_forgery_moves_anything_in_a_whole_run(world: World) -> None:
    attacker = Attacker(world)
    world.intercept = attacker.attack
    world.initialize(CPE_A, CPE_B)
    world.establish()
    world.rekey()
    world.delete()
    for party in PARTIES:
        assert all(row.state is State.COMPLETED for row in world.rows(party)), world.describe()
    assert set(attacker.met) >= {"MalformedMessage", "BadSignature", "BadProof", "WrongParty"}


@pytest.fixture
def finished(world: World) -> World:
    world.initialize(CPE_A, CPE_B)
    world.establish()
    world.rekey()
    world.delete()
    return world


def test_replaying_the_whole_run_changes_nothing(finished: World) -> None:
    before = {party: finished.dump(party) for party in PARTIES}
    for _, hop, data in list(finished.sent):
        if wire.unpack(data).receiver == hop:
            finished.nodes[hop].receive(data)
    assert {party: finished.dump(party) for party in PARTIES} == before
    finished.quiet()
    assert {party: finished.dump(party) for party in PARTIES} == before


def sent_to_device(world: World) -> list[bytes]:
    return [data for sender, _, data in world.sent if sender == QSSP_A and wire.unpack(data).receiver == CPE_A]


def test_the_same_request_gets_the_byte_identical_answer(world: World) -> None:
    world.initialize(CPE_A)
    requests = [data for _, hop, data in world.sent if hop == QSSP_A and wire.unpack(data).sender == CPE_A]
    answers = sent_to_device(world)
    world.sent.clear()
    world.nodes[QSSP_A].receive(requests[0])
    world.quiet()
    assert sent_to_device(world) == answers
    assert len(answers) == 1


def test_a_late_message_has_expired(world: World) -> None:
    world.begin_initialization(CPE_A)
    world.round()
    _, hop, data = world.sent[-1]
    world.now += 48 * 3600 * 1_000_000
    with pytest.raises(ExpiredMessage):
        world.nodes[hop].receive(data)


def test_a_message_from_the_future_has_not_begun(world: World) -> None:
    world.begin_initialization(CPE_A)
    world.intercept = lambda _sender, _hop, _data: None
    world.unreachable.add(PMP)
    world.round()
    _, hop, data = world.sent[-1]
    world.now = EPOCH - 3600 * 1_000_000
    with pytest.raises((ExpiredMessage, BadProof)):
        world.nodes[hop].receive(data)


def test_another_message_for_a_taken_step_is_a_replay(world: World) -> None:
    world.initialize(CPE_A)
    _, hop, data = next(sent for sent in world.sent if wire.unpack(sent[2]).interface == "Ioq")
    datagram = wire.unpack(data)
    with world.nodes[hop].desk() as party:
        received = wire.open_datagram(datagram, world.nodes[hop].identity, party.desk.peer)
    again = msgspec.structs.replace(received.envelope, nonce=bytes(16))
    signed = wire.sign(world.nodes[datagram.sender].identity, again)
    before = world.dump(hop)
    with pytest.raises(ReplayedMessage):
        world.nodes[hop].receive(wire.encode(wire.pack(BY_NAME["Ioq"], again, signed, None)))
    assert world.dump(hop) == before


def test_every_message_delivered_before_its_turn_is_out_of_order(make_world, finished: World) -> None:  # type: ignore[no-untyped-def]
    fresh: World = make_world()
    fresh.now = finished.now
    early = Counter[str]()
    with fresh.nodes[PMP].desk() as pmp, finished.nodes[PMP].desk() as knowing:
        for chain in knowing.desk.certificates.values():
            pmp.desk.remember(chain.chain)
    before = fresh.dump(PMP)
    for _, hop, data in finished.sent[1:]:
        if hop == PMP and wire.unpack(data).receiver == PMP:
            envelope = wire.open_signed(wire.unpack(data).body, _any_key(finished)).envelope
            if envelope.step != "1":
                with pytest.raises((OutOfOrder, WrongParty)) as told:
                    fresh.nodes[PMP].receive(data)
                early[told.type.__name__] += 1
    assert early["OutOfOrder"] > 0
    assert fresh.dump(PMP) == before


def _any_key(world: World):  # type: ignore[no-untyped-def]
    with world.nodes[PMP].desk() as pmp:
        known = {party: pmp.desk.verify_chain(kept.chain) for party, kept in pmp.desk.certificates.items()}
    return known.__getitem__


def test_a_lost_datagram_advances_nothing(world: World) -> None:
    world.unreachable.add(PMP)
    world.begin_initialization(CPE_A)
    before = {party: world.dump(party) for party in PARTIES}
    for _ in range(20):
        world.round()
    assert {party: world.dump(party) for party in PARTIES} == before


def test_the_courier_carries_only_between_a_device_and_its_own_qssp(finished: World) -> None:
    data = next(d for _, hop, d in finished.sent if hop == PMP and wire.unpack(d).interface == "Iaq")
    for sender, receiver in ((CPE_A, QSSP_B), (CPE_A, CPE_B), (QSSP_B, CPE_A), (QSSP_A, KM_A)):
        other = msgspec.structs.replace(wire.unpack(data), sender=sender, receiver=receiver)
        with pytest.raises(WrongParty):
            finished.nodes[PMP].receive(wire.encode(other))


def test_the_gate_stays_shut_until_the_voucher(world: World) -> None:
    world.begin_initialization(CPE_A)
    shut = wire.Datagram("Iaq", CPE_A, QSSP_A, b"x")
    world.until(lambda: world.read(PMP, lambda pmp: pmp.registrations.get(CPE_A)) is not None)
    with pytest.raises(OutOfOrder):
        world.nodes[PMP].receive(wire.encode(shut))


@pytest.mark.parametrize("data", [b"", b"\xa0", b"\xff" * 64, b"\x00" * 1000, bytes(5 * 1024 * 1024)])
def test_noise_is_malformed(world: World, data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        world.nodes[PMP].receive(data)


def test_an_unknown_signer_is_refused(world: World) -> None:
    world.begin_initialization(CPE_A)
    world.round()
    statement = next(d for s, _, d in world.sent if s == CPE_A)
    stripped = msgspec.structs.replace(wire.unpack(statement), introductions=())
    assert cose.claimed_signer(stripped.body) == CPE_A.encode()
    with world.nodes[PMP].desk() as pmp:
        pmp.desk.certificates.delete(CPE_A)
    with pytest.raises(BadSignature):
        world.nodes[PMP].receive(wire.encode(stripped))
