"""CBOR sequences (RFC 8742) of byte strings: how datagrams travel together, and how a mailbox hands them out.

Splitting looks at the heads of the items and at nothing inside them, so it costs one step an item. What is inside
is a datagram, which only its party reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qsotn.errors import MalformedMessage
from qsotn.ports import Posted
from qsotn.service.http.problems import CONTENT_TOO_LARGE, HttpProblem
from qsotn.wire import MAXIMUM_DATAGRAM

CBOR_SEQUENCE: Final = "application/cbor-seq"
MOST_DATAGRAMS: Final = 64
LARGEST_SEQUENCE: Final = 8 * 1024 * 1024

_UNSIGNED, _BYTES, _PAIR = 0x00, 0x40, 0x82
"""Initial bytes (RFC 8949, section 3): an unsigned integer, a byte string, an array of two."""
_ARGUMENT_BYTES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_LEAST: Final = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
"""The smallest argument that needs that many bytes: a shorter form is the only right one."""


def split(sequence: bytes | bytearray) -> list[bytes]:
    """Return the byte strings of a sequence, 1 to 64 of at most 4 MiB each.

    Raises `MalformedMessage` for anything else, `HttpProblem` 413 for more or larger ones.
    """
    items: list[bytes] = []
    at = 0
    while at < len(sequence):
        start, size = _head(sequence, at)
        at = start + size
        if size > MAXIMUM_DATAGRAM or len(items) == MOST_DATAGRAMS:
            raise HttpProblem(
                CONTENT_TOO_LARGE, f"at most {MOST_DATAGRAMS} datagrams of {MAXIMUM_DATAGRAM} bytes are taken at once"
            )
        if at > len(sequence):
            raise MalformedMessage(f"item {len(items)} of the sequence ends {at - len(sequence)} bytes too early")
        items.append(bytes(sequence[start:at]))
    if not items:
        raise MalformedMessage("the sequence is empty; it holds 1 to 64 datagrams")
    return items


def _head(sequence: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return where an item's bytes begin, and how many they are."""
    short = sequence[at] - _BYTES
    if 0 <= short < 24:
        return at + 1, short
    if short not in _ARGUMENT_BYTES:
        raise MalformedMessage(f"byte {at} of the sequence does not begin a byte string of definite length")
    start = at + 1 + _ARGUMENT_BYTES[short]
    size = int.from_bytes(sequence[at + 1 : start], "big")
    if size < _LEAST[short]:
        raise MalformedMessage(f"the length at byte {at} of the sequence is not in its shortest form")
    return start, size


def join_numbered(posted: Sequence[Posted]) -> bytes:
    """Return a sequence of `[number, datagram]`, as many as fit; the others are still on lease and come again."""
    sequence = bytearray()
    for one in posted:
        item = bytes([_PAIR]) + _encoded_head(_UNSIGNED, one.number) + _encoded_head(_BYTES, len(one.datagram))
        if sequence and len(sequence) + len(item) + len(one.datagram) > LARGEST_SEQUENCE:
            break
        sequence += item + one.datagram
    return bytes(sequence)


def _encoded_head(major: int, argument: int) -> bytes:
    if argument < _LEAST[24]:
        return bytes([major | argument])
    short = max(short for short, least in _LEAST.items() if argument >= least)
    return bytes([major | short]) + argument.to_bytes(_ARGUMENT_BYTES[short], "big")
