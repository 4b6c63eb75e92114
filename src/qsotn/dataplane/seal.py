"""The crypto multiframe: four OPU payloads under one AES-256-GCM call, its header in the free OPU overhead.

Header, 28 bytes: tag (16) ‖ counter (8) ‖ association (1) ‖ epoch of the sender (3). The association byte is the format
(high four bits, 1) and the generation of keys modulo 16 (low four); the key slot is its lowest bit. A header of zeros
says that the payload is the null client and is never opened.

Why no nonce repeats under a key. A traffic key belongs to one line, one direction and one generation (`traffic_key`).
Under it the 96-bit IV is a 32-bit fixed field, the direction bit and the sender's 24-bit epoch, and the 64-bit counter.
An epoch is burned (stored as spent) before a terminal is made, so a terminal that restarts and is handed the same keys
has another fixed field, and the epoch goes into it unhashed, because a hash could collide. Within an epoch the counter
numbers all encrypted multiframes of the direction and does not restart with a new key.

Why nothing old is accepted. The epoch and counter of an accepted multiframe must be greater than the last one's. What a
restarted receiver has forgotten is made up for by its own epoch: the sender, who learnt it from the receiver's proof of
possession, authenticates it, and a multiframe meant for an earlier life of the receiver fails.

No interoperable format for OPUk encryption is published; this one is the project's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from qsotn.dataplane.g709 import FREE_SIZE, PAYLOAD_SIZE, PT_GFP
from qsotn.domain import Direction, KeyId, LineId, Secret
from qsotn.errors import BadProof, KeyShortage, ReplayedMessage, UsageError

TAG_SIZE: Final = 16
KEY_SIZE: Final = 32
SEALED_SIZE: Final = PAYLOAD_SIZE + TAG_SIZE
EPOCHS: Final = range(1 << 24)
FORMAT: Final = 1
NULL_HEADER: Final = bytes(FREE_SIZE)

INVOCATION_LIMIT: Final = int(2**34.5) // (PAYLOAD_SIZE // 16)
"""Multiframes under one key: 2^34.5 blocks of AES, the margin that TLS 1.3 keeps (RFC 8446 clause 5.5)."""

_TRAFFIC_LABEL: Final = b"qsotn dataplane traffic key v1"
_HEADER_LABEL: Final = b"qsotn dataplane multiframe v1"


@dataclass(frozen=True)
class Path:
    """What both ends of one direction know without telling each other, and authenticate in every multiframe."""

    line: LineId
    odu: str
    direction: Direction

    def associated_data(self) -> bytes:
        """Return the constant part of the associated data."""
        return _HEADER_LABEL + joined(self.line, self.odu, self.direction) + bytes((PT_GFP,))


@dataclass(frozen=True)
class Header:
    """What the free OPU overhead says about an encrypted multiframe."""

    tag: bytes
    counter: int
    association: int
    """Generation of keys, modulo 16."""
    epoch: int
    """The sender's."""

    def encode(self) -> bytes:
        """Return `FREE_SIZE` bytes."""
        return self.tag + self.counter.to_bytes(8, "big") + self._flags() + self.epoch.to_bytes(3, "big")

    def _flags(self) -> bytes:
        return bytes((FORMAT << 4 | self.association,))

    def nonce(self, direction: Direction) -> bytes:
        """Return the 96-bit IV (SP 800-38D clause 8.2.1: fixed field, then invocation field)."""
        fixed = (direction is Direction.B_TO_A) << 31 | self.epoch
        return fixed.to_bytes(4, "big") + self.counter.to_bytes(8, "big")

    def associated_data(self, constant: bytes, receiver_epoch: int) -> bytes:
        """Return the associated data; counter and sender's epoch are authenticated through the IV."""
        return constant + self._flags() + receiver_epoch.to_bytes(3, "big")


