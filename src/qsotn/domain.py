"""The nouns every other module shares: who, which line, which key, how good, and what must stay secret."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NewType, NoReturn

import msgspec

from qsotn.errors import UsageError

PartyId = NewType("PartyId", str)
"""`role/name`, for example `qssp/jinan`: the path of the SPIFFE-style URI in the party's certificate."""

LineId = NewType("LineId", str)
"""A leased line, for example `line-1`."""

KeyId = NewType("KeyId", str)
"""The UUID (RFC 9562 text form) under which ETSI GS QKD 014 supplies one key to both ends."""

ProcedureId = NewType("ProcedureId", str)
"""One run of one ladder, the same at every party that takes part in it."""


Entropy = Callable[[int], bytes]
"""A source of that many unpredictable bytes; an argument everywhere, so that vectors and replays are plain calls."""


class Role(StrEnum):
    """The parties of the paper's Figure 2 (Table 1 and section 3.1), and three that are none of its parties."""

    POMP = "pomp"
    QKMP = "qkmp"
    PMP = "pmp"
    QSSP = "qssp"
    KM = "km"
    CPE = "cpe"
    OPERATOR = "operator"
    """Whoever runs the province, a person or a program: sits on no interface and in no procedure."""
    QKD = "qkd"
    """The QKD modules of a link, which hand its key managers what they distilled: here the twin."""
    SAE = "sae"
    """A secure application entity (ETSI GS QKD 014) that is none of the paper's parties: it gets keys, and no more."""


def role_of(party: PartyId) -> Role:
    """Return the role that a party's identifier begins with.

    Raises `UsageError` for an identifier without a known role.
    """
    prefix, _, name = party.partition("/")
    role = _ROLES.get(prefix)
    if not name or role is None:
        raise UsageError(f"{party!r} is no party: expected role/name with a role of {', '.join(Role)}")
    return role


_ROLES: Final[dict[str, Role]] = {role.value: role for role in Role}


class Direction(StrEnum):
    """The direction of a line's frames; each has keys of its own."""

    A_TO_B = "a-to-b"
    B_TO_A = "b-to-a"


class End(StrEnum):
    """The two ends of a line. A asks for keys (Figure 4, step 9); B follows."""

    A = "a"
    B = "b"

    @property
    def other(self) -> End:
        """The far end."""
        return End.B if self is End.A else End.A

    @property
    def sends(self) -> Direction:
        """The direction this end transmits in."""
        return Direction.A_TO_B if self is End.A else Direction.B_TO_A

    @property
    def receives(self) -> Direction:
        """The direction this end receives from."""
        return self.other.sends


class QualityOfService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a leased line is ordered with, and what an end offers (Figure 4, steps 1 to 5)."""

    odu: str
    """ODU type of ITU-T G.709, for example `ODU0`."""
    rekey_interval_s: int
    """Seconds between two session keys of one direction."""
    max_latency_us: int
    """One-way latency, microseconds."""


class Secret:
    """Key material that shows itself to no one by accident.

    The representation is blind, comparison is constant-time, and pickling, copying and hashing are refused. `erase`
    overwrites the buffer this object owns; copies that CPython or a library made are beyond its reach, and no claim
    is made for them.
    """

    __slots__ = ("_buffer",)

    def __init__(self, material: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(material)

    def reveal(self) -> bytes:
        """Return the material, for the time of one operation."""
        if not self._buffer:
            raise ValueError("this secret was erased")
        return bytes(self._buffer)

    def erase(self) -> None:
        """Overwrite and drop the material; a second call does nothing."""
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer.clear()

    def __len__(self) -> int:
        return len(self._buffer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._buffer, other._buffer)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret({len(self._buffer)} bytes)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")
