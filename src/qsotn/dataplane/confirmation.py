"""Two ends or none: each end proves in band that it holds a generation of keys, before either may send under it.

The channel is GCC1 and GCC2 of the ODU overhead, taken together: four bytes in each frame. An announcement is 40 bytes,
two take five crypto multiframes, and each is followed by the next. Layout:

    sync (1) ‖ format, sender's direction, flags (1) ‖ generation (1) ‖ sequence (4) ‖ sender's epoch (3)
    ‖ digest of the key IDs (8) ‖ HMAC (20) ‖ CRC-16 (2)

What always holds: the HMAC covers everything before it, the sender's direction included, so that an announcement
reflected to its sender proves nothing. Epoch and sequence of accepted announcements only grow.
"""

from __future__ import annotations

import hmac as comparison
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA384, Hash
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from qsotn.dataplane.gfp import crc16
from qsotn.dataplane.seal import FORMAT, check_session_key, joined
from qsotn.domain import Direction, KeyId, LineId, Secret
from qsotn.errors import BadProof

SIZE: Final = 40
SYNC: Final = 0xD5

_KEY_LABEL: Final = b"qsotn dataplane confirmation key v1"
_DIGEST_LABEL: Final = b"qsotn dataplane key identifiers v1"
_MAC_AT: Final = 18
_CRC_AT: Final = 38
_FROM_B: Final = 0b1000
_CONFIRMS: Final = 0b0001

GenerationKeys = Mapping[Direction, tuple[KeyId, Secret]]
"""The session keys of one generation, both directions."""


@dataclass(frozen=True)
class Announcement:
    """What an end says about one generation; its proof is checked by `Prover.verify`."""

    direction: Direction
    """The direction its sender transmits in."""
    generation: int
    """Modulo 256."""
    epoch: int
    """The sender's."""
    sequence: int
    confirms: bool
    """The sender has seen this end's proof."""
    digest: bytes
    """Which two keys it means."""
    proof: bytes = b""

    def body(self) -> bytes:
        """Return the bytes that the proof covers."""
        flags = FORMAT << 4 | (self.direction is Direction.B_TO_A) * _FROM_B | self.confirms * _CONFIRMS
        start = bytes((SYNC, flags, self.generation))
        return start + self.sequence.to_bytes(4, "big") + self.epoch.to_bytes(3, "big") + self.digest

    def encode(self) -> bytes:
        """Return `SIZE` bytes for the channel."""
        proven = self.body() + self.proof
        return proven + crc16(proven).to_bytes(2, "big")


class Prover:
    """Makes and checks the proofs of one generation of one line."""

    def __init__(self, line: LineId, generation: int, keys: GenerationKeys) -> None:
        self._key = _confirmation_key(line, generation, keys)
        self.digest = key_digest(keys)

    def prove(self, announcement: Announcement) -> Announcement:
        """Return the announcement with its proof of possession."""
        return Announcement(**{**vars(announcement), "proof": self._mac(announcement)})

    def verify(self, announcement: Announcement) -> None:
        """Raise `BadProof` unless the sender holds both keys of this generation."""
        if not comparison.compare_digest(announcement.digest, self.digest):
            raise BadProof(f"the far end announces other keys for generation {announcement.generation}")
        if not comparison.compare_digest(announcement.proof, self._mac(announcement)):
            raise BadProof(f"the far end does not hold the keys it announces for generation {announcement.generation}")

    def erase(self) -> None:
        """Forget the confirmation key."""
        self._key.erase()

    def _mac(self, announcement: Announcement) -> bytes:
        mac = HMAC(self._key.reveal(), SHA384())
        mac.update(announcement.body())
        return mac.finalize()[: _CRC_AT - _MAC_AT]


class AnnouncementReader:
    """Finds announcements in the bytes of the channel."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, channel: bytes) -> list[Announcement]:
        """Take bytes of the channel; return the announcements that are complete and free of transmission errors."""
        stream = self._pending + channel
        found = []
        position = stream.find(SYNC)
        while 0 <= position <= len(stream) - SIZE:
            announcement = _decode(stream[position : position + SIZE])
            if announcement is not None:
                found.append(announcement)
            position = stream.find(SYNC, position + (SIZE if announcement else 1))
        self._pending = stream[position:] if position >= 0 else b""
        return found


def key_digest(keys: GenerationKeys) -> bytes:
    """Return eight bytes that stand for the key IDs of a generation on the line."""
    digest = Hash(SHA384())
    digest.update(_DIGEST_LABEL + joined(keys[Direction.A_TO_B][0], keys[Direction.B_TO_A][0]))
    return digest.finalize()[:8]


def _decode(data: bytes) -> Announcement | None:
    """Read an announcement; None if the CRC or the format says that these bytes are none."""
    if crc16(data) or data[1] >> 4 != FORMAT:
        return None
    return Announcement(
        direction=Direction.B_TO_A if data[1] & _FROM_B else Direction.A_TO_B,
        generation=data[2],
        epoch=int.from_bytes(data[7:10], "big"),
        sequence=int.from_bytes(data[3:7], "big"),
        confirms=bool(data[1] & _CONFIRMS),
        digest=data[10:_MAC_AT],
        proof=data[_MAC_AT:_CRC_AT],
    )


def _confirmation_key(line: LineId, generation: int, keys: GenerationKeys) -> Secret:
    """Derive the MAC key from both session keys (HKDF, RFC 5869, SHA-384): who has one of them cannot prove both."""
    (first, first_secret), (second, second_secret) = keys[Direction.A_TO_B], keys[Direction.B_TO_A]
    check_session_key(first, first_secret)
    check_session_key(second, second_secret)
    context = _KEY_LABEL + joined(line, str(generation), first, second)
    return Secret(HKDF(SHA384(), 48, None, context).derive(first_secret.reveal() + second_secret.reveal()))
