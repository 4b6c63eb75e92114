"""The receiving side of GFP (ITU-T G.7041 clauses 6.3 and 6.1.2): find the frames again, and only whole ones.

HUNT looks octet by octet for a core header whose cHEC holds; PRESYNC follows it to the next header, which must hold
too (δ = 1); SYNC hops from header to header and corrects one wrong bit in each, which HUNT and PRESYNC never do. A
header beyond correction falls back to HUNT.

What always holds: a client frame is delivered only if its tHEC and pFCS hold. A frame met in HUNT or PRESYNC is not
delivered; whatever is cut by a gap is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from qsotn.dataplane.gfp import CORE_HEADER_MASK, FCS_SIZE, IDLE, TYPE_HEADER_ETHERNET, TYPE_SIZE, crc16
from qsotn.dataplane.gfp_hunt import CORE, frame_end, hunt, syndrome
from qsotn.dataplane.gfp_hunt import Delineation as Delineation
from qsotn.dataplane.kernel import HISTORY, descramble_x43, payload_fcs

_IDLE_RUN: Final = IDLE * 256
_CORRECTABLE: Final = {crc16((1 << bit).to_bytes(4, "big")): 1 << bit for bit in range(32)}
"""Syndrome of every single wrong bit of a core header to that bit."""


@dataclass(frozen=True)
class GfpCounters:
    """What the demapper met since it was made."""

    frames: int = 0
    """Client frames delivered."""
    corrected_headers: int = 0
    """Core headers with one wrong bit, put right in SYNC."""
    lost_headers: int = 0
    """Core headers beyond correction: each is a fall from SYNC to HUNT."""
    type_errors: int = 0
    """Frames dropped because the tHEC failed or the type is not the one carried here."""
    fcs_errors: int = 0
    """Frames dropped because the pFCS failed."""


class GfpDemapper:
    """Finds the client frames in a GFP stream that may have gaps."""

    def __init__(self) -> None:
        self.state = Delineation.HUNT
        self._pending = b""
        self._history = bytes(HISTORY)
        self._counters = GfpCounters()

    @property
    def counters(self) -> GfpCounters:
        """A snapshot."""
        return self._counters

    def gap(self) -> None:
        """Note that bytes of the stream are missing here: the frame in hand is dropped and the hunt begins anew."""
        self._pending = b""
        self.state = Delineation.HUNT

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream and return the client frames that they complete, in order."""
        stream = self._pending + data
        position = 0
        frames: list[bytes] = []
        while True:
            if self.state is not Delineation.SYNC:
                position = self._hunt(stream, position)
            if self.state is not Delineation.SYNC:
                break
            position, areas = self._follow(stream, position)
            frames += self._open(areas)
            if self.state is Delineation.SYNC:
                break
        self._pending = stream[position:]
        return frames

    def _hunt(self, stream: bytes, position: int) -> int:
        """Return where SYNC begins, or, staying in HUNT or PRESYNC, the first byte that may still matter."""
        found = hunt(stream, position)
        self.state = found.state
        self._history = found.history or self._history
        return found.position

    def _follow(self, stream: bytes, position: int) -> tuple[int, list[bytes]]:
        """Hop over headers in SYNC; return where it stopped and the whole payload areas on the way."""
        areas: list[bytes] = []
        while True:
            position = _skip_idles(stream, position)
            if position + CORE > len(stream):
                return position, areas
            header = _word(stream, position)
            wrong_bit = _CORRECTABLE.get(syndrome(header), 0)
            if wrong_bit == 0 and syndrome(header):
                return self._lose(position), areas
            end = frame_end(position, header ^ wrong_bit)
            if end > len(stream):
                return position, areas
            if wrong_bit:
                self._count(corrected_headers=1)
            if end > position + CORE:
                areas.append(stream[position + CORE : end])
            position = end

    def _lose(self, position: int) -> int:
        self.state = Delineation.HUNT
        self._count(lost_headers=1)
        return position + 1

    def _open(self, areas: list[bytes]) -> list[bytes]:
        """Descramble adjoining payload areas and return the client frames whose checks hold."""
        if not areas:
            return []
        scrambled = b"".join(areas)
        clear = descramble_x43(scrambled, self._history)
        self._history = (self._history + scrambled)[-HISTORY:]
        frames = []
        start = 0
        for area in areas:
            frame = self._checked(clear[start : start + len(area)])
            start += len(area)
            if frame is not None:
                frames.append(frame)
        self._count(frames=len(frames))
        return frames

    def _checked(self, area: bytes) -> bytes | None:
        """Return the client frame of a descrambled payload area, or None after counting what is wrong with it."""
        if len(area) < TYPE_SIZE + FCS_SIZE or area[:TYPE_SIZE] != TYPE_HEADER_ETHERNET:
            self._count(type_errors=1)
            return None
        frame = area[TYPE_SIZE:-FCS_SIZE]
        if payload_fcs(frame) != area[-FCS_SIZE:]:
            self._count(fcs_errors=1)
            return None
        return frame

    def _count(self, **more: int) -> None:
        self._counters = replace(
            self._counters, **{name: getattr(self._counters, name) + number for name, number in more.items()}
        )


def _word(stream: bytes, position: int) -> int:
    """Return the core header at a position, without its mask."""
    return int.from_bytes(stream[position : position + CORE], "big") ^ CORE_HEADER_MASK


def _skip_idles(stream: bytes, position: int) -> int:
    while stream.startswith(_IDLE_RUN, position):
        position += len(_IDLE_RUN)
    while stream.startswith(IDLE, position):
        position += CORE
    return position
