"""OTU frames (ITU-T G.709): 4 rows of 4080 columns, built and read four frames at a time.

Read the table of rates, then the layout, then `Framer` (send) and `Deframer` (receive). Finding the frames in a stream
of bytes is `alignment`; the loops over bytes are `kernel`.

Columns are numbered from 1 in the standard and from 0 here. OTU and ODU overhead is columns 1 to 14, OPU overhead 15
and 16, OPU payload 17 to 3824, FEC 3825 to 4080. Forward error correction is not used: its columns are all zero before
scrambling (clause 11.1). Tandem connection monitoring, APS/PCC, GCC0, EXP and reserved bytes are zero. With
GFP-F the client needs no justification, so the seven bytes of OPU overhead beside PSI are free in every frame.

What always holds: the BIP-8 of frame i is in the SM and PM fields of frame i+2 (clauses 15.7.2.1.2 and 15.8.2.1.2: both
cover the same OPU area, so a source inserts the same value in both), across the calls to one `Framer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from qsotn.dataplane.kernel import Bytes, parity_bip8, scramble_otu
from qsotn.errors import UsageError

ROWS: Final = 4
COLUMNS: Final = 4080
FRAME_SIZE: Final = ROWS * COLUMNS
FRAMES: Final = 4
"""Frames of a crypto multiframe; its first has an MFAS divisible by this."""
MULTIFRAME_SIZE: Final = FRAMES * FRAME_SIZE
PAYLOAD_SIZE: Final = FRAMES * ROWS * 3808
"""OPU payload bytes of four frames."""
FREE_SIZE: Final = FRAMES * 7
"""Free bytes of OPU overhead in four frames."""
GCC_SIZE: Final = FRAMES * 4
"""Bytes of GCC1 and GCC2 together: two and two in every frame, used as one channel here (clause 15.8.2.3)."""

FAS: Final = bytes.fromhex("F6F6F6282828")
PT_GFP: Final = 0x05
"""Payload type: GFP mapping."""
PT_NULL: Final = 0xFD
"""Payload type: the null client, an OPU payload of zeros (clause 17.5.1)."""

_STAT_NORMAL: Final = 0b001
_FREE_ROWS: Final = (0, 0, 1, 1, 2, 2, 3)
_FREE_COLUMNS: Final = (14, 15, 14, 15, 14, 15, 15)
_PAYLOAD: Final = slice(16, 3824)
_TRACE_SIZE: Final = 64


@dataclass(frozen=True)
class OduType:
    """One row of G.709 tables 7-2 and 7-4."""

    name: str
    rate_kbit_s: float
    """Nominal bit rate of the ODU, kbit/s."""
    period_us: float
    """Duration of one frame, microseconds."""
    payload_kbit_s: float
    """Nominal bit rate of its OPU payload, kbit/s."""


ODU_TYPES: Final = {
    odu.name: odu
    for odu in (
        OduType("ODU0", 1_244_160.0, 98.354, 1_238_954.310),
        OduType("ODU1", 2_498_775.126, 48.971, 2_488_320.0),
        OduType("ODU2", 10_037_273.924, 12.191, 9_995_276.962),
        OduType("ODU2e", 10_399_525.316, 11.767, 10_356_012.658),
        OduType("ODU3", 40_319_218.983, 3.035, 40_150_519.322),
        OduType("ODU4", 104_794_445.815, 1.168, 104_355_975.330),
    )
}


def odu_type(name: str) -> OduType:
    """Return the ODU type of that name; raises `UsageError` for a name that is not in the table."""
    try:
        return ODU_TYPES[name]
    except KeyError:
        raise UsageError(f"{name!r} is no ODU type: expected one of {', '.join(ODU_TYPES)}") from None


@dataclass(frozen=True)
class Backward:
    """What one frame tells the far end about what is received from it."""

    section_errors: int = 0
    """BEI of section monitoring: BIP-8 violations counted in one received frame, 0 to 8."""
    path_errors: int = 0
    """BEI of path monitoring."""
    defect: bool = False
    """BDI of both: the signal received here fails."""
    alignment_error: bool = False
    """BIAE and IAE: frame alignment slipped here."""

    def section_byte(self) -> int:
        """Return the third SM byte: BEI/BIAE, BDI, IAE, two reserved bits (clause 15.7.2.1)."""
        errors = 0b1011 if self.alignment_error else self.section_errors
        return errors << 4 | self.defect << 3 | self.alignment_error << 2

    def path_byte(self) -> int:
        """Return the third PM byte: BEI, BDI, STAT (clause 15.8.2.1)."""
        return self.path_errors << 4 | self.defect << 3 | _STAT_NORMAL


@dataclass(frozen=True)
class Content:
    """What four frames carry besides the overhead that is always there."""

    payload: Bytes
    """OPU payload, `PAYLOAD_SIZE` bytes in one dimension."""
    free: bytes
    """The free OPU overhead bytes, `FREE_SIZE`."""
    gcc: bytes
    """General communication channels 1 and 2 as one, `GCC_SIZE` bytes."""
    payload_type: int


class Framer:
    """Builds the frames of one direction; MFAS and BIP-8 run on from call to call."""

    def __init__(self, trace: bytes) -> None:
        """`trace` is the trail trace identifier of SM and PM, up to 64 bytes (clause 15.2)."""
        self._overhead = _constant_overhead(trace)
        self._mfas = 0
        self._parity = np.zeros(2, np.uint8)
        # Kept from call to call: everything but the FEC columns, which stay zero, is written anew each time.
        self._frames: Bytes = np.zeros((FRAMES, ROWS, COLUMNS), np.uint8)
        self._scrambled: Bytes = np.empty_like(self._frames)

    def build(self, content: Content, backward: Sequence[Backward]) -> bytes:
        """Return four scrambled OTU frames, `MULTIFRAME_SIZE` bytes; `backward` has one entry a frame."""
        frames = self._frames
        frames[:, :, :16] = self._overhead[self._mfas : self._mfas + FRAMES]
        if self._mfas == 0:
            frames[0, 3, 14] = content.payload_type
        frames[:, :, _PAYLOAD] = content.payload.reshape(FRAMES, ROWS, -1)
        frames[:, _FREE_ROWS, _FREE_COLUMNS] = np.frombuffer(content.free, np.uint8).reshape(FRAMES, -1)
        frames[:, 3, 0:4] = np.frombuffer(content.gcc, np.uint8).reshape(FRAMES, 4)
        frames[:, 0, 9] = [entry.section_byte() for entry in backward]
        frames[:, 2, 11] = [entry.path_byte() for entry in backward]
        self._insert_parity(frames)
        self._mfas = (self._mfas + FRAMES) % 256
        return scramble_otu(frames, self._scrambled).tobytes()

    def _insert_parity(self, frames: Bytes) -> None:
        parity = np.concatenate((self._parity, parity_bip8(frames)))
        frames[:, 0, 8] = parity[:FRAMES]
        frames[:, 2, 10] = parity[:FRAMES]
        self._parity = parity[FRAMES:]


@dataclass(frozen=True)
class Received:
    """What four frames of one direction brought."""

    payload: Bytes
    """OPU payload, (4, 4, 3808)."""
    free: bytes
    """The free OPU overhead bytes, `FREE_SIZE`."""
    gcc: bytes
    """GCC1 and GCC2 as one, `GCC_SIZE` bytes."""
    section_violations: Bytes
    """BIP-8 violations of section monitoring, one count of 0 to 8 a frame."""
    path_violations: Bytes
    """The same of path monitoring."""
    far_end_violations: Bytes
    """Path BEI: what the far end counted in what it received, 0 to 8 a frame."""
    far_end_defect: bool
    """Path BDI in all of these frames."""


class Deframer:
    """Reads aligned and descrambled frames of one direction and keeps the BIP-8 history between calls."""

    def __init__(self) -> None:
        self._parity: Bytes | None = None

    def interrupt(self) -> None:
        """Note that frames are missing here: parity of what came before says nothing about what comes next."""
        self._parity = None

    def read(self, frames: Bytes) -> Received:
        """Read four descrambled frames, (4, 4, 4080), that follow the previous call's without a break."""
        section, path = self._violations(frames)
        backward = frames[:, 2, 11]
        far_end = backward >> 4
        return Received(
            payload=frames[:, :, _PAYLOAD],
            free=frames[:, _FREE_ROWS, _FREE_COLUMNS].tobytes(),
            gcc=frames[:, 3, 0:4].tobytes(),
            section_violations=section,
            path_violations=path,
            far_end_violations=np.where(far_end <= 8, far_end, 0).astype(np.uint8),
            far_end_defect=bool((backward & 0b1000).all()),
        )

    def _violations(self, frames: Bytes) -> tuple[Bytes, Bytes]:
        """Count, for SM and PM, the parity bits that differ; the first two frames after a break count none."""
        skipped = 2 if self._parity is None else 0
        before = np.zeros(2, np.uint8) if self._parity is None else self._parity
        parity = np.concatenate((before, parity_bip8(frames)))
        self._parity = parity[FRAMES:]
        section = np.bitwise_count(frames[:, 0, 8] ^ parity[:FRAMES])
        path = np.bitwise_count(frames[:, 2, 10] ^ parity[:FRAMES])
        section[:skipped] = 0
        path[:skipped] = 0
        return section, path


def _constant_overhead(trace: bytes) -> Bytes:
    """Return the first 16 columns of all 256 frames of an MFAS period: FAS, MFAS and trace; the rest is zero."""
    if len(trace) > _TRACE_SIZE:
        raise UsageError(f"a trail trace of {len(trace)} bytes: at most {_TRACE_SIZE} fit")
    overhead = np.zeros((256, ROWS, 16), np.uint8)
    overhead[:, 0, 0:6] = np.frombuffer(FAS, np.uint8)
    overhead[:, 0, 6] = np.arange(256)
    trail = np.resize(np.frombuffer(trace.ljust(_TRACE_SIZE, b"\0"), np.uint8), 256)
    overhead[:, 0, 7] = trail
    overhead[:, 2, 9] = trail
    return overhead
