"""Session keys on their way to a CPE, and their comparison between two QSSPs: Figure 4, steps 9 to 11.

A QSSP draws session keys over AK and sends them to its CPE under a key made from one entry of the key file. The entry
is burned, durably and on both sides, before it is used here; a retransmission repeats the ciphertext. Before that,
the two QSSPs compare that they drew the same keys, without showing them (`possession_proof`).

Such a wrap is computationally secure (AES-256-GCM), not information-theoretic, although both keys are QKD's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto import labels
from qsotn.crypto.derivation import AEAD_KEY_BYTES, MAC_KEY_BYTES, expand, extract, length_prefixed, mac, verify_mac
from qsotn.domain import Secret
from qsotn.errors import BadProof

SESSION_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16

# The wrapping key is made from an entry that is burned before this call and never serves a second one, and from the
# context; it encrypts one plaintext, so a fixed nonce is never repeated under it.
_NONCE: Final = bytes(12)


def wrap_session_keys(entry: Secret, context: bytes, keys: Sequence[Secret]) -> bytes:
    """Encrypt 32-byte session keys, in order, under one burned key-file entry; `context` is authenticated.

    The caller has made the burning of `entry` durable: with one entry and one context, a second list of keys would
    repeat key and nonce.
    """
    if not keys or any(len(key) != SESSION_KEY_BYTES for key in keys):
        raise ValueError(f"at least one session key is wrapped, and each is {SESSION_KEY_BYTES} bytes")
    plaintext = b"".join(key.reveal() for key in keys)
    return _cipher(entry, context).encrypt(_NONCE, plaintext, context)


def unwrap_session_keys(entry: Secret, context: bytes, wrapped: bytes, count: int) -> list[Secret]:
    """Inverse of `wrap_session_keys` for exactly `count` keys; raises `BadProof`."""
    if count < 1 or len(wrapped) != count * SESSION_KEY_BYTES + _TAG_BYTES:
        raise BadProof(f"{len(wrapped)} wrapped bytes do not hold {count} session keys")
    try:
        material = _cipher(entry, context).decrypt(_NONCE, wrapped, context)
    except InvalidTag as error:
        raise BadProof("the wrapped session keys do not open under this key-file entry and context") from error
    return [Secret(material[at : at + SESSION_KEY_BYTES]) for at in range(0, len(material), SESSION_KEY_BYTES)]


def possession_proof(key: Secret, context: bytes) -> bytes:
    """Return HMAC-SHA384 over the context under a key derived from `key`: shows that one holds it, not what it is.

    The context names the prover, so that a proof reflected to its sender does not hold.
    """
    return mac(_possession_key(key), context)


def verify_possession(key: Secret, context: bytes, proof: bytes) -> None:
    """Check the other side's proof over the same key and context; raises `BadProof`."""
    verify_mac(_possession_key(key), proof, "the proof of possession", context)


def _cipher(entry: Secret, context: bytes) -> AESGCM:
    root = extract(labels.SESSION_EXTRACT, entry.reveal())
    return AESGCM(expand(root, labels.SESSION_WRAP + length_prefixed([context]), AEAD_KEY_BYTES).reveal())


def _possession_key(key: Secret) -> Secret:
    return expand(extract(labels.POSSESSION_EXTRACT, key.reveal()), labels.POSSESSION_CONFIRM, MAC_KEY_BYTES)
