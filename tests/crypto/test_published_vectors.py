"""The primitives, as this package reaches them, against vectors published by others (package `cryptography-vectors`).

What is proven is the way in: seed formats, public-key layouts, how the hybrids expand a seed, the modes chosen.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto import derivation, suites
from qsotn.domain import Secret
from qsotn.errors import BadSignature

PER_FILE = 12

Record = dict[str, str]


def records(path: str) -> Iterator[Record]:
    """Read a NIST response file: blocks of `name = value`, after `[name = value]` lines that hold for what follows."""
    section: Record = {}
    record: Record = {}
    with cryptography_vectors.open_vector_file(path, "r") as lines:
        for line in map(str.strip, lines):
            name, _, value = (part.strip() for part in line.strip("[]").partition("="))
            if line.startswith("["):
                section[name] = value
            elif name.lower() == "count":
                yield from [section | record] if record else []
                record = {"count": value}
            elif name and not name.startswith("#"):
                record[name] = value
    yield section | record


def taken(path: str, count: int = PER_FILE) -> list[Record]:
    found = list(itertools.islice(records(path), count))
    assert len(found) == count
    return found


def unhex(record: Record, *names: str) -> list[bytes]:
    return [bytes.fromhex(record[name]) for name in names]


@pytest.mark.parametrize(
    ("path", "private"),
    [
        ("asymmetric/MLKEM/kat_MLKEM_768.rsp", mlkem.MLKEM768PrivateKey),
        ("asymmetric/MLKEM/kat_MLKEM_1024.rsp", mlkem.MLKEM1024PrivateKey),
    ],
)
def test_ml_kem_known_answers_of_fips_203(path: str, private: Any) -> None:
    for record in taken(path):
        d, z, pk, ct, ss, ct_n, ss_n = unhex(record, "d", "z", "pk", "ct", "ss", "ct_n", "ss_n")
        key = private.from_seed_bytes(d + z)
        assert key.public_key().public_bytes_raw() == pk
        assert key.decapsulate(ct) == ss
        assert key.decapsulate(ct_n) == ss_n  # implicit rejection


def test_suite_3_reads_ml_kem_seeds_as_fips_203_writes_them() -> None:
    for record in taken("asymmetric/MLKEM/kat_MLKEM_1024.rsp"):
        d, z, pk = unhex(record, "d", "z", "pk")
        assert suites.suite(3).kem_key(Secret(d + z)).public == pk


@pytest.mark.parametrize(("level", "number"), [(65, 1), (87, 2)])
def test_ml_dsa_known_answers_of_fips_204(level: int, number: int) -> None:
    for record in taken(f"asymmetric/MLDSA/kat_MLDSA_{level}_det_pure.rsp"):
        xi, pk, msg, sm, ctx = unhex(record, "xi", "pk", "msg", "sm", "ctx")
        key = suites.suite(number).signing_key(Secret(xi)).public_key()
        assert key.public_bytes_raw() == pk
        signature = sm.removesuffix(msg)
        key.verify(signature, msg, ctx)
        with pytest.raises(BadSignature):  # made for a context string, and RFC 9964 knows only the empty one
            suites.verify(suites.suite(number).signature, key, signature, msg)


def hpke_vectors(path: str) -> list[dict[str, Any]]:
    with cryptography_vectors.open_vector_file(path, "r") as lines:
        return list(json.load(lines))


def first_opened(vector: dict[str, Any], suite: hpke.Suite, private: Any) -> bytes:
    """Open the first encryption. The vectors carry associated data, which only the library's test hook accepts."""
    first = vector["encryptions"][0]
    sealed = bytes.fromhex(vector["enc"] + first["ct"])
    info, aad = bytes.fromhex(vector["info"]), bytes.fromhex(first["aad"])
    return rust_openssl.hpke._decrypt_with_aad(suite, sealed, private, info, aad)


