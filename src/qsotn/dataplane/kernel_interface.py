"""What a kernel is: the functions that loop over every byte, whoever implements them.

Implemented twice: by `native/module.c` (imported as `_kernel`), and by `kernel_numpy`, in whose two parts
every function is described.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""An array of bytes; shapes are given where it is used."""
Words = NDArray[np.int64]
"""Offsets, sizes and codes of many frames, one entry each."""
Buffer = bytes | bytearray | memoryview | Bytes
"""Contiguous bytes to read."""
Room = bytearray | memoryview | Bytes
"""Contiguous bytes to write to."""

INTACT: Final = 0
"""Verdict of `follow_clients` on a payload area: its checks hold."""
WRONG_TYPE: Final = 1
"""The tHEC fails, or there is no room for a payload FCS that the type announces."""
WRONG_FCS: Final = 2
WRONG_EXTENSION: Final = 3
"""The eHEC fails, or the kind of extension header is unknown."""


class Kernel(Protocol):
    """Arguments go by position; a buffer that does not fit raises `ValueError` before anything is written."""

    def payload_fcs(self, data: Buffer, /) -> bytes:
        """See `kernel_numpy_gfp.payload_fcs`."""

    def scramble_x43(self, data: bytes, history: int, /) -> bytes:
        """See `kernel_numpy_gfp.scramble_x43`."""

    def descramble_x43(self, data: bytes, history: int, /) -> bytes:
        """See `kernel_numpy_gfp.descramble_x43`."""

    def parity_bip8(self, frames: Buffer, /) -> bytes:
        """See `kernel_numpy_otu.parity_bip8`."""

    def scramble_otu(self, source: Buffer, target: Room, /) -> None:
        """See `kernel_numpy_otu.scramble_otu`."""

    def encode_fec(self, frames: Room, /) -> None:
        """See `kernel_numpy_otu.encode_fec`."""

    def decode_fec(self, frames: Room, /) -> tuple[int, int]:
        """See `kernel_numpy_otu.decode_fec`."""

    def build_frames(
        self, overhead: Room, payload: Buffer, gap: int, parity: bytearray, places: bytes, frames: Room, fec: bool, /
    ) -> None:
        """See `kernel_numpy_otu.build_frames`."""

    def take_frames(
        self, frames: Buffer, overhead: Room, payload: Room, gap: int, parities: Room, fec: bool, /
    ) -> tuple[int, int]:
        """See `kernel_numpy_otu.take_frames`."""

    def map_clients(
        self,
        data: Buffer,
        starts: Words,
        sizes: Words,
        first: int,
        type_header: int,
        target: Room,
        position: int,
        enough: int,
        history: int,
        /,
    ) -> tuple[int, int, int]:
        """See `kernel_numpy_gfp.map_clients`."""

    def follow_clients(
        self,
        stream: Buffer,
        position: int,
        end: int,
        history: int,
        areas: Room,
        starts: Words,
        sizes: Words,
        types: Words,
        verdicts: Words,
        /,
    ) -> tuple[int, int, int, int, int]:
        """See `kernel_numpy_gfp.follow_clients`."""
