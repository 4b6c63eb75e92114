"""The kernel's GFP functions in Python and NumPy: check sequences, the x⁴³+1 scrambler, mapping and demapping.

Functions and arguments are those of `native/module.c`: buffers are flat, the memory of the scrambler is a number of 43
bits, offsets and sizes are arrays of int64. Bits are numbered as on the fibre: the most significant bit of a byte comes
first.
"""

from __future__ import annotations

import binascii
import zlib
from typing import Final

import numpy as np

from qsotn.dataplane.kernel_interface import (
    INTACT,
    WRONG_EXTENSION,
    WRONG_FCS,
    WRONG_TYPE,
    Buffer,
    Bytes,
    Room,
    Words,
)

CORE_HEADER_MASK: Final = 0xB6AB31E0
LONGEST_AREA: Final = 65535

_HISTORY: Final = 6
_HISTORY_MASK: Final = (1 << 43) - 1
_DELAY: Final = 43
_TABLE_ROW: Final = 8 * _DELAY
_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_PFI: Final = 1 << 28
_LINEAR: Final = 1


def payload_fcs(data: Buffer) -> bytes:
    """Return G.7041's payload FCS (clause 6.1.2.2.1), most significant bit first.

    `zlib.crc32` takes the bits of an octet in the other order, so both its input and its result are mirrored.
    """
    return zlib.crc32(bytes(data).translate(_REVERSED)).to_bytes(4, "little").translate(_REVERSED)


