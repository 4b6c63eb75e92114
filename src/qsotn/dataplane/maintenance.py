"""Maintenance signals: what is sent in place of a signal that fails, is not connected, or is locked (G.709 clause 16).

An ODUk maintenance signal is a pattern in the whole ODU frame, whose frame alignment and OTU overhead, row 1, columns 1
to 14, belong to whoever sends it: ODUk-AIS is all ones, ODUk-OCI repeats 0110 0110, ODUk-LCK 0101 0101. So PM and every
TCM below the point where it was inserted read the pattern's last three bits as STAT, and that is how it is detected
(G.798 clause 6.2.6). Generic AIS, the sequence PN-11, replaces a whole OTU signal with its framing.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Final

import numpy as np

from qsotn.dataplane.kernel_interface import Bytes
from qsotn.dataplane.overhead import Status

GENERIC_PERIOD: Final = (1 << 11) - 1
"""Bits of PN-11, 1 + x⁹ + x¹¹ (G.709 clause 16.6.1)."""
INTERVAL: Final = 8192
"""Bits between two decisions whether generic AIS is received (G.798 clause 6.2.6.3.1)."""
ERRORS_ALLOWED: Final = 256
"""An interval with fewer bits that break the recursion counts as generic AIS."""
INTERVALS: Final = 3
"""Intervals in a row for declaring, and for clearing."""


class Maintenance(IntEnum):
    """The pattern byte of each ODUk maintenance signal."""

    AIS = 0xFF
    """Alarm indication: the signal fails upstream (clause 16.5.1)."""
    OCI = 0x66
    """Open connection: no signal is connected here (clause 16.5.2)."""
    LCK = 0x55
    """Locked: upstream, an operator locked the connection (clause 16.5.3)."""

    @property
    def status(self) -> Status:
        """Return what STAT reads in it."""
        return Status(self & 0b111)


def insert(signal: Maintenance, frames: Bytes) -> None:
    """Overwrite the ODU in frames of the shape (n, 4, 4080), before scrambling, in place; row 1, columns 1 to 14 stay.

    The FEC columns, 3825 to 4080, belong to the OTU and stay as well.
    """
    frames[:, 1:, :14] = signal
    frames[:, :, 14:3824] = signal


def generic_ais(bits: int, state: int = GENERIC_PERIOD) -> tuple[bytes, int]:
    """Return that many bits, a multiple of eight, of PN-11, and the state that continues it."""
    start = _phases()[state]
    sequence = np.resize(np.roll(_sequence(), -start), bits)
    return np.packbits(sequence).tobytes(), _states()[(start + bits) % GENERIC_PERIOD]


@cache
def _states() -> list[int]:
    """Return the generator's states from all ones on; the bit that leaves is the highest."""
    states, state = [], GENERIC_PERIOD
    for _ in range(GENERIC_PERIOD):
        states.append(state)
        state = (state << 1 | (state >> 8 ^ state >> 10) & 1) & GENERIC_PERIOD
    return states


@cache
def _phases() -> dict[int, int]:
    return {state: phase for phase, state in enumerate(_states())}


@cache
def _sequence() -> Bytes:
    return np.array([state >> 10 for state in _states()], np.uint8)


class GenericAisDetector:
    """dAIS of an OTU: the received bits obey PN-11's own recursion, whatever its phase."""

    def __init__(self) -> None:
        self.declared = False
        self._pending = np.zeros(0, np.uint8)
        self._streak = 0

    def feed(self, data: bytes) -> None:
        """Take received bytes, aligned or not."""
        bits = np.concatenate((self._pending, np.unpackbits(np.frombuffer(data, np.uint8))))
        while bits.size >= INTERVAL + 11:
            self._judge(bits[: INTERVAL + 11])
            bits = bits[INTERVAL:]
        self._pending = bits

    def _judge(self, bits: Bytes) -> None:
        wrong = int((bits[11:] ^ bits[:-11] ^ bits[2:-9]).sum())
        # All zeros obey the recursion too, but are no signal at all.
        present = wrong < ERRORS_ALLOWED and bool(bits.any())
        self._streak = self._streak + 1 if present is not self.declared else 0
        if self._streak == INTERVALS:
            self.declared = present
            self._streak = 0
