"""One hop of trusted-node relay: a one-time pad of exactly the key's length, from the next link's bits.

The secrecy of a hop is information-theoretic, as far as the link's own bits are; a relay node sees the key in clear
for the time of one operation, which is what "trusted" means. The hop's *message* is authenticated by an ML-DSA
signature, which is computational.
"""

from __future__ import annotations

from collections.abc import Sequence

from qsotn.domain import Secret
from qsotn.errors import MalformedMessage
from qsotn.keynetwork.pool import UNIT_BYTES


def one_time_pad(text: bytes, pad: bytes) -> bytes:
    """XOR two byte strings of the same length. Raises `MalformedMessage` if they differ."""
    if len(text) != len(pad):
        raise MalformedMessage(f"a one-time pad of {len(pad)} bytes cannot serve {len(text)} bytes")
    return (int.from_bytes(text) ^ int.from_bytes(pad)).to_bytes(len(text))


def cut(units: Sequence[Secret], number: int, size: int) -> list[Secret]:
    """Cut whole units into `number` keys of `size` bits; what a key leaves of its last unit is dropped."""
    each = len(units) // number
    keys = []
    for index in range(number):
        material = b"".join(unit.reveal() for unit in units[index * each : (index + 1) * each])
        if len(material) * 8 < size or each * UNIT_BYTES != len(material):
            raise MalformedMessage(f"{each} units do not make a key of {size} bits")
        keys.append(Secret(material[: size // 8]))
    return keys
