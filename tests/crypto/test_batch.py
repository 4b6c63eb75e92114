"""Several messages under one signature, as RFC 9942 writes them: each opens by itself, and nothing else does.

What the tree itself refuses is in `test_merkle`.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, Final

import pytest

from qsotn import messages, wire
from qsotn.crypto import cbor, envelope, labels, merkle
from qsotn.crypto.identity import Identity, verify_certificate
from qsotn.crypto.suites import SUITES, VerificationKey
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import BadSignature, MalformedMessage
from qsotn.interfaces import Seat

CONTEXT = b"qsotn/v1/test"
PAYLOAD = b"what is said"
NUMBERS = sorted(SUITES)


def key_of(identity: Identity) -> VerificationKey:
    return identity.signing_key.public_key()


def several(size: int) -> list[bytes]:
    return [b"what is said, %d" % number for number in range(size)]


def opened_by(identity: Identity, message: bytes) -> envelope.Signed:
    return envelope.open_signed(message, CONTEXT, {identity.party.encode(): key_of(identity)}.__getitem__)


@pytest.mark.parametrize("size", range(2, 18))
def test_each_message_of_a_batch_opens_by_itself(world: Any, size: int) -> None:
    batch = envelope.sign_all(world.qssp[1], CONTEXT, several(size))
    for payload, message in zip(several(size), batch, strict=True):
        expected = hashlib.sha384(len(message).to_bytes(4, "big") + message).digest()
        assert opened_by(world.qssp[1], message) == envelope.Signed(b"qssp/jinan", payload, expected)
        assert (envelope.claimed_signer(message), envelope.claimed_payload(message)) == (b"qssp/jinan", payload)
    assert len(set(batch)) == size
    assert len({message[-3309:] for message in batch}) == 1


@pytest.mark.parametrize("number", NUMBERS)
def test_a_batch_opens_in_every_suite(world: Any, number: int) -> None:
    batch = envelope.sign_all(world.qssp[number], CONTEXT, several(3))
    assert [opened_by(world.qssp[number], message).payload for message in batch] == several(3)
    assert len({message[-3309:] for message in batch}) == (3 if number == 3 else 1)  # CNSA 2.0 has no SHA-256


def test_the_bytes_of_a_batch_are_those_of_rfc_9942(world: Any) -> None:
    """Written out by hand: tag 18, array of 4; alg, kid, vds 395, our size; vdp 396 and our payload; null; the root."""
    message = envelope.sign_all(world.qssp[1], CONTEXT, [PAYLOAD, b"other"])[0]
    leaf, sibling = (hashlib.sha256(b"\x00" + payload).digest() for payload in (PAYLOAD, b"other"))
    kid = b"qssp/jinan"
    header = bytes.fromhex("a4 01 3830 04 4a") + kid + bytes.fromhex("19018b 01 3a00010000 02")
    proof = bytes.fromhex("83 02 00 81 5820") + sibling
    payload = bytes([0x40 + len(PAYLOAD)]) + PAYLOAD
    front = b"\xd2\x84\x58\x1a" + header + bytes.fromhex("a2 19018c a1 20 81 5826") + proof
    front += bytes.fromhex("3a00010001") + payload + b"\xf6\x59\x0c\xed"
    assert message[: len(front)] == front
    root = hashlib.sha256(b"\x01" + leaf + sibling).digest()
    structure = b"\x84\x6aSignature1\x58\x1a" + header + bytes([0x40 + len(CONTEXT)]) + CONTEXT + b"\x58\x20" + root
    key_of(world.qssp[1]).verify(message[len(front) :], structure)


def test_one_message_is_signed_alone_and_none_not_at_all(world: Any) -> None:
    assert envelope.sign_all(world.qssp[1], CONTEXT, []) == []
    [message] = envelope.sign_all(world.qssp[1], CONTEXT, [PAYLOAD])
    alone = envelope.sign(world.qssp[1], CONTEXT, PAYLOAD)
    assert message[:-3309] == alone[:-3309]
    assert opened_by(world.qssp[1], message).payload == PAYLOAD


def test_equal_payloads_are_one_message(world: Any) -> None:
    first, second, third = envelope.sign_all(world.qssp[1], CONTEXT, [PAYLOAD, b"other", PAYLOAD])
    assert first == third != second
    one, same = envelope.sign_all(world.qssp[1], CONTEXT, [PAYLOAD, PAYLOAD])
    assert one == same
    assert one[:-3309] == envelope.sign(world.qssp[1], CONTEXT, PAYLOAD)[:-3309]


@pytest.mark.parametrize(("size", "signatures"), [(256, 1), (257, 2), (513, 3)])
def test_more_than_256_messages_are_several_batches(world: Any, size: int, signatures: int) -> None:
    batch = envelope.sign_all(world.qssp[1], CONTEXT, several(size))
    assert len({message[-3309:] for message in batch}) == signatures
    assert [opened_by(world.qssp[1], message).payload for message in batch[::51] + batch[-2:]] == [
        *several(size)[::51],
        *several(size)[-2:],
    ]


def test_no_flipped_bit_of_a_batch_passes(world: Any) -> None:
    """Each bit of header, proof and payload; of each byte of the signature one, and each of the eight in turn."""
    message = envelope.sign_all(world.qssp[1], CONTEXT, several(3))[1]
    opened_by(world.qssp[1], message)
    begins = len(message) - 3309
    flips = [
        *itertools.product(range(begins), range(8)),
        *((place, place % 8) for place in range(begins, len(message))),
    ]
    for place, bit in flips:
        changed = message[:place] + bytes([message[place] ^ (1 << bit)]) + message[place + 1 :]
        assert refused(world.qssp[1], changed)


PARTS: Final = ("protected", "proofs", "payload", "signature")


def taken_apart(message: bytes) -> dict[str, Any]:
    decoded: Any = cbor.decode(message[1:])
    protected, unprotected, _, signature = decoded
    return dict(zip(PARTS, (protected, unprotected[396], unprotected[-65538], signature), strict=True))


def put_together(protected: bytes, proofs: object, payload: object, signature: bytes) -> bytes:
    return b"\xd2" + cbor.encode([protected, {396: proofs, -65538: payload}, None, signature])


def refused(identity: Identity, message: bytes, context: bytes = CONTEXT) -> bool:
    try:
        envelope.open_signed(message, context, lambda _: key_of(identity))
    except (BadSignature, MalformedMessage):
        return True
    return False


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
def test_parts_of_other_messages_and_batches_do_not_mix(world: Any, size: int) -> None:
    """A mixture of two messages' header, proof, payload and signature is one that was returned, or is refused."""
    signer, other = world.qssp[1], world.cpe[1]
    batch = envelope.sign_all(signer, CONTEXT, several(size))
    strangers = {
        "same words again": envelope.sign_all(signer, CONTEXT, several(size)),
        "one word changed": envelope.sign_all(signer, CONTEXT, [*several(size - 1), b"changed"]),
        "one message more": envelope.sign_all(signer, CONTEXT, several(size + 1)),
        "another context": envelope.sign_all(signer, b"qsotn/v1/other", several(size)),
        "another party": envelope.sign_all(other, CONTEXT, several(size)),
    }
    message = batch[0]
    opened_by(signer, message)
    returned = {*batch, *itertools.chain.from_iterable(strangers.values())}
    for stranger in [*batch[1:], *(found for others in strangers.values() for found in (others[0], others[-1]))]:
        both = taken_apart(message), taken_apart(stranger)
        for choice in itertools.product((0, 1), repeat=len(PARTS)):
            mixed = put_together(*(both[which][part] for which, part in zip(choice, PARTS, strict=True)))
            assert mixed in returned or refused(signer, mixed)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_batch_has_no_message_that_was_not_returned(world: Any, size: int) -> None:
    """Whoever knows the whole tree may pick any size, index and path of its nodes: what opens is what was returned.

    Tried for the first and the last payload, and for the children of an inner node, which are no payload.
    """
    payloads = several(size)
    batch = envelope.sign_all(world.qssp[1], CONTEXT, payloads)
    leaves = [hashlib.sha256(b"\x00" + payload).digest() for payload in payloads]
    said = [payloads[0], payloads[-1], leaves[0] + leaves[1], b"\x01" + leaves[0] + leaves[1]]
    nodes = sorted({merkle.prove(payloads)[0], *leaves, *itertools.chain.from_iterable(map(path_of, batch))})
    front, opened = taken_apart(batch[0]), set()
    for claimed, length in itertools.product(range(1, size + 3), (1, 2)):
        for index, payload, path in itertools.product(range(claimed), said, itertools.product(nodes, repeat=length)):
            proofs = {-1: [cbor.encode([claimed, index, list(path)])]}
            message = put_together(front["protected"], proofs, payload, front["signature"])
            if not refused(world.qssp[1], message):
                opened.add(message)
    assert opened == {batch[0], batch[-1]}


