"""GFP frames as a capture file (pcapng, draft-ietf-opsawg-pcapng) that Wireshark and tshark dissect.

A frame is recorded as they expect it: core header without its mask, payload area without scrambling, and a mapped
Ethernet frame with its check sequence. Link type 171 is LINKTYPE_GFP_F; there is none for OTU frames.

What always holds: a capture holds client data in the clear, so it is made only of what its owner sends or receives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from qsotn.dataplane.ethernet import with_check_sequence
from qsotn.dataplane.gfp import IDLE
from qsotn.dataplane.gfp_types import ETHERNET, TypeField, clear_frame, payload_area

LINKTYPE_GFP_F: Final = 171
IDLE_FRAME: Final = bytes(len(IDLE))
"""The idle frame without its mask."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_NANOSECONDS: Final = struct.pack("<HHBxxxI", 9, 1, 9, 0)
"""Option if_tsresol: timestamps count nanoseconds; then the end of options."""


def ethernet_frame(frame: bytes, field: TypeField = ETHERNET) -> bytes:
    """Return the recorded GFP frame of an Ethernet frame that has no check sequence yet."""
    return clear_frame(payload_area(field, with_check_sequence(frame)))


def capture(frames: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a capture file of (nanoseconds since 1970, recorded frame), in order."""
    section = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)
    interface = struct.pack("<HHI", LINKTYPE_GFP_F, 0, 0) + _NANOSECONDS
    blocks = [_block(_SECTION, section), _block(_INTERFACE, interface)]
    blocks += (_block(_PACKET, _packet(nanoseconds, frame)) for nanoseconds, frame in frames)
    return b"".join(blocks)


def _packet(nanoseconds: int, frame: bytes) -> bytes:
    header = struct.pack("<IIIII", 0, nanoseconds >> 32, nanoseconds & 0xFFFFFFFF, len(frame), len(frame))
    return header + frame + bytes(-len(frame) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size
