"""Where the overhead of an OTU frame is, and what its monitoring bytes say (ITU-T G.709 clauses 15.6 to 15.9).

Columns are numbered from 1 in the standard and from 0 here. The overhead of a frame is an array of 4 rows and 16
columns: frame alignment and OTU overhead is row 1, columns 1 to 14; ODU overhead rows 2 to 4, columns 1 to 14; OPU
overhead columns 15 and 16 of all rows.

What always holds: a field that is not sourced is zero (clause 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from qsotn.dataplane.kernel_interface import Bytes
from qsotn.errors import UsageError

FAS: Final = bytes.fromhex("F6F6F6282828")
MFAS_PERIOD: Final = 256


@dataclass(frozen=True)
class Field:
    """A run of bytes in one row of the overhead."""

    name: str
    row: int
    columns: range
    clause: str

    def of(self, overhead: Bytes) -> Bytes:
        """View the field in overhead of the shape (frames, 4, 16): (frames, bytes), writable as that is."""
        return overhead[:, self.row, self.columns.start : self.columns.stop]


@dataclass(frozen=True)
class MonitoringField:
    """TTI, BIP-8 and status: the three bytes that SM, PM and every TCM consist of."""

    name: str
    row: int
    column: int
    clause: str
    has_status: bool = True
    """Three STAT bits; SM has IAE and two reserved bits in their place."""

    @property
    def trace(self) -> Field:
        """Where one byte of the trail trace identifier is."""
        return self._field(0, "TTI")

    @property
    def parity(self) -> Field:
        """Where the BIP-8 is."""
        return self._field(1, "BIP-8")

    @property
    def status(self) -> Field:
        """Where BEI, BDI and STAT, or IAE, are."""
        return self._field(2, "status")

    @property
    def parity_place(self) -> int:
        """Return the BIP-8's place in the overhead, row · 16 + column."""
        return self.row * 16 + self.column + 1

    def _field(self, offset: int, part: str) -> Field:
        column = self.column + offset
        return Field(f"{self.name} {part}", self.row, range(column, column + 1), self.clause)


def _field(name: str, row: int, first: int, last: int, clause: str) -> Field:
    """Take row and columns as the standard numbers them."""
    return Field(name, row - 1, range(first - 1, last), clause)


FAS_FIELD: Final = _field("FAS", 1, 1, 6, "15.6.2.1")
MFAS_FIELD: Final = _field("MFAS", 1, 7, 7, "15.6.2.2")
GCC0: Final = _field("GCC0", 1, 11, 12, "15.7.2.2")
GCC1: Final = _field("GCC1", 4, 1, 2, "15.8.2.3")
GCC2: Final = _field("GCC2", 4, 3, 4, "15.8.2.3")
APS_PCC: Final = _field("APS/PCC", 4, 5, 8, "15.8.2.4")
PM_AND_TCM: Final = _field("PM&TCM", 2, 3, 3, "15.8.2.1.6")
EXPERIMENTAL: Final = _field("EXP", 3, 13, 14, "15.8.2.6")
PSI: Final = _field("PSI", 4, 15, 15, "15.9.2.1")

SM: Final = MonitoringField("SM", 0, 7, "15.7.2.1", has_status=False)
PM: Final = MonitoringField("PM", 2, 9, "15.8.2.1")
TCM: Final = {
    level: MonitoringField(f"TCM{level}", row, column, "15.8.2.2")
    for level, row, column in ((6, 1, 4), (5, 1, 7), (4, 1, 10), (3, 2, 0), (2, 2, 3), (1, 2, 6))
}
"""By level. Level 1 to 6 are nested or cascaded as whoever monitors agrees; none is the outermost by its number."""


class Status(IntEnum):
    """STAT of PM and TCM (tables 15-4 and 15-5)."""

    NO_SOURCE = 0b000
    """TCM: no source tandem connection. PM: reserved."""
    NORMAL = 0b001
    """PM: normal path signal. TCM: in use without incoming alignment error."""
    IN_USE_WITH_ALIGNMENT_ERROR = 0b010
    """TCM: in use with incoming alignment error. PM: reserved."""
    LOCKED = 0b101
    """ODUk-LCK."""
    OPEN_CONNECTION = 0b110
    """ODUk-OCI."""
    ALARM_INDICATION = 0b111
    """ODUk-AIS."""


BACKWARD_ALIGNMENT_ERROR: Final = 0b1011
"""BEI/BIAE of SM and TCM: the far end lost alignment (table 15-1)."""


@dataclass(frozen=True)
class Report:
    """What the third byte of a monitoring field says, of this direction and of what is received from there."""

    errors: int = 0
    """BEI: BIP-8 violations in one received frame, 0 to 8."""
    defect: bool = False
    """BDI: what is received here fails."""
    backward_alignment_error: bool = False
    """BIAE: alignment slipped here. PM has none."""
    alignment_error: bool = False
    """IAE of SM: alignment slipped on the way in. TCM says it by its status."""
    status: int = Status.NORMAL
    """STAT of PM and TCM; SM has none."""

    def encode(self, field: MonitoringField) -> int:
        """Return the byte for that field; raises `UsageError` for more errors than a BIP-8 can show."""
        if not 0 <= self.errors <= 8:
            raise UsageError(f"{self.errors} BIP-8 violations in one frame: 0 to 8 are possible")
        errors = BACKWARD_ALIGNMENT_ERROR if self.backward_alignment_error and field is not PM else self.errors
        low = self.status & 0b111 if field.has_status else self.alignment_error << 2
        return errors << 4 | self.defect << 3 | low


def decode_report(field: MonitoringField, byte: int) -> Report:
    """Read the third byte of a field; BEI codes that mean no number are no errors (tables 15-1 and 15-3)."""
    errors = byte >> 4
    return Report(
        errors=errors if errors <= 8 else 0,
        defect=bool(byte & 0b1000),
        backward_alignment_error=field is not PM and errors == BACKWARD_ALIGNMENT_ERROR,
        alignment_error=not field.has_status and bool(byte & 0b100),
        status=byte & 0b111 if field.has_status else Status.NORMAL,
    )


def aps_level(mfas: int) -> int:
    """Return which of the eight APS/PCC channels a frame carries: bits 6 to 8 of its MFAS (table 15-6).

    0 is ODUk path, 1 to 6 are ODUk TCM1 to TCM6, 7 is the ODUk server layer trail.
    """
    return mfas % 8


def empty_overhead(frames: int, first_mfas: int) -> Bytes:
    """Return overhead of the shape (frames, 4, 16) with FAS and MFAS; everything else is zero."""
    overhead = np.zeros((frames, 4, 16), np.uint8)
    FAS_FIELD.of(overhead)[:] = np.frombuffer(FAS, np.uint8)
    MFAS_FIELD.of(overhead)[:, 0] = (np.arange(frames) + first_mfas) % MFAS_PERIOD
    return overhead
