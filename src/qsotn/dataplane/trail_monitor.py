"""One monitored trail, SM, PM or a TCM, as its far end sees it: all machines of `defects` on what frames brought.

What always holds: each frame is judged once and in order; `response` of it is what goes back in the next frame sent.
"""

from __future__ import annotations

from qsotn.dataplane.defects import BackwardMonitor, Defect, Degraded, DegradeThreshold, StatusMonitor, response
from qsotn.dataplane.odu_frames import ReceivedFrames
from qsotn.dataplane.overhead import MFAS_FIELD, PM, SM, MonitoringField, Report, decode_report
from qsotn.dataplane.trail_trace import Expectation, TraceMonitor


class TrailMonitor:
    """Watches one monitoring field of one direction."""

    def __init__(self, field: MonitoringField, expected: Expectation, threshold: DegradeThreshold) -> None:
        self._field = field
        self._status = StatusMonitor(tandem=field is not PM and field is not SM)
        self._backward = BackwardMonitor()
        self._trace = TraceMonitor(expected)
        self._degraded = Degraded(threshold)
        self._errored_frames = 0
        self.violations = 0
        """BIP-8 violations of what was received here."""
        self.far_end_violations = 0
        """What the far end reported of what it receives (BEI)."""

    @property
    def declared(self) -> frozenset[Defect]:
        """Return the defects that hold now."""
        status = self._status.declared
        single = {Defect.TRACE_MISMATCH: self._trace.mismatch, Defect.DEGRADED: self._degraded.declared}
        named = {defect for defect, holds in single.items() if holds}
        return self._backward.declared | named | ({status} if status is not None else frozenset())

    def interrupt(self) -> None:
        """Note that frames are missing here."""
        self._trace.interrupt()

    def take(self, received: ReceivedFrames, *, alignment_slipped: bool = False) -> list[Report]:
        """Judge frames; return what to tell the far end about each of them."""
        violations = received.violations[self._field].tolist()
        statuses = self._field.status.of(received.overhead)[:, 0].tolist()
        traces = self._field.trace.of(received.overhead)[:, 0].tolist()
        numbers = MFAS_FIELD.of(received.overhead)[:, 0].tolist()
        told = []
        for mfas, trace, status, wrong in zip(numbers, traces, statuses, violations, strict=True):
            self._trace.take(mfas, trace)
            self._judge(decode_report(self._field, status), wrong)
            told.append(response(self.declared, wrong, alignment_slipped=alignment_slipped))
        return told

    def second(self) -> None:
        """End a second: dDEG counts them."""
        self._degraded.take(self._errored_frames)
        self._errored_frames = 0

    def _judge(self, report: Report, wrong: int) -> None:
        if self._field.has_status:
            self._status.take(report)
        self._backward.take(report)
        self.far_end_violations += report.errors
        self.violations += wrong
        self._errored_frames += wrong > 0
