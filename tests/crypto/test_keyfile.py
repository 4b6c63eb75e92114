"""Figure 3, steps 8 to 10: the schedule against a straight one, the ratchet, and one row for every refusal."""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto import keyfile
from qsotn.crypto.envelope import seal, unseal
from qsotn.crypto.suites import SUITES, KemKeyPair, suite
from qsotn.domain import Entropy, Secret
from qsotn.errors import BadProof, MalformedMessage

Draw = Callable[[str], Entropy]

M8 = bytes(range(48))
HEADER = b"header of the file"
PPK = Secret(b"\x50" * 32)


def entries(count: int = 4) -> list[Secret]:
    return [Secret(bytes([index % 256]) * 32) for index in range(count)]


def straight_schedule(k0: bytes, ppk: bytes, th: bytes) -> list[bytes]:
    """The schedule from the module's description alone: HMAC, lengths and labels written out."""
    material = struct.pack(">I", len(k0)) + k0 + struct.pack(">I", len(ppk)) + ppk
    prk = hmac.new(b"qsotn/v1/key-file/extract", material, "sha384").digest()
    keys = []
    for label, size in [(b"wrap", 32), (b"confirm-qssp", 48), (b"confirm-cpe", 48), (b"next-ppk", 32)]:
        keys.append(hmac.new(prk, b"qsotn/v1/key-file/" + label + th + b"\x01", "sha384").digest()[:size])
    return keys


def straight_transcript(*parts: bytes) -> bytes:
    return hashlib.sha384(b"".join(struct.pack(">I", len(part)) + part for part in parts)).digest()


def revealed(keys: keyfile.KeyFileKeys) -> list[bytes]:
    return [key.reveal() for key in (keys.wrap, keys.confirm_qssp, keys.confirm_cpe, keys.next_ppk)]


@pytest.mark.parametrize("ppk", [None, PPK])
def test_the_schedule_is_byte_for_byte_the_described_one(ppk: Secret | None) -> None:
    k0, th = bytes(range(32)), keyfile.transcript(M8, b"enc", HEADER)
    assert th == straight_transcript(M8, b"enc", HEADER)
    expected = straight_schedule(k0, b"" if ppk is None else ppk.reveal(), th)
    assert revealed(keyfile.schedule(Secret(k0), ppk, th)) == expected
    assert len(set(expected)) == 4


def test_the_schedule_does_not_drift() -> None:
    """Fixed inputs, fixed outputs: a change here is a change of version for every key file in the field."""
    th = keyfile.transcript(bytes(48), bytes(1136), b"header")
    keys = keyfile.schedule(Secret(bytes(range(32))), Secret(bytes(range(32, 64))), th)
    assert hashlib.sha256(b"".join(revealed(keys))).hexdigest() == PINNED


PINNED = "f8582d94f963f807b46e7a5d606f9199c26f0c5e06b7a360b93243f9f9f669aa"


@pytest.mark.parametrize("number", sorted(SUITES))
@pytest.mark.parametrize("ppk", [None, PPK])
def test_a_closed_file_opens_with_the_same_keys_on_both_sides(number: int, ppk: Secret | None, draw: Draw) -> None:
    row = suite(number)
    request = keyfile.request_keys(row, draw("request"))
    closed = keyfile.close_key_file(row, request.public, M8, entries(), ppk, HEADER, draw("close"))
    opened = keyfile.open_key_file(row, request, M8, closed.enc, closed.ciphertext, closed.confirmation, ppk, HEADER)
    assert list(opened.entries) == entries()
    assert opened.keys == closed.keys
    assert opened.transcript == closed.transcript == keyfile.transcript(M8, closed.enc, HEADER)
    for entry in entries():
        assert entry.reveal() not in closed.enc + closed.ciphertext + closed.confirmation


def test_two_files_for_one_request_share_nothing(draw: Draw) -> None:
    request = keyfile.request_keys(suite(1), draw("request"))
    entropy = draw("close")
    first, second = (
        keyfile.close_key_file(suite(1), request.public, M8, entries(), None, HEADER, entropy) for _ in range(2)
    )
    assert not set(revealed(first.keys)) & set(revealed(second.keys))
    assert (first.enc, first.ciphertext, first.confirmation) != (second.enc, second.ciphertext, second.confirmation)


