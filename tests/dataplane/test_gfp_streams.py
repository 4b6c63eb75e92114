"""GFP-F in bulk: the same stream as frame by frame, whatever the kernel, and nothing out of damaged ones."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
from tests.dataplane.kernels import KERNELS, kernel_named

from qsotn.dataplane.client_management import management_area
from qsotn.dataplane.clients import client_frames
from qsotn.dataplane.ethernet import with_check_sequence, without_check_sequence
from qsotn.dataplane.gfp import IDLE, ClientQueue, GfpMapper, core_header
from qsotn.dataplane.gfp_delineation import GfpDemapper
from qsotn.dataplane.gfp_hunt import Delineation
from qsotn.dataplane.gfp_stream import RECORDS, Delivered, StreamDemapper, StreamMapper, written
from qsotn.dataplane.gfp_types import (
    ETHERNET,
    ETHERNET_WITHOUT_FCS,
    ExtensionHeader,
    Management,
    PayloadType,
    TypeField,
    clear_frame,
    decode_area,
    decode_type_code,
    linear_extension,
    payload_area,
)
from qsotn.dataplane.kernel_interface import Kernel
from qsotn.errors import LineError, UsageError


@pytest.fixture(params=KERNELS)
def used(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with kernel_named(request.param) as chosen:
        yield chosen


def some_frames(count: int, seed: int, longest: int = 300) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(source.randrange(14, longest)) for _ in range(count)]


def frames_of(delivered: Delivered) -> list[bytes]:
    return [frame for batch in delivered.clients for frame in batch]


def flipped(data: bytes, *bits: int) -> bytes:
    damaged = bytearray(data)
    for bit in bits:
        damaged[bit // 8] ^= 0x80 >> bit % 8
    return bytes(damaged)


# Mapping


@pytest.mark.parametrize("seed", range(5))
def test_the_stream_is_the_one_that_is_mapped_frame_by_frame(used: Kernel, seed: int) -> None:
    frames, source = some_frames(60, seed), random.Random(seed)
    queue, small, mapper, first = ClientQueue(1 << 20), GfpMapper(), StreamMapper(used=used), 0
    assert all(queue.offer(frame) for frame in frames)
    clients = client_frames(frames)
    for _ in range(40):
        length = source.randrange(0, 900)
        piece, first = mapper.fill(clients, length, first)
        assert bytes(piece) == small.fill(queue, length)
    assert first == len(frames) - len(queue)


def test_an_idle_stream_begins_and_goes_on_with_idle_frames(used: Kernel) -> None:
    mapper = StreamMapper(used=used)
    nothing = client_frames([])
    pieces = b"".join(bytes(mapper.fill(nothing, length)[0]) for length in (1, 2, 3, 5, 7, 11, 4, 0, 31))
    assert pieces == IDLE * 16


def test_a_frame_that_no_payload_area_holds_is_refused(used: Kernel) -> None:
    longest = 65535 - 8
    mapper = StreamMapper(used=used)
    assert mapper.fill(client_frames([bytes(longest)]), 100)[1] == 1
    with pytest.raises(UsageError, match=f"{longest + 1} bytes"):
        StreamMapper(used=used).fill(client_frames([bytes(longest + 1)]), 100)
    with pytest.raises(UsageError, match="one by one"):
        StreamMapper(TypeField(extension=ExtensionHeader.LINEAR), used)


# There and back


@pytest.mark.parametrize("form", [ETHERNET, ETHERNET_WITHOUT_FCS], ids=["FCS", "no FCS"])
@pytest.mark.parametrize("cut", [1, 13, 700, 100_000])
def test_frames_come_back_whatever_the_cuts(used: Kernel, form: TypeField, cut: int) -> None:
    frames = some_frames(40, cut)
    mapper, demapper = StreamMapper(form, used), StreamDemapper(form, used)
    stream = bytes(mapper.fill(client_frames(frames), 9000)[0])
    out = [f for at in range(0, len(stream), cut) for f in frames_of(written(demapper, stream[at : at + cut]))]
    assert out == frames
    assert demapper.counters.frames == 40
    assert demapper.state is Delineation.SYNC


def test_more_frames_than_one_call_records_are_all_delivered(used: Kernel) -> None:
    frames = some_frames(RECORDS + 100, 1, longest=20)
    stream = bytes(StreamMapper(used=used).fill(client_frames(frames), 40 * len(frames))[0])
    delivered = written(StreamDemapper(used=used), stream)
    assert frames_of(delivered) == frames
    assert len(delivered.clients) == 2


@pytest.mark.parametrize("seed", range(30))
def test_damage_costs_the_same_frames_as_frame_by_frame(used: Kernel, seed: int) -> None:
    source = random.Random(seed)
    frames = some_frames(40, seed)
    stream = bytes(StreamMapper(used=used).fill(client_frames(frames), 9000)[0])
    damaged = flipped(stream, *(source.randrange(8 * len(stream)) for _ in range(seed)))
    small, demapper = GfpDemapper(), StreamDemapper(used=used)
    for at in range(0, len(damaged), 1500):
        assert frames_of(written(demapper, damaged[at : at + 1500])) == small.feed(damaged[at : at + 1500])
        assert demapper.state is small.state
    counted, expected = demapper.counters, small.counters
    assert (counted.frames, counted.fcs_errors, counted.corrected_headers, counted.lost_headers) == (
        expected.frames,
        expected.fcs_errors,
        expected.corrected_headers,
        expected.lost_headers,
    )
    assert counted.type_errors + counted.extension_errors == expected.type_errors


def test_an_octet_too_many_costs_the_frame_behind_it_alone(used: Kernel) -> None:
    """The hunt begins with the octet behind the header that was lost."""
    frames = some_frames(5, 4)
    mapper, demapper = StreamMapper(used=used), StreamDemapper(used=used)
    written(demapper, bytes(mapper.fill(client_frames([]), 12)[0]))
    assert demapper.state is Delineation.SYNC
    stream = bytes(mapper.fill(client_frames(frames), 2000)[0])
    assert frames_of(written(demapper, b"\xff" + stream)) == frames[1:]
    assert demapper.counters.lost_headers == 1


def test_a_gap_costs_the_frame_it_cuts_and_those_until_sync(used: Kernel) -> None:
    frames = some_frames(30, 3)
    stream = bytes(StreamMapper(used=used).fill(client_frames(frames), 6000)[0])
    demapper = StreamDemapper(used=used)
    before = frames_of(written(demapper, stream[:1000]))
    demapper.gap()
    assert demapper.state is Delineation.HUNT
    after = frames_of(written(demapper, stream[1100:]))
    assert before == frames[: len(before)]
    assert after == frames[len(frames) - len(after) :]
    assert len(before) + len(after) >= 26


# Other frames


def test_management_frames_travel_beside_the_clients(used: Kernel) -> None:
    frames = some_frames(3, 9)
    mapper, demapper = StreamMapper(used=used), StreamDemapper(used=used)
    mapper.insert(management_area(Management.LOSS_OF_SIGNAL))
    piece, first = mapper.fill(client_frames(frames), 300)
    delivered = written(demapper, bytes(piece))
    assert delivered.management == [Management.LOSS_OF_SIGNAL]
    out = frames_of(delivered)
    mapper.insert(management_area(Management.DEFECT_CLEAR))
    piece, first = mapper.fill(client_frames(frames), 2000, first)
    delivered = written(demapper, bytes(piece))
    assert delivered.management == [Management.DEFECT_CLEAR]
    assert out + frames_of(delivered) == frames
    assert first == 3
    assert demapper.counters.management_frames == 2


@pytest.mark.parametrize(
    ("area", "counter", "mismatch"),
    [
        (payload_area(TypeField(user_payload=2), bytes(30)), "type_errors", {0x1002}),
        (payload_area(TypeField(extension=ExtensionHeader.LINEAR), bytes(30), 7), "type_errors", {0x1101}),
        (payload_area(ETHERNET_WITHOUT_FCS, bytes(30)), "type_errors", {0x0001}),
        (flipped(payload_area(ETHERNET, bytes(30)), 31), "type_errors", set()),
        (ETHERNET.encode()[:4], "type_errors", set()),
        (flipped(payload_area(TypeField(extension=ExtensionHeader.LINEAR), bytes(30)), 40), "extension_errors", set()),
        (flipped(payload_area(ETHERNET, bytes(30)), 100), "fcs_errors", set()),
    ],
    ids=["UPI", "EXI", "PFI", "tHEC", "too short", "eHEC", "FCS"],
)
def test_what_is_not_the_clients_is_counted_and_dropped(
    used: Kernel, area: bytes, counter: str, mismatch: set[int]
) -> None:
    mapper, demapper = StreamMapper(used=used), StreamDemapper(used=used)
    mapper.insert(area)
    delivered = written(demapper, bytes(mapper.fill(client_frames([b"x" * 14]), 100)[0]))
    assert frames_of(delivered) == [b"x" * 14]
    assert delivered.mismatched == mismatch
    assert getattr(demapper.counters, counter) == 1


# Headers


def test_types_of_the_standards_tables() -> None:
    assert ETHERNET.code() == 0x1001
    assert TypeField(PayloadType.CLIENT_MANAGEMENT, False, user_payload=Management.DEFECT_CLEAR).code() == 0x8003
    assert decode_type_code(0x1101) == TypeField(extension=ExtensionHeader.LINEAR)
    for reserved in (0x2001, 0x1201, 0xFF01):
        with pytest.raises(LineError, match=f"{reserved:04X}"):
            decode_type_code(reserved)


def test_an_area_is_read_as_it_was_made_or_not_at_all() -> None:
    linear = TypeField(extension=ExtensionHeader.LINEAR)
    made = payload_area(linear, b"information", channel=9)
    read = decode_area(made)
    assert (read.field, read.channel, read.information) == (linear, 9, b"information")
    for bit in range(8 * len(made)):
        with pytest.raises(LineError):
            decode_area(flipped(made, bit))
    for end in range(len(made)):
        with pytest.raises(LineError):
            decode_area(made[:end])
    with pytest.raises(UsageError, match="256"):
        linear_extension(256)
    with pytest.raises(UsageError, match="65536"):
        payload_area(ETHERNET, bytes(65536 - 8))


def test_a_recorded_frame_has_neither_mask_nor_scrambling() -> None:
    area = payload_area(ETHERNET, bytes(60))
    assert clear_frame(area)[:4] == (int.from_bytes(core_header(68), "big") ^ 0xB6AB31E0).to_bytes(4, "big")
    assert clear_frame(area)[:2] == (68).to_bytes(2, "big")
    assert clear_frame(area)[4:] == area


def test_an_ethernet_check_sequence_is_the_one_of_ieee_802_3() -> None:
    assert with_check_sequence(b"123456789")[9:] == (0xCBF43926).to_bytes(4, "little")
    assert without_check_sequence(with_check_sequence(b"frame")) == b"frame"
    assert zlib.crc32(with_check_sequence(b"frame")) == 0x2144DF1C  # the residue of every intact frame
    for damaged in (b"", b"abc", flipped(with_check_sequence(b"frame"), 3)):
        with pytest.raises(LineError):
            without_check_sequence(damaged)