def scramble_x43(data: bytes, history: int) -> bytes:
    """Scramble: every output bit is the input bit plus the output bit 43 earlier (G.7041 clause 6.1.2.3).

    The recursion y = x / (1 + z⁴³) is solved without a loop over bits: 1/(1+z⁴³) = (1+z⁴³)(1+z⁸⁶)…(1+z¹³⁷⁶) /
    (1+z²⁷⁵²), and 2752 bits are 43 words of 64, so that the rest is a running XOR down the columns of a table 43 words
    wide.
    """
    size = _HISTORY + len(data)
    table = np.zeros(-(-size // _TABLE_ROW) * _TABLE_ROW, np.uint8)
    table[:size] = np.frombuffer(_line_before(history) + data, np.uint8)
    # The first bytes must come out as the history: they go in as what the recursion turns into it.
    table[:_HISTORY] = _add_delayed(table[:_HISTORY], _DELAY)
    for doubling in range(6):
        table = _add_delayed(table, _DELAY << doubling)
    words = table.view(np.uint64).reshape(-1, _DELAY)
    return np.bitwise_xor.accumulate(words, axis=0).tobytes()[_HISTORY:size]


def descramble_x43(data: bytes, history: int) -> bytes:
    """Undo `scramble_x43`; `history` is the last 43 bits of scrambled input before this call."""
    line = np.frombuffer(_line_before(history) + data, np.uint8)
    return _add_delayed(line, _DELAY).tobytes()[_HISTORY:]


def _line_before(history: int) -> bytes:
    return (history & _HISTORY_MASK).to_bytes(_HISTORY, "big")


def _history_after(line: bytes, history: int) -> int:
    return int.from_bytes((_line_before(history) + line[-_HISTORY:])[-_HISTORY:], "big") & _HISTORY_MASK


def _add_delayed(signal: Bytes, delay: int) -> Bytes:
    """Add (modulo 2) to a signal of bytes the same signal `delay` bits later."""
    whole, part = divmod(delay, 8)
    total = signal.copy()
    total[whole:] ^= signal[: signal.size - whole] >> np.uint8(part)
    if part:
        total[whole + 1 :] ^= signal[: max(signal.size - whole - 1, 0)] << np.uint8(8 - part)
    return total


def _view(buffer: Buffer) -> memoryview:
    return np.frombuffer(buffer, np.uint8).data


def _crc16(data: bytes) -> int:
    return binascii.crc_hqx(data, 0)


def _core_header(length: int) -> bytes:
    header = length << 16 | _crc16(length.to_bytes(2, "big"))
    return (header ^ CORE_HEADER_MASK).to_bytes(4, "big")


def map_clients(
    data: Buffer,
    starts: Words,
    sizes: Words,
    first: int,
    type_header: int,
    target: Room,
    position: int,
    enough: int,
    history: int,
) -> tuple[int, int, int]:
    """Map client frames from number `first` on into `target` from `position` on.

    Stops when the next does not fit, or when `enough` bytes of `target` are filled. Client frame i is the `sizes[i]`
    bytes of `data` from `starts[i]` on; `type_header` is the type field and its tHEC, whose PFI says whether a payload
    FCS is added. Returns (frames mapped, position behind them, history).
    """
    source, room = _view(data), _view(target)
    _check_clients(source, starts, sizes, first)
    if not 0 <= position <= len(room):
        raise ValueError("the position is outside the target")
    header = type_header.to_bytes(4, "big")
    places: list[tuple[int, int]] = []
    areas: list[bytes] = []
    for start, size in zip(starts[first:].tolist(), sizes[first:].tolist(), strict=True):
        length = 4 + size + (4 if type_header & _PFI else 0)
        if position >= enough or length > LONGEST_AREA or position + 4 + length > len(room):
            break
        client = bytes(source[start : start + size])
        areas += (header, client, payload_fcs(client) if type_header & _PFI else b"")
        places.append((position, length))
        position += 4 + length
    # One call for all areas, which adjoin as far as the scrambler is concerned.
    line = scramble_x43(b"".join(areas), history)
    begin = 0
    for place, length in places:
        room[place : place + 4 + length] = _core_header(length) + line[begin : begin + length]
        begin += length
    return len(places), position, _history_after(line, history)


def _check_clients(source: memoryview, starts: Words, sizes: Words, first: int) -> None:
    if starts.size != sizes.size or not 0 <= first <= starts.size:
        raise ValueError("starts and sizes do not belong together")
    begin, extent = starts[first:], sizes[first:]
    if ((begin < 0) | (extent < 0) | (extent > LONGEST_AREA) | (begin > len(source) - extent)).any():
        raise ValueError("a client frame lies outside its buffer")


def follow_clients(
    stream: Buffer,
    position: int,
    end: int,
    history: int,
    areas: Room,
    starts: Words,
    sizes: Words,
    types: Words,
    verdicts: Words,
) -> tuple[int, int, int, int, int]:
    """Follow core headers in SYNC through `stream[position:end]`, one wrong bit in each corrected (clause 6.3.1).

    Payload areas are descrambled into `areas`, one behind the other. Of each are recorded: place and size of its
    payload information field, its type field, and its verdict (`INTACT`, `WRONG_TYPE`, `WRONG_FCS`,
    `WRONG_EXTENSION`); where a header is wrong, place and size of the whole area. Stops before what is cut off by
    `end` or has no room. Returns (records, position, history, headers corrected, whether a header beyond correction
    stands at the position).
    """
    line, room = _view(stream), _view(areas)
    if not 0 <= position <= end <= len(line) or not starts.size == sizes.size == types.size == verdicts.size:
        raise ValueError("the stream's part or the records do not belong together")
    count = used = corrected = 0
    while position + 4 <= end:
        header = int.from_bytes(line[position : position + 4], "big") ^ CORE_HEADER_MASK
        wrong_bit = _CORRECTABLE.get(_crc16(header.to_bytes(4, "big")), 0)
        header ^= wrong_bit
        if _crc16(header.to_bytes(4, "big")):
            return count, position, history, corrected, 1
        length = header >> 16 if header >> 16 >= 4 else 0
        if position + 4 + length > end or (length and (count == starts.size or used + length > len(room))):
            break
        if length:
            scrambled = bytes(line[position + 4 : position + 4 + length])
            area = descramble_x43(scrambled, history)
            history = _history_after(scrambled, history)
            room[used : used + length] = area
            offset, sizes[count], types[count], verdicts[count] = _judge(area)
            starts[count] = used + offset
            used += length
            count += 1
        corrected += wrong_bit != 0
        position += 4 + length
    return count, position, history, corrected, 0


_CORRECTABLE: Final = {_crc16((1 << bit).to_bytes(4, "big")): 1 << bit for bit in range(32)} | {0: 0}
"""Syndrome of every single wrong bit of a core header to that bit."""


def _judge(area: bytes) -> tuple[int, int, int, int]:
    """Return offset and size of the payload information field, type field and verdict."""
    field = int.from_bytes(area[:2], "big")
    checked = 4 if field & _PFI >> 16 else 0
    if _crc16(area[:4]) or len(area) < 4 + checked:
        return 0, len(area), field, WRONG_TYPE
    extension = field >> 8 & 15
    headers = 8 if extension else 4
    if extension and (extension != _LINEAR or len(area) < headers + checked or _crc16(area[4:8])):
        return 0, len(area), field, WRONG_EXTENSION
    size = len(area) - headers - checked
    intact = not checked or payload_fcs(area[headers : headers + size]) == area[headers + size :]
    return headers, size, field, INTACT if intact else WRONG_FCS