def test_step_9_is_what_the_description_says(draw: Draw) -> None:
    """Opened with nothing of the module but the KEM: info, transcript, schedule, cipher and confirmation."""
    row, request = suite(1), keyfile.request_keys(suite(1), draw("request"))
    closed = keyfile.close_key_file(row, request.public, M8, entries(), PPK, HEADER, draw("close"))
    k0 = unseal(row, request, closed.enc, b"qsotn/v1/key-file/seal" + M8)
    th = straight_transcript(M8, closed.enc, HEADER)
    wrap, confirm, _, _ = straight_schedule(k0, PPK.reveal(), th)
    assert AESGCM(wrap).decrypt(bytes(12), closed.ciphertext, HEADER) == b"".join(e.reveal() for e in entries())
    authenticated = struct.pack(">I", 48) + th + struct.pack(">I", len(closed.ciphertext)) + closed.ciphertext
    assert closed.confirmation == hmac.new(confirm, authenticated, "sha384").digest()


@pytest.fixture(scope="module")
def made(draw: Draw) -> dict[str, Any]:
    """The arguments with which one refill opens."""
    request = keyfile.request_keys(suite(1), draw("request"))
    closed = keyfile.close_key_file(suite(1), request.public, M8, entries(), PPK, HEADER, draw("close"))
    return {
        "suite": suite(1),
        "request": request,
        "m8_digest": M8,
        "enc": closed.enc,
        "ciphertext": closed.ciphertext,
        "confirmation": closed.confirmation,
        "ppk": PPK,
        "header": HEADER,
    }


def flipped(data: bytes, place: int) -> bytes:
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


