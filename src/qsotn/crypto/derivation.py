"""HKDF with SHA-384 (RFC 5869) and HMAC-SHA384, the only derivation and the only MAC of the project."""

from __future__ import annotations

import hmac as constant_time
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from qsotn.domain import Secret
from qsotn.errors import BadProof

AEAD_KEY_BYTES: Final = 32
MAC_KEY_BYTES: Final = 48


def length_prefixed(parts: Iterable[bytes]) -> bytes:
    """Return each part after its length in four bytes, joined: two different lists never give the same bytes."""
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def extract(salt: bytes, material: bytes) -> Secret:
    """HKDF-Extract: concentrate material into a pseudorandom key of 48 bytes."""
    return Secret(HKDF.extract(hashes.SHA384(), salt, material))


def expand(key: Secret, info: bytes, size: int) -> Secret:
    """HKDF-Expand: `size` bytes for one purpose, named by `info`."""
    return Secret(HKDFExpand(hashes.SHA384(), size, info).derive(key.reveal()))


def mac(key: Secret, *parts: bytes) -> bytes:
    """HMAC-SHA384 over length-prefixed parts."""
    state = hmac.HMAC(key.reveal(), hashes.SHA384())
    state.update(length_prefixed(parts))
    return state.finalize()


def verify_mac(key: Secret, tag: bytes, subject: str, *parts: bytes) -> None:
    """Compare in constant time; raises `BadProof`, whose sentence begins with `subject`."""
    if not constant_time.compare_digest(mac(key, *parts), tag):
        raise BadProof(f"{subject} does not hold under this key and context")
