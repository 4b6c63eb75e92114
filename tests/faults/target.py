"""What stands on both sides of the fault proxy in its tests: a server that commits before it answers, and a client."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from tests.faults.connection import RESET_ON_CLOSE
from tests.faults.proxy import HOST, FaultProxy

ANSWER = b"answer to "
SILENCE_S = 0.08
"""Nothing for so long counts as nothing at all."""


@dataclass
class Target:
    """A server that takes one request per line: it commits the request, and then answers with the same line."""

    tls: ssl.SSLContext | None = None
    address: tuple[str, int] = (HOST, 0)
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
                writer.write(ANSWER + line)
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
    """Wait until something holds; soon, or the test fails."""
    async with asyncio.timeout(2):
        while not holds():
            await asyncio.sleep(0.002)
