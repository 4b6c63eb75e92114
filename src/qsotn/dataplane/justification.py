"""Justification control of asynchronously mapped clients (ITU-T G.709 clause 17.2): JC, NJO and PJO.

With GFP a client is cut into frames and idle frames take up the difference, so nothing is justified and these bytes are
reserved; this is for constant bit rate clients and for reading what others send. JC is sent three times, in rows 1 to 3
of column 16; NJO is row 4, column 16, PJO the payload byte behind it.

What always holds: the value is decided bit by bit by majority, so one wrong copy moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Justification(IntEnum):
    """The two bits of JC, and which of the two opportunities carry client data (table 17-2)."""

    NONE = 0b00
    """NJO justification byte, PJO data byte."""
    NEGATIVE = 0b01
    """Both carry data: the client is fast."""
    POSITIVE = 0b11
    """Neither does: the client is slow."""

    @property
    def data_bytes(self) -> int:
        """Return how many client bytes the frame carries more than without justification."""
        return {Justification.NONE: 0, Justification.NEGATIVE: 1, Justification.POSITIVE: -1}[self]


def encode_control(justification: Justification) -> bytes:
    """Return the three copies, rows 1 to 3."""
    return bytes([justification] * 3)


def decode_control(copies: Sequence[int]) -> Justification:
    """Decide by two out of three in each bit; 10, which nobody generates, is taken as 00 (table 17-2)."""
    first, second, third = copies
    majority = (first & second | first & third | second & third) & 0b11
    return Justification.NONE if majority == 0b10 else Justification(majority)
