"""The headers of a GFP frame's payload area (ITU-T G.7041 clause 6.1.2): type, extension, and what they mean.

What always holds: a header that is read was checked before; what fails its tHEC or eHEC raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from qsotn.dataplane.gfp import TYPE_SIZE, core_header, crc16
from qsotn.dataplane.kernel import payload_fcs
from qsotn.errors import LineError, UsageError

EXTENSION_SIZE: Final = 4
LONGEST_AREA: Final = 65535


class PayloadType(IntEnum):
    """PTI, three bits (table 6-1)."""

    CLIENT_DATA = 0b000
    CLIENT_MANAGEMENT = 0b100
    MANAGEMENT_COMMUNICATIONS = 0b101


class ExtensionHeader(IntEnum):
    """EXI, four bits (table 6-2). A ring extension header is for further study and is not read."""

    NULL = 0
    LINEAR = 1


class UserPayload(IntEnum):
    """UPI of client data frames (table 6-3): those that a capture or a test may meet."""

    ETHERNET = 1
    PPP = 2
    MPLS = 13
    IPV4 = 16
    IPV6 = 17


class Management(IntEnum):
    """UPI of client management frames (table 6-4)."""

    LOSS_OF_SIGNAL = 1
    """Client signal fail: loss of client signal."""
    LOSS_OF_SYNCHRONISATION = 2
    """Client signal fail: loss of character synchronisation."""
    DEFECT_CLEAR = 3
    """DCI: the client signal is back."""
    FORWARD_DEFECT = 4
    REVERSE_DEFECT = 5


@dataclass(frozen=True)
class TypeField:
    """Type field of a payload area; with its tHEC four bytes."""

    payload_type: PayloadType = PayloadType.CLIENT_DATA
    has_fcs: bool = True
    """PFI."""
    extension: ExtensionHeader = ExtensionHeader.NULL
    user_payload: int = UserPayload.ETHERNET
    """UPI, whose meaning depends on the payload type."""

    def code(self) -> int:
        """Return the 16 bits."""
        return self.payload_type << 13 | self.has_fcs << 12 | self.extension << 8 | self.user_payload

    def encode(self) -> bytes:
        """Return field and tHEC."""
        field = self.code().to_bytes(2, "big")
        return field + crc16(field).to_bytes(2, "big")

    def header(self) -> int:
        """Return field and tHEC as the number that a kernel takes."""
        return int.from_bytes(self.encode(), "big")


def decode_type_code(code: int) -> TypeField:
    """Read 16 bits; raises `LineError` for a PTI or EXI that is reserved."""
    try:
        return TypeField(
            PayloadType(code >> 13), bool(code >> 12 & 1), ExtensionHeader(code >> 8 & 0b1111), code & 0xFF
        )
    except ValueError as problem:
        raise LineError(f"GFP type field {code:04X}: {problem}") from None


ETHERNET: Final = TypeField()
ETHERNET_WITHOUT_FCS: Final = TypeField(has_fcs=False)


def linear_extension(channel: int) -> bytes:
    """Return the extension header of a linear frame: channel ID, a spare byte, and their eHEC (clause 6.1.2.1.3.2)."""
    if not 0 <= channel <= 255:
        raise UsageError(f"GFP channel {channel}: 0 to 255 are possible")
    field = bytes((channel, 0))
    return field + crc16(field).to_bytes(2, "big")


def payload_area(field: TypeField, information: bytes, channel: int = 0) -> bytes:
    """Return a payload area before scrambling; `channel` is that of a linear frame. `UsageError` if it is too long."""
    headers = field.encode()
    if field.extension is ExtensionHeader.LINEAR:
        headers += linear_extension(channel)
    area = headers + information + (payload_fcs(information) if field.has_fcs else b"")
    if len(area) > LONGEST_AREA:
        raise UsageError(f"a GFP payload area of {len(area)} bytes: at most {LONGEST_AREA} are possible")
    return area


@dataclass(frozen=True)
class Area:
    """What a descrambled payload area holds."""

    field: TypeField
    channel: int | None
    """Of a linear frame."""
    information: bytes


def decode_area(area: bytes) -> Area:
    """Read a descrambled payload area; raises `LineError` for whatever of it does not check."""
    if len(area) < TYPE_SIZE or crc16(area[:TYPE_SIZE]):
        raise LineError("the tHEC of a GFP frame does not hold")
    field = decode_type_code(int.from_bytes(area[:2], "big"))
    start, channel = TYPE_SIZE, None
    if field.extension is ExtensionHeader.LINEAR:
        start, channel = start + EXTENSION_SIZE, area[TYPE_SIZE] if len(area) > TYPE_SIZE else None
        if len(area) < start or crc16(area[TYPE_SIZE:start]):
            raise LineError("the eHEC of a GFP frame does not hold")
    end = len(area) - 4 if field.has_fcs else len(area)
    if end < start or (field.has_fcs and payload_fcs(area[start:end]) != area[end:]):
        raise LineError("the payload FCS of a GFP frame does not hold")
    return Area(field, channel, area[start:end])


def clear_frame(area: bytes) -> bytes:
    """Return a GFP frame as captures have it: core header without its mask, payload area without scrambling."""
    header = int.from_bytes(core_header(len(area)), "big") ^ 0xB6AB31E0
    return header.to_bytes(4, "big") + area
