"""The kernel's OTU functions in Python and NumPy: scrambler, BIP-8, error correction, building and taking frames apart.

Functions and arguments are those of `native/module.c`; buffers are flat.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from qsotn.dataplane import reed_solomon
from qsotn.dataplane.kernel_interface import Buffer, Bytes, Room

FRAME_SIZE: Final = 4 * 4080
OVERHEAD_SIZE: Final = 4 * 16
PAYLOAD_SIZE: Final = 4 * 3808

_GROUP: Final = 4
_LONGEST_GAP: Final = 65535


def _otu_pad() -> Bytes:
    """Return what one OTU frame is XORed with: nothing under the FAS, then 1+x+x³+x¹²+x¹⁶ (G.709 clause 11.2).

    The generator starts from all ones at the most significant bit of MFAS and repeats after 65 535 bits.
    """
    period = bytearray(b"\1" * 16)
    for bit in range(16, 65535):
        period.append(period[bit - 1] ^ period[bit - 3] ^ period[bit - 12] ^ period[bit - 16])
    pad = np.zeros(FRAME_SIZE, np.uint8)
    pad[6:] = np.packbits(np.resize(np.frombuffer(period, np.uint8), (FRAME_SIZE - 6) * 8))
    return pad


_OTU_PAD: Final = _otu_pad()
_OTU_PAD_WORDS: Final = _OTU_PAD.view(np.uint64)


def parity_bip8(frames: Buffer) -> bytes:
    """Return the BIP-8 of every OPU area: columns 15 to 3824 of all rows (G.709 clause 15.7.2.1.2)."""
    rows = np.frombuffer(frames, np.uint8).reshape(-1, 4, 4080)
    words: NDArray[np.uint64] = np.bitwise_xor.reduce(rows.view(np.uint64)[:, :, 2:478], axis=(1, 2))
    for shift in (32, 16, 8):
        words ^= words >> np.uint64(shift)
    overhead: Bytes = np.bitwise_xor.reduce(rows[:, :, 14:16], axis=(1, 2))
    return (words.astype(np.uint8) ^ overhead).tobytes()


def scramble_otu(source: Buffer, target: Room) -> None:
    """Scramble, or descramble, OTU frames into `target`, which may be `source` (G.709 clause 11.2)."""
    frames = np.frombuffer(source, np.uint8)
    result = np.frombuffer(target, np.uint8)
    if frames.size % FRAME_SIZE or frames.size != result.size:
        raise ValueError("not the same whole number of OTU frames")
    np.bitwise_xor(
        frames.view(np.uint64).reshape(-1, _OTU_PAD_WORDS.size),
        _OTU_PAD_WORDS,
        out=result.view(np.uint64).reshape(-1, _OTU_PAD_WORDS.size),
    )


def encode_fec(frames: Room) -> None:
    """Fill the parity columns of OTU frames, before scrambling, in place (G.709 Annex A)."""
    reed_solomon.encode(_whole_frames(frames))


def decode_fec(frames: Room) -> tuple[int, int]:
    """Correct descrambled OTU frames in place; return (corrected symbols, codewords beyond correction)."""
    return reed_solomon.decode(_whole_frames(frames))


def _whole_frames(frames: Buffer) -> Bytes:
    flat = np.frombuffer(frames, np.uint8)
    if flat.size % FRAME_SIZE:
        raise ValueError("not a whole number of OTU frames")
    return flat.reshape(-1, 4, 4080)


def _payloads(payload: Buffer, frames: int, gap: int) -> Bytes:
    """View payload bytes, with `gap` bytes behind every fourth frame's, as (frames, 4, 3808)."""
    flat = np.frombuffer(payload, np.uint8)
    groups = frames // _GROUP if gap else 0
    if not 0 <= gap <= _LONGEST_GAP or (gap and frames % _GROUP) or flat.size != frames * PAYLOAD_SIZE + groups * gap:
        raise ValueError("payload and frames do not belong together")
    if not gap:
        return flat.reshape(frames, 4, 3808)
    return flat.reshape(groups, _GROUP * PAYLOAD_SIZE + gap)[:, : _GROUP * PAYLOAD_SIZE]


def build_frames(
    overhead: Room,
    payload: Buffer,
    gap: int,
    parity: bytearray,
    places: bytes,
    frames: Room,
    fec: bool,
) -> None:
    """Build scrambled OTU frames of overhead, (frames, 4, 16), and payload.

    `parity` holds the BIP-8 of the last two frames, and afterwards that of these last two; the BIP-8 of a frame goes,
    two frames later, into all `places` of the overhead (row · 16 + column), which is written to. With `fec` the last
    256 columns are Reed-Solomon parity, else zeros, both before scrambling.
    """
    rows = _whole_frames(frames)
    heads = np.frombuffer(overhead, np.uint8)
    if heads.size != len(rows) * OVERHEAD_SIZE or len(parity) != 2:
        raise ValueError("overhead, parity and frames do not belong together")
    if any(place >= OVERHEAD_SIZE or place % 16 >= 14 for place in places):
        raise ValueError("a parity's place is not in the first 14 columns")
    heads = heads.reshape(-1, OVERHEAD_SIZE)
    payloads = _payloads(payload, len(rows), gap)
    clear = np.zeros((len(rows), 4, 4080), np.uint8)
    clear[:, :, 16:3824] = payloads.reshape(len(rows), 4, 3808)
    # The overhead of the OPU, the last two of these columns, is covered; where parities go into is not.
    clear[:, :, :16] = heads.reshape(-1, 4, 16)
    parities = bytes(parity) + parity_bip8(clear)
    for place in places:
        heads[:, place] = np.frombuffer(parities, np.uint8, len(rows))
    clear[:, :, :16] = heads.reshape(-1, 4, 16)
    parity[:] = parities[-2:]
    if fec:
        encode_fec(clear)
    scramble_otu(clear, rows)


def take_frames(
    frames: Buffer,
    overhead: Room,
    payload: Room,
    gap: int,
    parities: Room,
    fec: bool,
) -> tuple[int, int]:
    """Take scrambled OTU frames apart, after correction if `fec`; `parities` receives the BIP-8 of every frame.

    Returns (corrected symbols, codewords beyond correction).
    """
    rows = _whole_frames(frames)
    heads, found = np.frombuffer(overhead, np.uint8), np.frombuffer(parities, np.uint8)
    if heads.size != len(rows) * OVERHEAD_SIZE or found.size != len(rows):
        raise ValueError("frames, overhead and parities do not belong together")
    payloads = _payloads(payload, len(rows), gap)
    clear = np.empty((len(rows), 4, 4080), np.uint8)
    scramble_otu(np.ascontiguousarray(rows), clear)
    result = decode_fec(clear) if fec else (0, 0)
    heads[:] = clear[:, :, :16].reshape(-1)
    payloads[:] = clear[:, :, 16:3824].reshape(payloads.shape)
    found[:] = np.frombuffer(parity_bip8(clear), np.uint8)
    return result
