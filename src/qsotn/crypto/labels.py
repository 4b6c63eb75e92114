"""Every domain-separation label of the project, in one table.

No two uses of a hash, MAC, KDF, signature or AEAD share a label, so that a value computed for one purpose is never
accepted for another. A label names the version: a change of meaning is a change of `v1`. No label is a prefix of
another in this table (a test keeps it so), because labels are concatenated with what follows them.
"""

from __future__ import annotations

from typing import Final

_PREFIX: Final = b"qsotn/v1/"

MESSAGE: Final = _PREFIX + b"message"
"""COSE_Sign1 external_aad of a protocol message (RFC 9052, section 4.3), whose signed content names its type."""

SEALED: Final = _PREFIX + b"sealed"
"""HPKE info of a signed message on a sealed interface, before the interface's and both parties' names."""
TOKEN: Final = _PREFIX + b"token"
"""COSE_Sign1 external_aad of a service token (Figure 4, step 1)."""
PROVENANCE: Final = _PREFIX + b"provenance"
"""COSE_Sign1 external_aad of what one key manager says that it did with a batch of relayed units."""

IDENTITY_STATE: Final = _PREFIX + b"identity-state"
"""A party's private keys and certificates, serialised for its own store."""
AUTHORITY_STATE: Final = _PREFIX + b"authority-state"
"""A certificate authority's key and certificate, serialised for its own store."""

KEY_FILE_SEAL: Final = _PREFIX + b"key-file/seal"
"""HPKE info of k0, before the digest of the request (Figure 3, step 9)."""
KEY_FILE_EXTRACT: Final = _PREFIX + b"key-file/extract"
"""HKDF-Extract salt of the key file's schedule."""
KEY_FILE_WRAP: Final = _PREFIX + b"key-file/wrap"
"""HKDF-Expand info of K_wrap."""
KEY_FILE_CONFIRM_QSSP: Final = _PREFIX + b"key-file/confirm-qssp"
"""HKDF-Expand info of K_confirm_Q."""
KEY_FILE_CONFIRM_CPE: Final = _PREFIX + b"key-file/confirm-cpe"
"""HKDF-Expand info of K_confirm_C."""
KEY_FILE_NEXT_PPK: Final = _PREFIX + b"key-file/next-ppk"
"""HKDF-Expand info of the next post-quantum preshared key (the part RFC 8784 calls PPK)."""

SESSION_EXTRACT: Final = _PREFIX + b"session/extract"
"""HKDF-Extract salt over one key-file entry (Figure 4, step 11)."""
SESSION_WRAP: Final = _PREFIX + b"session/wrap"
"""HKDF-Expand info of the key that wraps session keys."""
POSSESSION_EXTRACT: Final = _PREFIX + b"possession/extract"
"""HKDF-Extract salt over a session key, for comparing it without revealing it (Figure 4, step 10)."""
POSSESSION_CONFIRM: Final = _PREFIX + b"possession/confirm"
"""HKDF-Expand info of the key under which possession is shown."""

VAULT_EXTRACT: Final = _PREFIX + b"vault/extract"
"""HKDF-Extract salt over a key-encryption key."""
VAULT_WRAP: Final = _PREFIX + b"vault/wrap"
"""HKDF-Expand info of the key that wraps secrets at rest."""
