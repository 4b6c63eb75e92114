"""One HTTP/1.1 connection: bytes in, requests to an application, its answers out in the order of the requests.

Made for an interface that answers many small requests: no scope, no events, one task for what a connection has asked,
and a head that is mostly prepared. What a client may make us keep is bounded (`Limits`), and every state it can leave a
connection in has an end: `overdue` is asked once a second by `http_server`, so no request needs a timer of its own.

What always holds: a request is handed on only when it is whole; after a request that broke the rules nothing more is
read as one; and answers come in the order of the requests (RFC 9112, clause 9.3.2).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Final, Protocol, cast

import httptools
import msgspec

LINGER_S: Final = 1.0
"""How long a client that is still sending may go on before the connection is cut: it would lose our answer."""
_FRAMING: Final = 4
"""Bytes on the wire for each byte of the largest body: chunks may not be mostly framing."""

_HEADERS: Final = frozenset((b"content-type", b"content-length", b"host", b"expect"))
"""Those that are looked at."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take up. Sizes in bytes, times in seconds."""

    head: int = 16 * 1024
    body: int = 64 * 1024
    pipelined: int = 16
    """Requests of one connection that wait for their turn, before it is read from no more."""
    connections: int = 1024
    """Admitted ones: their handshake is over, and there was room. For one more, the longest idle of all is closed."""
    connections_each: int = 128
    """Of these, of one client as its certificate names it. For one more, its own longest idle is closed."""
    handshakes: int = 512
    """Connections that are not admitted yet. For one more, the oldest is dropped."""
    handshakes_a_source: int = 128
    """Of these, from one IPv4 address or one /64 of IPv6. For one more, the source's own oldest is dropped."""
    request_s: float = 10.0
    """From a request's first byte to its last."""
    idle_s: float = 75.0
    stalled_s: float = 20.0
    """How long a client may leave an answer unread."""
    handshake_s: float = 10.0
    stop_s: float = 5.0


