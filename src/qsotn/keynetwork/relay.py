"""One hop of trusted-node relay: units on their way to the next key manager, under bits of the link between the two.

In the mode *one-time pad* a hop takes exactly as many bits of its link as it carries. Its secrecy is
information-theoretic, as far as the link's own bits are. In the mode *AES-wrapped* 256 bits of the link protect a whole
batch by AES-256-GCM; that is computational, and is called so wherever the mode is named. In either mode a relay node
sees the units in clear for the time of one operation, which is what "trusted" means, and the hop's *message* is
authenticated by an ML-DSA signature, which is computational.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import StrEnum
from functools import reduce
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.domain import PartyId, Secret
from qsotn.errors import BadProof, MalformedMessage
from qsotn.keynetwork.pool import UNIT_BYTES

MAXIMUM_UNITS: Final = 4096
"""Units of one batch: what one datagram carries with room to spare, and what one wrapping key may protect."""

# A wrapping key is one unit of a link, deleted as it is taken, for one batch: no nonce is repeated under it.
_NONCE: Final = bytes(12)
_HINDRANCE: Final = re.compile(r"link (\S+) at (\S+): ")
_SHOWN: Final = 64
"""Characters of a name that somebody else made up."""


class Mode(StrEnum):
    """How the hops of a supply hide what they carry."""

    ONE_TIME_PAD = "one-time-pad"
    AES_WRAPPED = "aes-wrapped"

    @property
    def secrecy(self) -> str:
        """What the secrecy of a hop rests on, besides the link's own bits."""
        return "information-theoretic" if self is Mode.ONE_TIME_PAD else "computational (AES-256-GCM)"

    def pad_units(self, units: int) -> int:
        """Units of a link that a hop takes to carry this many."""
        return units if self is Mode.ONE_TIME_PAD else 1


class UnitRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Successive units of one block of a link, as they are named to its far end."""

    block: int
    unit: int
    units: int


def one_time_pad(text: bytes, pad: bytes) -> bytes:
    """XOR two byte strings of the same length. Raises `MalformedMessage` if they differ."""
    if len(text) != len(pad):
        raise MalformedMessage(f"a one-time pad of {len(pad)} bytes cannot serve {len(text)} bytes")
    return (int.from_bytes(text) ^ int.from_bytes(pad)).to_bytes(len(text))


def join(shares: Sequence[Secret]) -> Secret:
    """Return the units whose shares these are: their XOR, n-out-of-n secret sharing (Karnin, Greene, Hellman 1983).

    All but one share are independent of the units, whatever their holder can compute. Nothing here tells whether a
    share is the one that was sent: each is held against its commitment on the way (`provenance`).
    """
    return Secret(reduce(one_time_pad, (share.reveal() for share in shares)))


def hide(mode: Mode, pad: Secret, units: Secret, context: bytes) -> bytes:
    """Encrypt units for one hop. `pad` are bits of the link that serve nothing else; AES authenticates `context`."""
    if mode is Mode.ONE_TIME_PAD:
        return one_time_pad(units.reveal(), pad.reveal())
    return AESGCM(pad.reveal()).encrypt(_NONCE, units.reveal(), context)


def uncover(mode: Mode, pad: Secret, ciphertext: bytes, context: bytes) -> Secret:
    """Inverse of `hide`.

    Raises `BadProof` if AES finds another key, context or text, `MalformedMessage` for a wrong length.
    """
    if mode is Mode.ONE_TIME_PAD:
        return Secret(one_time_pad(ciphertext, pad.reveal()))
    try:
        return Secret(AESGCM(pad.reveal()).decrypt(_NONCE, ciphertext, context))
    except InvalidTag as error:
        raise BadProof("the wrapped units do not open under the bits of this link") from error


def hindrance(link: str, party: PartyId, reason: str) -> str:
    """Word a refusal so that it names the link where a supply could not go on, and who says so."""
    return f"link {link} at {party}: {reason}"


def hindered_link(detail: str) -> str:
    """Return the link that a refusal names by `hindrance`, or nothing."""
    return hindered_at(detail)[0]


def hindered_at(detail: str) -> tuple[str, PartyId]:
    """Return the link that a refusal names by `hindrance`, and the key manager said to say so, or nothing of both."""
    named = _HINDRANCE.match(detail)
    return (named[1], PartyId(named[2])) if named else ("", PartyId(""))


def lies_ahead(detail: str, own: PartyId, onward: str, links: Collection[str], way: Sequence[PartyId]) -> bool:
    """Return whether the link that a refusal names can be one that a supply had still to cross, as seen from `own`.

    `onward` is the link over which it went on, and the refusal came back; `links` are all links of this key manager,
    of which no other is ahead. `way` are the key managers from end to end, or none where it is not known.
    """
    link, party = hindered_at(detail)
    if link == onward:
        return True
    if link in links:
        return False
    ahead = way[way.index(own) + 1 :] if way else ()
    return not way or (len(ahead) > 1 and party in ahead)


def misnamed(detail: str, refuser: PartyId) -> str:
    """Say that a refusal that came from `refuser` names a link which is not ahead on the way of its supply."""
    return f"{refuser} named {hindered_link(detail)[:_SHOWN]!r}, which is not ahead on the way"


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
