"""CBOR sequences of byte strings, against the decoder that everybody uses."""

from __future__ import annotations

import io

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsotn.domain import PartyId
from qsotn.errors import MalformedMessage
from qsotn.ports import Posted
from qsotn.service.http.framing import LARGEST_SEQUENCE, MOST_DATAGRAMS, join_numbered, split
from qsotn.service.http.problems import HttpProblem
from qsotn.wire import MAXIMUM_DATAGRAM


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=MOST_DATAGRAMS))
def test_a_sequence_is_split_as_it_was_joined(items: list[bytes]) -> None:
    assert split(b"".join(map(cbor2.dumps, items))) == items


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536, MAXIMUM_DATAGRAM])
def test_every_length_is_split(size: int) -> None:
    item = bytes(size)
    assert split(bytearray(cbor2.dumps(item) * 2)) == [item, item]


@given(st.binary(max_size=60))
def test_noise_is_split_only_if_it_is_a_sequence_of_byte_strings(noise: bytes) -> None:
    try:
        items = split(noise)
    except (MalformedMessage, HttpProblem):
        return
    assert b"".join(map(cbor2.dumps, items)) == noise


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"\x41",
        b"\x58",
        b"\x58\x18",
        b"\x58\x17" + bytes(23),
        b"\x59\x00\xff" + bytes(255),
        b"\x5a\x00\x00\xff\xff" + bytes(65_535),
        b"\x5b\x00\x00\x00\x00\x00\x00\x00\x18" + bytes(24),
        b"\x5c",
        b"\x5f\x41a\xff",
        b"\x40\x00",
        b"\x61a",
        b"\x81\x40",
        b"\xc2\x40",
        b"\xf6",
    ],
)
def test_what_is_no_sequence_of_byte_strings_is_malformed(noise: bytes) -> None:
    with pytest.raises(MalformedMessage):
        split(noise)


@pytest.mark.parametrize(
    "sequence",
    [
        cbor2.dumps(b"") * (MOST_DATAGRAMS + 1),
        cbor2.dumps(bytes(MAXIMUM_DATAGRAM + 1)),
        b"\x5b" + b"\xff" * 8,
    ],
)
def test_too_many_and_too_large_ones_are_refused(sequence: bytes) -> None:
    with pytest.raises(HttpProblem, match="at most"):
        split(sequence)


def read(sequence: bytes) -> list[list[object]]:
    stream, items = io.BytesIO(sequence), []
    while stream.tell() < len(sequence):
        items.append(cbor2.load(stream))
    return items


@pytest.mark.parametrize("number", [1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1])
@pytest.mark.parametrize("size", [0, 23, 24, 300])
def test_numbered_datagrams_read_back(number: int, size: int) -> None:
    posted = [Posted(number, PartyId("cpe/jinan-1"), bytes(size), 0)] * 2
    assert join_numbered(posted) == cbor2.dumps([number, bytes(size)]) * 2
    assert read(join_numbered(posted)) == [[number, bytes(size)]] * 2


def test_a_mailbox_hands_out_as_much_as_a_request_may_hold() -> None:
    posted = [Posted(number, PartyId("cpe/jinan-1"), bytes(MAXIMUM_DATAGRAM), 0) for number in range(3)]
    sequence = join_numbered(posted)
    assert [number for number, _ in read(sequence)] == [0]
    assert len(sequence) <= LARGEST_SEQUENCE
    small = [Posted(number, PartyId("cpe/jinan-1"), bytes(1024), 0) for number in range(64)]
    assert len(read(join_numbered(small))) == 64
