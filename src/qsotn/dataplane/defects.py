"""Defects: when a condition in the received signal is declared, and when it is gone again (ITU-T G.798 clause 6.2).

Each is a small state machine that is fed what one frame, one interval or one second showed and says `declared`. The
numbers are the standard's: X frames in a row, 3 ms, M bad seconds. Time enters as an argument.

What always holds: what is not asked about a frame is not known about it; a machine keeps its word until it is fed
something that changes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Final

from qsotn.dataplane.overhead import Report, Status
from qsotn.errors import UsageError


class Defect(StrEnum):
    """The defects that these machines and those of `trail_trace`, `maintenance` and `client_management` declare."""

    LOSS_OF_FRAME = "dLOF"
    LOSS_OF_MULTIFRAME = "dLOM"
    ALARM_INDICATION = "dAIS"
    OPEN_CONNECTION = "dOCI"
    LOCKED = "dLCK"
    LOSS_OF_TANDEM_CONNECTION = "dLTC"
    TRACE_MISMATCH = "dTIM"
    DEGRADED = "dDEG"
    BACKWARD = "dBDI"
    BACKWARD_ALIGNMENT_ERROR = "dBIAE"
    ALIGNMENT_ERROR = "dIAE"
    PAYLOAD_MISMATCH = "dPLM"
    LOSS_OF_DELINEATION = "dLFD"
    CLIENT_SIGNAL_FAIL = "dCSF"
    USER_PAYLOAD_MISMATCH = "dUPM"
    EXTENSION_MISMATCH = "dEXM"


INTEGRATION: Final = Fraction(3, 1000)
"""Seconds of dLOF and dLOM (clauses 6.2.5.1 and 6.2.5.2)."""


class Persistence:
    """Declared after so many frames in a row with a condition, cleared after as many in a row without."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._streak = 0
        self.declared = False

    def take(self, *, present: bool) -> None:
        """Take what the next frame showed."""
        self._streak = self._streak + 1 if present is not self.declared else 0
        if self._streak == self._frames:
            self.declared = present
            self._streak = 0


class LossOfFrame:
    """dLOF: out of frame for 3 ms; cleared after 3 ms in frame (clause 6.2.5.1).

    Intermittent out-of-frame adds up: the integration only begins anew after 3 ms in frame without a break.
    """

    def __init__(self) -> None:
        self.declared = False
        self._out = Fraction(0)
        self._within = Fraction(0)

    def elapse(self, seconds: Fraction, *, in_frame: bool) -> None:
        """Take that the aligner was in or out of frame for so long."""
        if not in_frame:
            self._within = Fraction(0)
            self._out += seconds
            self.declared = self.declared or self._out >= INTEGRATION
            return
        self._within += seconds
        if self._within >= INTEGRATION:
            self._out = Fraction(0)
            self.declared = False


class LossOfMultiframe:
    """dLOM: out of multiframe for 3 ms; cleared as soon as it is in multiframe (clause 6.2.5.2)."""

    def __init__(self) -> None:
        self.declared = False
        self._out = Fraction(0)

    def elapse(self, seconds: Fraction, *, in_multiframe: bool) -> None:
        """Take that the aligner was in or out of multiframe for so long."""
        self._out = Fraction(0) if in_multiframe else self._out + seconds
        self.declared = not in_multiframe and (self.declared or self._out >= INTEGRATION)


class AcceptedValue:
    """A value of the overhead is believed after it came three times in a row (clauses 8.7.1 and 8.8)."""

    PERSISTENCE: Final = 3

    def __init__(self, initial: int) -> None:
        self.value = initial
        self._candidate = initial
        self._streak = 0

    def take(self, value: int) -> None:
        """Take the next one."""
        self._streak = self._streak + 1 if value == self._candidate else 1
        self._candidate = value
        if self._streak >= self.PERSISTENCE:
            self.value = value


class StatusMonitor:
    """dAIS, dOCI, dLCK and, of a tandem connection, dLTC: what the accepted STAT is (clauses 6.2.6 and 8.8)."""

    def __init__(self, *, tandem: bool) -> None:
        self._tandem = tandem
        self._accepted = AcceptedValue(Status.NORMAL)

    def take(self, report: Report) -> None:
        """Take the next frame's."""
        self._accepted.take(report.status)

    @property
    def declared(self) -> Defect | None:
        """Return the one defect that the accepted STAT means, if any; they exclude each other."""
        defect = _STATUS_DEFECTS.get(self._accepted.value)
        return None if defect is Defect.LOSS_OF_TANDEM_CONNECTION and not self._tandem else defect


