"""The envelope: COSE_Sign1 as RFC 9052 and RFC 9964 write it, HPKE to one recipient, and everything that is refused.

What several messages under one signature look like is in `test_batch`; that a verification is made once is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from qsotn.crypto import cbor, envelope
from qsotn.crypto.identity import Identity
from qsotn.crypto.suites import SUITES, SignatureScheme, VerificationKey, suite, verify
from qsotn.domain import Entropy, Secret
from qsotn.errors import BadProof, BadSignature, MalformedMessage, QsotnError, WrongParty

CONTEXT = b"qsotn/v1/test"
PAYLOAD = b"what is said"
NUMBERS = sorted(SUITES)


def key_of(identity: Identity) -> VerificationKey:
    return identity.signing_key.public_key()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signed_message_opens(world: Any, number: int) -> None:
    signer = world.qssp[number]
    message = envelope.sign(signer, CONTEXT, PAYLOAD)
    asked: list[bytes] = []

    def find(kid: bytes) -> VerificationKey:
        asked.append(kid)
        return key_of(signer)

    signed = envelope.open_signed(message, CONTEXT, find)
    assert (signed.kid, signed.payload, asked) == (b"qssp/jinan", PAYLOAD, [b"qssp/jinan"])
    assert signed.digest == hashlib.sha384(len(message).to_bytes(4, "big") + message).digest()
    assert (envelope.claimed_signer(message), envelope.claimed_payload(message)) == (b"qssp/jinan", PAYLOAD)


def test_the_bytes_are_those_of_rfc_9052_and_rfc_9964(world: Any) -> None:
    """Written out by hand: tag 18, array of 4; the header {1: -49, 4: kid}; Sig_structure; the empty ML-DSA context."""
    signer = world.qssp[1]
    message = envelope.sign(signer, CONTEXT, PAYLOAD)
    kid = b"qssp/jinan"
    header = bytes.fromhex("a2 01 3830 04") + bytes([0x40 + len(kid)]) + kid
    payload = bytes([0x40 + len(PAYLOAD)]) + PAYLOAD
    front = bytes.fromhex("d2 84") + bytes([0x40 + len(header)]) + header + b"\xa0" + payload + bytes.fromhex("59 0ced")
    assert message[: len(front)] == front
    signature = message[len(front) :]
    assert len(signature) == 3309
    structure = (
        b"\x84\x6aSignature1" + bytes([0x40 + len(header)]) + header + bytes([0x40 + len(CONTEXT)]) + CONTEXT + payload
    )
    key_of(signer).verify(signature, structure)


def test_other_bytes_context_key_or_algorithm_do_not_verify(world: Any) -> None:
    signer = world.qssp[1]
    message = envelope.sign(signer, CONTEXT, PAYLOAD)
    for context, key, reason in [
        (b"qsotn/v1/other", key_of(signer), "does not verify"),
        (b"", key_of(signer), "does not verify"),
        (CONTEXT, key_of(world.cpe[1]), "does not verify"),
        (CONTEXT, key_of(world.qssp[2]), "another algorithm"),
    ]:
        with pytest.raises(BadSignature, match=reason):
            envelope.open_signed(message, context, {b"qssp/jinan": key}.__getitem__)


@pytest.mark.parametrize("number", [1, 2])
def test_no_flipped_bit_passes(world: Any, number: int) -> None:
    """Every byte of header and payload, and bytes throughout the signature."""
    signer = world.qssp[number]
    message = envelope.sign(signer, CONTEXT, PAYLOAD)
    places = [*range(60), *range(60, len(message), 211), len(message) - 1]
    for place in places:
        changed = bytearray(message)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises((BadSignature, MalformedMessage)):
            envelope.open_signed(bytes(changed), CONTEXT, lambda _: key_of(signer))


def test_what_the_key_finder_raises_is_what_the_caller_sees(world: Any) -> None:
    def unknown(kid: bytes) -> VerificationKey:
        raise WrongParty(f"{kid!r} is not known here")

    with pytest.raises(WrongParty):
        envelope.open_signed(envelope.sign(world.qssp[1], CONTEXT, PAYLOAD), CONTEXT, unknown)


def framed(protected: object, unprotected: object = None, payload: object = b"p", signature: object = b"s") -> bytes:
    header = cbor.encode(protected) if isinstance(protected, dict) else protected
    return b"\xd2" + cbor.encode([header, {} if unprotected is None else unprotected, payload, signature])


FINE = {1: -49, 4: b"kid"}

NOT_SIGN1 = {
    "nothing": b"",
    "no tag": framed(FINE)[1:],
    "another tag": b"\xd1" + framed(FINE)[1:],
    "tag in two bytes": b"\xd8\x12" + framed(FINE)[1:],
    "tag alone": b"\xd2",
    "a map": b"\xd2" + cbor.encode({}),
    "three parts": b"\xd2" + cbor.encode([cbor.encode(FINE), {}, b"p"]),
    "five parts": b"\xd2" + cbor.encode([cbor.encode(FINE), {}, b"p", b"s", b""]),
    "trailing byte": framed(FINE) + b"\x00",
    "unprotected header in use": framed(FINE, {1: -49}),
    "detached payload": b"\xd2" + cbor.encode([cbor.encode(FINE), {}, None, b"s"]),
    "payload is text": framed(FINE, payload="p"),
    "signature is text": framed(FINE, signature="s"),
    "header is empty": framed(b""),
    "header is no map": framed(cbor.encode([1])),
    "header is not canonical": framed(bytes.fromhex("a2 04 43 6b6964 01 3830")),
    "no algorithm": framed({4: b"kid"}),
    "no signer": framed({1: -49}),
    "one parameter more": framed({**FINE, 2: [1]}),
    "ES256": framed({1: -7, 4: b"kid"}),
    "ML-DSA-44": framed({1: -48, 4: b"kid"}),
    "algorithm is text": framed({1: "ML-DSA-65", 4: b"kid"}),
    "algorithm is a boolean": framed({1: True, 4: b"kid"}),
    "signer is text": framed({1: -49, 4: "kid"}),
}


@pytest.mark.parametrize("message", NOT_SIGN1.values(), ids=NOT_SIGN1)
def test_what_is_not_our_cose_sign1_is_malformed(world: Any, message: bytes) -> None:
    with pytest.raises(MalformedMessage):
        envelope.open_signed(message, CONTEXT, lambda _: key_of(world.qssp[1]))
    with pytest.raises(MalformedMessage):
        envelope.claimed_signer(message)
    with pytest.raises(MalformedMessage):
        envelope.claimed_payload(message)


def test_a_well_formed_forgery_is_a_bad_signature(world: Any) -> None:
    for signature in (b"", b"s", bytes(3309), bytes(3310)):
        with pytest.raises(BadSignature):
            envelope.open_signed(framed(FINE, signature=signature), CONTEXT, lambda _: key_of(world.qssp[1]))


@pytest.mark.parametrize(("signer", "kept"), [(b"km/jinan", 1), (b"k" * 100_000, 0)], ids=["a party", "as it likes"])
def test_a_header_that_a_stranger_made_long_is_not_remembered(signer: bytes, kept: int) -> None:
    """What is remembered is chosen by whoever sends, before anything was verified."""
    remembered = envelope._known_header
    remembered.cache_clear()
    assert envelope.claimed_signer(framed({1: -49, 4: signer})) == signer
    assert remembered.cache_info().currsize == kept


def several(size: int) -> list[bytes]:
    return [b"what is said, %d" % number for number in range(size)]


def opened_by(identity: Identity, message: bytes) -> envelope.Signed:
    return envelope.open_signed(message, CONTEXT, {identity.party.encode(): key_of(identity)}.__getitem__)


def refused(identity: Identity, message: bytes, context: bytes = CONTEXT) -> bool:
    try:
        envelope.open_signed(message, context, lambda _: key_of(identity))
    except (BadSignature, MalformedMessage):
        return True
    return False


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[VerificationKey]:
    """The key of each ML-DSA verification that is really made, from a table that holds none."""
    made: list[VerificationKey] = []

    def counted(scheme: SignatureScheme, key: VerificationKey, signature: bytes, data: bytes) -> None:
        made.append(key)
        verify(scheme, key, signature, data)

    monkeypatch.setattr(envelope, "verify", counted)
    monkeypatch.setattr(envelope, "_SUCCESSES", envelope._Successes(8))
    return made


def test_a_batch_costs_one_verification_and_a_message_that_comes_again_none(
    world: Any, verifications: list[VerificationKey]
) -> None:
    batch = envelope.sign_all(world.qssp[1], CONTEXT, several(9))
    assert [opened_by(world.qssp[1], message).payload for message in [*batch, *batch]] == several(9) * 2
    assert len(verifications) == 1
    message = envelope.sign(world.qssp[1], CONTEXT, PAYLOAD)
    assert opened_by(world.qssp[1], message) == opened_by(world.qssp[1], message)
    assert len(verifications) == 2


def test_a_failure_is_never_kept(world: Any, verifications: list[VerificationKey]) -> None:
    for message in (
        envelope.sign(world.qssp[1], CONTEXT, PAYLOAD),
        *envelope.sign_all(world.qssp[1], CONTEXT, several(2)),
    ):
        bent = message[:-1] + bytes([message[-1] ^ 1])
        before = len(verifications)
        for _ in range(3):
            assert refused(world.qssp[1], bent)
        assert len(verifications) == before + 3
    opened_by(world.qssp[1], message)


def sign_each(identity: Identity, context: bytes, payloads: list[bytes]) -> list[bytes]:
    return [envelope.sign(identity, context, payload) for payload in payloads]


@pytest.mark.parametrize("signed", [sign_each, envelope.sign_all])
def test_what_held_once_holds_for_nothing_else(
    world: Any, verifications: list[VerificationKey], signed: Callable[..., list[bytes]], draw: Callable[[str], Entropy]
) -> None:
    """Another key of the same party, another party's, another context, header, payload or signature: verified anew."""
    signer = world.qssp[1]
    message, *_ = signed(signer, CONTEXT, several(2))
    again, *_ = signed(signer, CONTEXT, several(2))
    opened_by(signer, message)
    renewed = Identity.create(signer.party, world.operator, world.now, world.ends, draw("renewed"))
    assert refused(renewed, message)
    assert refused(world.cpe[1], message)
    assert refused(world.qssp[2], message)
    assert refused(signer, message, b"qsotn/v1/other")
    assert refused(signer, message.replace(b"qssp/jinan", b"qssp/linyi"))
    assert refused(signer, message.replace(b"what is said", b"what is sAid"))
    assert len(verifications) == 7
    opened_by(signer, again)
    assert len(verifications) == 8


