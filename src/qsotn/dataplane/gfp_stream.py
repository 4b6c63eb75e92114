"""GFP-F in bulk (ITU-T G.7041): client frames of one buffer to a stream, and a stream to client frames of one buffer.

What `gfp` and `gfp_delineation` do frame by frame in Python, with the same results, this leaves to one call of the
kernel. Management frames go in and come out beside the clients'.

What always holds: the stream begins with idle frames; the scrambler's memory runs from payload area to payload area and
skips core headers; a client frame is delivered only if its tHEC and, if it has one, its payload FCS hold.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from qsotn.dataplane import kernel
from qsotn.dataplane.clients import ClientFrames
from qsotn.dataplane.gfp import IDLE, core_header
from qsotn.dataplane.gfp_hunt import Delineation, hunt
from qsotn.dataplane.gfp_types import ETHERNET, LONGEST_AREA, PayloadType, TypeField
from qsotn.dataplane.kernel_interface import INTACT, WRONG_EXTENSION, WRONG_FCS, Kernel, Words
from qsotn.errors import UsageError

LONGEST_FRAME: Final = len(IDLE) + LONGEST_AREA
RECORDS: Final = 4096
"""Frames that one call of the kernel delivers at most; it is called again for more."""


class StreamMapper:
    """Maps client frames into one endless stream, whose pieces are filled up with idle frames."""

    def __init__(self, form: TypeField = ETHERNET, used: Kernel = kernel.BEST) -> None:
        """`form` is the type field of all client frames; with an extension header it raises `UsageError`."""
        if form.extension:
            raise UsageError("frames with an extension header are inserted one by one, not mapped in bulk")
        self._kernel = used
        self._header = form.header()
        self._history = 0
        self._stream = bytearray(2 * IDLE)
        self._end = len(self._stream)
        self._taken = 0

    def insert(self, area: bytes) -> None:
        """Append one frame of that payload area, as `gfp_types.payload_area` makes it, to what is sent next."""
        line = self._kernel.scramble_x43(area, self._history)
        self._history = int.from_bytes((self._history.to_bytes(6, "big") + line)[-6:], "big") & ((1 << 43) - 1)
        self._make_room(self._end - self._taken + len(IDLE) + len(line))
        for piece in (core_header(len(area)), line):
            self._stream[self._end : self._end + len(piece)] = piece
            self._end += len(piece)

    def fill(self, clients: ClientFrames, length: int, first: int = 0) -> tuple[memoryview, int]:
        """Return the next `length` bytes of the stream and the number of the first client frame not yet taken.

        What does not fit, at most one frame, begins the next piece. The view is valid until the next call. Raises
        `UsageError` for a client frame that lies outside its buffer or that no payload area can hold.
        """
        self._make_room(length + LONGEST_FRAME)
        try:
            mapped, self._end, self._history = self._kernel.map_clients(
                clients.data, clients.starts, clients.sizes, first, self._header, self._stream, self._end, length,
                self._history,
            )  # fmt: skip
        except ValueError as refused:
            raise UsageError(f"client frames: {refused}") from None
        if self._end < length and first + mapped < len(clients):
            raise UsageError(f"a client frame of {clients.sizes[first + mapped]} bytes fits no GFP payload area")
        self._idle_until(length)
        self._taken = length
        return memoryview(self._stream)[:length], first + mapped

    def _make_room(self, size: int) -> None:
        """Move what was not taken to the front of a buffer of at least `size` bytes."""
        rest = bytes(memoryview(self._stream)[self._taken : self._end])
        if len(self._stream) < size:
            # A view of the old one may still be in the caller's hands, so a new one is made.
            self._stream = bytearray(size)
        self._stream[: len(rest)] = rest
        self._end, self._taken = len(rest), 0

    def _idle_until(self, length: int) -> None:
        missing = -(-(length - self._end) // len(IDLE))
        if missing > 0:
            self._stream[self._end : self._end + missing * len(IDLE)] = IDLE * missing
            self._end += missing * len(IDLE)


@dataclass(frozen=True)
class StreamCounters:
    """What the demapper met since it was made."""

    frames: int = 0
    """Client frames delivered."""
    management_frames: int = 0
    corrected_headers: int = 0
    """Core headers with one wrong bit, put right in SYNC."""
    lost_headers: int = 0
    """Core headers beyond correction: each is a fall from SYNC to HUNT."""
    type_errors: int = 0
    """Frames dropped because the tHEC failed or the type is not the one expected."""
    extension_errors: int = 0
    """Frames dropped because the eHEC failed or there is an extension header of an unknown kind."""
    fcs_errors: int = 0
    """Frames dropped because the payload FCS failed."""


@dataclass(frozen=True)
class Delivered:
    """What one piece of a stream brought."""

    clients: list[ClientFrames]
    """Mostly one batch; valid until the next call. Several where the stream was lost and found again within it."""
    management: list[int] = field(default_factory=list)
    """UPI of every client management frame (see `gfp_types.Management`)."""
    mismatched: set[int] = field(default_factory=set)
    """Type codes, whose checks held, of client data frames that are not of the expected type: dUPM and dEXM."""


class StreamDemapper:
    """Finds client frames in a stream that is written, piece by piece, into the room it hands out."""

    def __init__(self, form: TypeField = ETHERNET, used: Kernel = kernel.BEST) -> None:
        self._kernel = used
        self._expected = form.code()
        self.state = Delineation.HUNT
        self._counts: Counter[str] = Counter()
        self._history = 0
        self._stream = bytearray(LONGEST_FRAME)
        self._end = 0
        self._areas = bytearray(LONGEST_FRAME)
        self._records = tuple(np.zeros(RECORDS, np.int64) for _ in range(4))
        # Mostly all frames are the expected clients' and intact: then two comparisons of bytes say so.
        self._all_expected = np.full(RECORDS, self._expected, np.int64).tobytes()
        self._all_intact = np.full(RECORDS, INTACT, np.int64).tobytes()

    @property
    def counters(self) -> StreamCounters:
        """A snapshot."""
        return StreamCounters(**self._counts)

    def gap(self) -> None:
        """Note that bytes of the stream are missing here: the frame in hand is dropped and the hunt begins anew."""
        self._end = 0
        self.state = Delineation.HUNT

    def room(self, size: int) -> memoryview:
        """Return where the next `size` bytes of the stream are to be written before `feed(size)`."""
        if len(self._stream) < self._end + size:
            self._stream = self._stream[: self._end].ljust(self._end + size + LONGEST_FRAME, b"\0")
        return memoryview(self._stream)[self._end : self._end + size]

    def feed(self, size: int) -> Delivered:
        """Take the bytes just written and return what they complete, in order."""
        self._end += size
        if len(self._areas) < self._end:
            self._areas = bytearray(len(self._stream))
        delivered, position, used = Delivered([]), 0, 0
        while True:
            position = self._found(position)
            if self.state is not Delineation.SYNC:
                break
            count, position, self._history, corrected, lost = self._kernel.follow_clients(
                self._stream, position, self._end, self._history, memoryview(self._areas)[used:], *self._records
            )
            self._counts["corrected_headers"] += corrected
            self._counts["lost_headers"] += lost
            used = self._sort(count, used, delivered)
            if lost:
                self.state = Delineation.HUNT
                position += 1
            elif count < RECORDS:
                break
        self._keep(position)
        return delivered

    def _found(self, position: int) -> int:
        """Hunt from `position` on unless in SYNC; return where to go on, or the first byte to be kept."""
        if self.state is Delineation.SYNC:
            return position
        found = hunt(memoryview(self._stream)[: self._end], position)
        self.state = found.state
        if found.history is not None:
            self._history = int.from_bytes(found.history, "big") & ((1 << 43) - 1)
        return found.position

    def _keep(self, position: int) -> None:
        rest = bytes(memoryview(self._stream)[position : self._end])
        self._stream[: len(rest)] = rest
        self._end = len(rest)

    def _sort(self, count: int, used: int, delivered: Delivered) -> int:
        """Add one call's records to what is delivered; return how much of the areas is in use."""
        if not count:
            return used
        starts, sizes, types, verdicts = (record[:count] for record in self._records)
        # The records are used again by the next call; what is handed out is not.
        starts, sizes = starts + used, sizes.copy()
        end = int(starts[-1] + sizes[-1]) + len(IDLE)
        octets = 8 * count
        if types.tobytes() != self._all_expected[:octets] or verdicts.tobytes() != self._all_intact[:octets]:
            mine = (verdicts == INTACT) & (types == self._expected)
            self._sort_others(types[~mine], verdicts[~mine], delivered)
            starts, sizes = starts[mine], sizes[mine]
        if starts.size:
            delivered.clients.append(ClientFrames(self._areas, starts, sizes))
            self._counts["frames"] += starts.size
        return end

    def _sort_others(self, types: Words, verdicts: Words, delivered: Delivered) -> None:
        for code, verdict in zip(types.tolist(), verdicts.tolist(), strict=True):
            if verdict == WRONG_FCS:
                self._counts["fcs_errors"] += 1
            elif verdict == WRONG_EXTENSION:
                self._counts["extension_errors"] += 1
            elif verdict == INTACT and code >> 13 == PayloadType.CLIENT_MANAGEMENT:
                delivered.management.append(code & 0xFF)
                self._counts["management_frames"] += 1
            else:
                self._counts["type_errors"] += 1
                if verdict == INTACT:
                    delivered.mismatched.add(code)


def written(demapper: StreamDemapper, data: bytes) -> Delivered:
    """Copy a piece of a stream into a demapper's room and feed it: for pieces that are not made in place."""
    demapper.room(len(data))[:] = data
    return demapper.feed(len(data))
