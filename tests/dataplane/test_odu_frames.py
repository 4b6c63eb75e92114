"""OTU frames with all their overhead, built and taken apart in bulk, with every kernel."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from tests.dataplane.kernels import KERNELS, kernel_named

from qsotn.dataplane.g709 import Backward, Content, Framer
from qsotn.dataplane.kernel import parity_bip8, scramble_otu
from qsotn.dataplane.kernel_interface import Bytes, Kernel
from qsotn.dataplane.odu_frames import OTU_SIZE, PAYLOAD_SIZE, FrameFormat, OduDeframer, OduFramer, ReceivedFrames
from qsotn.dataplane.overhead import FAS, GCC0, GCC1, GCC2, MFAS_FIELD, PM, PSI, SM, TCM, Report, Status, decode_report
from qsotn.dataplane.trail_trace import TrailTrace
from qsotn.errors import UsageError

RANDOM = random.Random(798)
TRACE = TrailTrace("SITE-A", "SITE-B").encode()
FORM = FrameFormat(TRACE, TRACE, {1: TRACE, 4: TRACE})


@pytest.fixture(params=KERNELS)
def used(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with kernel_named(request.param) as chosen:
        yield chosen


def some_payload(frames: int) -> bytes:
    return RANDOM.randbytes(frames * PAYLOAD_SIZE)


def built(framer: OduFramer, frames: int, payload: bytes | None = None) -> bytearray:
    signal = bytearray(frames * OTU_SIZE)
    framer.build(framer.overhead(frames), payload or some_payload(frames), signal)
    return signal


def taken(deframer: OduDeframer, signal: bytes | bytearray) -> ReceivedFrames:
    return deframer.take(signal, bytearray(len(signal) // OTU_SIZE * PAYLOAD_SIZE))


def clear(signal: bytes | bytearray) -> Bytes:
    return scramble_otu(np.frombuffer(signal, np.uint8).reshape(-1, 4, 4080))


def test_frames_equal_those_of_the_framer_with_one_geometry(used: Kernel) -> None:
    """Without tandem connections and correction, both write the same bytes, over the whole period of MFAS."""
    small = Framer(TRACE)
    framer = OduFramer(FrameFormat(TRACE, TRACE), used)
    for _ in range(66):
        payload, gcc = some_payload(4), RANDOM.randbytes(16)
        expected = small.build(
            Content(np.frombuffer(payload, np.uint8), bytes(28), gcc, 0x05), [Backward(3, 2, defect=True)] * 4
        )
        overhead = framer.overhead(4, {SM: Report(3, defect=True), PM: Report(2, defect=True)})
        channels = np.frombuffer(gcc, np.uint8).reshape(4, 4)
        GCC1.of(overhead)[:], GCC2.of(overhead)[:] = channels[:, :2], channels[:, 2:]
        signal = bytearray(4 * OTU_SIZE)
        framer.build(overhead, payload, signal)
        assert signal == expected


def test_overhead_and_payload_come_back_and_nothing_is_violated(used: Kernel) -> None:
    framer, deframer = OduFramer(FORM, used), OduDeframer(FORM, used)
    for count in (1, 7, 4, 255, 2):
        payload, signal = some_payload(count), bytearray(count * OTU_SIZE)
        overhead = framer.overhead(count, {TCM[4]: Report(5, status=Status.IN_USE_WITH_ALIGNMENT_ERROR)})
        GCC0.of(overhead)[:] = 0x77
        framer.build(overhead, payload, signal)
        area = bytearray(len(payload))
        received = deframer.take(signal, area)
        assert area == payload
        assert (received.overhead == overhead).all()
        assert (received.overhead[:, 0, :6] == np.frombuffer(FAS, np.uint8)).all()
        assert set(received.violations) == {SM, PM, TCM[1], TCM[4]}
        assert not any(counts.any() for counts in received.violations.values())
        assert decode_report(TCM[4], int(TCM[4].status.of(received.overhead)[0, 0])).errors == 5
        assert not received.overhead[:, 2, 0:3].any()  # TCM3 has no source


def test_traces_and_structure_run_through_the_period_of_mfas(used: Kernel) -> None:
    structure = bytes(range(5, 256)) + b"\x01\x02\x03"
    framer = OduFramer(FrameFormat(TRACE, TRACE, {6: TRACE}, structure), used)
    heads = clear(built(framer, 100) + built(framer, 200))[:, :, :16]
    assert MFAS_FIELD.of(heads)[:, 0].tolist() == [number % 256 for number in range(300)]
    assert PSI.of(heads)[:256, 0].tobytes() == structure.ljust(256, b"\0")
    for field in (SM, PM, TCM[6]):
        assert field.trace.of(heads)[:256, 0].tobytes() == TRACE * 4


def test_parity_of_frame_i_is_in_frame_i_plus_2_of_every_field_in_use(used: Kernel) -> None:
    framer = OduFramer(FORM, used)
    frames = clear(built(framer, 3) + built(framer, 6))
    parities = parity_bip8(frames)
    for field in (SM, PM, TCM[1], TCM[4]):
        assert (field.parity.of(frames[:, :, :16])[2:, 0] == parities[:-2]).all()


@pytest.mark.parametrize("field", [SM, PM, TCM[1], TCM[4]], ids=lambda field: field.name)
def test_a_wrong_parity_field_is_a_violation_of_that_field_alone(used: Kernel, field: object) -> None:
    framer, deframer = OduFramer(FORM, used), OduDeframer(FORM, used)
    frames = clear(built(framer, 8))
    place = next(f for f in (SM, PM, TCM[1], TCM[4]) if f is field)
    place.parity.of(frames[:, :, :16])[5] ^= 0b10110
    counts = taken(deframer, scramble_otu(frames).tobytes()).violations
    for other, violations in counts.items():
        assert violations.tolist() == ([0, 0, 0, 0, 0, 3, 0, 0] if other is place else [0] * 8)


def test_a_wrong_payload_bit_is_a_violation_of_every_field_two_frames_later(used: Kernel) -> None:
    framer, deframer = OduFramer(FORM, used), OduDeframer(FORM, used)
    signal = built(framer, 8)
    signal[5 * OTU_SIZE + 100] ^= 0x40
    first = taken(deframer, signal[: 6 * OTU_SIZE])
    second = taken(deframer, signal[6 * OTU_SIZE :])
    assert not any(counts.any() for counts in first.violations.values())
    assert all(counts.tolist() == [0, 1] for counts in second.violations.values())


def test_after_a_break_two_frames_have_nothing_to_be_compared_with(used: Kernel) -> None:
    framer, deframer = OduFramer(FORM, used), OduDeframer(FORM, used)
    signal = built(framer, 20)
    taken(deframer, signal[: 8 * OTU_SIZE])
    careless = taken(deframer, signal[12 * OTU_SIZE :])
    assert careless.violations[SM].any()
    deframer.interrupt()
    assert not taken(deframer, signal[12 * OTU_SIZE :]).violations[SM].any()


def test_correction_repairs_a_signal_and_says_what_it_could_not(used: Kernel) -> None:
    form = FrameFormat(TRACE, TRACE, correction=True)
    framer, deframer = OduFramer(form, used), OduDeframer(form, used)
    payload = some_payload(4)
    signal = built(framer, 4, payload)
    for row in range(4):
        at = 2 * OTU_SIZE + row * 4080 + 700
        signal[at : at + 128] = bytes(128)
    area = bytearray(len(payload))
    received = deframer.take(bytes(signal), area)
    assert area == payload
    assert received.uncorrectable == 0
    assert received.corrected > 4 * 128 * 0.95
    assert not received.violations[SM].any()
    signal[3 * OTU_SIZE + 700 : 3 * OTU_SIZE + 1000] = bytes(300)
    assert taken(OduDeframer(form, used), signal).uncorrectable == 16


@pytest.mark.parametrize("correction", [False, True])
def test_a_gap_behind_every_fourth_frame_holds_what_is_not_sent(used: Kernel, correction: bool) -> None:
    form = FrameFormat(correction=correction)
    payload = some_payload(4) + b"tag of 16 bytes!" + some_payload(4) + b"another 16 bytes"
    plain = payload[: 4 * PAYLOAD_SIZE] + payload[4 * PAYLOAD_SIZE + 16 : -16]
    framer, twin = OduFramer(form, used), OduFramer(form, used)
    signal, same = bytearray(8 * OTU_SIZE), bytearray(8 * OTU_SIZE)
    framer.build(framer.overhead(8), payload, signal, gap=16)
    twin.build(twin.overhead(8), plain, same)
    assert signal == same
    area = bytearray(payload)
    area[: 4 * PAYLOAD_SIZE] = bytes(4 * PAYLOAD_SIZE)
    OduDeframer(form, used).take(signal, area, gap=16)
    assert area == payload


def test_parts_that_do_not_belong_together_are_refused(used: Kernel) -> None:
    framer = OduFramer(FrameFormat(), used)
    with pytest.raises(UsageError, match="2 frames of overhead"):
        framer.build(framer.overhead(2), bytes(PAYLOAD_SIZE), bytearray(2 * OTU_SIZE))
    with pytest.raises(UsageError, match="3 OTU frames"):
        OduDeframer(FrameFormat(), used).take(bytes(3 * OTU_SIZE), bytearray(PAYLOAD_SIZE))
    with pytest.raises(UsageError, match="PSI of 257"):
        OduFramer(FrameFormat(structure=bytes(257)), used)
    with pytest.raises(UsageError, match="TTI of 65"):
        OduFramer(FrameFormat(section_trace=bytes(65)), used)