def test_whose_the_key_is_is_asked_each_time(world: Any, verifications: list[VerificationKey]) -> None:
    """A certificate that ran out since is refused, however often its key verified this very message."""
    message = envelope.sign(world.qssp[1], CONTEXT, PAYLOAD)
    opened_by(world.qssp[1], message)

    def run_out(kid: bytes) -> VerificationKey:
        raise BadProof(f"the certificate of {kid.decode()} has run out")

    with pytest.raises(BadProof):
        envelope.open_signed(message, CONTEXT, run_out)
    assert len(verifications) == 1


def test_the_one_unused_for_longest_is_forgotten_first(world: Any, verifications: list[VerificationKey]) -> None:
    first, second, *others = [envelope.sign(world.qssp[1], CONTEXT, payload) for payload in several(9)]
    for message in (first, second, *others[:-1], first):
        opened_by(world.qssp[1], message)
    assert len(verifications) == 8
    opened_by(world.qssp[1], others[-1])
    for message in (first, *others):
        opened_by(world.qssp[1], message)
    assert len(verifications) == 9
    opened_by(world.qssp[1], second)
    assert len(verifications) == 10


@pytest.mark.parametrize("number", NUMBERS)
def test_sealed_bytes_open_for_the_recipient_alone(world: Any, number: int) -> None:
    row, recipient, other = suite(number), world.cpe[number].kem, world.qssp[number].kem
    sealed = envelope.seal(row, recipient.public, PAYLOAD, b"info")
    assert envelope.unseal(row, recipient, sealed, b"info") == PAYLOAD
    assert PAYLOAD not in sealed
    assert sealed != envelope.seal(row, recipient.public, PAYLOAD, b"info")
    for key, given, info in [(other, sealed, b"info"), (recipient, sealed, b"other"), (recipient, sealed, b"")]:
        with pytest.raises(BadProof):
            envelope.unseal(row, key, given, info)


