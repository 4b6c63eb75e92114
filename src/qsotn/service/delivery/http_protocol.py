"""One HTTP/1.1 connection: requests to an application, its answers out in the order of the requests.

Made for an interface that answers many small requests: no scope, no events, one task for what a connection has asked,
and a head that is mostly prepared. Bytes become requests in `http_requests`. Every state a client can leave a
connection in has an end: `overdue` is asked once a second by `http_server`, so no request needs a timer of its own.

What always holds: a request is handed on only when it is whole; after a request that broke the rules nothing more is
read as one; and answers come in the order of the requests (RFC 9112, clause 9.3.2).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Final, Protocol, cast

import msgspec

from qsotn.service.delivery.http_requests import Limits as Limits
from qsotn.service.delivery.http_requests import Request as Request
from qsotn.service.delivery.http_requests import RequestReader

LINGER_S: Final = 1.0
"""How long a client that is still sending may go on before the connection is cut: it would lose our answer."""


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
        self._reader = RequestReader(limits, self._now, self)
        self._waiting: deque[Request | Answer] = deque()
        self._task: asyncio.Task[None] | None = None
        self._reading = True
        self._since = 0.0
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
        """Read requests, unless nothing more is taken."""
        if not self._reader.over:
            self._reader.feed(data)

    def eof_received(self) -> None:
        """The client has said goodbye; over TLS, asyncio then ends the connection."""
        self._reader.over = True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it is over, whatever the reason
        """Nothing can be said any more. A request under way comes to its end, because the store is part of it."""
        self._reader.over, self._reader.receiving = True, False
        self._waiting.clear()
        self.resume_writing()
        self._closed(self)

    # --- the reader tells -------------------------------------------------------------------------------------------

    def refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what is no request for the application, behind the answers before it."""
        self.take(self._application.problem(status, message))

    def continue_(self) -> None:
        """Let a client send its body, unless it has an answer to wait for."""
        if self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # --- answers ----------------------------------------------------------------------------------------------------

    def take(self, item: Request | Answer) -> None:
        """Take a whole request, or an answer to what was none, to be answered in its turn."""
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
        self._since = self._now()
        if self._reader.over:
            self._finish()

    def _next(self) -> Request | Answer:
        item = self._waiting.popleft()
        if not self._reading and len(self._waiting) < self._limits.pipelined:
            self._reading = True
            self._transport.resume_reading()
        return item

    def _send(self, answer: Answer, request: Request | None) -> None:
        if answer.last:
            self._reader.over = True
            self._waiting.clear()
        ends = self._reader.over and not self._waiting
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
        if self._reader.receiving:
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
        busy = self._reader.over or self._reader.receiving or self._task is not None or self._writable is not None
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
        elif self._reader.receiving:
            if now - self._reader.begun > limits.request_s and not self._reader.over:
                self._reader.over = True
                self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request did not arrive within {limits.request_s:g} s")
        elif self._task is None and now - self._since > limits.idle_s:
            self._transport.close()

    def stop(self) -> None:
        """Take no more requests; those that were taken are answered first."""
        self._reader.over = True
        if self._task is None:
            self._transport.close()

    def hand_over(self, session: Session) -> None:
        """Let another session answer; to be called before the first request."""
        self._session = session

    def part(self) -> None:
        """End at once with a goodbye, whose answer is not waited for (RFC 8446, clause 6.1, wants no such wait)."""
        self._reader.over = True
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
