"""Overhead fields, trail traces, maintenance signals and justification, each where ITU-T G.709 has it."""

from __future__ import annotations

import numpy as np
import pytest

from qsotn.dataplane import overhead as fields
from qsotn.dataplane.justification import Justification, decode_control, encode_control
from qsotn.dataplane.kernel import scramble_otu
from qsotn.dataplane.maintenance import GENERIC_PERIOD, GenericAisDetector, Maintenance, generic_ais, insert
from qsotn.dataplane.overhead import PM, SM, TCM, MonitoringField, Report, Status, aps_level, decode_report
from qsotn.dataplane.trail_trace import Expectation, TraceMonitor, TrailTrace, decode_trace, trace_bytes
from qsotn.errors import UsageError

# Where the fields are: row and columns as the figures 15-2 and 15-12 number them.


@pytest.mark.parametrize(
    ("field", "row", "columns"),
    [
        (fields.FAS_FIELD, 1, range(1, 7)),
        (fields.MFAS_FIELD, 1, range(7, 8)),
        (SM.trace, 1, range(8, 9)),
        (SM.parity, 1, range(9, 10)),
        (SM.status, 1, range(10, 11)),
        (fields.GCC0, 1, range(11, 13)),
        (fields.PM_AND_TCM, 2, range(3, 4)),
        (TCM[6].trace, 2, range(5, 6)),
        (TCM[5].trace, 2, range(8, 9)),
        (TCM[4].status, 2, range(13, 14)),
        (TCM[3].trace, 3, range(1, 2)),
        (TCM[1].status, 3, range(9, 10)),
        (PM.trace, 3, range(10, 11)),
        (PM.status, 3, range(12, 13)),
        (fields.EXPERIMENTAL, 3, range(13, 15)),
        (fields.GCC1, 4, range(1, 3)),
        (fields.GCC2, 4, range(3, 5)),
        (fields.APS_PCC, 4, range(5, 9)),
        (fields.PSI, 4, range(15, 16)),
    ],
    ids=lambda value: value.name if isinstance(value, fields.Field) else None,
)
def test_every_field_is_where_the_figures_have_it(field: fields.Field, row: int, columns: range) -> None:
    overhead = np.zeros((1, 4, 16), np.uint8)
    field.of(overhead)[:] = 0xAB
    marked = {(int(at) + 1, int(column) + 1) for _, at, column in zip(*np.nonzero(overhead), strict=True)}
    assert marked == {(row, column) for column in columns}


def test_no_two_fields_share_a_byte() -> None:
    monitoring = [part for m in (SM, PM, *TCM.values()) for part in (m.trace, m.parity, m.status)]
    single = [fields.FAS_FIELD, fields.MFAS_FIELD, fields.GCC0, fields.GCC1, fields.GCC2, fields.APS_PCC]
    all_fields = [*monitoring, *single, fields.PM_AND_TCM, fields.EXPERIMENTAL, fields.PSI]
    taken = [(field.row, column) for field in all_fields for column in field.columns]
    assert len(taken) == len(set(taken))


@pytest.mark.parametrize(
    ("field", "report", "byte"),
    [
        (SM, Report(5, defect=True, alignment_error=True), 0b0101_1_1_00),
        (SM, Report(backward_alignment_error=True), 0b1011_0_0_00),
        (PM, Report(8, status=Status.NORMAL), 0b1000_0_001),
        (PM, Report(defect=True, status=Status.ALARM_INDICATION), 0b0000_1_111),
        (TCM[2], Report(backward_alignment_error=True, status=Status.IN_USE_WITH_ALIGNMENT_ERROR), 0b1011_0_010),
        (TCM[2], Report(status=Status.NO_SOURCE), 0),
    ],
)
def test_status_bytes(field: MonitoringField, report: Report, byte: int) -> None:
    assert report.encode(field) == byte
    read = decode_report(field, byte)
    assert read.encode(field) == byte
    assert (read.errors, read.defect) == (report.errors, report.defect)


@pytest.mark.parametrize("code", range(9, 16))
def test_error_counts_that_cannot_be_are_no_errors(code: int) -> None:
    assert decode_report(PM, code << 4 | 1).errors == 0
    assert decode_report(SM, code << 4).backward_alignment_error == (code == 0b1011)
    assert not decode_report(PM, code << 4).backward_alignment_error


def test_more_errors_than_a_parity_shows_are_refused() -> None:
    with pytest.raises(UsageError, match="0 to 8"):
        Report(9).encode(SM)


def test_aps_channels_follow_the_last_bits_of_mfas() -> None:
    assert [aps_level(mfas) for mfas in (0, 1, 6, 7, 8, 255)] == [0, 1, 6, 7, 0, 7]


# Trail traces

HERE = TrailTrace("CN-JINAN-01", "CN-QINGDAO-01", b"line 7")


def test_a_trace_has_its_identifiers_behind_zero_bytes() -> None:
    message = HERE.encode()
    assert len(message) == 64
    assert message[:16] == b"\0CN-JINAN-01\0\0\0\0"
    assert message[16:32] == b"\0CN-QINGDAO-01\0\0"
    assert message[32:] == b"line 7".ljust(32, b"\0")
    assert decode_trace(message) == HERE


@pytest.mark.parametrize("trace", [TrailTrace("x" * 16, ""), TrailTrace("", "济南"), TrailTrace("", "", bytes(33))])
def test_what_no_trace_can_hold_is_refused(trace: TrailTrace) -> None:
    with pytest.raises(UsageError):
        trace.encode()


