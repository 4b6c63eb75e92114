"""All that Alice and Bob say to each other over the classical channel, in the order of the protocol.

The encoding is deterministic CBOR (`qsotn.crypto.cbor`) of `[name, field, …]`; arrays travel as byte strings: bits
packed eight to a byte (most significant first), indices as unsigned 32-bit little-endian integers. `decode` gives
back a message of the declared type or raises `MalformedMessage`.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from qsotn.crypto import cbor
from qsotn.errors import MalformedMessage

MAX_MESSAGE_BYTES = 1 << 26
"""Sixteen million detections; a longer message is refused before it is read."""


class Detections(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Bob: the gates with a click and the basis each was measured in (bits, 1 for X)."""

    gates: bytes
    bases: bytes


class Sifting(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Alice: per detection, whether her basis was the same (bits), and her intensity's index (two bit planes)."""

    same_basis: bytes
    intensity_high: bytes
    intensity_low: bytes


class BobTestBits(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Bob: his sifted bits of the test basis."""

    bits: bytes


class AliceTestBits(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Alice: hers, and the public seed of the shuffles that reconciliation uses from here on."""

    bits: bytes
    shuffle_seed: bytes


class ParityQuery(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Bob: which blocks of one pass he needs the parity of (`reconciliation.Shuffles` numbers them)."""

    pass_number: int
    blocks: bytes


class Parities(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Alice: those parities (bits), in the order of the query."""

    bits: bytes


class Reconciled(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Bob: no block is known to differ any more."""


class Verification(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Alice: a universal hash of her key (bits) and the seed that chose it, drawn only now."""

    seed: bytes
    value: bytes


class Verified(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Bob: his key has the same hash."""


class Amplification(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Alice: the seed of the Toeplitz matrix of privacy amplification; its length fixes the key's."""

    seed: bytes


class Authentication(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Either: the tag over the whole exchange so far. Bob's comes first and is covered by Alice's."""

    tag: bytes


Message = (
    Detections
    | Sifting
    | BobTestBits
    | AliceTestBits
    | ParityQuery
    | Parities
    | Reconciled
    | Verification
    | Verified
    | Amplification
    | Authentication
)


def encode(message: Message) -> bytes:
    """Return the canonical bytes of a message."""
    return cbor.encode(msgspec.to_builtins(message, builtin_types=(bytes,)))


def decode(data: bytes) -> Message:
    """Return the message these bytes are the encoding of, or raise `MalformedMessage`."""
    try:
        message: Message = msgspec.convert(cbor.decode(data, MAX_MESSAGE_BYTES), Message, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"{len(data)} bytes on the classical channel are no message: {error}") from error
    return message


def pack_bits(bits: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """Pack zeros and ones, most significant bit first, the last byte filled with zeros."""
    return np.packbits(bits).tobytes()


def unpack_bits(data: bytes, count: int) -> NDArray[np.uint8]:
    """Unpack exactly `count` bits; a wrong length or a filling other than zeros raises `MalformedMessage`."""
    if len(data) != -(-count // 8):
        raise MalformedMessage(f"{len(data)} bytes were sent where {count} bits are due")
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[count:].any():
        raise MalformedMessage(f"the filling after {count} bits is not zero")
    return bits[:count]


def pack_indices(indices: NDArray[np.int64]) -> bytes:
    """Encode indices below 2³²."""
    return indices.astype("<u4").tobytes()


def unpack_indices(data: bytes) -> NDArray[np.int64]:
    """Decode indices; the caller checks their range."""
    if len(data) % 4:
        raise MalformedMessage(f"{len(data)} bytes were sent where 32-bit indices are due")
    return np.frombuffer(data, "<u4").astype(np.int64)
