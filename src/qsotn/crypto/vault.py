"""Secrets at rest: wrapped under a party's key-encryption key, each bound to its place in the store.

Blob: version (1 byte) ‖ nonce (12) ‖ ciphertext and tag. The context (for example `key-file/<id>/<index>`) is
authenticated, so a blob moved to another row does not open.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto import labels
from qsotn.crypto.derivation import AEAD_KEY_BYTES, expand, extract
from qsotn.domain import Entropy, Secret
from qsotn.errors import StoreError

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEK_BYTES: Final = 32


class Vault:
    """Wraps and unwraps under one key-encryption key of 32 bytes.

    Nonces are random and 96 bits, so one key-encryption key wraps at most 2^32 secrets (NIST SP 800-38D, section 8.3);
    a party that comes near that changes its key-encryption key.
    """

    __slots__ = ("_cipher", "_entropy")

    def __init__(self, kek: Secret, entropy: Entropy) -> None:
        if len(kek) != _KEK_BYTES:
            raise ValueError(f"a key-encryption key is {_KEK_BYTES} bytes, not {len(kek)}")
        root = extract(labels.VAULT_EXTRACT, kek.reveal())
        self._cipher = AESGCM(expand(root, labels.VAULT_WRAP, AEAD_KEY_BYTES).reveal())
        self._entropy = entropy

    def wrap(self, secret: Secret, context: bytes) -> bytes:
        """Return the blob to store for a secret at the place that `context` names."""
        nonce = self._entropy(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, secret.reveal(), _VERSION + context)

    def unwrap(self, blob: bytes, context: bytes) -> Secret:
        """Inverse of `wrap`; raises `StoreError`: what does not open is this party's own store, not a peer's fault."""
        if blob[:1] != _VERSION or len(blob) <= 1 + _NONCE_BYTES + _TAG_BYTES:
            raise StoreError(f"{len(blob)} stored bytes are no wrapped secret of version {_VERSION[0]}")
        nonce, ciphertext = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES :]
        try:
            return Secret(self._cipher.decrypt(nonce, ciphertext, _VERSION + context))
        except InvalidTag as error:
            raise StoreError("a stored secret does not open: another key, another place, or changed bytes") from error
