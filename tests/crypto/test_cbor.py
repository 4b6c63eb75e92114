"""Deterministic CBOR: RFC 8949's own examples both ways, and a table of everything that is refused."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsotn.crypto import cbor
from qsotn.domain import Secret
from qsotn.errors import MalformedMessage

# RFC 8949, Appendix A, the rows whose types a message may hold.
APPENDIX_A: list[tuple[object, str]] = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (bytes.fromhex("01020304"), "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
    ({"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}, "a56161614161626142616361436164614461656145"),
]


@pytest.mark.parametrize(("value", "encoded"), APPENDIX_A)
def test_appendix_a_of_rfc_8949_both_ways(value: object, encoded: str) -> None:
    assert cbor.encode(value).hex() == encoded
    decoded = cbor.decode(bytes.fromhex(encoded))
    assert decoded == value
    assert type(decoded) is type(value)


def test_map_keys_are_in_the_order_of_section_4_2_1() -> None:
    """The section's own example, less the keys that no message has; cbor2's canonical mode gives another order."""
    keys = {"aa": 0, -1: 0, "z": 0, 100: 0, 10: 0}
    assert cbor.encode(keys).hex() == "a5" + "0a00" + "186400" + "2000" + "617a00" + "62616100"
    assert list(cbor.decode(cbor.encode(keys))) == [10, 100, -1, "z", "aa"]  # type: ignore[call-overload]


NOT_CANONICAL = {
    "integer in a longer form": "1817",
    "integer in two bytes for one": "190018",
    "integer in eight bytes for four": "1b00000000ffffffff",
    "length of bytes in a longer form": "5801ff",
    "length of text in a longer form": "780161",
    "length of a list in a longer form": "980100",
    "length of a map in a longer form": "b8010000",
    "keys out of order": "a202000100",
    "keys in the order of RFC 7049": "a22000181800",
    "a key twice": "a201000100",
    "a key twice, in two forms": "a20100180100",
    "indefinite bytes": "5f4100ff",
    "indefinite text": "7f6161ff",
    "indefinite list": "9f01ff",
    "indefinite map": "bf0100ff",
    "break alone": "ff",
    "half float": "f93c00",
    "float": "fa47c35000",
    "double": "fb3ff199999999999a",
    "not a number": "f97e00",
    "undefined": "f7",
    "simple value": "f0",
    "simple value in two bytes": "f8ff",
    "date": "c074323031332d30332d32315432303a30343a30305a",
    "positive bignum": "c249010000000000000000",
    "small bignum": "c24101",
    "self-described": "d9d9f700",
    "unknown tag": "d9fffe00",
    "COSE_Sign1 inside": "d28440a04040",
    "shared reference": "82d81c80d81d00",
    "pattern": "d8236161",
    "key is bytes": "a1410000",
    "key is a boolean": "a1f500",
    "key is null": "a1f600",
    "key is a list": "a1800000",
    "trailing byte": "0000",
    "nothing": "",
    "cut in an integer": "19",
    "cut in a list": "8201",
    "cut in text": "6261",
    "more bytes promised than there are": "5bffffffffffffffff00",
    "more items promised than there are": "9bffffffffffffffff00",
    "reserved additional information": "1c",
    "text that is not UTF-8": "62c328",
}


@pytest.mark.parametrize("encoded", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_what_is_not_the_one_encoding_is_refused(encoded: str) -> None:
    with pytest.raises(MalformedMessage):
        cbor.decode(bytes.fromhex(encoded))


def nested(levels: int) -> object:
    value: object = 0
    for _ in range(levels):
        value = [value]
    return value


def test_depth_has_one_limit_in_both_directions() -> None:
    deepest = nested(cbor.MAX_DEPTH)
    assert cbor.decode(cbor.encode(deepest)) == deepest
    with pytest.raises(ValueError, match="deeper"):
        cbor.encode(nested(cbor.MAX_DEPTH + 1))
    for levels in (cbor.MAX_DEPTH + 1, 100, 100_000):
        with pytest.raises(MalformedMessage):
            cbor.decode(b"\x81" * levels + b"\x00")


def test_a_bomb_of_shared_references_is_refused_before_it_unfolds() -> None:
    """Each list holds ten references to the one before: five levels are 10^5 items here, and twelve would be 10^12."""
    bomb = bytes([0x80 + 6]) + bytes.fromhex("d81c8100")
    for index in range(5):
        bomb += bytes.fromhex("d81c8a") + bytes([0xD8, 0x1D, index]) * 10
    with pytest.raises(MalformedMessage, match="no acceptable CBOR"):  # by the parser, not by re-encoding
        cbor.decode(bomb)


def test_size_is_limited_before_anything_is_read() -> None:
    assert cbor.decode(cbor.encode(bytes(10)), max_size=11) == bytes(10)
    with pytest.raises(MalformedMessage, match="at most 10"):
        cbor.decode(cbor.encode(bytes(10)), max_size=10)


class Colour(StrEnum):
    RED = "red"


def test_a_tuple_is_a_list_and_an_enumeration_is_its_text() -> None:
    assert cbor.encode((Colour.RED, {Colour.RED: 1})) == cbor.encode(["red", {"red": 1}])


@pytest.mark.parametrize(
    "value", [1.5, Secret(b"key"), {b"k": 0}, {True: 0}, {None: 0}, {1.0: 0}, object(), {1, 2}, bytearray(b"x")]
)
def test_other_types_are_not_encoded(value: object) -> None:
    with pytest.raises(TypeError):
        cbor.encode(value)


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, {2**64: 0}])
def test_integers_beyond_64_bits_and_a_sign_are_not_encoded(value: object) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        cbor.encode(value)


SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40)
KEYS = st.integers(-(2**64), 2**64 - 1) | st.text(max_size=30)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=20
)


LIMITS = [value for limit in (0, 24, 2**8, 2**16, 2**32, 2**64) for value in (limit - 1, limit) if 0 <= value < 2**64]
LIMIT_KEYS = st.sampled_from([*LIMITS, *(~value for value in LIMITS), *(str(value) for value in LIMITS)])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(LIMIT_KEYS, st.integers(0, 3), max_size=6) | st.dictionaries(KEYS, SCALARS, max_size=6))
def test_the_keys_of_every_map_are_in_the_order_of_their_encodings(value: dict[int | str, object]) -> None:
    encoded = cbor.encode(value)
    entries = sorted((cbor.encode(key), cbor.encode(item)) for key, item in value.items())
    assert encoded == bytes((0xA0 + len(value),)) + b"".join(key + item for key, item in entries)


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_every_value_comes_back(value: object) -> None:
    assert cbor.decode(cbor.encode(value)) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_every_string_of_bytes_is_either_refused_or_the_one_encoding(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except MalformedMessage:
        return
    assert cbor.encode(value) == data
