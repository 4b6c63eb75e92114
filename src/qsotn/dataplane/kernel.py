"""The loops over every byte: parities, checks and scramblers as pure functions on bytes and arrays.

A compiled kernel may replace any single function here; the signatures are chosen for that. Bits are numbered as on the
fibre: the most significant bit of a byte comes first.

What always holds: no function keeps state; state that a signal carries from call to call is an argument and is
computable from what was returned.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""An array of bytes; shapes are given where it is used."""

HISTORY: Final = 6
"""Bytes that hold the 43 bits of memory of the x⁴³+1 scrambler."""

_DELAY: Final = 43
_TABLE_ROW: Final = 8 * _DELAY
_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def payload_fcs(data: bytes) -> bytes:
    """Return the four bytes of G.7041's payload FCS (clause 6.1.2.2.1) over the payload information field.

    The polynomial, initial value and final complement are those of IEEE 802.3, but G.7041 takes every octet most
    significant bit first where Ethernet takes it least significant bit first. `zlib.crc32` does the latter, so both
    its input and its result are mirrored.
    """
    return zlib.crc32(data.translate(_REVERSED)).to_bytes(4, "little").translate(_REVERSED)


def scramble_x43(data: bytes, history: bytes) -> bytes:
    """Scramble GFP payload areas (G.7041 clause 6.1.2.3): every output bit is the input bit plus the output 43 earlier.

    `history` is the last `HISTORY` bytes of output before this call. The recursion y = x / (1 + z⁴³) is solved without
    a loop over bits: 1/(1+z⁴³) = (1+z⁴³)(1+z⁸⁶)…(1+z¹³⁷⁶) / (1+z²⁷⁵²), and 2752 bits are 43 words of 64, so that the
    rest is a running XOR down the columns of a table 43 words wide.
    """
    size = HISTORY + len(data)
    table = np.zeros(-(-size // _TABLE_ROW) * _TABLE_ROW, np.uint8)
    table[:size] = np.frombuffer(history + data, np.uint8)
    # The first bytes must come out as `history`: they go in as what the recursion turns into it.
    table[:HISTORY] = _add_delayed(table[:HISTORY], _DELAY)
    for doubling in range(6):
        table = _add_delayed(table, _DELAY << doubling)
    words = table.view(np.uint64).reshape(-1, _DELAY)
    return np.bitwise_xor.accumulate(words, axis=0).tobytes()[HISTORY:size]


def descramble_x43(data: bytes, history: bytes) -> bytes:
    """Undo `scramble_x43`; `history` is the last `HISTORY` bytes of scrambled input before this call."""
    return _add_delayed(np.frombuffer(history + data, np.uint8), _DELAY).tobytes()[HISTORY:]


def _add_delayed(signal: Bytes, delay: int) -> Bytes:
    """Add (modulo 2) to a signal of bytes the same signal `delay` bits later."""
    whole, part = divmod(delay, 8)
    total = signal.copy()
    total[whole:] ^= signal[: signal.size - whole] >> np.uint8(part)
    if part:
        total[whole + 1 :] ^= signal[: max(signal.size - whole - 1, 0)] << np.uint8(8 - part)
    return total


def parity_bip8(frames: Bytes) -> Bytes:
    """Return the BIP-8 of every OPU area: columns 15 to 3824 of all rows (G.709 clause 15.7.2.1.2).

    `frames` has the shape (n, 4, 4080) and is contiguous; the result has the shape (n,).
    """
    words: NDArray[np.uint64] = np.bitwise_xor.reduce(frames.view(np.uint64)[:, :, 2:478], axis=(1, 2))
    for shift in (32, 16, 8):
        words ^= words >> np.uint64(shift)
    overhead: Bytes = np.bitwise_xor.reduce(frames[:, :, 14:16], axis=(1, 2))
    return words.astype(np.uint8) ^ overhead


def scramble_otu(frames: Bytes, out: Bytes | None = None) -> Bytes:
    """Scramble, or descramble, OTU frames of the shape (n, 4, 4080) into another array (G.709 clause 11.2)."""
    scrambled = np.empty(frames.shape, np.uint8) if out is None else out
    np.bitwise_xor(frames.view(np.uint64), _OTU_PAD, out=scrambled.view(np.uint64))
    return scrambled


def _otu_pad() -> NDArray[np.uint64]:
    """Return what one OTU frame is XORed with, as (4, 510) words: nothing under the FAS, then 1+x+x³+x¹²+x¹⁶.

    The generator starts from all ones at the most significant bit of MFAS and repeats after 65 535 bits.
    """
    period = bytearray(b"\1" * 16)
    for bit in range(16, 65535):
        period.append(period[bit - 1] ^ period[bit - 3] ^ period[bit - 12] ^ period[bit - 16])
    pad = np.zeros(4 * 4080, np.uint8)
    pad[6:] = np.packbits(np.resize(np.frombuffer(period, np.uint8), (pad.size - 6) * 8))
    return pad.reshape(4, 4080).view(np.uint64)


_OTU_PAD: Final = _otu_pad()
