"""The trail trace identifier: who is at the other end (ITU-T G.709 clause 15.2, G.798 clause 8.6).

64 bytes, one a frame, four times in an MFAS period: SAPI and DAPI of 15 characters, each behind a zero byte, and 32
bytes for the operator.

What always holds: a message is accepted only after three in a row were the same, so that one bit error raises nothing.
G.798 leaves the number open and asks for a decision within 100 ms; at ODU0, the slowest, three messages take 19 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from qsotn.dataplane.kernel_interface import Bytes
from qsotn.errors import UsageError

SIZE: Final = 64
IDENTIFIER_SIZE: Final = 15
OPERATOR_SIZE: Final = 32
PERSISTENCE: Final = 3
"""Equal messages in a row before one is accepted."""


@dataclass(frozen=True)
class TrailTrace:
    """What a TTI says."""

    source: str
    """SAPI: the source access point's identifier, at most 15 characters of T.50."""
    destination: str
    """DAPI: the destination access point's."""
    operator: bytes = b""
    """At most 32 bytes."""

    def encode(self) -> bytes:
        """Return 64 bytes; raises `UsageError` for what does not fit or is no character of T.50."""
        if len(self.operator) > OPERATOR_SIZE:
            raise UsageError(f"{len(self.operator)} operator-specific bytes in a TTI: at most {OPERATOR_SIZE} fit")
        points = b"\0" + _identifier("SAPI", self.source) + b"\0" + _identifier("DAPI", self.destination)
        return points + self.operator.ljust(OPERATOR_SIZE, b"\0")


def decode_trace(message: bytes) -> TrailTrace:
    """Read a TTI; bytes beyond T.50 are shown as replacement characters, which no expected identifier has."""
    if len(message) != SIZE:
        raise UsageError(f"a TTI of {len(message)} bytes: it has {SIZE}")
    source, destination = (message[at : at + IDENTIFIER_SIZE].rstrip(b"\0") for at in (1, 17))
    return TrailTrace(
        source.decode("ascii", "replace"), destination.decode("ascii", "replace"), message[32:].rstrip(b"\0")
    )


def trace_bytes(message: bytes, first_mfas: int, frames: int) -> Bytes:
    """Return the TTI byte of every frame: byte n is in the frames whose MFAS is n modulo 64 (clause 15.2).

    Raises `UsageError` for a message of more than 64 bytes.
    """
    if len(message) > SIZE:
        raise UsageError(f"a TTI of {len(message)} bytes: at most {SIZE} fit")
    places = (np.arange(frames) + first_mfas) % SIZE
    return np.frombuffer(message.ljust(SIZE, b"\0"), np.uint8)[places]


@dataclass(frozen=True)
class Expectation:
    """What a trail termination compares: ExSAPI, ExDAPI or both; None is not compared (TIM detection mode)."""

    source: str | None = None
    destination: str | None = None

    def is_met(self, accepted: TrailTrace) -> bool:
        """Return whether nothing that is compared differs."""
        return self.source in (None, accepted.source) and self.destination in (None, accepted.destination)


class TraceMonitor:
    """Collects the TTI of one monitoring field and compares it: the TTI process of G.798 clause 8.6 and dTIM.

    dTIM is declared when an accepted message does not meet the expectation and cleared when one does.
    """

    def __init__(self, expected: Expectation) -> None:
        self._expected = expected
        self._bytes = bytearray()
        self._message: bytes | None = None
        self._repeated = 0
        self.accepted: TrailTrace | None = None
        """AcTI: the latest message that came three times in a row."""
        self.mismatch = False
        """dTIM."""

    def interrupt(self) -> None:
        """Note that frames are missing: a message in hand is dropped, what was accepted stays."""
        self._bytes.clear()
        self._message = None
        self._repeated = 0

    def take(self, mfas: int, byte: int) -> None:
        """Take the TTI byte of the next frame."""
        place = mfas % SIZE
        if place == 0:
            self._bytes.clear()
        if place != len(self._bytes):
            self._bytes.clear()
            return
        self._bytes.append(byte)
        if len(self._bytes) == SIZE:
            self._compare(bytes(self._bytes))
            self._bytes.clear()

    def _compare(self, message: bytes) -> None:
        self._repeated = self._repeated + 1 if message == self._message else 1
        self._message = message
        if self._repeated < PERSISTENCE:
            return
        self.accepted = decode_trace(message)
        self.mismatch = not self._expected.is_met(self.accepted)


def _identifier(name: str, text: str) -> bytes:
    if len(text) > IDENTIFIER_SIZE or not text.isascii():
        raise UsageError(f"{name} {text!r}: at most {IDENTIFIER_SIZE} characters of T.50 (ASCII)")
    return text.encode().ljust(IDENTIFIER_SIZE, b"\0")
