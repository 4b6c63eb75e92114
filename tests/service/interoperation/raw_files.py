"""What a device, or an adapter for one, writes into a `.bin` file: from its description, not from what reads it."""

from __future__ import annotations

import struct
from hashlib import sha256

from qsotn.domain import Secret


def raw_file(number: int, material: Secret) -> bytes:
    """Return the content of a file with one block."""
    payload = material.reveal()
    header = struct.pack(">8sHHIQ32s", b"QKDBLOCK", 1, 0, len(payload) * 8, number, sha256(payload).digest())
    return header + payload
