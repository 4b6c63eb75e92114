"""Every kernel against oracles that go bit by bit, and the compiled one against its twin on whatever comes."""

from __future__ import annotations

import binascii
import random
from collections.abc import Iterator
from pathlib import Path

import build_kernels
import numpy as np
import pytest
from tests.dataplane.kernels import KERNELS, kernel_named

from qsotn.dataplane import kernel
from qsotn.dataplane.kernel_interface import Bytes, Kernel, Words

RANDOM = random.Random(7041)
SIZES = [0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 191, 343, 344, 345, 1000, 1522, 9612]
TYPE_WITH_FCS = 0x100121F1
"""Not a valid tHEC: kernels map what they are told."""


def typed(field: int) -> int:
    """A type field with its tHEC."""
    return field << 16 | binascii.crc_hqx(field.to_bytes(2, "big"), 0)


@pytest.fixture(params=KERNELS)
def used(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with kernel_named(request.param) as chosen:
        yield chosen


def words(*values: int) -> Words:
    return np.array(values, np.int64)


def records(count: int) -> tuple[Words, Words, Words, Words]:
    return (np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64))


def some_frames(count: int) -> Bytes:
    return np.frombuffer(RANDOM.randbytes(count * 16320), np.uint8).reshape(count, 4, 4080).copy()


# What is built


def test_the_compiled_kernel_is_there_wherever_it_can_be_built() -> None:
    """In a checkout: `python build_kernels.py` after a change to a C source."""
    try:
        build_kernels.compiler()
    except build_kernels.NotCompiled as reason:
        pytest.skip(str(reason))
    from qsotn.dataplane import _kernel

    (extension,) = build_kernels.EXTENSIONS
    assert extension.digest() == _kernel.SOURCE
    assert kernel.BEST is _kernel
    assert kernel.name_of(kernel.BEST) == "compiled"
    assert kernel.name_of(kernel.NUMPY) == "numpy"


def test_sources_that_do_not_compile_leave_no_half_made_library(tmp_path: Path) -> None:
    (tmp_path / "wrong.c").write_text("int f(void) { return unknown; }\n")
    library = tmp_path / "wrong.abi3.so"
    with pytest.raises(build_kernels.NotCompiled):
        build_kernels.compile_extension(build_kernels.Extension(tmp_path / "wrong", tmp_path), library)
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.c"]


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(build_kernels.NotCompiled, match="cc is not on the PATH"):
        build_kernels.compiler()


# Against loops over bits


def slow_crc32(data: bytes) -> bytes:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x104C11DB7 if register >> 31 else 0)
    return (register ^ 0xFFFFFFFF).to_bytes(4, "big")