def path_of(message: bytes) -> list[bytes]:
    decoded: Any = cbor.decode(taken_apart(message)["proofs"][-1][0])
    path: list[bytes] = decoded[2]
    return path


@pytest.mark.parametrize("size", [3, 5, 6, 7, 8])
def test_another_size_or_index_is_refused_with_the_same_path(world: Any, size: int) -> None:
    """Without the signed size, leaf 4 of 5 would also open as leaf 1 of 2: two byte strings of one message."""
    for number, message in enumerate(envelope.sign_all(world.qssp[1], CONTEXT, several(size))):
        parts = taken_apart(message)
        for claimed, index in itertools.product(range(20), repeat=2):
            proof = cbor.encode([claimed, index, path_of(message)])
            changed = put_together(parts["protected"], {-1: [proof]}, parts["payload"], parts["signature"])
            assert refused(world.qssp[1], changed) is ((claimed, index) != (size, number))


def test_a_root_is_no_payload_and_a_payload_is_no_root(world: Any) -> None:
    """A signature of one form, given in the other: the protected header says which form it is of."""
    signer, payloads = world.qssp[1], several(2)
    root, proofs = merkle.prove(payloads)
    alone: Any = cbor.decode(envelope.sign(signer, CONTEXT, root)[1:])
    assert refused(signer, put_together(alone[0], {-1: [proofs[0]]}, payloads[0], alone[3]))
    parts = taken_apart(envelope.sign_all(signer, CONTEXT, payloads)[0])
    assert refused(signer, b"\xd2" + cbor.encode([parts["protected"], {}, root, parts["signature"]]))
    assert refused(signer, b"\xd2" + cbor.encode([parts["protected"], {}, None, parts["signature"]]))


