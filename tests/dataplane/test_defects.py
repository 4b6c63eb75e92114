"""When defects are declared and cleared: the numbers of ITU-T G.798 clause 6.2, one frame at a time."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Protocol, TypeVar

import pytest

from qsotn.dataplane.client_management import ClientFailSink, ClientFailSource, management_area
from qsotn.dataplane.defects import (
    BackwardMonitor,
    Defect,
    Degraded,
    DegradeThreshold,
    LossOfFrame,
    LossOfMultiframe,
    PayloadMismatch,
    StatusMonitor,
    response,
)
from qsotn.dataplane.gfp_types import Management
from qsotn.dataplane.overhead import Report, Status
from qsotn.errors import UsageError

MILLISECOND = Fraction(1, 1000)
Word = TypeVar("Word", covariant=True)


class Machine(Protocol[Word]):
    @property
    def declared(self) -> Word: ...


def word(machine: Machine[Word]) -> Word:
    """What it declares now; the type checker does not remember it for later."""
    return machine.declared


def test_loss_of_frame_takes_three_milliseconds_each_way() -> None:
    defect = LossOfFrame()
    defect.elapse(MILLISECOND * 2, in_frame=False)
    assert not word(defect)
    defect.elapse(MILLISECOND, in_frame=False)
    assert word(defect)
    defect.elapse(MILLISECOND * 2, in_frame=True)
    defect.elapse(MILLISECOND, in_frame=False)
    defect.elapse(MILLISECOND * 2, in_frame=True)
    assert word(defect)
    defect.elapse(MILLISECOND, in_frame=True)
    assert not word(defect)


def test_intermittent_loss_of_frame_adds_up_until_it_was_quiet_for_three_milliseconds() -> None:
    flickering, calm = LossOfFrame(), LossOfFrame()
    for _ in range(3):
        flickering.elapse(MILLISECOND, in_frame=False)
        flickering.elapse(MILLISECOND * 2, in_frame=True)
        calm.elapse(MILLISECOND, in_frame=False)
        assert not word(calm)
        calm.elapse(MILLISECOND * 3, in_frame=True)
    assert word(flickering)


def test_loss_of_multiframe_takes_three_milliseconds_and_goes_at_once() -> None:
    defect = LossOfMultiframe()
    defect.elapse(MILLISECOND * 2, in_multiframe=False)
    assert not word(defect)
    defect.elapse(MILLISECOND, in_multiframe=False)
    assert word(defect)
    defect.elapse(MILLISECOND / 1000, in_multiframe=True)
    assert not word(defect)


@pytest.mark.parametrize(
    ("report", "defect", "frames"),
    [
        (Report(defect=True), Defect.BACKWARD, 5),
        (Report(backward_alignment_error=True), Defect.BACKWARD_ALIGNMENT_ERROR, 3),
        (Report(alignment_error=True), Defect.ALIGNMENT_ERROR, 5),
        (Report(status=Status.IN_USE_WITH_ALIGNMENT_ERROR), Defect.ALIGNMENT_ERROR, 5),
    ],
)
def test_backward_defects_persist_for_their_frames(report: Report, defect: Defect, frames: int) -> None:
    monitor = BackwardMonitor()
    for _ in range(frames - 1):
        monitor.take(report)
    monitor.take(Report())
    for _ in range(frames - 1):
        monitor.take(report)
    assert not word(monitor)
    monitor.take(report)
    assert word(monitor) == {defect}
    for _ in range(frames - 1):
        monitor.take(Report())
    assert word(monitor) == {defect}
    monitor.take(Report())
    assert not word(monitor)


@pytest.mark.parametrize(
    ("status", "path", "tandem"),
    [
        (Status.ALARM_INDICATION, Defect.ALARM_INDICATION, Defect.ALARM_INDICATION),
        (Status.OPEN_CONNECTION, Defect.OPEN_CONNECTION, Defect.OPEN_CONNECTION),
        (Status.LOCKED, Defect.LOCKED, Defect.LOCKED),
        (Status.NO_SOURCE, None, Defect.LOSS_OF_TANDEM_CONNECTION),
        (Status.NORMAL, None, None),
    ],
)
def test_status_is_believed_after_three_frames(status: Status, path: Defect | None, tandem: Defect | None) -> None:
    for expected, monitor in ((path, StatusMonitor(tandem=False)), (tandem, StatusMonitor(tandem=True))):
        monitor.take(Report(status=status))
        monitor.take(Report(status=status))
        assert word(monitor) is None
        monitor.take(Report(status=status))
        assert word(monitor) is expected
        for _ in range(2):
            monitor.take(Report())
        assert word(monitor) is expected
        monitor.take(Report())
        assert word(monitor) is None


def test_another_payload_type_is_a_mismatch_after_three_multiframes() -> None:
    mismatch = PayloadMismatch(0x05)
    for payload_type in (0x05, 0x21, 0x21, 0x05, 0x21, 0x21):
        mismatch.take(payload_type)
    assert not word(mismatch)
    mismatch.take(0x21)
    assert word(mismatch)


def test_bad_seconds_in_a_row_degrade_a_signal() -> None:
    degraded = Degraded(DegradeThreshold(errored_blocks=100, seconds=3))
    for count in (100, 100, 99, 100, 5000):
        degraded.take(count)
    assert not word(degraded)
    degraded.take(100)
    assert word(degraded)
    for count in (0, 0, 100, 0, 0):
        degraded.take(count)
    assert word(degraded)
    degraded.take(0)
    assert not word(degraded)


@pytest.mark.parametrize("threshold", [(0, 7), (1, 1), (1, 11)])
def test_thresholds_outside_the_standard_are_refused(threshold: tuple[int, int]) -> None:
    with pytest.raises(UsageError):
        DegradeThreshold(*threshold)


def test_the_far_end_is_told_errors_or_that_the_signal_fails() -> None:
    assert response(frozenset(), 3, alignment_slipped=False) == Report(3)
    assert response(frozenset({Defect.DEGRADED}), 3, alignment_slipped=True) == Report(3, backward_alignment_error=True)
    assert response(frozenset({Defect.TRACE_MISMATCH}), 3, alignment_slipped=False) == Report(0, defect=True)


# Client signal fail


def test_a_failing_client_is_reported_ten_times_a_second_and_its_return_once() -> None:
    source = ClientFailSource()
    assert source.due(0.0) is None
    source.set(Management.LOSS_OF_SIGNAL)
    sent = [now for now in range(250) if source.due(now / 100) is not None]
    assert sent[0] == 0
    assert {later - earlier for earlier, later in pairwise(sent)} <= {10, 11}
    source.set(None)
    assert source.due(2.5) == management_area(Management.DEFECT_CLEAR)
    assert source.due(2.6) is None
    with pytest.raises(UsageError, match="DEFECT_CLEAR"):
        source.set(Management.DEFECT_CLEAR)


@pytest.mark.parametrize("ended_by", ["clear", "data", "silence"])
def test_client_signal_fail_ends_by_word_by_data_or_by_silence(ended_by: str) -> None:
    sink = ClientFailSink()
    sink.take_management(Management.FORWARD_DEFECT, 0.0)
    assert word(sink) is None
    sink.take_management(Management.LOSS_OF_SYNCHRONISATION, 1.0)
    sink.elapse(3.9)
    assert word(sink) is Management.LOSS_OF_SYNCHRONISATION
    if ended_by == "clear":
        sink.take_management(Management.DEFECT_CLEAR, 3.9)
    elif ended_by == "data":
        sink.take_client_frame()
    else:
        sink.elapse(4.0)
    assert word(sink) is None
