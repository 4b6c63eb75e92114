"""GFP-F against bitwise oracles, published check values, and a line that damages what it carries."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsotn.dataplane.gfp import IDLE, ClientQueue, GfpMapper, core_header, crc16, type_header
from qsotn.dataplane.gfp_delineation import Delineation, GfpDemapper
from qsotn.dataplane.kernel import HISTORY, descramble_x43, payload_fcs, scramble_x43
from qsotn.errors import UsageError

CHECK = b"123456789"
CLIENT_FRAMES = st.lists(st.binary(min_size=14, max_size=200), max_size=12)


def bits_of(data: bytes) -> list[int]:
    return [byte >> 7 - bit & 1 for byte in data for bit in range(8)]


def bytes_of(bits: list[int]) -> bytes:
    return bytes(int("".join(map(str, bits[at : at + 8])), 2) for at in range(0, len(bits), 8))


def slow_remainder(message: list[int], polynomial: int, degree: int, initial: int) -> int:
    register = initial
    for bit in message:
        carry = register >> degree - 1 & 1 ^ bit
        register = register << 1 & (1 << degree) - 1
        register ^= polynomial if carry else 0
    return register


def slow_scramble(data: bytes, history: bytes) -> bytes:
    line = bits_of(history)
    for bit in bits_of(data):
        line.append(bit ^ line[-43])
    return bytes_of(line[8 * HISTORY :])


def queue_of(frames: list[bytes]) -> ClientQueue:
    queue = ClientQueue(1 << 24)
    assert all(queue.offer(frame) for frame in frames)
    return queue


def some_frames(count: int, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(source.randrange(14, 300)) for _ in range(count)]


def flipped(data: bytes, *bits: int) -> bytes:
    number = int.from_bytes(data, "big")
    for bit in bits:
        number ^= 1 << 8 * len(data) - 1 - bit
    return number.to_bytes(len(data), "big")


# Published values


def test_idle_frame_is_the_masked_zero_header_of_g7041_clause_6_2_1() -> None:
    assert bytes.fromhex("B6AB31E0") == IDLE == core_header(0)


def test_header_check_is_the_catalogued_crc_16_xmodem() -> None:
    assert crc16(CHECK) == 0x31C3


def test_payload_fcs_is_the_catalogued_crc_32_most_significant_bit_first() -> None:
    """CRC-32/BZIP2 in the catalogue of parametrised CRCs; IEEE 802.3's own, mirrored, form has 0xCBF43926."""
    assert zlib.crc32(CHECK) == 0xCBF43926
    assert payload_fcs(CHECK) == bytes.fromhex("FC891918")


# Oracles


@given(st.binary(max_size=300))
def test_payload_fcs_agrees_with_long_division(data: bytes) -> None:
    expected = slow_remainder(bits_of(data), 0x04C11DB7, 32, 0xFFFFFFFF) ^ 0xFFFFFFFF
    assert payload_fcs(data) == expected.to_bytes(4, "big")


@given(st.binary(max_size=40))
def test_header_check_agrees_with_long_division(data: bytes) -> None:
    assert crc16(data) == slow_remainder(bits_of(data), 0x1021, 16, 0)


@given(st.binary(max_size=1500), st.binary(min_size=HISTORY, max_size=HISTORY))
@settings(max_examples=40)
def test_scrambler_agrees_with_the_recursion_bit_by_bit(data: bytes, history: bytes) -> None:
    scrambled = scramble_x43(data, history)
    assert scrambled == slow_scramble(data, history)
    assert descramble_x43(scrambled, history) == data


def test_scrambler_memory_runs_on_over_frames_and_skips_core_headers() -> None:
    frames = some_frames(3)
    stream = GfpMapper().map(frames)
    areas = b"".join(type_header(0x1001) + frame + payload_fcs(frame) for frame in frames)
    scrambled = slow_scramble(areas, bytes(HISTORY))
    expected, start = b"", 0
    for frame in frames:
        end = start + len(frame) + 8
        expected += core_header(len(frame) + 8) + scrambled[start:end]
        start = end
    assert stream == expected


# Round trips


@given(CLIENT_FRAMES, st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(1, 300))
def test_frames_come_back_whatever_the_cuts(frames: list[bytes], fills: list[int], cut: int) -> None:
    mapper, queue, demapper = GfpMapper(), queue_of(frames), GfpDemapper()
    pieces = [mapper.fill(queue, fill) for fill in fills]
    assert [len(piece) for piece in pieces] == fills
    stream = b"".join(pieces) + mapper.fill(queue, 4000)
    out = [frame for at in range(0, len(stream), cut) for frame in demapper.feed(stream[at : at + cut])]
    assert out == frames
    assert demapper.state is Delineation.SYNC


