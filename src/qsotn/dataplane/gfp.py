"""Frame-mapped Generic Framing Procedure (ITU-T G.7041): client frames to a stream of bytes that is never silent.

A GFP frame is a core header (PLI and its cHEC, XORed with B6AB31E0) and a payload area (type, tHEC, the client frame,
pFCS) under the self-synchronous x⁴³+1 scrambler. Between frames the stream is filled with idle frames, which are core
headers alone. Read `GfpMapper` first; `GfpDemapper` is in `gfp_delineation`.

What always holds: the scrambler's memory runs from payload area to payload area and skips core headers; a stream
begins with idle frames, so that a demapper that starts with it is in SYNC before the first client frame.
"""

from __future__ import annotations

import binascii
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from qsotn.dataplane.kernel import HISTORY, payload_fcs, scramble_x43
from qsotn.errors import UsageError

CORE_HEADER_MASK: Final = 0xB6AB31E0
"""What every core header is XORed with, for balance on the line (clause 6.1.1.3)."""

IDLE: Final = CORE_HEADER_MASK.to_bytes(4, "big")
"""The idle frame: PLI 0, whose cHEC is 0 as well (clause 6.2.1)."""

TYPE_ETHERNET: Final = 0x1001
"""PTI 000 client data, PFI 1 payload FCS present, EXI 0000 null extension header, UPI 01 frame-mapped Ethernet."""

TYPE_SIZE: Final = 4
FCS_SIZE: Final = 4
CLIENT_FRAME_SIZES: Final = range(14, 9601)
"""Bytes of a client frame: from an Ethernet header to a jumbo frame."""

_STREAM_START: Final = 2 * IDLE


def crc16(data: bytes) -> int:
    """Return the CRC-16 of G.7041's cHEC and tHEC: x¹⁶+x¹²+x⁵+1, initial value 0, no final XOR (clause 6.1.1.2)."""
    return binascii.crc_hqx(data, 0)


@lru_cache(maxsize=16384)
def core_header(payload_length: int) -> bytes:
    """Return the masked core header of a payload area of that many bytes."""
    indicator = payload_length.to_bytes(2, "big")
    header = payload_length << 16 | crc16(indicator)
    return (header ^ CORE_HEADER_MASK).to_bytes(4, "big")


def type_header(payload_type: int) -> bytes:
    """Return a type field and its tHEC (clause 6.1.2.1)."""
    field = payload_type.to_bytes(2, "big")
    return field + crc16(field).to_bytes(2, "big")


TYPE_HEADER_ETHERNET: Final = type_header(TYPE_ETHERNET)


class ClientQueue:
    """Client frames that wait to be mapped, bounded by their bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        return len(self._frames)

    def offer(self, frame: bytes) -> bool:
        """Append a frame; False, and nothing appended, if it does not fit. `UsageError` for an impossible size."""
        check_size(frame)
        if self._size + len(frame) > self._limit:
            return False
        self._frames.append(frame)
        self._size += len(frame)
        return True

    def take(self) -> bytes:
        """Remove and return the oldest frame."""
        frame = self._frames.popleft()
        self._size -= len(frame)
        return frame


class GfpMapper:
    """Maps client frames into one endless GFP stream."""

    def __init__(self) -> None:
        self._history = bytes(HISTORY)
        self._carried = _STREAM_START

    def map(self, frames: Sequence[bytes]) -> bytes:
        """Return the GFP frames of these client frames, in order and without idle frames.

        Raises `UsageError`, before anything is mapped, for a frame of a size outside `CLIENT_FRAME_SIZES`.
        """
        for frame in frames:
            check_size(frame)
        pieces = [piece for frame in frames for piece in (TYPE_HEADER_ETHERNET, frame, payload_fcs(frame))]
        scrambled = scramble_x43(b"".join(pieces), self._history)
        self._history = (self._history + scrambled)[-HISTORY:]
        return _with_core_headers(scrambled, [len(frame) + TYPE_SIZE + FCS_SIZE for frame in frames])

    def fill(self, queue: ClientQueue, length: int) -> bytes:
        """Return exactly `length` bytes of the stream: frames taken from `queue`, then idle frames.

        What does not fit, at most one frame, begins the next call's bytes.
        """
        frames: list[bytes] = []
        size = len(self._carried)
        while size < length and queue:
            frames.append(queue.take())
            size += len(IDLE) + TYPE_SIZE + len(frames[-1]) + FCS_SIZE
        idles = max(length - size + len(IDLE) - 1, 0) // len(IDLE)
        stream = b"".join((self._carried, self.map(frames) if frames else b"", IDLE * idles))
        self._carried = stream[length:]
        return stream[:length]


def check_size(frame: bytes) -> None:
    """Raise `UsageError` for a client frame that the stream cannot carry."""
    if len(frame) not in CLIENT_FRAME_SIZES:
        first, last = CLIENT_FRAME_SIZES.start, CLIENT_FRAME_SIZES.stop - 1
        raise UsageError(f"a client frame of {len(frame)} bytes: {first} to {last} are carried")


def _with_core_headers(areas: bytes, lengths: Sequence[int]) -> bytes:
    """Cut adjoining payload areas apart and put each behind its core header."""
    pieces: list[bytes] = []
    start = 0
    for length in lengths:
        pieces += (core_header(length), areas[start : start + length])
        start += length
    return b"".join(pieces)
