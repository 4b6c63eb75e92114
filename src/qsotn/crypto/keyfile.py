"""The key file's cryptography: Figure 3, steps 8 to 10, as pure functions.

8. The CPE draws a fresh KEM key pair (`request_keys`) and signs it into its request, m8.
9. The QSSP draws k0 and seals it to that key, with H(m8) in HPKE's info. With th = H(H(m8), enc, header) it derives
   K_wrap, K_confirm_Q, K_confirm_C and the next PPK, encrypts the entries under K_wrap with the header as associated
   data, and confirms (`close_key_file`).
10. The CPE opens it (`open_key_file`), makes it durable, and answers `confirm(keys.confirm_cpe, th, H(m9), result)`.

The schedule has the shape of the concatenation KDF that NIST SP 800-56C rev. 2 (two-step) and ETSI TS 103 744 (CatKDF)
describe for a hybrid exchange: HKDF-Extract over len‖k0‖len‖PPK, then HKDF-Expand(label‖th). The PPK plays the part of
RFC 8784's: absent the first time, then ratcheted at every refill, so that whoever later breaks the KEM must also hold
the PPK. Every step's secret that is not returned is dropped here; the caller erases the request's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto import labels
from qsotn.crypto.derivation import AEAD_KEY_BYTES, MAC_KEY_BYTES, expand, extract, length_prefixed, mac, verify_mac
from qsotn.crypto.envelope import digest, seal, unseal
from qsotn.crypto.suites import KemKeyPair, Suite
from qsotn.domain import Entropy, Secret
from qsotn.errors import BadProof

ENTRY_BYTES: Final = 32
"""One entry is one QKD key of 256 bits."""
K0_BYTES: Final = 32
PPK_BYTES: Final = 32

# K_wrap is derived from a k0 drawn for this one file and encrypts this one plaintext, so a nonce never meets its key
# twice; a retransmission sends the stored bytes again.
_NONCE: Final = bytes(12)


KeyFileRequestKeys: TypeAlias = KemKeyPair
"""The KEM key pair of one request: drawn in step 8, erased on success or timeout."""


@dataclass(frozen=True, slots=True)
class KeyFileKeys:
    """What both sides derive for one key file; `next_ppk` outlives the file, the others do not."""

    wrap: Secret
    confirm_qssp: Secret
    confirm_cpe: Secret
    next_ppk: Secret


@dataclass(frozen=True, slots=True)
class ClosedKeyFile:
    """What the QSSP sends (enc, ciphertext, confirmation) and what it keeps (transcript, keys)."""

    enc: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)
    confirmation: bytes = field(repr=False)
    transcript: bytes = field(repr=False)
    keys: KeyFileKeys


@dataclass(frozen=True, slots=True)
class OpenedKeyFile:
    """What the CPE holds after step 9, before anything is durable."""

    entries: tuple[Secret, ...]
    transcript: bytes = field(repr=False)
    keys: KeyFileKeys


def request_keys(suite: Suite, entropy: Entropy) -> KeyFileRequestKeys:
    """Draw the fresh KEM key pair of one request (step 8); `public` is `ek`, and `erase` it on success or timeout."""
    return suite.generate_kem_key(entropy)


def transcript(m8_digest: bytes, enc: bytes, header: bytes) -> bytes:
    """Return th: everything both sides must agree on before a key is derived. `m8_digest` stands for m8's bytes."""
    return digest(m8_digest, enc, header)


def schedule(k0: Secret, ppk: Secret | None, transcript: bytes) -> KeyFileKeys:
    """Derive the file's four keys from the KEM's share and, at a refill, the preshared key of the last file."""
    preshared = b"" if ppk is None else _ppk(ppk)
    root = extract(labels.KEY_FILE_EXTRACT, length_prefixed([k0.reveal(), preshared]))
    keys = KeyFileKeys(
        wrap=expand(root, labels.KEY_FILE_WRAP + transcript, AEAD_KEY_BYTES),
        confirm_qssp=expand(root, labels.KEY_FILE_CONFIRM_QSSP + transcript, MAC_KEY_BYTES),
        confirm_cpe=expand(root, labels.KEY_FILE_CONFIRM_CPE + transcript, MAC_KEY_BYTES),
        next_ppk=expand(root, labels.KEY_FILE_NEXT_PPK + transcript, PPK_BYTES),
    )
    root.erase()
    return keys