class Request(msgspec.Struct, frozen=True, gc=False):
    """A whole request. `content_type` is empty if there was none."""

    method: bytes
    target: bytes
    content_type: bytes
    body: bytes
    keep_alive: bool


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An answer, in JSON if it says nothing else; `fields` are further header lines, each with its line break."""

    status: int
    body: bytes
    fields: bytes = b""
    last: bool = False
    """Whether the connection ends with it."""
    content_type: str = "application/json"


class Session(Protocol):
    """What answers the requests of one connection."""

    async def answer(self, request: Request) -> Answer:
        """Answer a request. Errors are answers, too: this raises nothing."""


class Application(Protocol):
    """What is served."""

    def greet(self, transport: asyncio.BaseTransport) -> Session:
        """Begin a connection, whose TLS handshake is over. Raises nothing."""

    def problem(self, status: int, message: str) -> Answer:
        """Put an error of HTTP itself into the form of this interface."""


class Connection(asyncio.Protocol):
    """One client. `closed` is called once it is gone; `date` returns the header line of this second."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        date: Callable[[], bytes],
        opened: Callable[[Connection], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._application, self._limits, self._date = application, limits, date
        self._opened, self._closed = opened, closed
        self._now = asyncio.get_running_loop().time
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request | Answer] = deque()
        self._task: asyncio.Task[None] | None = None
        self._last = False
        self._receiving, self._reading = False, True
        self._since = 0.0
        self._received = 0
        self._writable: asyncio.Future[None] | None = None
        self._stalled_since = 0.0

    # --- what arrives -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, once the handshake is over."""
        self._transport = cast("asyncio.Transport", transport)
        self._since = self._now()
        self._session = self._application.greet(transport)
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        """Read requests; what follows one that broke the rules is thrown away."""
        if self._last:
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._last = True  # its request is answered in HTTP/1.1, which RFC 9110 allows; what follows may be no HTTP
        except httptools.HttpParserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"this is no HTTP/1.1: {str(error)[:80]}")
        if self._receiving:
            self._check_received()

    def _check_received(self) -> None:
        # A head that is not over yet is inside the parser, which tells of a header only when it is whole.
        if self._in_head and self._received > self._limits.head:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head exceeds {self._limits.head} bytes")
        elif self._received > self._limits.head + _FRAMING * self._limits.body:
            self._refuse_body()

    def eof_received(self) -> None:
        """The client has said goodbye; over TLS, asyncio then ends the connection."""
        self._last = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is over, whatever the reason
        """Nothing can be said any more. A request under way comes to its end, because the store is part of it."""
        self._last, self._receiving = True, False
        self._waiting.clear()
        self.resume_writing()
        self._closed(self)

    # --- the parser tells -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._receiving, self._in_head = True, True
        self._since = self._now()
        self._received = self._head = self._size = self._announced = self._hosts = 0
        self._target = self._content_type = b""
        self._expects = False
        self._parts: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or refuse a trailer."""
        self._count_head(len(name) + len(value) + 4)
        if not self._in_head:
            self._refuse(HTTPStatus.BAD_REQUEST, "trailers are not taken")
        known = name.lower()
        if known not in _HEADERS:
            return
        if known == b"content-type":
            self._content_type = value
        elif known == b"content-length":
            self._announced = int(value)
        elif known == b"host":
            self._hosts += 1
        else:
            self._expects = True

    def on_headers_complete(self) -> None:
        """Judge the head, before a body is taken."""
        self._in_head = False
        if self._parser.get_http_version() != "1.1":
            self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 is spoken here")
        elif self._hosts != 1:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{self._hosts} Host headers: expected one")
        elif self._announced > self._limits.body:
            self._refuse_body()
        elif self._expects and not self._last and self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._size += len(body)
        if self._size > self._limits.body:
            self._refuse_body()
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Hand the request on."""
        if self._last:
            return
        self._receiving = False
        self._since = self._now()
        keep_alive = self._parser.should_keep_alive()
        self._last = not keep_alive
        method, body = self._parser.get_method(), b"".join(self._parts)
        self._take(Request(method, self._target, self._content_type, body, keep_alive))

    def _count_head(self, size: int) -> None:
        self._head += size
        if self._head > self._limits.head:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head exceeds {self._limits.head} bytes")

    def _refuse_body(self) -> None:
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body exceeds {self._limits.body} bytes")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what is no request for the application, behind the answers before it; take nothing more."""
        if not self._last:
            self._last = True
            self._take(self._application.problem(status, message))

    # --- answers ----------------------------------------------------------------------------------------------------

    def _take(self, item: Request | Answer) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer(item))
            return
        self._waiting.append(item)
        if self._reading and len(self._waiting) >= self._limits.pipelined:
            self._reading = False
            self._transport.pause_reading()

    async def _answer(self, item: Request | Answer) -> None:
        """Answer what was asked, one after the other, and end when nothing waits."""
        try:
            while True:
                if isinstance(item, Request):
                    self._send(await self._session.answer(item), item)
                else:
                    self._send(item, None)
                if self._writable is not None:
                    await self._writable
                if not self._waiting:
                    break
                item = self._next()
        except BaseException:
            self._transport.abort()  # the client must not take the answer to its next request for this one's
            raise
        self._task = None
        self._since = self._since if self._receiving else self._now()
        if self._last:
            self._finish()

    def _next(self) -> Request | Answer:
        item = self._waiting.popleft()
        if not self._reading and len(self._waiting) < self._limits.pipelined:
            self._reading = True
            self._transport.resume_reading()
        return item

    def _send(self, answer: Answer, request: Request | None) -> None:
        if answer.last:
            self._last = True
            self._waiting.clear()
        ends = self._last and not self._waiting
        head = b"%b%b%bContent-Length: %d\r\n%b\r\n" % (
            _status_lines(answer.status, answer.content_type),
            self._date(),
            answer.fields,
            len(answer.body),
            b"Connection: close\r\n" if ends else b"",
        )
        if not self._transport.is_closing():
            self._transport.write(head if request and request.method == b"HEAD" else head + answer.body)

    def _finish(self) -> None:
        if self._receiving:
            asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than we answer."""
        self._stalled_since = self._now()
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # --- ends -------------------------------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        """What the connection goes over; there once it is opened."""
        return self._transport

    @property
    def idle_since(self) -> float | None:
        """When the loop's clock saw its last request answered, or the connection begin; None if it is not idle."""
        busy = self._last or self._receiving or self._task is not None or self._writable is not None
        return None if busy else self._since

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What is being answered, if anything is."""
        return self._task

    def overdue(self) -> None:
        """End the connection if its client has left it in one state for too long."""
        now, limits = self._now(), self._limits
        if self._writable is not None:
            if now - self._stalled_since > limits.stalled_s:
                self._transport.abort()
        elif self._receiving:
            if now - self._since > limits.request_s:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {limits.request_s:g} s")
        elif self._task is None and now - self._since > limits.idle_s:
            self._transport.close()

    def stop(self) -> None:
        """Take no more requests; those that were taken are answered first."""
        self._last = True
        if self._task is None:
            self._transport.close()

    def hand_over(self, session: Session) -> None:
        """Let another session answer; to be called before the first request."""
        self._session = session

    def part(self) -> None:
        """End at once with a goodbye, whose answer is not waited for (RFC 8446, clause 6.1, wants no such wait)."""
        self._last = True
        self._transport.close()
        self._transport.abort()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()


@cache
def _status_lines(status: int, content_type: str) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        # RFC 9111: an answer with a key must not outlive its delivery in a cache.
        "Cache-Control: no-store",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()
