"""Frame and multiframe alignment of a received OTU signal (ITU-T G.798 clauses 8.2.1 to 8.2.3, simplified in time).

`FrameAligner` turns a stream of bytes into runs of whole frames; `MultiframeAligner` turns descrambled frames into
crypto multiframes of four. Time is counted in received frames, since the line knows no clock: 3 ms become the number
of frame periods they hold.

What always holds: frames of one run are consecutive; between two runs something is missing or slipped. A wrong FAS or
MFAS alone moves nothing: it takes five in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from qsotn.dataplane.g709 import COLUMNS, FAS, FRAME_SIZE, FRAMES, ROWS, OduType
from qsotn.dataplane.kernel import Bytes

MISSES: Final = 5
"""Consecutive frames without FAS (or with another MFAS) that end alignment."""
LOF_MICROSECONDS: Final = 3000.0
"""How long out-of-frame lasts before it is a loss of frame, and in-frame before that is over."""

# The subset searched for is the inner four bytes of the FAS, the one checked in frame is its middle pair (G.798).
_SEARCHED: Final = FAS[1:5]
_CHECKED: Final = slice(2, 4)


class FrameAligner:
    """Finds OTU frames in a stream of bytes, notices when they are no longer there, and finds them again."""

    def __init__(self, odu: OduType) -> None:
        self.in_frame = False
        self.loss_of_frame = False
        self.out_of_frame_count = 0
        """Times that alignment, once found, was lost."""
        self._integration = max(int(LOF_MICROSECONDS / odu.period_us), 1) * FRAME_SIZE
        self._persisted = 0
        self._misses = 0
        self._pending = b""

    def feed(self, data: bytes) -> list[Bytes]:
        """Take received bytes; return runs of scrambled frames, each (n, 4, 4080)."""
        stream = self._pending + data if self._pending else data
        position = 0
        runs: list[Bytes] = []
        while True:
            if not self.in_frame:
                position = self._search(stream, position)
            if not self.in_frame:
                break
            run = self._take(stream, position)
            position += run.size
            if len(run):
                runs.append(run)
            if self.in_frame:
                break
        self._pending = stream[position:]
        return runs

    def _search(self, stream: bytes, position: int) -> int:
        """Return where a frame begins whose successor begins one frame later; or the first byte still of interest."""
        found = stream.find(_SEARCHED, position + 1)
        while found >= 0:
            start = found - 1
            successor = start + FRAME_SIZE + 1
            if successor + len(_SEARCHED) > len(stream):
                self._elapse(start - position, aligned=False)
                return start
            if stream.startswith(_SEARCHED, successor):
                self._elapse(start - position, aligned=False)
                self._misses = 0
                self.in_frame = True
                return start
            found = stream.find(_SEARCHED, found + 1)
        rest = max(position, len(stream) - len(_SEARCHED))
        self._elapse(rest - position, aligned=False)
        return rest

    def _take(self, stream: bytes, position: int) -> Bytes:
        """Return the whole frames at a position, up to the fifth in a row without FAS, which ends alignment."""
        count = (len(stream) - position) // FRAME_SIZE
        frames = np.frombuffer(stream, np.uint8, count * FRAME_SIZE, position).reshape(count, ROWS, COLUMNS)
        wrong = (frames[:, 0, _CHECKED] != np.frombuffer(FAS[_CHECKED], np.uint8)).any(axis=1)
        for index in range(count):
            self._misses = self._misses + 1 if wrong[index] else 0
            if self._misses == MISSES:
                self._lose()
                return frames[: index + 1]
            self._elapse(FRAME_SIZE, aligned=True)
        return frames

    def _lose(self) -> None:
        self.in_frame = False
        self.out_of_frame_count += 1
        self._persisted = 0

    def _elapse(self, size: int, *, aligned: bool) -> None:
        """Integrate out-of-frame into loss of frame, and in-frame out of it; `size` is bytes received since.

        The integral begins anew whenever alignment is lost.
        """
        if aligned is not self.loss_of_frame:
            return
        self._persisted += size
        if self._persisted >= self._integration:
            self.loss_of_frame = not aligned
            self._persisted = 0


@dataclass(frozen=True)
class Multiframe:
    """Four consecutive descrambled frames whose first has an MFAS divisible by four."""

    frames: Bytes
    """(4, 4, 4080)."""
    consecutive: bool
    """The frame before the first is the last of the previous multiframe."""


class MultiframeAligner:
    """Groups frames by their MFAS; counts on through wrong MFAS bytes until five in a row say otherwise."""

    def __init__(self) -> None:
        self.out_of_multiframe_count = 0
        self._expected: int | None = None
        self._previous: int | None = None
        self._misses = 0
        self._broken = True
        self._frames: list[Bytes] = []

    def interrupt(self) -> None:
        """Note that frames are missing here: a multiframe in hand is dropped, the position is learnt anew."""
        self._expected = None
        self._previous = None
        self._drop()

    def feed(self, frames: Bytes) -> list[Multiframe]:
        """Take descrambled frames, (n, 4, 4080), and return the multiframes they complete.

        They may be views of `frames`.
        """
        if self._is_next(frames):
            return [self._whole(frames)]
        return [whole for frame in frames for whole in self._add(frame, self._place(int(frame[0, 6])))]

    def _is_next(self, frames: Bytes) -> bool:
        """Say whether these are just the four frames that are expected, as nearly always."""
        expected = self._expected
        if expected is None or expected % FRAMES or self._frames or len(frames) != FRAMES:
            return False
        return frames[:, 0, 6].tobytes() == bytes(range(expected, expected + FRAMES))

    def _whole(self, frames: Bytes) -> Multiframe:
        self._previous = int(frames[-1, 0, 6])
        self._expected = (self._previous + 1) % 256
        self._misses = 0
        whole = Multiframe(frames, consecutive=not self._broken)
        self._broken = False
        return whole

    def _place(self, mfas: int) -> int | None:
        """Return the frame's place in the MFAS period, or None while it is not known."""
        previous, self._previous = self._previous, mfas
        wrong = self._expected is not None and mfas != self._expected
        self._misses = self._misses + 1 if wrong else 0
        if self._misses == MISSES:
            self.out_of_multiframe_count += 1
            self._misses = 0
            self._expected = None
        if self._expected is None:
            # One MFAS byte may be wrong; two that follow each other are believed (G.798 clause 8.2.2).
            if previous is None or mfas != (previous + 1) % 256:
                return None
            self._expected = mfas
        place = self._expected
        self._expected = (place + 1) % 256
        return place

    def _add(self, frame: Bytes, place: int | None) -> list[Multiframe]:
        if place is None or place % FRAMES != len(self._frames):
            self._drop()
        if place is None or place % FRAMES != len(self._frames):
            return []
        self._frames.append(frame)
        if len(self._frames) < FRAMES:
            return []
        whole = Multiframe(np.stack(self._frames), consecutive=not self._broken)
        self._frames = []
        self._broken = False
        return [whole]

    def _drop(self) -> None:
        self._frames = []
        self._broken = True
