"""The KEMs of the suites: one private seed in, the key objects HPKE wants out.

The hybrids follow draft-connolly-cfrg-xwing-kem (X-Wing) and draft-ietf-hpke-pq: SHAKE256 expands a 32-byte seed into
the ML-KEM seed (d ‖ z) and the classical private key; a public key is the two public keys, ML-KEM's first. The vectors
of that draft hold these expansions in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_MLKEM_SEED_BYTES: Final = 64
_X25519_BYTES: Final = 32
_P384_SCALAR_BYTES: Final = 48
_MLKEM768_PUBLIC_BYTES: Final = 1184
_MLKEM1024_PUBLIC_BYTES: Final = 1568
_P384_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


@dataclass(frozen=True, slots=True)
class Kem:
    """One KEM of HPKE: lengths in bytes, and the functions between bytes and key objects (these raise `ValueError`)."""

    name: str
    hpke: hpke.Suite = field(repr=False)
    seed_bytes: int
    enc_bytes: int
    key_pair: Callable[[bytes], tuple[Any, bytes]] = field(repr=False)
    public_key: Callable[[bytes], Any] = field(repr=False)


def _expand(seed: bytes, size: int) -> bytes:
    shake = hashes.Hash(hashes.SHAKE256(size))
    shake.update(seed)
    return shake.finalize()


def _xwing(seed: bytes) -> tuple[hpke.MLKEM768X25519PrivateKey, bytes]:
    expanded = _expand(seed, _MLKEM_SEED_BYTES + _X25519_BYTES)
    post_quantum = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
    classical = x25519.X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:])
    public = post_quantum.public_key().public_bytes_raw() + classical.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(post_quantum, classical), public


def _xwing_public(public: bytes) -> hpke.MLKEM768X25519PublicKey:
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM768_PUBLIC_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(public[_MLKEM768_PUBLIC_BYTES:]),
    )


def _p384_scalar(seed: bytes) -> int:
    scalar = int.from_bytes(seed)
    if not 0 < scalar < _P384_ORDER:
        # The draft rejects and reads on in its stream; the order is within 2^-194 of 2^384, so this is never reached
        # by chance, and a refused seed is drawn anew by its owner.
        raise ValueError("this seed gives no P-384 scalar: draw another")
    return scalar


def _mlkem1024_p384(seed: bytes) -> tuple[hpke.MLKEM1024P384PrivateKey, bytes]:
    expanded = _expand(seed, _MLKEM_SEED_BYTES + _P384_SCALAR_BYTES)
    post_quantum = mlkem.MLKEM1024PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
    classical = ec.derive_private_key(_p384_scalar(expanded[_MLKEM_SEED_BYTES:]), ec.SECP384R1())
    point = classical.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hpke.MLKEM1024P384PrivateKey(post_quantum, classical), post_quantum.public_key().public_bytes_raw() + point


def _mlkem1024_p384_public(public: bytes) -> hpke.MLKEM1024P384PublicKey:
    point = public[_MLKEM1024_PUBLIC_BYTES:]
    if point[:1] != b"\x04":
        raise ValueError("the P-384 point is not uncompressed")  # one key, one encoding: it is hashed and compared
    return hpke.MLKEM1024P384PublicKey(
        mlkem.MLKEM1024PublicKey.from_public_bytes(public[:_MLKEM1024_PUBLIC_BYTES]),
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point),
    )


def _mlkem1024(seed: bytes) -> tuple[mlkem.MLKEM1024PrivateKey, bytes]:
    key = mlkem.MLKEM1024PrivateKey.from_seed_bytes(seed)
    return key, key.public_key().public_bytes_raw()


def _hpke(kem: hpke.KEM) -> hpke.Suite:
    return hpke.Suite(kem, hpke.KDF.HKDF_SHA384, hpke.AEAD.AES_256_GCM)


MLKEM768_X25519: Final = Kem(
    "X-Wing",
    _hpke(hpke.KEM.MLKEM768_X25519),
    32,
    hpke.KEM.MLKEM768_X25519.enc_length(),
    _xwing,
    _xwing_public,
)
MLKEM1024_P384: Final = Kem(
    "MLKEM1024-P384",
    _hpke(hpke.KEM.MLKEM1024_P384),
    32,
    hpke.KEM.MLKEM1024_P384.enc_length(),
    _mlkem1024_p384,
    _mlkem1024_p384_public,
)
MLKEM1024: Final = Kem(
    "ML-KEM-1024",
    _hpke(hpke.KEM.MLKEM1024),
    _MLKEM_SEED_BYTES,
    hpke.KEM.MLKEM1024.enc_length(),
    _mlkem1024,
    mlkem.MLKEM1024PublicKey.from_public_bytes,
)