# kem_id, kdf_id, aead_id of the vector; our suite; how the vector's key schedule and cipher are called. Suites 2 and 3
# are met exactly; X-Wing's vector has another KDF and cipher, so there it is the KEM that is proven.
HPKE_PQ = [
    (0x647A, 1, 3, 1, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305),
    (0x0051, 2, 2, 2, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM),
    (0x0042, 2, 2, 3, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM),
]
KEM_OF_SUITE = {1: hpke.KEM.MLKEM768_X25519, 2: hpke.KEM.MLKEM1024_P384, 3: hpke.KEM.MLKEM1024}


@pytest.mark.parametrize(("kem_id", "kdf_id", "aead_id", "number", "kdf", "aead"), HPKE_PQ)
def test_hpke_with_post_quantum_kems_draft_ietf_hpke_pq(
    kem_id: int, kdf_id: int, aead_id: int, number: int, kdf: hpke.KDF, aead: hpke.AEAD
) -> None:
    (vector,) = [
        vector
        for vector in hpke_vectors("HPKE/hpke-pq-test-vectors.json")
        if (vector["kem_id"], vector["kdf_id"], vector["aead_id"]) == (kem_id, kdf_id, aead_id)
    ]
    pair = suites.suite(number).kem_key(Secret(bytes.fromhex(vector["skRm"])))
    assert pair.public.hex() == vector["pkRm"]
    suites.suite(number).kem_public_key(pair.public)
    assert suites.suite(number).kem.enc_bytes == len(vector["enc"]) // 2
    opened = first_opened(vector, hpke.Suite(KEM_OF_SUITE[number], kdf, aead), pair.handle)
    assert opened.hex() == vector["encryptions"][0]["pt"]
    if kdf == hpke.KDF.HKDF_SHA384:
        assert first_opened(vector, suites.suite(number).hpke, pair.handle) == opened


def gcm_cases() -> list[Record]:
    cases = [
        record
        for record in records("ciphers/AES/GCM/gcmDecrypt256.rsp")
        if (record["IVlen"], record["Taglen"]) == ("96", "128")
    ]
    return cases[:: max(1, len(cases) // 60)]


def test_aes_256_gcm_of_nist_cavp_opens_what_holds_and_refuses_the_rest() -> None:
    outcomes = {"opened": 0, "refused": 0}
    for record in gcm_cases():
        key, nonce, ciphertext, aad, tag = unhex(record, "Key", "IV", "CT", "AAD", "Tag")
        if "FAIL" in record:
            outcomes["refused"] += 1
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(nonce, ciphertext + tag, aad)
        else:
            outcomes["opened"] += 1
            assert AESGCM(key).decrypt(nonce, ciphertext + tag, aad).hex() == record["PT"]
    assert min(outcomes.values()) > 10


def straight_hkdf(name: str, salt: bytes, material: bytes, info: bytes, size: int) -> tuple[bytes, bytes]:
    """RFC 5869, sections 2.2 and 2.3, with nothing but HMAC."""
    prk = hmac.new(salt, material, name).digest()
    block, output = b"", b""
    for index in range(1, -(-size // hashlib.new(name).digest_size) + 1):
        block = hmac.new(prk, block + info + bytes([index]), name).digest()
        output += block
    return prk, output[:size]


def test_hkdf_agrees_with_a_straight_one_that_meets_rfc_5869() -> None:
    """RFC 5869 publishes SHA-256 only; the straight one meets it, and then speaks for SHA-384."""
    published = list(records("KDF/rfc-5869-HKDF-SHA256.txt"))
    assert len(published) == 3
    for record in published:
        material, salt, info, prk, okm = unhex(record, "IKM", "salt", "info", "PRK", "OKM")
        assert straight_hkdf("sha256", salt, material, info, int(record["L"])) == (prk, okm)
        extracted, expanded = straight_hkdf("sha384", salt, material, info, 100)
        assert derivation.extract(salt, material).reveal() == extracted
        assert derivation.expand(Secret(extracted), info, 100).reveal() == expanded
