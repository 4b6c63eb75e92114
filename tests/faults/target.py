"""What stands on both sides of the fault proxy in its tests: a server that commits before it answers, and a client."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from tests.faults.connection import RESET_ON_CLOSE
from tests.faults.loop_thread import PATIENCE_S
from tests.faults.proxy import HOST, FaultProxy
from tests.faults.weather import Fault

ANSWER = b"answer to "
SILENCE_S = 0.08
"""Nothing for so long counts as nothing at all."""


@dataclass
class Target:
    """A server that takes one request per line: it commits the request, and then answers with the same line."""

    tls: ssl.SSLContext | None = None
    address: tuple[str, int] = (HOST, 0)
    pause: float = 0.0
    """Seconds in the middle of an answer."""
    connections: int = 0
    heard: bytes = b""
    committed: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """How each connection ended, as this side saw it."""
    _server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, *self.address, ssl=self.tls)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._listen(reader, writer)
            self.ended.append("closed")
        except ConnectionError:
            self.ended.append("reset")
        finally:
            writer.transport.abort()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = b""
        while data := await reader.read(65536):
            self.heard += data
            line += data
            if line.endswith(b"\n"):
                self.committed.append(line)
                writer.write(ANSWER)
                await asyncio.sleep(self.pause)
                writer.write(line)
                await writer.drain()
                self.answered.append(line)
                line = b""


@dataclass(frozen=True)
class Client:
    """A client that sends a line, and waits for its answer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, request: bytes) -> None:
        self.writer.write(request)
        await self.writer.drain()

    async def ask(self, request: bytes) -> bytes:
        """Return the answer; less of it if the connection is closed before its end."""
        await self.send(request)
        try:
            return await self.reader.readexactly(len(ANSWER + request))
        except asyncio.IncompleteReadError as short:
            return short.partial

    def reset(self) -> None:
        """Break the connection off as a process that is killed does with unread bytes."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.writer.transport.abort()

    async def hears_within(self, seconds: float = SILENCE_S) -> bytes:
        """Return what comes within a time. The connection must stay open."""
        data = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while piece := await self.reader.read(65536):
                    data += piece
                raise AssertionError("the connection was closed")
        return data


@asynccontextmanager
async def connected(proxy: FaultProxy, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    """A client's connection through the proxy."""
    reader, writer = await asyncio.open_connection(*proxy.address, ssl=tls)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; in a while, or the test fails."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.002)


Story = Callable[[Target, FaultProxy], Awaitable[None]]


def tell(story: Story, weather: Fault | None = None) -> None:
    """Tell a story with a target and a proxy before it. Of the proxy nothing may be left at the end."""

    async def whole() -> None:
        async with Target() as target:
            async with FaultProxy(target.address, weather) as proxy:
                await story(target, proxy)
            await until(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(whole())
    gc.collect()  # a socket that was left open would be told of here, and every warning is an error
