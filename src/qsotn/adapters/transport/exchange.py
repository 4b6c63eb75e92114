"""One HTTP/1.1 exchange after another over connections that are kept (RFC 9112), and nothing else.

A client for everybody (redirects, cookies, proxies, encodings, streaming) costs a party of this project more than the
request it makes: a device's part of an initialisation needs seven exchanges, and they were the largest part of its
processor time. What a party needs is a whole body out, a whole body back, both bounded, under one timeout; the bytes
are read by httptools, the parser that serves them too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from qsotn.adapters.tls.context import PostQuantumContext
from qsotn.adapters.tls.transport import connect
from qsotn.errors import LineError

CONNECT_S: Final = 5.0
KEPT_ALIVE_S: Final = 60.0
MOST_CONNECTIONS: Final = 8
LARGEST_ANSWER: Final = 16 * 1024 * 1024
LARGEST_HEAD: Final = 64 * 1024
CLOSING_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; the names of its headers are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection(asyncio.Protocol):
    """One connection, with at most one exchange under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Response] | None = None
        self.usable = False
        self.idle_since = 0.0
        self.lost = asyncio.Event()

    # --- asyncio.Protocol -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def connection_lost(self, error: Exception | None) -> None:
        """The other party, the network or this end ended it."""
        self.lost.set()
        self._fail(error or ConnectionResetError("the connection was closed before the answer was whole"))

    def data_received(self, data: bytes) -> None:
        """Read a part of an answer; anything that is none ends the connection."""
        if self._answer is None:
            self._fail(ConnectionResetError("something arrived that nobody asked for"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error.__context__ if isinstance(error.__context__, LineError) else error)

    # --- httptools --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer."""
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Raises `LineError` beyond the limit."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > LARGEST_HEAD:
            raise LineError(f"the head of an answer has more than {LARGEST_HEAD} bytes")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body. Raises `LineError` beyond the limit."""
        if len(self._body) + len(body) > LARGEST_ANSWER:
            raise LineError(f"an answer has more than {LARGEST_ANSWER} bytes")
        self._body += body

    def on_message_complete(self) -> None:
        """Hand the answer over; the next exchange may begin. What is no final answer (1xx) is passed over."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        answer, self._answer = self._answer, None
        if answer is None:
            raise LineError("an answer arrived that nobody asked for")
        if not self._parser.should_keep_alive():
            self.close()
        if not answer.done():
            answer.set_result(Response(status, self._headers, bytes(self._body)))

    # --- exchanges --------------------------------------------------------------------------------------------------

    def exchange(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request; the future brings its answer, or why there is none."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def _fail(self, error: BaseException) -> None:
        self.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def close(self) -> None:
        """End the connection."""
        if self.usable:
            self.usable = False
            self._transport.close()


class Exchanges:
    """The connections to one address. Use them within one event loop, and close them."""

    def __init__(self, url: str, context: Callable[[], PostQuantumContext], most: int = MOST_CONNECTIONS) -> None:
        """`url` is `https://host:port`; `context` is called for every new connection, of which there are `most`."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._authority = parts.netloc.encode("ascii")
        self._context = context
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._room = asyncio.Semaphore(most)

    async def request(self, method: str, path: str, body: bytes | None, kind: str, patience_s: float) -> Response:
        """Ask, and return the whole answer.

        Raises `LineError` for an answer beyond the limits, `TimeoutError`, `OSError`, `PeerError` (the handshake's),
        and `httptools.HttpParserError` for what is no HTTP. After any of these the request may have been taken or not.
        """
        request = self._encoded(method, path, body, kind)
        async with self._room, asyncio.timeout(patience_s):
            connection = self._kept() or await self._opened()
            try:
                answer = await connection.exchange(request)
            except BaseException:  # a cancelled exchange leaves an answer on the way that is nobody's
                connection.close()
                raise
            finally:
                self._give_back(connection)
            return answer

    def _encoded(self, method: str, path: str, body: bytes | None, kind: str) -> bytes:
        head = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode("ascii"), path.encode("ascii"), self._authority)
        if body is None:
            return head + b"\r\n"
        return head + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind.encode("ascii"), len(body)) + body

    def _kept(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < KEPT_ALIVE_S:
                return connection
            self._forget(connection)
        return None

    async def _opened(self) -> Connection:
        async with asyncio.timeout(CONNECT_S):
            connection = await connect(self._context(), self._host, self._port, Connection, CONNECT_S)
        self._all.add(connection)
        return connection

    def _give_back(self, connection: Connection) -> None:
        if connection.usable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.close()
        self._all.discard(connection)

    async def close(self) -> None:
        """End every connection, and give each a moment to say so to the other end."""
        ending = tuple(self._all)
        self._idle.clear()
        for connection in ending:
            self._forget(connection)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_S):
                for connection in ending:
                    await connection.lost.wait()