_STATUS_DEFECTS: Final[dict[int, Defect]] = {
    Status.ALARM_INDICATION: Defect.ALARM_INDICATION,
    Status.OPEN_CONNECTION: Defect.OPEN_CONNECTION,
    Status.LOCKED: Defect.LOCKED,
    Status.NO_SOURCE: Defect.LOSS_OF_TANDEM_CONNECTION,
}


class BackwardMonitor:
    """dBDI, dBIAE and dIAE of one monitoring field: five, three and five frames in a row (clause 6.2.6)."""

    def __init__(self) -> None:
        self._machines = {
            Defect.BACKWARD: Persistence(5),
            Defect.BACKWARD_ALIGNMENT_ERROR: Persistence(3),
            Defect.ALIGNMENT_ERROR: Persistence(5),
        }

    def take(self, report: Report) -> None:
        """Take the next frame's."""
        self._machines[Defect.BACKWARD].take(present=report.defect)
        self._machines[Defect.BACKWARD_ALIGNMENT_ERROR].take(present=report.backward_alignment_error)
        in_use_with_error = report.status == Status.IN_USE_WITH_ALIGNMENT_ERROR
        self._machines[Defect.ALIGNMENT_ERROR].take(present=report.alignment_error or in_use_with_error)

    @property
    def declared(self) -> frozenset[Defect]:
        """Return those that hold."""
        return frozenset(defect for defect, machine in self._machines.items() if machine.declared)


class PayloadMismatch:
    """dPLM: the accepted payload type, PSI[0], is not the expected one (clauses 6.2.4.1 and 8.7.1)."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._accepted = AcceptedValue(expected)

    def take(self, payload_type: int) -> None:
        """Take the PSI byte of the next frame whose MFAS is 0."""
        self._accepted.take(payload_type)

    @property
    def declared(self) -> bool:
        """Return whether the types differ."""
        return self._accepted.value != self._expected


@dataclass(frozen=True)
class DegradeThreshold:
    """What a degraded second is, and how many make a degraded signal (clause 6.2.3.4, G.806 clause 6.2.3.1.2)."""

    errored_blocks: int
    """DEGThr: a second with at least so many errored blocks, which are frames with a BIP-8 violation, is bad."""
    seconds: int = 7
    """DEGM: 2 to 10 in a row."""

    def __post_init__(self) -> None:
        if self.errored_blocks < 1 or not 2 <= self.seconds <= 10:
            raise UsageError("a degrade threshold is at least one errored block, in 2 to 10 seconds in a row")


class Degraded:
    """dDEG for bursty errors: bad seconds in a row declare it, as many good ones clear it."""

    def __init__(self, threshold: DegradeThreshold) -> None:
        self._threshold = threshold
        self._machine = Persistence(threshold.seconds)

    def take(self, errored_blocks: int) -> None:
        """Take the count of the next second."""
        self._machine.take(present=errored_blocks >= self._threshold.errored_blocks)

    @property
    def declared(self) -> bool:
        """Return whether the signal is degraded."""
        return self._machine.declared


SIGNAL_FAILS: Final = frozenset(
    {
        Defect.LOSS_OF_FRAME,
        Defect.LOSS_OF_MULTIFRAME,
        Defect.ALARM_INDICATION,
        Defect.OPEN_CONNECTION,
        Defect.LOCKED,
        Defect.LOSS_OF_TANDEM_CONNECTION,
        Defect.TRACE_MISMATCH,
    }
)
"""What makes a trail termination tell the far end BDI, and hand AIS to its client (aBDI and aTSF, clause 6.3)."""


def response(defects: frozenset[Defect], violations: int, *, alignment_slipped: bool) -> Report:
    """Return what to send back, in the next frame, about one received frame: BEI, BDI and BIAE (clause 6.3).

    While the signal fails its BIP-8 says nothing, and none is reported (G.798 clause 8.3).
    """
    fails = bool(defects & SIGNAL_FAILS)
    return Report(0 if fails else violations, defect=fails, backward_alignment_error=alignment_slipped)