def mismatch_of(monitor: TraceMonitor) -> bool:
    return monitor.mismatch


def accepted_by(monitor: TraceMonitor) -> TrailTrace | None:
    return monitor.accepted


def declared(detector: GenericAisDetector) -> bool:
    return detector.declared


def fed(monitor: TraceMonitor, message: bytes, messages: int, first: int = 0) -> None:
    for place in range(first, first + 64 * messages):
        monitor.take(place % 256, message[place % 64])


@pytest.mark.parametrize(
    ("expected", "mismatch"),
    [
        (Expectation(), False),
        (Expectation("CN-JINAN-01"), False),
        (Expectation("CN-JINAN-01", "CN-QINGDAO-01"), False),
        (Expectation(destination="CN-QINGDAO-02"), True),
        (Expectation("CN-JINAN-02", "CN-QINGDAO-01"), True),
    ],
)
def test_a_trace_is_accepted_after_three_messages_and_compared(expected: Expectation, mismatch: bool) -> None:
    monitor = TraceMonitor(expected)
    fed(monitor, HERE.encode(), 2)
    assert accepted_by(monitor) is None
    assert not mismatch_of(monitor)
    fed(monitor, HERE.encode(), 1)
    assert accepted_by(monitor) == HERE
    assert mismatch_of(monitor) is mismatch


def test_a_wrong_bit_in_one_message_raises_nothing_and_another_trace_does() -> None:
    monitor = TraceMonitor(Expectation("CN-JINAN-01"))
    fed(monitor, HERE.encode(), 3)
    other = TrailTrace("CN-JINAN-02", "").encode()
    fed(monitor, other, 2)
    fed(monitor, HERE.encode(), 1)
    assert not mismatch_of(monitor)
    fed(monitor, other, 3)
    assert mismatch_of(monitor)
    fed(monitor, HERE.encode(), 3)
    assert not mismatch_of(monitor)


def test_a_message_with_a_frame_missing_is_not_put_together() -> None:
    monitor = TraceMonitor(Expectation())
    fed(monitor, HERE.encode(), 1, first=17)
    fed(monitor, HERE.encode(), 2, first=64 + 17)
    assert accepted_by(monitor) is None
    monitor.interrupt()
    fed(monitor, HERE.encode(), 3)
    assert accepted_by(monitor) == HERE


def test_trace_bytes_follow_mfas() -> None:
    message = HERE.encode()
    assert trace_bytes(message, 250, 10).tobytes() == message[58:] + message[:4]
    with pytest.raises(UsageError, match="65"):
        trace_bytes(bytes(65), 0, 1)


# Maintenance signals


@pytest.mark.parametrize("signal", Maintenance)
def test_a_maintenance_signal_fills_the_odu_and_reads_as_its_status(signal: Maintenance) -> None:
    frames = np.full((2, 4, 4080), 0x3C, np.uint8)
    insert(signal, frames)
    assert (frames[:, 0, :14] == 0x3C).all()
    assert (frames[:, :, 3824:] == 0x3C).all()
    assert (frames[:, 1:, :3824] == signal).all()
    assert (frames[:, 0, 14:3824] == signal).all()
    for field in (PM, *TCM.values()):
        assert decode_report(field, int(field.status.of(frames[:, :, :16])[0, 0])).status == signal.status


def test_patterns_are_those_of_clause_16_5() -> None:
    assert (Maintenance.AIS, Maintenance.OCI, Maintenance.LCK) == (0b11111111, 0b01100110, 0b01010101)


def test_generic_ais_is_a_sequence_of_full_length_and_continues() -> None:
    whole, _ = generic_ais(8 * GENERIC_PERIOD)
    bits = np.unpackbits(np.frombuffer(whole, np.uint8))
    assert (bits[:GENERIC_PERIOD] == bits[GENERIC_PERIOD : 2 * GENERIC_PERIOD]).all()
    assert int(bits[:GENERIC_PERIOD].sum()) == 1024
    first, state = generic_ais(8 * 100)
    second, _ = generic_ais(8 * 100, state)
    assert first + second == whole[:200]


def test_generic_ais_is_declared_after_three_intervals_and_cleared_after_three() -> None:
    detector = GenericAisDetector()
    signal, state = generic_ais(3 * 8192 + 8)
    detector.feed(signal)
    assert not declared(detector)
    more, _ = generic_ais(8, state)
    detector.feed(more)
    assert declared(detector)
    frames = scramble_otu(np.zeros((2, 4, 4080), np.uint8))
    detector.feed(frames.tobytes())
    assert not declared(detector)


def test_generic_ais_is_recognised_among_bit_errors_and_darkness_is_none() -> None:
    signal, _ = generic_ais(6 * 8192)
    damaged = bytearray(signal)
    damaged[::100] = bytes(byte ^ 1 for byte in damaged[::100])
    detector = GenericAisDetector()
    detector.feed(bytes(damaged))
    assert declared(detector)
    dark = GenericAisDetector()
    dark.feed(bytes(6000))
    assert not declared(dark)


# Justification


@pytest.mark.parametrize("justification", Justification)
@pytest.mark.parametrize("wrong", range(3))
def test_one_wrong_copy_of_justification_control_moves_nothing(justification: Justification, wrong: int) -> None:
    copies = bytearray(encode_control(justification))
    copies[wrong] ^= 0b11
    assert decode_control(copies) is justification


def test_justification_that_nobody_generates_is_none() -> None:
    assert decode_control(b"\x02\x02\x02") is Justification.NONE
    assert [value.data_bytes for value in Justification] == [0, 1, -1]