REFUSED: dict[str, dict[str, Any]] = {
    "another request": {"request": suite(1).kem_key(Secret(bytes(32)))},
    "a request of another suite": {"request": suite(3).kem_key(Secret(bytes(64)))},
    "read as another suite": {"suite": suite(2)},
    "another m8": {"m8_digest": flipped(M8, 0)},
    "another header": {"header": HEADER + b"."},
    "no PPK": {"ppk": None},
    "another PPK": {"ppk": Secret(b"\x51" * 32)},
    "k0 cut": {"enc": lambda made: made[:-1]},
    "no k0": {"enc": b""},
    "file cut": {"ciphertext": lambda made: made[:-1]},
    "file longer": {"ciphertext": lambda made: made + b"\x00"},
    "no file": {"ciphertext": b""},
    "confirmation cut": {"confirmation": lambda made: made[:-1]},
    "no confirmation": {"confirmation": b""},
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_file_opens_for_its_own_request_alone(made: dict[str, Any], change: dict[str, Any]) -> None:
    assert list(keyfile.open_key_file(**made).entries) == entries()
    changed = {name: value(made[name]) if callable(value) else value for name, value in change.items()}
    with pytest.raises(BadProof):
        keyfile.open_key_file(**(made | changed))


@pytest.mark.parametrize(("part", "step"), [("enc", 41), ("ciphertext", 7), ("confirmation", 3), ("header", 1)])
def test_no_flipped_bit_passes(made: dict[str, Any], part: str, step: int) -> None:
    for place in [*range(0, len(made[part]), step), -1]:
        with pytest.raises(BadProof):
            keyfile.open_key_file(**(made | {part: flipped(made[part], place)}))


def test_the_header_is_bound_by_the_cipher_too(draw: Draw) -> None:
    """A QSSP that confirms under a header it did not encrypt under is refused by the tag."""
    row, request = suite(1), keyfile.request_keys(suite(1), draw("request"))
    k0 = Secret(bytes(32))
    enc = seal(row, request.public, k0.reveal(), b"qsotn/v1/key-file/seal" + M8)
    th = keyfile.transcript(M8, enc, HEADER)
    keys = keyfile.schedule(k0, None, th)
    for material, aad, reason in [
        (bytes(64), b"another", "tag"),
        (bytes(33), HEADER, "entries"),
        (b"", HEADER, "entr"),
    ]:
        ciphertext = AESGCM(keys.wrap.reveal()).encrypt(bytes(12), material, aad)
        confirmation = keyfile.confirm(keys.confirm_qssp, th, ciphertext)
        with pytest.raises(BadProof, match=reason):
            keyfile.open_key_file(row, request, M8, enc, ciphertext, confirmation, None, HEADER)


def test_a_k0_of_another_length_is_refused(draw: Draw) -> None:
    row, request = suite(1), keyfile.request_keys(suite(1), draw("request"))
    enc = seal(row, request.public, bytes(31), b"qsotn/v1/key-file/seal" + M8)
    with pytest.raises(BadProof, match="k0 is 31 bytes"):
        keyfile.open_key_file(row, request, M8, enc, bytes(48), bytes(48), None, HEADER)


def test_the_ratchet_keeps_a_refill_closed_to_whoever_only_broke_the_kem(draw: Draw) -> None:
    """An attacker recorded everything and has the KEM's secrets of the refills, but not of the first file."""
    row, ppk = suite(1), None
    recorded: list[tuple[KemKeyPair, keyfile.ClosedKeyFile, Secret | None]] = []
    for refill in range(3):
        request = keyfile.request_keys(row, draw(f"request {refill}"))
        closed = keyfile.close_key_file(row, request.public, M8, entries(), ppk, HEADER, draw(f"close {refill}"))
        recorded.append((request, closed, ppk))
        ppk = closed.keys.next_ppk
    for request, closed, held in recorded[1:]:
        arguments = (row, request, M8, closed.enc, closed.ciphertext, closed.confirmation)
        k0 = unseal(row, request, closed.enc, b"qsotn/v1/key-file/seal" + M8)
        assert len(k0) == 32  # the KEM is broken
        others = [known for *_, known in recorded if known is not held]
        for guess in (None, *others, Secret(bytes(32)), Secret(k0)):
            with pytest.raises(BadProof, match="confirmation"):
                keyfile.open_key_file(*arguments, guess, HEADER)
        assert keyfile.open_key_file(*arguments, held, HEADER).keys == closed.keys


def test_an_erased_request_opens_nothing(draw: Draw) -> None:
    row, request = suite(1), keyfile.request_keys(suite(1), draw("request"))
    closed = keyfile.close_key_file(row, request.public, M8, entries(), None, HEADER, draw("close"))
    request.erase()
    with pytest.raises(BadProof, match="erased"):
        keyfile.open_key_file(row, request, M8, closed.enc, closed.ciphertext, closed.confirmation, None, HEADER)


def test_step_10_confirms_what_was_installed_and_no_more() -> None:
    keys = keyfile.schedule(Secret(bytes(32)), None, bytes(48))
    parts = (bytes(48), b"digest of m9", b"installed")
    proof = keyfile.confirm(keys.confirm_cpe, *parts)
    keyfile.verify_confirmation(keys.confirm_cpe, proof, *parts)
    for key, tag, said in [
        (keys.confirm_qssp, proof, parts),  # the QSSP's own key: a reflected confirmation
        (keys.confirm_cpe, flipped(proof, 0), parts),
        (keys.confirm_cpe, proof[:-1], parts),
        (keys.confirm_cpe, b"", parts),
        (keys.confirm_cpe, proof, (bytes(48), b"digest of m9", b"refused")),
        (keys.confirm_cpe, proof, (bytes(48), b"digest of m9i", b"nstalled")),
    ]:
        with pytest.raises(BadProof, match="confirmation"):
            keyfile.verify_confirmation(key, tag, *said)


def test_what_is_no_key_file_is_not_closed(draw: Draw) -> None:
    request = keyfile.request_keys(suite(1), draw("request"))
    for wrong in ([], [Secret(bytes(31))], [*entries(), Secret(bytes(33))]):
        with pytest.raises(ValueError, match="32 bytes"):
            keyfile.close_key_file(suite(1), request.public, M8, wrong, None, HEADER, draw("x"))
    for ppk in (Secret(b""), Secret(bytes(31))):
        with pytest.raises(ValueError, match="PPK"):
            keyfile.close_key_file(suite(1), request.public, M8, entries(), ppk, HEADER, draw("x"))
    with pytest.raises(MalformedMessage):
        keyfile.close_key_file(suite(1), request.public[:-1], M8, entries(), None, HEADER, draw("x"))