def decode_header(free: bytes) -> Header:
    """Read a multiframe header; raises `BadProof` for a format this end does not speak."""
    if free[24] >> 4 != FORMAT:
        raise BadProof(f"multiframe header of format {free[24] >> 4}, expected {FORMAT}")
    return Header(free[:16], int.from_bytes(free[16:24], "big"), free[24] & 15, int.from_bytes(free[25:28], "big"))


class Sealer:
    """Encrypts the multiframes of one direction under one traffic key."""

    def __init__(self, path: Path, key: Secret, association: int, epoch: int, limit: int = INVOCATION_LIMIT) -> None:
        check_epoch(epoch)
        self._path = path
        self._constant = path.associated_data()
        self._aead = AESGCM(key.reveal())
        self._association = association
        self._epoch = epoch
        self._next_counter = 0
        self.remaining = limit
        """Invocations left for this key."""

    def seal(self, payload: bytes, counter: int, receiver_epoch: int, sealed: bytearray) -> Header:
        """Encrypt `PAYLOAD_SIZE` bytes into `sealed` (ciphertext ‖ tag, `SEALED_SIZE` bytes).

        Raises `KeyShortage` when the key has served its number of invocations, `ReplayedMessage` for a counter not
        greater than the last; `sealed` is then untouched.
        """
        if self.remaining <= 0:
            raise KeyShortage(f"the key of generation {self._association} (mod 16) has served its invocations")
        if counter < self._next_counter:
            raise ReplayedMessage(f"multiframe counter {counter}, at least {self._next_counter} is due")
        self.remaining -= 1
        self._next_counter = counter + 1
        header = Header(b"", counter, self._association, self._epoch)
        associated = header.associated_data(self._constant, receiver_epoch)
        self._aead.encrypt_into(header.nonce(self._path.direction), payload, associated, sealed)
        return Header(bytes(memoryview(sealed)[PAYLOAD_SIZE:]), counter, self._association, self._epoch)


class Opener:
    """Decrypts the multiframes of one direction under one traffic key."""

    def __init__(self, path: Path, key: Secret, epoch: int) -> None:
        """`epoch` is the receiver's own, which a multiframe must be meant for."""
        check_epoch(epoch)
        self._path = path
        self._constant = path.associated_data()
        self._aead = AESGCM(key.reveal())
        self._epoch = epoch

    def open(self, header: Header, sealed: bytearray, payload: bytearray) -> None:
        """Decrypt `sealed` (ciphertext ‖ tag) into `payload`; raises `BadProof` if the tag does not hold."""
        associated = header.associated_data(self._constant, self._epoch)
        try:
            self._aead.decrypt_into(header.nonce(self._path.direction), sealed, associated, payload)
        except InvalidTag:
            raise BadProof(f"multiframe {header.counter} of epoch {header.epoch} does not authenticate") from None


def traffic_key(path: Path, key_id: KeyId, session_key: Secret) -> Secret:
    """Derive the traffic key of one direction (HKDF-Expand, RFC 5869, SHA-384).

    The session key is uniform, so the extract step has nothing to do. Its context binds line, direction and key ID.
    """
    check_session_key(key_id, session_key)
    context = _TRAFFIC_LABEL + joined(path.line, path.direction, key_id)
    return Secret(HKDFExpand(SHA384(), KEY_SIZE, context).derive(session_key.reveal()))


def check_session_key(key_id: KeyId, session_key: Secret) -> None:
    """Raise `UsageError` for a session key that is not 256 bits."""
    if len(session_key) != KEY_SIZE:
        raise UsageError(f"session key {key_id} has {len(session_key)} bytes, expected {KEY_SIZE}")


def check_epoch(epoch: int) -> None:
    """Raise `UsageError` for an epoch outside 24 bits: a terminal that spent them all needs another line identity."""
    if epoch not in EPOCHS:
        raise UsageError(f"epoch {epoch} is not between 0 and {EPOCHS.stop - 1}")


def joined(*fields: str) -> bytes:
    """Concatenate fields, each behind its length, so that no two lists of fields give the same bytes."""
    encoded = [field.encode() for field in fields]
    return b"".join(len(field).to_bytes(2, "big") + field for field in encoded)
