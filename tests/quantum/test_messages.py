from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest

from qsotn.crypto import cbor
from qsotn.errors import MalformedMessage
from qsotn.quantum.messages import (
    Message,
    Parities,
    ParityQuery,
    Reconciled,
    decode,
    encode,
    pack_bits,
    pack_indices,
    unpack_bits,
    unpack_indices,
)


@pytest.mark.parametrize("kind", get_args(Message), ids=lambda kind: str(kind.__name__))
def test_every_message_comes_back_as_it_was(kind: type[Message]) -> None:
    types = [field.type for field in msgspec.structs.fields(kind)]
    message = msgspec.convert(
        [kind.__name__, *(number if each is int else bytes([number]) for number, each in enumerate(types))],
        kind,
        builtin_types=(bytes,),
    )
    assert decode(encode(message)) == message
    assert isinstance(cbor.decode(encode(message)), list)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        cbor.encode(7),
        cbor.encode([]),
        cbor.encode(["Nonsense"]),
        cbor.encode(["Reconciled", 1]),
        cbor.encode(["Parities"]),
        cbor.encode(["Parities", "text"]),
        cbor.encode(["ParityQuery", True, b""]),
        encode(Reconciled()) + b"\x00",
        b"\x98\x01" + encode(Reconciled())[1:],  # the same list with a length in two bytes
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data)


def test_random_bytes_are_refused_and_never_anything_else() -> None:
    random, template = np.random.default_rng(1), encode(ParityQuery(3, bytes(40)))
    for _ in range(2000):
        data = bytearray(template)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        try:
            decode(bytes(data))
        except MalformedMessage:
            continue


def test_bits_and_indices_come_back() -> None:
    bits = np.random.default_rng(2).integers(0, 2, 77, dtype=np.uint8)
    assert np.array_equal(unpack_bits(pack_bits(bits), 77), bits)
    indices = np.array([0, 1, 2**32 - 1])
    assert np.array_equal(unpack_indices(pack_indices(indices)), indices)


@pytest.mark.parametrize(("data", "count"), [(b"", 1), (b"\x00\x00", 8), (b"\x01", 7), (b"\x00", 9)])
def test_bits_of_another_number_are_refused(data: bytes, count: int) -> None:
    with pytest.raises(MalformedMessage):
        unpack_bits(data, count)


def test_indices_that_are_cut_are_refused() -> None:
    with pytest.raises(MalformedMessage, match="5 bytes"):
        unpack_indices(b"12345")


def test_messages_never_show_more_than_their_type_needs() -> None:
    assert decode(cbor.encode(["Parities", b"\x80"])) == Parities(b"\x80")
