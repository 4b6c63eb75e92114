"""Calls the compiled kernel with random, damaged and impossible arguments: run by `test_kernel_fuzz` under sanitizers.

    python -m tests.dataplane.hostile_kernel_calls LIBRARY SEED ROUNDS

Ends with an error if a result differs from the twin's, and, by the sanitizers, if a byte outside a buffer is touched.
Every buffer is allocated for the call it is used in, so that its end is the end of an allocation.
"""

from __future__ import annotations

import binascii
import importlib.util
import random
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np

from qsotn.dataplane import kernel_numpy as twin
from qsotn.dataplane.kernel_interface import Words

FRAME = 16320
ODD = [-(2**63), -(2**31), -1, 0, 1, 4, 65535, 65536, 2**31, 2**62, 2**63 - 1]


def loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_kernel", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Hostile:
    """One source of chance and what is made from it."""

    def __init__(self, kernel: ModuleType, seed: int) -> None:
        self.kernel = kernel
        self.chance = random.Random(seed)

    def size(self) -> int:
        return self.chance.choice((0, 1, 3, 4, 5, 8, 63, 64, 65, 127, 128, 129, 200, 1522, self.chance.randrange(5000)))

    def number(self) -> int:
        return self.chance.choice((*ODD, self.chance.randrange(6000)))

    def data(self, size: int) -> bytearray:
        return bytearray(self.chance.randbytes(size))

    def words(self, count: int) -> Words:
        return np.array([self.number() for _ in range(count)], np.int64)

    def both(self, call: Callable[[object, list[object]], object], buffers: list[object]) -> None:
        """Call kernel and twin with equal buffers, and compare what they return, raise and write."""
        copies = [buffer.copy() if isinstance(buffer, bytearray | np.ndarray) else buffer for buffer in buffers]
        outcomes = []
        for used, mine in ((self.kernel, buffers), (twin, copies)):
            try:
                outcomes.append(call(used, mine))
            except (ValueError, OverflowError):
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1], (call, outcomes)
        assert all(bytes(a) == bytes(b) for a, b in zip(buffers, copies, strict=True)), call  # type: ignore[call-overload]  # all are buffers

    def simple(self) -> None:
        data, history = bytes(self.data(self.size())), self.chance.getrandbits(43)
        assert self.kernel.payload_fcs(data) == twin.payload_fcs(data)
        assert self.kernel.scramble_x43(data, history) == twin.scramble_x43(data, history)
        assert self.kernel.descramble_x43(data, history) == twin.descramble_x43(data, history)

    def map(self) -> None:
        data, count = self.data(self.size()), self.chance.randrange(6)
        starts, sizes = self.words(count), self.words(count)
        if self.chance.random() < 0.8 and data:
            starts %= len(data)
            sizes %= np.maximum(len(data) - starts, 1)
        if self.chance.random() < 0.1:
            sizes = self.words(count + 1)
        room = self.data(self.size())
        first, position = self.chance.choice((0, 0, 1, -1, 7)), self.chance.choice((0, 0, 3, len(room), -1))
        header, enough = self.chance.getrandbits(32), self.number()

        def call(used: object, buffers: list[object]) -> object:
            return used.map_clients(*buffers[:3], first, header, buffers[3], position, enough, 77)  # type: ignore[attr-defined]  # a kernel

        self.both(call, [data, starts, sizes, room])

    def stream(self) -> bytearray:
        """Return GFP frames, some of them damaged, or mere noise."""
        if self.chance.random() < 0.2:
            return self.data(self.size())
        clients = [self.data(self.chance.randrange(300)) for _ in range(self.chance.randrange(8))]
        made = bytearray()
        for client in clients:
            room = bytearray(len(client) + 12)
            whole = np.array([0], np.int64), np.array([len(client)], np.int64)
            field = self.chance.choice((0x1001, 0x0001, 0x1101, 0x0101, 0x1201, self.chance.getrandbits(16)))
            header = field << 16 | binascii.crc_hqx(field.to_bytes(2, "big"), 0) ^ (self.chance.random() < 0.1)
            if self.chance.random() < 0.5:
                client[:4] = b"\x07\0" + binascii.crc_hqx(b"\x07\0", 0).to_bytes(2, "big")
            _, end, _ = twin.map_clients(client, *whole, 0, header, room, 0, len(room), 5)
            made += room[:end] + b"\xb6\xab\x31\xe0" * self.chance.randrange(3)
        for _ in range(self.chance.randrange(4)):
            if made:
                made[self.chance.randrange(len(made))] ^= 1 << self.chance.randrange(8)
        return made

    def follow(self) -> None:
        stream, room, count = self.stream(), self.data(self.size()), self.chance.randrange(9)
        position = self.chance.choice((0, 0, 0, 4, -1, len(stream)))
        end = self.chance.choice((len(stream), len(stream), self.number()))

        def call(used: object, buffers: list[object]) -> object:
            return used.follow_clients(buffers[0], position, end, 5, *buffers[1:])  # type: ignore[attr-defined]  # a kernel

        other = count + (self.chance.random() < 0.1)
        records = [np.zeros(many, np.int64) for many in (count, count, count, other)]
        self.both(call, [stream, room, *records])

    def frames(self) -> None:
        count = self.chance.randrange(3)
        gap = self.chance.choice((0, 0, 0, 16, -1, 2**40))
        short = self.chance.choice((0, 0, 0, 1, 8))
        fec = self.chance.random() < 0.3
        heads, frames = self.data(count * 64), self.data(max(count * FRAME - short, 0))
        payload, parity = self.data(count * 15232), self.data(self.chance.choice((2, 2, 2, 1)))
        places = bytes(self.chance.choice((8, 8, 42, 42, 61, 63, 64)) for _ in range(2))

        def build(used: object, buffers: list[object]) -> object:
            return used.build_frames(buffers[0], buffers[1], gap, buffers[2], places, buffers[3], fec)  # type: ignore[attr-defined]  # a kernel

        def take(used: object, buffers: list[object]) -> object:
            return used.take_frames(buffers[0], buffers[1], buffers[2], gap, buffers[3], fec)  # type: ignore[attr-defined]  # a kernel

        self.both(build, [heads, payload, parity, frames])
        self.both(take, [frames, heads, payload, self.data(count)])

    def correction(self) -> None:
        frame = self.data(FRAME)
        twin.encode_fec(frame)
        for _ in range(self.chance.choice((0, 3, 30, 90))):
            frame[16 * self.chance.randrange(1020) + self.chance.randrange(3)] ^= self.chance.randrange(1, 256)
        self.both(lambda used, buffers: used.decode_fec(buffers[0]), [frame])  # type: ignore[attr-defined]  # a kernel


def main(library: str, seed: int, rounds: int) -> None:
    kernel = loaded(library)
    for level in range(3):
        kernel.limit_level(level)
        hostile = Hostile(kernel, seed + level)
        for turn in range(rounds):
            hostile.simple()
            hostile.map()
            hostile.follow()
            if turn % 10 == 0:
                hostile.frames()
            if turn % 100 == 0:
                hostile.correction()
    kernel.limit_level(2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