def slow_scramble(data: bytes, history: int) -> bytes:
    out = 0
    for bit in range(8 * len(data)):
        this = data[bit // 8] >> 7 - bit % 8 & 1 ^ history >> 42
        history = (history << 1 | this) & (1 << 43) - 1
        out = out << 1 | this
    return out.to_bytes(len(data), "big")


@pytest.mark.parametrize("size", SIZES)
def test_payload_fcs_is_a_long_division(used: Kernel, size: int) -> None:
    data = RANDOM.randbytes(size)
    assert used.payload_fcs(data) == slow_crc32(data)


@pytest.mark.parametrize("size", SIZES)
def test_the_scrambler_is_the_recursion_over_bits(used: Kernel, size: int) -> None:
    data, history = RANDOM.randbytes(size), RANDOM.getrandbits(43)
    scrambled = used.scramble_x43(data, history)
    assert scrambled == slow_scramble(data, history)
    assert used.descramble_x43(scrambled, history) == data


def test_the_otu_scrambler_and_parity_agree_with_the_twin(used: Kernel) -> None:
    frames = some_frames(3)
    mine, twins = np.empty_like(frames), np.empty_like(frames)
    used.scramble_otu(frames, mine)
    kernel.NUMPY.scramble_otu(frames, twins)
    assert mine.tobytes() == twins.tobytes()
    assert used.parity_bip8(frames) == kernel.NUMPY.parity_bip8(frames)
    used.scramble_otu(mine, mine)
    assert mine.tobytes() == frames.tobytes()


# Frames


@pytest.mark.parametrize("fec", [False, True], ids=["no FEC", "FEC"])
@pytest.mark.parametrize("gap", [0, 16])
def test_frames_are_built_as_by_the_twin_and_taken_apart_again(used: Kernel, fec: bool, gap: int) -> None:
    overhead = np.frombuffer(RANDOM.randbytes(8 * 64), np.uint8).reshape(8, 4, 16)
    payload = RANDOM.randbytes(8 * 15232 + 2 * gap)
    built, heads, parity = {}, {}, {}
    for name, chosen in {"mine": used, "twin": kernel.NUMPY}.items():
        built[name], heads[name], parity[name] = bytearray(8 * 16320), overhead.copy(), bytearray(b"\x12\x34")
        chosen.build_frames(heads[name], payload, gap, parity[name], bytes((8, 42)), built[name], fec)
    assert built["mine"] == built["twin"]
    assert heads["mine"].tobytes() == heads["twin"].tobytes()
    assert parity["mine"] == parity["twin"]
    found, area, parities = np.empty_like(overhead), bytearray(len(payload)), bytearray(8)
    assert used.take_frames(built["mine"], found, area, gap, parities, fec) == (0, 0)
    assert found.tobytes() == heads["mine"].tobytes()
    assert without_gaps(area, gap) == without_gaps(payload, gap)
    assert found[2:, 0, 8].tobytes() == found[2:, 2, 10].tobytes() == bytes(parities[:6])
    assert found[:2, 0, 8].tobytes() == b"\x12\x34"
    assert parity["mine"] == parities[6:]


def without_gaps(payload: bytes | bytearray, gap: int) -> bytes:
    step = 4 * 15232 + gap
    return b"".join(payload[at : at + 4 * 15232] for at in range(0, len(payload), step))


@pytest.mark.parametrize("errors", [0, 1, 7, 8, 9, 12, 40])
def test_correction_agrees_with_the_twin(used: Kernel, errors: int) -> None:
    frames = some_frames(1)
    used.encode_fec(frames)
    sent = frames.copy()
    for place in RANDOM.sample(range(255), errors):
        frames[0, 2, 16 * place + 5] ^= RANDOM.randrange(1, 256)
    twins = frames.copy()
    counted = used.decode_fec(frames)
    assert counted == kernel.NUMPY.decode_fec(twins)
    assert frames.tobytes() == twins.tobytes()
    if errors <= 8:
        assert counted == (errors, 0)
        assert frames.tobytes() == sent.tobytes()


def test_frames_full_of_errors_are_left_as_they_are(used: Kernel) -> None:
    frames = some_frames(2)
    noise = frames.copy()
    corrected, uncorrectable = used.decode_fec(frames)
    assert uncorrectable > 120
    assert (frames != noise).sum() == corrected


# Client frames


def test_client_frames_are_mapped_as_by_the_twin_while_they_fit(used: Kernel) -> None:
    data = RANDOM.randbytes(9000)
    starts, sizes = words(0, 100, 1600, 1700, 3000), words(100, 1500, 14, 1300, 5000)
    for room in (0, 111, 112, 1700, 3200, 20000):
        mine, twins = bytearray(room + 5), bytearray(room + 5)
        result = used.map_clients(data, starts, sizes, 0, TYPE_WITH_FCS, mine, 5, 4000, 99)
        assert result == kernel.NUMPY.map_clients(data, starts, sizes, 0, TYPE_WITH_FCS, twins, 5, 4000, 99)
        assert mine == twins


def stream_of(count: int, type_header: int = TYPE_WITH_FCS) -> tuple[bytes, list[bytes]]:
    clients = [RANDOM.randbytes(RANDOM.randrange(0, 400)) for _ in range(count)]
    stream, history = b"\xb6\xab\x31\xe0" * 3, 0
    for client in clients:
        room = bytearray(len(client) + 12)
        _, end, history = kernel.NUMPY.map_clients(
            client, words(0), words(len(client)), 0, type_header, room, 0, len(room), history
        )
        stream += bytes(room[:end]) + b"\xb6\xab\x31\xe0" * RANDOM.randrange(3)
    return stream, clients


@pytest.mark.parametrize(
    "type_header",
    [typed(0x1001), typed(0x0001), 0x10010000, typed(0x1101)],
    ids=["FCS", "no FCS", "broken tHEC", "linear"],
)
def test_headers_are_followed_as_by_the_twin(used: Kernel, type_header: int) -> None:
    stream, clients = stream_of(20, type_header)
    for limit, room in ((64, 100_000), (5, 100_000), (64, 1000)):
        mine, twins = records(limit), records(limit)
        areas = bytearray(room), bytearray(room)
        result = used.follow_clients(stream, 0, len(stream), 0, areas[0], *mine)
        assert result == kernel.NUMPY.follow_clients(stream, 0, len(stream), 0, areas[1], *twins)
        assert areas[0] == areas[1]
        assert all((a == b).all() for a, b in zip(mine, twins, strict=True))
        if limit == 64 and room > 1000:
            assert result[0] == len(clients)
            assert (mine[2][: len(clients)] == type_header >> 16).all()


@pytest.mark.parametrize("seed", range(40))
def test_damaged_streams_are_followed_as_by_the_twin(used: Kernel, seed: int) -> None:
    stream = bytearray(stream_of(12, typed(0x1001))[0])
    source = random.Random(seed)
    for _ in range(seed % 5):
        stream[source.randrange(len(stream))] ^= 1 << source.randrange(8)
    mine, twins = records(64), records(64)
    areas = bytearray(10_000), bytearray(10_000)
    result = used.follow_clients(stream, 0, len(stream), 5, areas[0], *mine)
    assert result == kernel.NUMPY.follow_clients(stream, 0, len(stream), 5, areas[1], *twins)
    assert areas[0] == areas[1]
    assert all((a == b).all() for a, b in zip(mine, twins, strict=True))


# What does not fit is refused by all of them alike


@pytest.mark.parametrize(
    ("starts", "sizes", "first", "position"),
    [
        (words(-1), words(4), 0, 0),
        (words(0), words(-4), 0, 0),
        (words(97), words(4), 0, 0),
        (words(2**62), words(2**62), 0, 0),
        (words(-(2**63)), words(10), 0, 0),
        (words(0, 0), words(4), 0, 0),
        (words(0), words(4), 2, 0),
        (words(0), words(4), -1, 0),
        (words(0), words(4), 0, 201),
        (words(0), words(4), 0, -1),
    ],
)
def test_client_frames_outside_their_buffer_are_refused(
    used: Kernel, starts: Words, sizes: Words, first: int, position: int
) -> None:
    room = bytearray(200)
    with pytest.raises(ValueError):
        used.map_clients(bytes(100), starts, sizes, first, TYPE_WITH_FCS, room, position, 200, 0)
    assert room == bytes(200)


@pytest.mark.parametrize(("position", "end"), [(-1, 4), (5, 4), (0, 101)])
def test_a_part_outside_the_stream_is_refused(used: Kernel, position: int, end: int) -> None:
    with pytest.raises(ValueError):
        used.follow_clients(bytes(100), position, end, 0, bytearray(100), *records(4))


def test_records_of_unequal_number_are_refused(used: Kernel) -> None:
    starts, sizes, types, _ = records(4)
    with pytest.raises(ValueError):
        used.follow_clients(bytes(100), 0, 100, 0, bytearray(100), starts, sizes, types, words(0))


def test_parts_of_frames_are_refused(used: Kernel) -> None:
    short = bytearray(16320 - 8)
    with pytest.raises(ValueError):
        used.encode_fec(short)
    with pytest.raises(ValueError):
        used.decode_fec(short)
    with pytest.raises(ValueError):
        used.scramble_otu(short, short)
    with pytest.raises(ValueError):
        used.parity_bip8(bytes(short))


@pytest.mark.parametrize(
    ("overhead", "payload", "gap", "parity", "places"),
    [
        (63, 15232, 0, 2, b""),
        (64, 15231, 0, 2, b""),
        (64, 15232, 16, 2, b""),
        (64, 15232, 0, 3, b""),
        (64, 15232, 0, 2, b"\x40"),
        (64, 15232, 0, 2, b"\x3f"),
        (64, 15232, -1, 2, b""),
    ],
)
def test_frames_of_parts_that_do_not_belong_together_are_refused(
    used: Kernel, overhead: int, payload: int, gap: int, parity: int, places: bytes
) -> None:
    with pytest.raises(ValueError):
        used.build_frames(bytearray(overhead), bytes(payload), gap, bytearray(parity), places, bytearray(16320), False)
    if parity == 2 and not places:
        with pytest.raises(ValueError):
            used.take_frames(bytes(16320), bytearray(overhead), bytearray(payload), gap, bytearray(1), False)


def test_what_is_read_only_is_not_written_to(used: Kernel) -> None:
    with pytest.raises((BufferError, ValueError)):
        used.encode_fec(bytes(16320))  # type: ignore[arg-type]  # that is the point
