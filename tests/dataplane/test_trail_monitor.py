"""A whole trail between two ends: what one sends wrongly, the other declares, and tells back."""

from __future__ import annotations

import numpy as np
import pytest

from qsotn.dataplane.defects import Defect, DegradeThreshold
from qsotn.dataplane.kernel import scramble_otu
from qsotn.dataplane.kernel_interface import Bytes
from qsotn.dataplane.maintenance import Maintenance, insert
from qsotn.dataplane.odu_frames import OTU_SIZE, PAYLOAD_SIZE, FrameFormat, OduDeframer, OduFramer
from qsotn.dataplane.overhead import PM, SM, TCM, MonitoringField, Report
from qsotn.dataplane.trail_monitor import TrailMonitor
from qsotn.dataplane.trail_trace import Expectation, TrailTrace

TRACE = TrailTrace("SITE-A", "SITE-B").encode()
FORM = FrameFormat(TRACE, TRACE, {2: TRACE})
FIELDS = (SM, PM, TCM[2])
EXPECTED = Expectation("SITE-A", "SITE-B")


class Trail:
    """A framer and, behind a signal that a test may change, a deframer and a monitor of every field."""

    def __init__(self, expected: Expectation = EXPECTED) -> None:
        self._framer, self._deframer = OduFramer(FORM), OduDeframer(FORM)
        self.monitors = {field: TrailMonitor(field, expected, DegradeThreshold(1, 2)) for field in FIELDS}

    def signal(self, frames: int, reports: dict[MonitoringField, Report] | None = None) -> Bytes:
        frames_sent = np.empty(frames * OTU_SIZE, np.uint8)
        self._framer.build(self._framer.overhead(frames, reports), bytes(frames * PAYLOAD_SIZE), frames_sent)
        return scramble_otu(frames_sent.reshape(frames, 4, 4080))

    def receive(self, frames: Bytes) -> dict[MonitoringField, list[Report]]:
        payload = bytearray(len(frames) * PAYLOAD_SIZE)
        received = self._deframer.take(scramble_otu(frames).reshape(-1), payload)
        return {field: monitor.take(received) for field, monitor in self.monitors.items()}

    def declared(self) -> dict[str, set[Defect]]:
        return {field.name: set(monitor.declared) for field, monitor in self.monitors.items()}


def test_a_good_signal_declares_nothing_and_is_answered_with_no_errors() -> None:
    trail = Trail()
    told = trail.receive(trail.signal(256))
    assert trail.declared() == {"SM": set(), "PM": set(), "TCM2": set()}
    assert all(report == Report() for reports in told.values() for report in reports)


@pytest.mark.parametrize(
    ("signal", "defect"),
    [
        (Maintenance.AIS, Defect.ALARM_INDICATION),
        (Maintenance.OCI, Defect.OPEN_CONNECTION),
        (Maintenance.LCK, Defect.LOCKED),
    ],
)
def test_a_maintenance_signal_is_declared_by_path_and_tandem_and_told_back(signal: Maintenance, defect: Defect) -> None:
    trail = Trail()
    trail.receive(trail.signal(8))
    frames = trail.signal(3)
    insert(signal, frames)
    told = trail.receive(frames)
    declared = trail.declared()
    assert defect in declared["PM"]
    assert defect in declared["TCM2"]
    assert not declared["SM"]
    assert [report.defect for report in told[PM]] == [False, False, True]
    assert told[PM][2].errors == 0
    trail.receive(trail.signal(8))
    assert trail.declared() == {"SM": set(), "PM": set(), "TCM2": set()}


def test_what_the_far_end_tells_is_counted_and_declared() -> None:
    trail = Trail()
    trail.receive(trail.signal(5, {PM: Report(3, defect=True), SM: Report(backward_alignment_error=True)}))
    assert trail.declared() == {"SM": {Defect.BACKWARD_ALIGNMENT_ERROR}, "PM": {Defect.BACKWARD}, "TCM2": set()}
    assert trail.monitors[PM].far_end_violations == 15


def test_another_trace_is_a_mismatch_and_makes_the_signal_fail() -> None:
    trail = Trail(Expectation(destination="SITE-C"))
    told = trail.receive(trail.signal(192))
    assert trail.declared()["PM"] == {Defect.TRACE_MISMATCH}
    assert told[PM][-1].defect
    assert not told[PM][-2].defect


def test_errors_are_told_back_and_bad_seconds_degrade() -> None:
    trail = Trail()
    for _ in range(2):
        frames = trail.signal(8)
        frames[3, 1, 100] ^= 0b111
        told = trail.receive(frames)
        assert [report.errors for report in told[SM]] == [0, 0, 0, 0, 0, 3, 0, 0]
        for monitor in trail.monitors.values():
            monitor.second()
    assert trail.declared()["SM"] == {Defect.DEGRADED}
    assert trail.monitors[SM].violations == 6
