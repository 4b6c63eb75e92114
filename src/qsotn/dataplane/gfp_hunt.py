"""Finding the first core header in a stream of bytes (ITU-T G.7041 clause 6.3.1): HUNT and PRESYNC.

HUNT looks octet by octet for a core header whose cHEC holds; PRESYNC follows it to the next header, which must hold too
(δ = 1). Neither corrects anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from qsotn.dataplane.gfp import CORE_HEADER_MASK, IDLE, TYPE_SIZE, crc16
from qsotn.dataplane.kernel import HISTORY
from qsotn.dataplane.kernel_interface import Buffer

CORE: Final = len(IDLE)


class Delineation(Enum):
    """The states of clause 6.3.1."""

    HUNT = "hunt"
    PRESYNC = "presync"
    SYNC = "sync"


@dataclass(frozen=True)
class Found:
    """Where a hunt ended."""

    state: Delineation
    position: int
    """In SYNC, the core header that confirmed; otherwise the first byte that may still matter."""
    history: bytes | None = None
    """The last bytes before `position`, if they are payload area: what a descrambler then remembers."""


def hunt(stream: Buffer, position: int) -> Found:
    """Look for two core headers without errors, one where the other's frame ends."""
    waiting: int | None = None
    octets = np.frombuffer(stream, np.uint8)
    for candidate in _core_headers(octets, position):
        following = frame_end(candidate, header_at(octets, candidate))
        if following + CORE > octets.size:
            # Any two bytes may look like a header whose frame ends far ahead; later candidates are tried meanwhile.
            waiting = candidate if waiting is None else waiting
        elif syndrome(header_at(octets, following)) == 0:
            known = following - candidate >= CORE + HISTORY
            history = octets[following - HISTORY : following].tobytes() if known else None
            return Found(Delineation.SYNC, following, history)
    if waiting is None:
        return Found(Delineation.HUNT, max(position, octets.size - CORE + 1))
    return Found(Delineation.PRESYNC, waiting)


def header_at(octets: NDArray[np.uint8], position: int) -> int:
    """Return the core header at a position, without its mask."""
    return int.from_bytes(octets[position : position + CORE].tobytes(), "big") ^ CORE_HEADER_MASK


def syndrome(header: int) -> int:
    """Return 0 for a core header whose cHEC holds; otherwise what depends only on which bits are wrong."""
    return crc16(header.to_bytes(CORE, "big"))


def frame_end(position: int, header: int) -> int:
    """Return where the frame ends: PLI 0 to 3 are control frames, a core header alone (clause 6.2)."""
    indicator = header >> 16
    return position + CORE + (indicator if indicator >= TYPE_SIZE else 0)


def _core_headers(stream: NDArray[np.uint8], position: int) -> Iterator[int]:
    """Yield all octets from `position` on where a core header without errors begins: mostly the first will do."""
    if stream.size - position < CORE:
        return
    octets = stream[position:].astype(np.uint32)
    words = octets[:-3] << 24 | octets[1:-2] << 16 | octets[2:-1] << 8 | octets[3:]
    words ^= np.uint32(CORE_HEADER_MASK)
    valid = _crc16_of_words()[words >> np.uint32(16)] == words & np.uint32(0xFFFF)
    for place in np.flatnonzero(valid):
        yield position + int(place)


@cache
def _crc16_of_words() -> NDArray[np.uint32]:
    """Return the CRC-16 of every two-byte message, for the hunt to look up."""
    remainder = np.arange(65536, dtype=np.uint32)
    for _ in range(16):
        overflow = remainder >> np.uint32(15)
        remainder = remainder << np.uint32(1) ^ overflow * np.uint32(0x11021)
    return remainder
