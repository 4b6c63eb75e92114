"""Bytes of one HTTP/1.1 connection into requests (RFC 9112): whole ones, within limits, and nothing after a broken one.

What a client may make us keep is bounded (`Limits`). Who reads has a connection that takes requests, and that answers a
refusal behind the answers before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

import httptools
import msgspec

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


class Taker(Protocol):
    """Who takes what was read."""

    def take(self, request: Request) -> None:
        """Take a whole request."""

    def refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer what is no request; nothing more is read."""

    def continue_(self) -> None:
        """Let a client go on that waits for our word to send its body."""


class RequestReader:
    """The requests of one connection. `begun` is when the one that is arriving began, by the clock `now`."""

    def __init__(self, limits: Limits, now: Callable[[], float], taker: Taker) -> None:
        self._limits, self._now, self._taker = limits, now, taker
        self._parser = httptools.HttpRequestParser(self)
        self.over = False
        """Whether nothing more is read as a request."""
        self.receiving = False
        self.begun = 0.0
        self._received = 0

    def feed(self, data: bytes) -> None:
        """Read requests; what follows one that broke the rules is thrown away."""
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.over = True  # its request is answered in HTTP/1.1, which RFC 9110 allows; what follows may be no HTTP
        except httptools.HttpParserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"this is no HTTP/1.1: {str(error)[:80]}")
        if self.receiving:
            self._check_received()

    def _check_received(self) -> None:
        # A head that is not over yet is inside the parser, which tells of a header only when it is whole.
        if self._in_head and self._received > self._limits.head:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head exceeds {self._limits.head} bytes")
        elif self._received > self._limits.head + _FRAMING * self._limits.body:
            self._refuse_body()

    # --- the parser tells -------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self.receiving, self._in_head = True, True
        self.begun = self._now()
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
        elif self._expects and not self.over:
            self._taker.continue_()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._size += len(body)
        if self._size > self._limits.body:
            self._refuse_body()
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Hand the request on."""
        if self.over:
            return
        self.receiving = False
        keep_alive = self._parser.should_keep_alive()
        self.over = not keep_alive
        method, body = self._parser.get_method(), b"".join(self._parts)
        self._taker.take(Request(method, self._target, self._content_type, body, keep_alive))

    def _count_head(self, size: int) -> None:
        self._head += size
        if self._head > self._limits.head:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head exceeds {self._limits.head} bytes")

    def _refuse_body(self) -> None:
        self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body exceeds {self._limits.body} bytes")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        if not self.over:
            self.over = True
            self._taker.refuse(status, message)