@pytest.mark.parametrize("size", [0, 13, 9601])
def test_a_size_no_client_frame_has_is_refused_before_anything_is_mapped(size: int) -> None:
    mapper = GfpMapper()
    with pytest.raises(UsageError, match=f"{size} bytes"):
        mapper.map([bytes(64), bytes(size)])
    assert mapper.map([bytes(64)]) == GfpMapper().map([bytes(64)])


# Delineation


def in_sync() -> tuple[GfpMapper, GfpDemapper]:
    mapper, demapper = GfpMapper(), GfpDemapper()
    demapper.feed(mapper.fill(queue_of([]), 64))
    assert demapper.state is Delineation.SYNC
    return mapper, demapper


@pytest.mark.parametrize("bit", range(32))
def test_one_wrong_bit_in_a_core_header_is_corrected_in_sync(bit: int) -> None:
    mapper, demapper = in_sync()
    frames = some_frames(3)
    assert demapper.feed(flipped(mapper.map(frames), bit)) == frames
    assert demapper.counters.corrected_headers == 1


@pytest.mark.parametrize("bit", range(32))
def test_hunt_and_presync_correct_nothing(bit: int) -> None:
    frames = some_frames(4)
    demapper = GfpDemapper()
    out = demapper.feed(flipped(IDLE + GfpMapper().map(frames), 32 + bit))
    assert frames[0] not in out
    assert demapper.counters.corrected_headers == 0


def test_two_wrong_bits_fall_to_hunt_and_cost_only_what_was_not_in_sync() -> None:
    mapper, demapper = in_sync()
    frames = some_frames(6)
    out = demapper.feed(flipped(mapper.map(frames), 3, 17) + IDLE)
    assert out == frames[2:]
    assert demapper.counters.lost_headers == 1
    assert demapper.state is Delineation.SYNC


def test_a_frame_met_in_presync_is_not_delivered() -> None:
    frames = some_frames(4)
    assert GfpDemapper().feed(GfpMapper().map(frames) + IDLE) == frames[1:]


def test_control_frames_are_a_core_header_alone() -> None:
    mapper, demapper = in_sync()
    frames = some_frames(2)
    stream = core_header(1) + core_header(2) + mapper.map(frames[:1]) + core_header(3) + mapper.map(frames[1:])
    assert demapper.feed(stream) == frames


@pytest.mark.parametrize(
    ("area", "counter"),
    [
        (type_header(0x1002) + bytes(60) + payload_fcs(bytes(60)), "type_errors"),
        (flipped(type_header(0x1001), 31) + bytes(60) + payload_fcs(bytes(60)), "type_errors"),
        (type_header(0x1001)[:4], "type_errors"),
        (type_header(0x1001) + bytes(60) + payload_fcs(bytes(61)), "fcs_errors"),
    ],
    ids=["another UPI", "tHEC fails", "no room for a pFCS", "pFCS fails"],
)
def test_a_frame_whose_checks_fail_is_counted_and_dropped(area: bytes, counter: str) -> None:
    demapper = GfpDemapper()
    stream = 2 * IDLE + core_header(len(area)) + scramble_x43(area, bytes(HISTORY)) + IDLE
    assert demapper.feed(stream) == []
    assert getattr(demapper.counters, counter) == 1


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_lost_span_costs_frames_but_never_makes_one(data: st.DataObject) -> None:
    frames = some_frames(30, seed=data.draw(st.integers(0, 1000)))
    stream = GfpMapper().fill(queue_of(frames), 6000)
    start = data.draw(st.integers(0, len(stream)))
    length = data.draw(st.integers(1, 500))
    demapper = GfpDemapper()
    before = demapper.feed(stream[:start])
    demapper.gap()
    after = demapper.feed(stream[start + length :])
    assert before == frames[: len(before)]
    assert not after or after == frames[frames.index(after[0]) : frames.index(after[0]) + len(after)]
    complete = len(GfpDemapper().feed(stream))
    assert len(before) + len(after) >= complete - 500 // 22 - 3
    assert set(before).isdisjoint(after)


@given(st.lists(st.integers(0, 8 * 4000 - 1), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_wrong_bits_never_make_a_frame(bits: list[int]) -> None:
    frames = some_frames(20)
    out = GfpDemapper().feed(flipped(GfpMapper().fill(queue_of(frames), 4000), *bits))
    positions = [frames.index(frame) for frame in out]
    assert positions == sorted(set(positions))
