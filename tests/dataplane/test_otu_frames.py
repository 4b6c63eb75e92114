"""OTU frames against oracles of their own: the scrambler bit by bit, parity by hand, alignment on damaged streams."""

from __future__ import annotations

import random
from functools import reduce
from operator import xor

import numpy as np
import pytest

from qsotn.dataplane.alignment import LOF_MICROSECONDS, FrameAligner, MultiframeAligner
from qsotn.dataplane.g709 import (
    FAS,
    FRAME_SIZE,
    FREE_SIZE,
    GCC_SIZE,
    ODU_TYPES,
    PAYLOAD_SIZE,
    PT_GFP,
    Backward,
    Content,
    Deframer,
    Framer,
    odu_type,
)
from qsotn.dataplane.kernel import Bytes, parity_bip8, scramble_otu
from qsotn.errors import UsageError

ODU0 = odu_type("ODU0")
RANDOM = random.Random(709)
TRACE = bytes(range(1, 65))


def synchronous_scrambler(taps: tuple[int, ...], length: int) -> bytes:
    """The generator of a frame-synchronous scrambler, all ones at first: one flip-flop after another."""
    register = [1] * max(taps)
    out = []
    for _ in range(8 * length):
        out.append(register[-1])
        register = [reduce(xor, (register[tap - 1] for tap in taps)), *register[:-1]]
    return bytes(int("".join(map(str, out[at : at + 8])), 2) for at in range(0, len(out), 8))


def content(payload_type: int = PT_GFP) -> Content:
    payload = np.frombuffer(RANDOM.randbytes(PAYLOAD_SIZE), np.uint8)
    return Content(payload, RANDOM.randbytes(FREE_SIZE), RANDOM.randbytes(GCC_SIZE), payload_type)


def clear(signal: bytes) -> Bytes:
    return scramble_otu(np.frombuffer(signal, np.uint8).reshape(-1, 4, 4080))


def signal_of(multiframes: int) -> bytes:
    framer = Framer(TRACE)
    return b"".join(framer.build(content(), [Backward()] * 4) for _ in range(multiframes))


# Rates


@pytest.mark.parametrize("odu", ODU_TYPES.values(), ids=ODU_TYPES)
def test_periods_and_payload_rates_follow_from_the_frame(odu: object) -> None:
    known = next(o for o in ODU_TYPES.values() if o is odu)
    assert 4 * 3824 * 8 / known.rate_kbit_s * 1000 == pytest.approx(known.period_us, abs=0.0006)
    assert known.rate_kbit_s * 3808 / 3824 == pytest.approx(known.payload_kbit_s, rel=2e-6)


def test_an_unknown_rate_is_refused_with_those_known() -> None:
    with pytest.raises(UsageError, match="ODU2e"):
        odu_type("ODU9")


# Scrambler


def test_the_oracle_reproduces_the_published_sonet_sequence() -> None:
    """ITU-T G.707 / GR-253: 1+x⁶+x⁷ from all ones begins FE 04 18 51 E4 59."""
    assert synchronous_scrambler((6, 7), 6) == bytes.fromhex("FE041851E459")


def test_scrambling_leaves_the_fas_and_restarts_at_mfas_in_every_frame() -> None:
    sequence = synchronous_scrambler((1, 3, 12, 16), FRAME_SIZE - 6)
    pad = scramble_otu(np.zeros((2, 4, 4080), np.uint8)).reshape(2, -1)
    assert sequence[:4] == bytes.fromhex("FFFF4E91")
    for frame in pad:
        assert frame.tobytes() == bytes(6) + sequence


# Layout


def test_every_field_is_where_g709_puts_it() -> None:
    framer = Framer(TRACE)
    sent = content()
    frames = clear(framer.build(sent, [Backward(1, 2), Backward(8, 8), Backward(3, 4, defect=True), Backward()]))
    for mfas, frame in enumerate(frames):
        assert frame[0, :6].tobytes() == FAS
        assert frame[0, 6] == mfas
        assert frame[0, 7] == frame[2, 9] == TRACE[mfas]
        assert frame[3, 14] == (PT_GFP if mfas == 0 else 0)
        assert frame[3, 0:4].tobytes() == sent.gcc[4 * mfas : 4 * mfas + 4]
        assert not frame[:, 3824:].any()
        assert not frame[0, 10:14].any()
        assert not frame[1, :14].any()
        assert not frame[2, :9].any()
        assert not frame[2, 12:14].any()
        assert not frame[3, 4:14].any()
    assert frames[:, 0, 9].tolist() == [0x10, 0x80, 0x38, 0x00]
    assert frames[:, 2, 11].tolist() == [0x21, 0x81, 0x49, 0x01]
    assert frames[:, :, 16:3824].tobytes() == sent.payload.tobytes()
    following = clear(framer.build(sent, [Backward()] * 4))
    assert following[:, 0, 6].tolist() == [4, 5, 6, 7]
    assert not following[:, 3, 14].any()


def test_bip8_of_frame_i_is_in_frame_i_plus_2_of_section_and_path() -> None:
    frames = clear(signal_of(3))
    by_hand = [reduce(xor, frame[:, 14:3824].ravel().tolist()) for frame in frames]
    assert parity_bip8(frames).tolist() == by_hand
    assert frames[2:, 0, 8].tolist() == by_hand[:-2]
    assert frames[2:, 2, 10].tolist() == by_hand[:-2]


def test_the_deframer_returns_what_the_framer_took_and_counts_no_violation() -> None:
    framer, deframer = Framer(TRACE), Deframer()
    for _ in range(3):
        sent = content()
        received = deframer.read(clear(framer.build(sent, [Backward(5, 7)] * 4)))
        assert received.payload.tobytes() == sent.payload.tobytes()
        assert (received.free, received.gcc) == (sent.free, sent.gcc)
        assert not received.section_violations.any()
        assert not received.path_violations.any()
        assert received.far_end_violations.tolist() == [7] * 4