PROOF = cbor.encode([2, 0, [bytes(32)]])
HEADER = {1: -49, 4: b"kid", 395: 1, -65537: 2}
OUTSIDE = {396: {-1: [PROOF]}, -65538: b"p"}


def receipt(
    header: object = HEADER, outside: object = OUTSIDE, payload: object = None, signature: object = b"s"
) -> bytes:
    protected = cbor.encode(header) if isinstance(header, dict) else header
    return b"\xd2" + cbor.encode([protected, outside, payload, signature])


NO_RECEIPT = {
    "no tag": receipt()[1:],
    "trailing byte": receipt() + b"\x00",
    "payload beside the proof": receipt(payload=b"p"),
    "root beside the proof": receipt(payload=bytes(32)),
    "signature is text": receipt(signature="s"),
    "header is empty": receipt(b""),
    "header of a message signed alone": receipt({1: -49, 4: b"kid"}),
    "no structure": receipt({1: -49, 4: b"kid", -65537: 2}),
    "no tree size": receipt({1: -49, 4: b"kid", 395: 1}),
    "one parameter more": receipt({**HEADER, 2: [1]}),
    "another structure": receipt({**HEADER, 395: 2}),
    "structure is true": receipt({**HEADER, 395: True}),
    "structure is text": receipt({**HEADER, 395: "RFC9162_SHA256"}),
    "tree size is text": receipt({**HEADER, -65537: "2"}),
    "tree size is another than the proof's": receipt({**HEADER, -65537: 3}),
    "tree of one": receipt({**HEADER, -65537: 1}, {396: {-1: [cbor.encode([1, 0, []])]}, -65538: b"p"}),
    "tree of 257": receipt(
        {**HEADER, -65537: 257}, {396: {-1: [cbor.encode([257, 0, [bytes(32)] * 9])]}, -65538: b"p"}
    ),
    "ES256": receipt({**HEADER, 1: -7}),
    "signer is text": receipt({**HEADER, 4: "kid"}),
    "unprotected header is empty": receipt(outside={}),
    "nothing said": receipt(outside={396: {-1: [PROOF]}}),
    "no proofs": receipt(outside={-65538: b"p"}),
    "what is said is text": receipt(outside={396: {-1: [PROOF]}, -65538: "p"}),
    "one unprotected parameter more": receipt(outside={396: {-1: [PROOF]}, -65538: b"p", 4: b"kid"}),
    "proofs are a list": receipt(outside={396: [PROOF], -65538: b"p"}),
    "a consistency proof": receipt(outside={396: {-2: [PROOF]}, -65538: b"p"}),
    "a consistency proof besides": receipt(outside={396: {-1: [PROOF], -2: [PROOF]}, -65538: b"p"}),
    "no inclusion proof": receipt(outside={396: {-1: []}, -65538: b"p"}),
    "two inclusion proofs": receipt(outside={396: {-1: [PROOF, PROOF]}, -65538: b"p"}),
    "the proof bare": receipt(outside={396: {-1: PROOF}, -65538: b"p"}),
    "the proof unwrapped": receipt(outside={396: {-1: [[2, 0, [bytes(32)]]]}, -65538: b"p"}),
    "proof is not canonical": receipt(outside={396: {-1: [b"\x83\x18\x02" + PROOF[2:]]}, -65538: b"p"}),
}


