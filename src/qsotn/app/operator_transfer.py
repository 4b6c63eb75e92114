"""A file carried through two devices of a running province, each with its client port on UDP.

The hosts are those of the demo (`qsotn.app.client`); here they plug into sockets, one Ethernet frame a datagram. UDP
drops what its buffer does not hold and tells nobody, so the sending host keeps little under way. A device learns where
its host is from the host's frames, so the receiving host speaks first, and whenever nothing has come for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from qsotn.app.client import ReceivingHost, SendingHost
from qsotn.app.traffic import REKEYS_ON_THE_WAY, rekey_due_on_the_way
from qsotn.errors import LineError, UsageError
from qsotn.service.config import split_address

FIRST_WINDOW, LARGEST_WINDOW = 96 * 1024, 1 << 20
"""Bytes under way: at first less than the smallest buffer that a UDP port has by default; at most what a line terminal
lets wait."""
RECEIVE_BUFFER: Final = 4 << 20
PATIENCE_S: Final = 0.5
"""Without a new acknowledgement, before the sender goes back: several times what a change of keys holds up."""
SILENCE_S: Final = 0.2
"""Without a frame, before the receiving host says again what it has."""
STALLED_S: Final = 60.0
_TURN_S: Final = 0.02
_FRAMES_A_TURN: Final = 512
_LARGEST_FRAME: Final = 65_535


class UdpPort:
    """A host's end of the cable to a device's client port: `client.ClientPort` over UDP."""

    def __init__(self, address: str) -> None:
        """`address` is the device's, `host:port`. Raises `UsageError` if it cannot be one."""
        host, port = split_address(address)
        self._address = address
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # or what the system allows
        try:
            self._socket.connect((host, port))
        except OSError as error:
            self._socket.close()
            raise UsageError(f"the client port {address} cannot be reached: {error.strerror}") from error

    def offer(self, frame: bytes) -> bool:
        """Send one frame; False while there is no room, or nobody at the other end."""
        try:
            self._socket.send(frame)
        except (BlockingIOError, ConnectionRefusedError):
            return False
        return True

    def deliver(self) -> list[bytes]:
        """Return the frames that have come."""
        frames: list[bytes] = []
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            while len(frames) < _FRAMES_A_TURN:
                frames.append(self._socket.recv(_LARGEST_FRAME))
        return frames

    def fileno(self) -> int:
        """The socket, for who waits for it."""
        return self._socket.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@dataclass
class Passage:
    """A file on its way through two devices, and the key changes that are ordered on the way.

    `rekey` orders one and returns when the line is encrypted with new keys. `show` is told how many bytes have arrived
    and how many key changes are over.
    """

    sender: SendingHost
    receiver: ReceivingHost
    near: UdpPort
    far: UdpPort
    rekey: Callable[[], Awaitable[None]]
    show: Callable[[int, int], None]
    clock: Callable[[], float] = time.monotonic
    stalled_s: float = STALLED_S
    _asked: int = 0
    _completed: int = 0
    _changing: asyncio.Task[None] | None = None
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _heard_at: float = float("-inf")

    async def run(self) -> float:
        """Carry the whole file and return how many seconds it took. Raises `LineError` if nothing moves any more."""
        began = moved_at = self.clock()
        before = (0, 0)
        try:
            with self._watching():
                while not self._finished():
                    self._turn()
                    self._change_keys()
                    progress = (self.sender.acknowledged, self._completed)
                    if progress != before:
                        before, moved_at = progress, self.clock()
                    elif self.clock() - moved_at > self.stalled_s:
                        raise LineError(f"nothing has moved for {self.stalled_s:g} s: {self._how_far()}")
                    await self._wait()
        finally:
            if self._changing is not None:
                self._changing.cancel()
        return self.clock() - began

    def _turn(self) -> None:
        self._arrived.clear()
        self.sender.send(self.near)
        arrived, now = self.far.deliver(), self.clock()
        self.receiver.take(arrived, self.far)
        if arrived:
            self._heard_at = now
        elif now - self._heard_at > SILENCE_S:
            self.receiver.acknowledge(self.far)
            self._heard_at = now
        self.sender.take(self.near.deliver(), now)
        self.show(self.receiver.received, self._completed)

    def _change_keys(self) -> None:
        if self._changing is not None and self._changing.done():
            self._changing.result()
            self._changing, self._completed = None, self._completed + 1
        if self._changing is None and rekey_due_on_the_way(self.sender.acknowledged, self.sender.size, self._asked):
            self._asked += 1
            self._changing = asyncio.ensure_future(self.rekey())

    def _finished(self) -> bool:
        return self.sender.finished and self._completed >= REKEYS_ON_THE_WAY

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for port in (self.near, self.far):
            loop.add_reader(port.fileno(), self._arrived.set)
        try:
            yield
        finally:
            for port in (self.near, self.far):
                loop.remove_reader(port.fileno())

    async def _wait(self) -> None:
        """Let others run until a frame comes, or for a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TURN_S):
                await self._arrived.wait()

    def _how_far(self) -> str:
        return f"{self.sender.acknowledged} of {self.sender.size} bytes and {self._completed} key changes are through"
