"""The check sequence of an Ethernet frame (IEEE 802.3 clause 3.2.9), which GFP-F carries with it (G.7041 clause 7.1.1).

An operating system hands out frames without it and wants them without it, so a mapper to the letter adds it and a
demapper takes it off.
"""

from __future__ import annotations

import zlib
from typing import Final

from qsotn.errors import LineError

FCS_SIZE: Final = 4


def with_check_sequence(frame: bytes) -> bytes:
    """Append the FCS to a frame that ends with its payload."""
    return frame + zlib.crc32(frame).to_bytes(FCS_SIZE, "little")


def without_check_sequence(frame: bytes) -> bytes:
    """Check and remove the FCS; raises `LineError` if it does not hold."""
    body = frame[:-FCS_SIZE]
    if len(frame) < FCS_SIZE or with_check_sequence(body) != frame:
        raise LineError("the check sequence of an Ethernet frame does not hold")
    return body