@pytest.mark.parametrize("message", NO_RECEIPT.values(), ids=NO_RECEIPT)
def test_what_is_not_our_receipt_is_malformed(world: Any, message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        envelope.open_signed(message, CONTEXT, lambda _: key_of(world.qssp[1]))
    with pytest.raises(MalformedMessage):
        envelope.claimed_signer(message)
    with pytest.raises(MalformedMessage):
        envelope.claimed_payload(message)


def test_a_well_formed_receipt_is_a_bad_signature(world: Any) -> None:
    """So the table above fails for what each row says, and not for something they all have."""
    assert envelope.claimed_payload(receipt()) == b"p"
    with pytest.raises(BadSignature):
        envelope.open_signed(receipt(), CONTEXT, lambda _: key_of(world.qssp[1]))


def test_wire_does_not_tell_a_message_of_a_batch_from_one_signed_alone(world: Any) -> None:
    signer = world.qssp[1]
    verified = verify_certificate(signer.chain, world.trust, world.now)
    contents = [statement(signer.party, number) for number in range(3)]
    alone = [wire.sign(signer, content) for content in contents]
    batch = envelope.sign_all(signer, labels.MESSAGE, [wire.encode(content) for content in contents])
    for content, one, other in zip(contents, alone, batch, strict=True):
        for signed in (one, other):
            received = wire.open_signed(signed, {signer.party: verified}.__getitem__)
            assert (received.envelope, received.message) == (content, messages.InitializationDispatch(b"r"))
            assert (received.signed, received.digest) == (signed, wire.digest(signed))
            assert wire.claimed_author(signed) == signer.party
            assert wire.peek(messages.InitializationDispatch, signed) == received.message


def statement(sender: PartyId, number: int) -> wire.Envelope:
    return wire.Envelope(
        version=wire.VERSION,
        interface="Ipp",
        procedure=ProcedureId("p"),
        ladder="initialization",
        step="2",
        message="InitializationDispatch",
        sender=sender,
        receiver=PartyId("cpe/east"),
        sender_seat=Seat.PMP,
        receiver_seat=Seat.CPE,
        issued_at=1,
        expires_at=2,
        nonce=bytes([number]) * 16,
        answers=b"",
        body=wire.body_of(messages.InitializationDispatch(b"r")),
    )
