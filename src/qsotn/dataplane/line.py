"""An emulated fibre pair inside one process: bytes go in at one end and come out at the other, or do not.

What always holds: a tap sees every byte as it was launched, before the fibre does anything to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qsotn.domain import Direction, Entropy
from qsotn.errors import UsageError

Tap = Callable[[Direction, bytes], None]
"""Called with every chunk that is launched."""

Impairment = Callable[[bytes], Iterable[bytes]]
"""Turns one launched chunk into the chunks that arrive, in order: none, one, or several."""


class Fibre:
    """An emulator of two fibres, one for each direction. No delay, no clock: a chunk arrives when it is asked for."""

    def __init__(self) -> None:
        self._chunks: dict[Direction, deque[bytes]] = {direction: deque() for direction in Direction}
        self._impairments: dict[Direction, Impairment] = {}
        self._taps: list[Tap] = []

    def tap(self, tap: Tap) -> None:
        """Let `tap` see everything launched from now on, in both directions."""
        self._taps.append(tap)

    def impair(self, direction: Direction, impairment: Impairment | None) -> None:
        """Put all further chunks of a direction through `impairment`, or through nothing."""
        if impairment is None:
            self._impairments.pop(direction, None)
        else:
            self._impairments[direction] = impairment

    def cut(self, direction: Direction) -> None:
        """Cut one fibre: its receiver sees no light, which is all zeros. `impair(direction, None)` splices it."""
        self.impair(direction, lambda chunk: (bytes(len(chunk)),))

    def send(self, direction: Direction, data: bytes) -> None:
        """Launch a chunk."""
        for tap in self._taps:
            tap(direction, data)
        impairment = self._impairments.get(direction)
        self._chunks[direction].extend((data,) if impairment is None else impairment(data))

    def receive(self, direction: Direction) -> bytes:
        """Return what has arrived since the last call."""
        chunks = self._chunks[direction]
        if len(chunks) == 1:
            return chunks.popleft()
        arrived = b"".join(chunks)
        chunks.clear()
        return arrived


def bit_errors(per_chunk: int, entropy: Entropy) -> Impairment:
    """Return an impairment that flips that many bits of every chunk, at places drawn from `entropy`."""

    def flip_some(chunk: bytes) -> Sequence[bytes]:
        drawn = np.frombuffer(entropy(8 * per_chunk), np.uint64)
        return (flip(chunk, *(int(place) % (8 * len(chunk)) for place in drawn)),)

    return flip_some


def flip(chunk: bytes, *bits: int) -> bytes:
    """Return the chunk with these bits inverted; bit 0 is the first on the fibre. `UsageError` for one outside it."""
    damaged = bytearray(chunk)
    for bit in bits:
        if not 0 <= bit < 8 * len(chunk):
            raise UsageError(f"bit {bit} is not within {len(chunk)} bytes")
        damaged[bit // 8] ^= 0x80 >> bit % 8
    return bytes(damaged)
