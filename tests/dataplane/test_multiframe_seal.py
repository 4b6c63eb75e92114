"""The crypto multiframe: published AES-GCM vectors through its primitive, an oracle of its own, and every refusal."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path as FilePath

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.dataplane.g709 import PAYLOAD_SIZE
from qsotn.dataplane.seal import (
    INVOCATION_LIMIT,
    NULL_HEADER,
    SEALED_SIZE,
    Header,
    Opener,
    Path,
    Sealer,
    decode_header,
    traffic_key,
)
from qsotn.domain import Direction, KeyId, LineId, Secret
from qsotn.errors import BadProof, KeyShortage, ReplayedMessage, UsageError

KEY = Secret(bytes(range(32)))
LINE = LineId("line-1")
PATH = Path(LINE, "ODU2", Direction.B_TO_A)
PAYLOAD = bytes(range(256)) * (PAYLOAD_SIZE // 256)

LONG_KEY = "feffe9928665731c6d6a8f9467308308" * 2
LONG_PLAIN = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
LONG_CIPHER = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
)
MCGREW_VIEGA = {
    "13": ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    "14": ("00" * 32, "00" * 12, "00" * 16, "", "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"),
    "15": (LONG_KEY, "cafebabefacedbaddecaf888", LONG_PLAIN, "", LONG_CIPHER, "b094dac5d93471bdec1a502270e3cc6c"),
    "16": (
        LONG_KEY,
        "cafebabefacedbaddecaf888",
        LONG_PLAIN[:120],
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        LONG_CIPHER[:120],
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
}


def primitive(key: str, nonce: str, plain: str, associated: str) -> str:
    """What the sealer does, on a vector."""
    sealed = bytearray(len(plain) // 2 + 16)
    aead = AESGCM(bytes.fromhex(key))
    aead.encrypt_into(bytes.fromhex(nonce), bytes.fromhex(plain), bytes.fromhex(associated), sealed)
    opened = bytearray(len(plain) // 2)
    aead.decrypt_into(bytes.fromhex(nonce), sealed, bytes.fromhex(associated), opened)
    assert opened.hex() == plain
    return sealed.hex()


@pytest.mark.parametrize("case", MCGREW_VIEGA)
def test_mcgrew_and_viega_gcm_specification_appendix_b(case: str) -> None:
    key, nonce, plain, associated, cipher, tag = MCGREW_VIEGA[case]
    assert primitive(key, nonce, plain, associated) == cipher + tag


def test_nist_cavs_gcm_encrypt_256() -> None:
    """CAVS 14.0, `gcmEncryptExtIV256.rsp`: every vector with a 96-bit IV and a 128-bit tag."""
    file = FilePath(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM" / "gcmEncryptExtIV256.rsp"
    vectors: list[dict[str, str]] = []
    lengths: dict[str, str] = {}
    for line in file.read_text().splitlines():
        name, separator, value = line.strip("[] ").partition(" =")
        if not separator:
            continue
        if line.startswith("["):
            lengths[name] = value.strip()
        elif name == "Count":
            vectors.append(dict(lengths))
        else:
            vectors[-1][name] = value.strip()
    chosen = [v for v in vectors if v["IVlen"] == "96" and v["Taglen"] == "128"]
    assert len(chosen) == 375
    for v in chosen:
        assert primitive(v["Key"], v["IV"], v["PT"], v["AAD"]) == v["CT"] + v["Tag"]


def seal(sealer: Sealer, counter: int = 5, receiver_epoch: int = 9) -> tuple[Header, bytearray]:
    sealed = bytearray(SEALED_SIZE)
    return sealer.seal(PAYLOAD, counter, receiver_epoch, sealed), sealed


def open_with(opener: Opener, header: Header, sealed: bytearray) -> bytes:
    payload = bytearray(PAYLOAD_SIZE)
    opener.open(header, sealed, payload)
    return bytes(payload)


def test_a_multiframe_is_what_the_documentation_says() -> None:
    """The same bytes from the text of the module alone: IV, associated data and header put together by hand."""
    header, sealed = seal(Sealer(PATH, KEY, association=11, epoch=0x00ABCD), counter=0x1234, receiver_epoch=0x000777)
    nonce = bytes.fromhex("8000ABCD") + bytes.fromhex("0000000000001234")
    associated = b"qsotn dataplane multiframe v1\x00\x06line-1\x00\x04ODU2\x00\x06b-to-a\x05" + b"\x1b\x00\x07\x77"
    gcm = Cipher(algorithms.AES(bytes(range(32))), modes.GCM(nonce)).encryptor()
    gcm.authenticate_additional_data(associated)
    assert sealed[:PAYLOAD_SIZE] == gcm.update(PAYLOAD) + gcm.finalize()
    assert sealed[PAYLOAD_SIZE:] == header.tag == gcm.tag
    assert header.encode() == gcm.tag + bytes.fromhex("0000000000001234") + b"\x1b" + bytes.fromhex("00ABCD")
    assert decode_header(header.encode()) == header


def test_the_traffic_key_is_hkdf_expand_of_rfc_5869_with_line_direction_and_key_id() -> None:
    info = b"qsotn dataplane traffic key v1\x00\x06line-1\x00\x06b-to-a\x00\x05key-7"
    expected = hmac.new(bytes(range(32)), info + b"\x01", hashlib.sha384).digest()[:32]
    assert traffic_key(PATH, KeyId("key-7"), KEY) == Secret(expected)


@pytest.mark.parametrize(
    ("path", "key_id"),
    [
        (Path(LineId("line-2"), "ODU2", Direction.B_TO_A), "key-7"),
        (Path(LINE, "ODU2", Direction.A_TO_B), "key-7"),
        (PATH, "key-8"),
        (Path(LineId("line-1\x00"), "ODU2", Direction.B_TO_A), "key-7"),
    ],
)
def test_another_line_direction_or_key_id_is_another_traffic_key(path: Path, key_id: str) -> None:
    assert traffic_key(path, KeyId(key_id), KEY) != traffic_key(PATH, KeyId("key-7"), KEY)


def test_what_was_sealed_opens() -> None:
    header, sealed = seal(Sealer(PATH, KEY, 3, epoch=2))
    assert open_with(Opener(PATH, KEY, epoch=9), header, sealed) == PAYLOAD


@pytest.mark.parametrize(
    "opener",
    [
        Opener(Path(LINE, "ODU2", Direction.A_TO_B), KEY, 9),
        Opener(Path(LineId("line-2"), "ODU2", Direction.B_TO_A), KEY, 9),
        Opener(Path(LINE, "ODU1", Direction.B_TO_A), KEY, 9),
        Opener(PATH, Secret(bytes(32)), 9),
        Opener(PATH, KEY, 10),
    ],
    ids=["direction", "line", "ODU type", "key", "receiver's epoch"],
)
def test_nothing_opens_where_it_does_not_belong(opener: Opener) -> None:
    header, sealed = seal(Sealer(PATH, KEY, 3, epoch=2))
    with pytest.raises(BadProof, match="multiframe 5 of epoch 2"):
        open_with(opener, header, sealed)


@pytest.mark.parametrize("bit", [*range(8 * 16, 8 * 24), *range(8 * 24 + 4, 8 * 28)])
def test_every_header_bit_beside_the_tag_is_authenticated(bit: int) -> None:
    header, sealed = seal(Sealer(PATH, KEY, 3, epoch=2))
    free = bytearray(header.encode())
    free[bit // 8] ^= 0x80 >> bit % 8
    with pytest.raises(BadProof):
        open_with(Opener(PATH, KEY, epoch=9), decode_header(bytes(free)), sealed)


@pytest.mark.parametrize("at", [0, 1, 4096, PAYLOAD_SIZE - 1, PAYLOAD_SIZE, SEALED_SIZE - 1])
def test_a_changed_byte_does_not_open(at: int) -> None:
    header, sealed = seal(Sealer(PATH, KEY, 3, epoch=2))
    sealed[at] ^= 1
    with pytest.raises(BadProof):
        open_with(Opener(PATH, KEY, epoch=9), header, sealed)


@pytest.mark.parametrize("flags", [0x00, 0x23, 0xF3])
def test_another_format_is_refused(flags: int) -> None:
    with pytest.raises(BadProof, match="format"):
        decode_header(bytes(24) + bytes((flags,)) + bytes(3))


def test_no_sealed_header_looks_like_the_null_client() -> None:
    assert Header(bytes(16), 0, 0, 0).encode() != NULL_HEADER


def test_a_counter_is_sealed_once() -> None:
    sealer = Sealer(PATH, KEY, 3, epoch=2)
    seal(sealer, counter=7)
    for spent in (7, 6, 0):
        with pytest.raises(ReplayedMessage, match="at least 8"):
            seal(sealer, counter=spent)
    seal(sealer, counter=8)


def test_a_key_serves_so_often_and_not_once_more() -> None:
    sealer = Sealer(PATH, KEY, 3, epoch=2, limit=2)
    seal(sealer, 0)
    seal(sealer, 1)
    with pytest.raises(KeyShortage):
        seal(sealer, 2)


def test_the_invocation_limit_is_the_block_margin_of_tls() -> None:
    assert INVOCATION_LIMIT * PAYLOAD_SIZE // 16 <= 2**34.5 < (INVOCATION_LIMIT + 1) * PAYLOAD_SIZE // 16
    minutes_on_odu0 = INVOCATION_LIMIT * 4 * 98.354e-6 / 60
    assert minutes_on_odu0 == pytest.approx(42, abs=1)


def test_nonces_differ_between_epochs_directions_and_counters() -> None:
    nonces = {
        Header(b"", counter, 0, epoch).nonce(direction)
        for counter in (0, 1, 2**64 - 1)
        for epoch in (0, 1, 255, 256, 2**24 - 1)
        for direction in Direction
    }
    assert len(nonces) == 3 * 5 * 2


@pytest.mark.parametrize("epoch", [-1, 1 << 24])
def test_an_epoch_that_does_not_fit_is_refused_rather_than_wrapped(epoch: int) -> None:
    with pytest.raises(UsageError, match="epoch"):
        Sealer(PATH, KEY, 3, epoch)


def test_a_session_key_that_is_not_256_bits_is_refused() -> None:
    with pytest.raises(UsageError, match="16 bytes"):
        traffic_key(PATH, KeyId("key-7"), Secret(bytes(16)))