@pytest.mark.parametrize("number", NUMBERS)
def test_changed_sealed_bytes_do_not_open(world: Any, number: int) -> None:
    row, recipient = suite(number), world.cpe[number].kem
    sealed = envelope.seal(row, recipient.public, PAYLOAD, b"info")
    wrong = [sealed[:size] for size in (0, 1, row.kem.enc_bytes, row.kem.enc_bytes + 15, len(sealed) - 1)]
    wrong += [sealed + b"\x00"]
    for place in [*range(0, len(sealed), 97), row.kem.enc_bytes - 1, row.kem.enc_bytes, len(sealed) - 1]:
        wrong.append(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])
    for changed in wrong:
        with pytest.raises(BadProof):
            envelope.unseal(row, recipient, changed, b"info")


def test_a_key_of_another_suite_or_an_erased_one_opens_nothing(world: Any) -> None:
    row = suite(1)
    pair = row.kem_key(Secret(bytes(32)))
    sealed = envelope.seal(row, pair.public, PAYLOAD, b"info")
    with pytest.raises(BadProof, match="suite"):
        envelope.unseal(row, world.cpe[2].kem, sealed, b"info")
    pair.erase()
    with pytest.raises(BadProof, match="erased"):
        envelope.unseal(row, pair, sealed, b"info")


def test_nothing_is_sealed_to_what_is_no_key(world: Any) -> None:
    public = world.cpe[1].kem.public
    for wrong in (b"", public[:-1], world.cpe[2].kem.public, b"\xff" * len(public), public[:1184] + bytes(32)):
        with pytest.raises(QsotnError) as caught:
            envelope.seal(suite(1), wrong, PAYLOAD, b"info")
        assert isinstance(caught.value, BadProof | MalformedMessage)


def test_digest_separates_its_parts() -> None:
    assert envelope.digest(b"ab", b"c") != envelope.digest(b"a", b"bc")
    assert envelope.digest(b"abc") != envelope.digest(b"ab", b"c") != envelope.digest(b"ab", b"c", b"")
    assert envelope.digest(b"ab") == hashlib.sha384(b"\x00\x00\x00\x02ab").digest()
