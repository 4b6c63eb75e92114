"""The customer's two hosts: one sends a file as Ethernet frames, the other writes it and acknowledges.

The line is Ethernet, so nothing here trusts it to be lossless: every frame carries its offset, the receiver
acknowledges the bytes it has in order, and the sender goes back to the last acknowledged byte when nothing moves
(go-back-N). The port may be that of a line terminal in this process or a UDP socket of a device elsewhere.

Frame: destination and source address (locally administered), EtherType 88-B5 (IEEE 802 local experimental), then kind
(1 byte), offset (8) and, for data, up to 1491 bytes of the file: 1514 bytes on the client port at most.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol

from qsotn.errors import UsageError

MTU = 1500
_HOST_A, _HOST_B = bytes.fromhex("020000000a01"), bytes.fromhex("020000000b01")
_ETHERTYPE = bytes.fromhex("88b5")
_DATA, _ACKNOWLEDGEMENT = b"\x01", b"\x02"
_TO_B = _HOST_B + _HOST_A + _ETHERTYPE + _DATA
_TO_A = _HOST_A + _HOST_B + _ETHERTYPE + _ACKNOWLEDGEMENT
_HEADER = len(_TO_B) + 8
CHUNK = MTU + 14 - _HEADER
PATIENCE = 64
"""Turns of a line in this process without a new acknowledgement, before the sender goes back."""
SHORTEST_FRAME = 60


class ClientPort(Protocol):
    """The port of a device that a host is plugged into: Ethernet frames in and out, nothing that waits."""

    def offer(self, frame: bytes) -> bool:
        """Hand in one frame; False, and nothing taken, while there is no room."""

    def deliver(self) -> list[bytes]:
        """Return, once, the frames that came out since the last call."""


class Window:
    """How many bytes may be under way through a port that drops what it has no room for and tells nobody.

    As TCP does it (RFC 5681): twice as many with each round trip up to what was lost last time, from there one frame
    more; from the beginning again after a loss.
    """

    def __init__(self, first: int, largest: int) -> None:
        self.bytes = self._first = first
        self._largest = self._threshold = largest

    def arrived(self, count: int) -> None:
        """So many more bytes were acknowledged."""
        slow = self.bytes < self._threshold
        self.bytes = min(self.bytes + (count if slow else count * CHUNK // self.bytes), self._largest)

    def lost(self) -> None:
        """Something was not acknowledged in time."""
        self._threshold = max(self.bytes // 2, self._first)
        self.bytes = self._first


class SendingHost:
    """Reads a file and offers it to end A's client port.

    It goes back when nothing was acknowledged for longer than `patience`, in whatever unit `take` is told the time.
    Without a window, only the port bounds what is under way.
    """

    def __init__(
        self, path: Path, size: int, confirmed: int, *, patience: float = PATIENCE, window: Window | None = None
    ) -> None:
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        self.size = size
        self.acknowledged = confirmed
        self._next = confirmed
        self._waiting = b""
        self._patience = patience
        self._window = window or Window(size, size)
        self._moved_at: float | None = None
        self._file.seek(confirmed)

    def send(self, port: ClientPort) -> None:
        """Offer frames until the port or the window is full, or the file is out."""
        while True:
            frame = self._waiting or self._next_frame()
            if not frame or not port.offer(frame):
                self._waiting = frame
                return
            self._waiting = b""

    def _next_frame(self) -> bytes:
        room = self._window.bytes - (self._next - self.acknowledged)
        chunk = self._file.read(min(CHUNK, self.size - self._next)) if room > 0 else b""
        if not chunk:
            return b""
        frame = _TO_B + self._next.to_bytes(8) + chunk
        self._next += len(chunk)
        return frame

    def take(self, frames: list[bytes], now: float) -> None:
        """Take acknowledgements; go back when they stop coming."""
        offsets = [int.from_bytes(f[len(_TO_A) : _HEADER]) for f in frames if f.startswith(_TO_A)]
        newest = max(offsets, default=0)
        if newest > self.acknowledged:
            self._window.arrived(newest - self.acknowledged)
            self.acknowledged, self._moved_at = newest, now
        elif self._moved_at is None or self._next == self.acknowledged:
            self._moved_at = now
        elif now - self._moved_at > self._patience:
            self._moved_at = now
            self._window.lost()
            self._go_on_behind_acknowledged()
        if self._next < self.acknowledged:
            self._go_on_behind_acknowledged()

    def _go_on_behind_acknowledged(self) -> None:
        self._waiting, self._next = b"", self.acknowledged
        self._file.seek(self._next)

    @property
    def finished(self) -> bool:
        """The far host has everything."""
        return self.acknowledged >= self.size

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ReceivingHost:
    """Writes what comes out of end B's client port, in order, and acknowledges it."""

    def __init__(self, path: Path, confirmed: int) -> None:
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(confirmed)
        self._file.seek(confirmed)
        self.received = confirmed

    def take(self, frames: list[bytes], port: ClientPort) -> None:
        """Write the frames that continue the file; acknowledge once for all of them."""
        for frame in frames:
            if frame.startswith(_TO_B) and int.from_bytes(frame[len(_TO_B) : _HEADER]) == self.received:
                self.received += self._file.write(frame[_HEADER:])
        if frames:
            self.acknowledge(port)

    def acknowledge(self, port: ClientPort) -> None:
        """Say how much of the file is here. A device learns from any frame where its host is."""
        port.offer((_TO_A + self.received.to_bytes(8)).ljust(SHORTEST_FRAME, b"\0"))

    def make_durable(self) -> int:
        """Sync the file; return how many bytes of it now survive a crash."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self.received

    def close(self) -> None:
        """Sync and close the file."""
        self.make_durable()
        self._file.close()