def close_key_file(
    suite: Suite,
    ek: bytes,
    m8_digest: bytes,
    entries: Sequence[Secret],
    ppk: Secret | None,
    header: bytes,
    entropy: Entropy,
) -> ClosedKeyFile:
    """Encrypt the entries to the request's key (step 9); `header` is public and authenticated."""
    k0 = Secret(entropy(K0_BYTES))
    enc = seal(suite, ek, k0.reveal(), labels.KEY_FILE_SEAL + m8_digest)
    th = transcript(m8_digest, enc, header)
    keys = schedule(k0, ppk, th)
    k0.erase()
    ciphertext = AESGCM(keys.wrap.reveal()).encrypt(_NONCE, _joined(entries), header)
    return ClosedKeyFile(enc, ciphertext, confirm(keys.confirm_qssp, th, ciphertext), th, keys)


def open_key_file(
    suite: Suite,
    request: KeyFileRequestKeys,
    m8_digest: bytes,
    enc: bytes,
    ciphertext: bytes,
    confirmation: bytes,
    ppk: Secret | None,
    header: bytes,
) -> OpenedKeyFile:
    """Open what `close_key_file` made for this request; raises `BadProof` and returns nothing otherwise."""
    k0 = _checked_k0(unseal(suite, request, enc, labels.KEY_FILE_SEAL + m8_digest))
    th = transcript(m8_digest, enc, header)
    keys = schedule(k0, ppk, th)
    k0.erase()
    # The confirmation is checked first: it also commits to K_wrap, which AES-GCM by itself does not.
    verify_confirmation(keys.confirm_qssp, confirmation, th, ciphertext)
    try:
        material = AESGCM(keys.wrap.reveal()).decrypt(_NONCE, ciphertext, header)
    except InvalidTag as error:
        raise BadProof("the key file's tag does not hold under its header") from error
    return OpenedKeyFile(_split(material), th, keys)


def confirm(key: Secret, *parts: bytes) -> bytes:
    """Return the HMAC-SHA384 with which a side shows that it derived the same keys over the same bytes.

    QSSP, step 9: `confirm(confirm_qssp, transcript, ciphertext)`. CPE, step 10: `confirm(confirm_cpe, transcript,
    digest of m9, result)`.
    """
    return mac(key, *parts)


def verify_confirmation(key: Secret, confirmation: bytes, *parts: bytes) -> None:
    """Check the other side's confirmation in constant time; raises `BadProof`."""
    verify_mac(key, confirmation, "the key file's confirmation", *parts)


def _ppk(ppk: Secret) -> bytes:
    if len(ppk) != PPK_BYTES:
        raise ValueError(f"a PPK is {PPK_BYTES} bytes, not {len(ppk)}; None stands for the first file, which has none")
    return ppk.reveal()


def _checked_k0(k0: bytes) -> Secret:
    if len(k0) != K0_BYTES:
        raise BadProof(f"k0 is {len(k0)} bytes: expected {K0_BYTES}")
    return Secret(k0)


def _joined(entries: Sequence[Secret]) -> bytes:
    if not entries or any(len(entry) != ENTRY_BYTES for entry in entries):
        raise ValueError(f"a key file holds at least one entry, and each is {ENTRY_BYTES} bytes")
    return b"".join(entry.reveal() for entry in entries)


def _split(material: bytes) -> tuple[Secret, ...]:
    if not material or len(material) % ENTRY_BYTES:
        raise BadProof(f"the key file holds {len(material)} bytes: expected entries of {ENTRY_BYTES}")
    return tuple(Secret(material[at : at + ENTRY_BYTES]) for at in range(0, len(material), ENTRY_BYTES))
