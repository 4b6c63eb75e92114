"""OTU frames with all their overhead, many at a time: built by `OduFramer`, taken apart by `OduDeframer`.

Beside `g709`, which knows one geometry of four frames without tandem connections or error correction, this knows every
field of `overhead`, and leaves the loops over bytes to one call of the kernel.

What always holds: the BIP-8 of frame i, over the OPU area, is in SM, PM and every active TCM of frame i+2, across calls
(clauses 15.7.2.1.2, 15.8.2.1.2, 15.8.2.2.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from qsotn.dataplane import kernel
from qsotn.dataplane.kernel_interface import Buffer, Bytes, Kernel
from qsotn.dataplane.overhead import MFAS_PERIOD, PM, PSI, SM, TCM, MonitoringField, Report, empty_overhead
from qsotn.dataplane.trail_trace import trace_bytes
from qsotn.errors import UsageError

PAYLOAD_SIZE: Final = 4 * 3808
"""OPU payload bytes of one frame."""
OTU_SIZE: Final = 4 * 4080
NORMAL: Final = Report()
PSI_SIZE: Final = 256


@dataclass(frozen=True)
class FrameFormat:
    """What all frames of a direction have in common."""

    section_trace: bytes = b""
    """TTI of SM, at most 64 bytes (see `trail_trace.TrailTrace.encode`)."""
    path_trace: bytes = b""
    tandem_traces: Mapping[int, bytes] = field(default_factory=dict)
    """TTI of every active TCM, by level; levels that are not here are not sourced and stay zero."""
    structure: bytes = b"\x05"
    """PSI, at most 256 bytes: the first is the payload type (clause 15.9.2.1), 05 for GFP."""
    correction: bool = False
    """Whether frames carry RS(255,239) parity; without, its columns are zeros (clause 11.1)."""

    def traces(self) -> dict[MonitoringField, bytes]:
        """Return the TTI of every monitoring field that is in use."""
        return {SM: self.section_trace, PM: self.path_trace} | {TCM[n]: t for n, t in self.tandem_traces.items()}


class OduFramer:
    """Builds the frames of one direction; MFAS and BIP-8 run on from call to call."""

    def __init__(self, form: FrameFormat, used: Kernel = kernel.BEST) -> None:
        self._form = form
        self._kernel = used
        self._fields = form.traces()
        self._places = bytes(monitoring.parity_place for monitoring in self._fields)
        self._period = _period_of(form, self._fields)
        self._parity = bytearray(2)
        self._mfas = 0

    def overhead(self, frames: int, reports: Mapping[MonitoringField, Report] | None = None) -> Bytes:
        """Return the overhead of the next frames, (frames, 4, 16), to be completed by the caller and given to `build`.

        FAS, MFAS, TTI, PSI and the status bytes are filled in; `reports` says what a field's status is in all of these
        frames, where it is not normal.
        """
        overhead = np.take(self._period, np.arange(self._mfas, self._mfas + frames), axis=0, mode="wrap")
        for monitoring, report in (reports or {}).items():
            monitoring.status.of(overhead)[:] = report.encode(monitoring)
        return overhead

    def build(self, overhead: Bytes, payload: Buffer, frames: bytearray | Bytes, *, gap: int = 0) -> None:
        """Fill `frames` with scrambled OTU frames of that overhead, whose BIP-8 fields are written here, and payload.

        `payload` holds `PAYLOAD_SIZE` bytes a frame, and `gap` further bytes, which are not sent, behind every fourth
        frame's. Raises `UsageError` if the three do not have the same number of frames.
        """
        try:
            self._kernel.build_frames(overhead, payload, gap, self._parity, self._places, frames, self._form.correction)
        except ValueError as refused:
            raise UsageError(f"{len(overhead)} frames of overhead: {refused}") from None
        self._mfas = (self._mfas + len(overhead)) % MFAS_PERIOD


@dataclass(frozen=True)
class ReceivedFrames:
    """What frames of one direction brought, one entry a frame."""

    overhead: Bytes
    """(frames, 4, 16), descrambled; its fields are those of `overhead`."""
    violations: Mapping[MonitoringField, Bytes]
    """BIP-8 violations, 0 to 8, of every field in use."""
    corrected: int
    """Symbols put right by error correction."""
    uncorrectable: int
    """Codewords beyond correction."""


class OduDeframer:
    """Takes aligned frames of one direction apart and keeps the BIP-8 of the last two between calls."""

    def __init__(self, form: FrameFormat, used: Kernel = kernel.BEST) -> None:
        self._kernel = used
        self._correction = form.correction
        self._fields = tuple(form.traces())
        self._parity: bytes | None = None

    def interrupt(self) -> None:
        """Note that frames are missing here: parity of what came before says nothing about what comes next."""
        self._parity = None

    def take(self, frames: Buffer, payload: bytearray | Bytes, *, gap: int = 0) -> ReceivedFrames:
        """Take scrambled frames that follow those of the previous call; their payload goes into `payload`.

        `gap` bytes of `payload` behind every fourth frame's are left as they are. Raises `UsageError` if `payload` is
        not the size of these frames'.
        """
        count = len(np.frombuffer(frames, np.uint8)) // OTU_SIZE
        overhead, parities = np.empty((count, 4, 16), np.uint8), bytearray(count)
        try:
            corrected, uncorrectable = self._kernel.take_frames(
                frames, overhead, payload, gap, parities, self._correction
            )
        except ValueError as refused:
            raise UsageError(f"{count} OTU frames: {refused}") from None
        return ReceivedFrames(overhead, self._violations(overhead, bytes(parities)), corrected, uncorrectable)

    def _violations(self, overhead: Bytes, parities: bytes) -> dict[MonitoringField, Bytes]:
        """Count the parity bits that differ; the first two frames after a break have nothing to be compared with."""
        known = self._parity is not None
        whole = (self._parity or b"\0\0") + parities
        expected = whole[: len(parities)]
        self._parity = whole[-2:] if known or len(parities) >= 2 else None
        counts = {}
        for monitoring in self._fields:
            found = overhead[:, monitoring.row, monitoring.column + 1]
            # Mostly nothing is wrong, and comparing bytes is the quickest way to see it.
            if found.tobytes() == expected:
                counts[monitoring] = np.zeros(len(parities), np.uint8)
                continue
            counts[monitoring] = np.bitwise_count(found ^ np.frombuffer(expected, np.uint8))
            if not known:
                counts[monitoring][:2] = 0
        return counts


def _period_of(form: FrameFormat, traces: Mapping[MonitoringField, bytes]) -> Bytes:
    """Return the overhead of all 256 frames of an MFAS period, with normal status."""
    if len(form.structure) > PSI_SIZE:
        raise UsageError(f"a PSI of {len(form.structure)} bytes: it has {PSI_SIZE}")
    period = empty_overhead(MFAS_PERIOD, 0)
    PSI.of(period)[:, 0] = np.frombuffer(form.structure.ljust(PSI_SIZE, b"\0"), np.uint8)
    for monitoring, message in traces.items():
        monitoring.trace.of(period)[:, 0] = trace_bytes(message, 0, MFAS_PERIOD)
        monitoring.status.of(period)[:] = NORMAL.encode(monitoring)
    return period
