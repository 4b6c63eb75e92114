"""Session keys: wrapped under one burned entry, compared without being shown."""

from __future__ import annotations

import hmac
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto import session
from qsotn.domain import Secret
from qsotn.errors import BadProof

ENTRY = Secret(b"\xe0" * 32)
CONTEXT = b"line-1, generation 7"
KEYS = [Secret(b"\x01" * 32), Secret(b"\x02" * 32)]


def test_session_keys_come_back_in_order() -> None:
    wrapped = session.wrap_session_keys(ENTRY, CONTEXT, KEYS)
    assert session.unwrap_session_keys(ENTRY, CONTEXT, wrapped, 2) == KEYS
    assert wrapped == session.wrap_session_keys(ENTRY, CONTEXT, KEYS)  # what a retransmission repeats
    assert all(key.reveal() not in wrapped for key in KEYS)


def test_the_wrap_is_byte_for_byte_the_described_one() -> None:
    prk = hmac.new(b"qsotn/v1/session/extract", ENTRY.reveal(), "sha384").digest()
    info = b"qsotn/v1/session/wrap" + struct.pack(">I", len(CONTEXT)) + CONTEXT
    key = hmac.new(prk, info + b"\x01", "sha384").digest()[:32]
    expected = AESGCM(key).encrypt(bytes(12), b"\x01" * 32 + b"\x02" * 32, CONTEXT)
    assert session.wrap_session_keys(ENTRY, CONTEXT, KEYS) == expected


@pytest.mark.parametrize(
    ("entry", "context", "count"),
    [
        (Secret(b"\xe1" * 32), CONTEXT, 2),
        (ENTRY, CONTEXT + b"1", 2),
        (ENTRY, b"", 2),
        (ENTRY, CONTEXT, 1),
        (ENTRY, CONTEXT, 3),
        (ENTRY, CONTEXT, 0),
        (ENTRY, CONTEXT, -1),
    ],
)
def test_another_entry_context_or_count_opens_nothing(entry: Secret, context: bytes, count: int) -> None:
    with pytest.raises(BadProof):
        session.unwrap_session_keys(entry, context, session.wrap_session_keys(ENTRY, CONTEXT, KEYS), count)


def test_no_flipped_bit_passes() -> None:
    wrapped = session.wrap_session_keys(ENTRY, CONTEXT, KEYS)
    for place in range(len(wrapped)):
        with pytest.raises(BadProof):
            session.unwrap_session_keys(
                ENTRY, CONTEXT, wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :], 2
            )
    with pytest.raises(BadProof):  # a tag that holds, over no keys at all
        session.unwrap_session_keys(ENTRY, CONTEXT, session._cipher(ENTRY, CONTEXT).encrypt(bytes(12), b"", CONTEXT), 0)
    for cut in (b"", wrapped[:-1], wrapped + b"\x00"):
        with pytest.raises(BadProof):
            session.unwrap_session_keys(ENTRY, CONTEXT, cut, 2)


@pytest.mark.parametrize("keys", [[], [Secret(bytes(31))], [*KEYS, Secret(bytes(16))]])
def test_only_keys_of_256_bits_are_wrapped(keys: list[Secret]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        session.wrap_session_keys(ENTRY, CONTEXT, keys)


def test_possession_holds_for_the_same_key_and_context_alone() -> None:
    key, context = KEYS[0], b"line-1, qssp/jinan proves"
    proof = session.possession_proof(key, context)
    session.verify_possession(key, context, proof)
    prk = hmac.new(b"qsotn/v1/possession/extract", key.reveal(), "sha384").digest()
    mac_key = hmac.new(prk, b"qsotn/v1/possession/confirm\x01", "sha384").digest()
    assert proof == hmac.new(mac_key, struct.pack(">I", len(context)) + context, "sha384").digest()
    for other_key, other_context, other_proof in [
        (KEYS[1], context, proof),
        (key, b"line-1, qssp/qingdao proves", proof),  # a reflected proof
        (key, b"", proof),
        (key, context, proof[:-1]),
        (key, context, b""),
        *((key, context, proof[:place] + bytes([proof[place] ^ 128]) + proof[place + 1 :]) for place in range(48)),
    ]:
        with pytest.raises(BadProof, match="possession"):
            session.verify_possession(other_key, other_context, other_proof)