@pytest.mark.parametrize("columns", [range(1, 2), range(4, 7), range(8, 16)])
def test_violations_are_counted_by_bit_column(columns: range) -> None:
    frames = clear(signal_of(2))
    damaged = frames.copy()
    damaged[1, 2, 100] ^= sum(1 << bit for bit in {column % 8 for column in columns})
    deframer = Deframer()
    deframer.read(damaged[:4])
    assert deframer.read(damaged[4:]).section_violations.sum() == 0
    deframer = Deframer()
    shifted = Deframer()
    shifted.read(frames[:4])
    first = deframer.read(damaged[:4])
    assert first.section_violations.tolist() == [0, 0, 0, len({column % 8 for column in columns})]
    assert first.path_violations.tolist() == first.section_violations.tolist()


def test_after_a_break_two_frames_have_nothing_to_be_compared_with() -> None:
    frames = clear(signal_of(3))
    deframer = Deframer()
    deframer.read(frames[:4])
    deframer.interrupt()
    assert not deframer.read(frames[8:]).section_violations.any()
    careless = Deframer()
    careless.read(frames[:4])
    assert careless.read(frames[8:]).section_violations.any()


# Frame alignment


def runs_of(aligner: FrameAligner, stream: bytes, cut: int) -> bytes:
    runs = [run for at in range(0, len(stream), cut) for run in aligner.feed(stream[at : at + cut])]
    return b"".join(run.tobytes() for run in runs)


@pytest.mark.parametrize("cut", [997, 16320, 65280, 10**6])
@pytest.mark.parametrize("prefix", [b"", b"\x00" * 7, FAS, RANDOM.randbytes(5000), FAS[:3]])
def test_frames_are_found_behind_anything_however_the_stream_is_cut(prefix: bytes, cut: int) -> None:
    signal = signal_of(2)
    assert runs_of(FrameAligner(ODU0), prefix + signal, cut) == signal


def with_wrong_fas(signal: bytes, frames: range) -> bytes:
    damaged = bytearray(signal)
    for frame in frames:
        damaged[frame * FRAME_SIZE + 2] ^= 0x40
    return bytes(damaged)


def test_four_frames_without_fas_are_kept_and_the_fifth_ends_alignment() -> None:
    signal = signal_of(4)
    aligner = FrameAligner(ODU0)
    runs_of(aligner, with_wrong_fas(signal, range(4, 8)), 65280)
    assert (aligner.in_frame, aligner.out_of_frame_count) == (True, 0)
    aligner = FrameAligner(ODU0)
    found = runs_of(aligner, with_wrong_fas(signal, range(4, 9)), 65280)
    assert (aligner.in_frame, aligner.out_of_frame_count) == (True, 1)
    assert len(found) == len(signal)


def test_a_slip_is_noticed_and_the_frames_behind_it_are_found() -> None:
    signal = signal_of(8)
    slipped = signal[:100_000] + signal[100_003:]
    aligner = FrameAligner(ODU0)
    found = runs_of(aligner, slipped, 65280)
    assert aligner.out_of_frame_count == 1
    assert found.endswith(signal[-15 * FRAME_SIZE :])


def test_loss_of_frame_takes_three_milliseconds_and_so_does_its_end() -> None:
    aligner = FrameAligner(ODU0)
    frames = int(LOF_MICROSECONDS / ODU0.period_us)
    signal = signal_of(frames // 4 + 2)
    fed = [
        bytes((frames - 1) * FRAME_SIZE),
        bytes(2 * FRAME_SIZE),
        signal[: (frames - 1) * FRAME_SIZE],
        signal[(frames - 1) * FRAME_SIZE :],
    ]
    alarmed = []
    for piece in fed:
        aligner.feed(piece)
        alarmed.append(aligner.loss_of_frame)
    assert alarmed == [False, True, True, False]


def test_short_gaps_do_not_add_up_to_a_loss_of_frame() -> None:
    aligner = FrameAligner(ODU0)
    signal = signal_of(3)
    for _ in range(6):
        aligner.feed(signal + bytes(11 * FRAME_SIZE))
        assert not aligner.loss_of_frame
    assert aligner.out_of_frame_count == 6


# Multiframe alignment


def first_mfas(aligner: MultiframeAligner, frames: Bytes) -> list[int]:
    return [int(whole.frames[3, 0, 6]) for whole in aligner.feed(frames)]


def test_multiframes_begin_where_mfas_is_divisible_by_four() -> None:
    frames = clear(signal_of(4))
    assert first_mfas(MultiframeAligner(), frames[2:]) == [7, 11, 15]


def test_single_wrong_mfas_bytes_move_nothing() -> None:
    frames = clear(signal_of(5))
    frames[[5, 10, 12, 13, 14], 0, 6] ^= 0x15
    aligner = MultiframeAligner()
    assert len(aligner.feed(frames)) == 4
    assert aligner.out_of_multiframe_count == 0


def test_five_frames_of_another_count_are_believed() -> None:
    frames = clear(signal_of(6))
    aligner = MultiframeAligner()
    kept = np.concatenate((frames[:9], frames[10:]))
    found = aligner.feed(kept)
    assert aligner.out_of_multiframe_count == 1
    assert [whole.frames[:, 0, 6].tolist() for whole in found] == [
        [4, 5, 6, 7],
        [8, 10, 11, 12],  # counted on; its authentication tag will not hold
        [16, 17, 18, 19],
        [20, 21, 22, 23],
    ]
    assert [whole.consecutive for whole in found] == [False, True, False, True]
