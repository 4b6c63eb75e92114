"""Connections on one listening socket: shared out among clients, watched once a second, brought to an end together.

`asyncio` has a server, and it does not count connections whose handshake is under way. This one does: a handshake is
the dearest thing that a stranger can ask for. So there are two budgets. Connections that are not admitted yet give way
to newer ones, first those of the same source: who only connects keeps nobody out. Of those admitted, each client has a
share, and idle ones give way: who holds all it can get keeps nobody out, either.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import msgspec
import structlog

from qsotn.adapters.tls.transport import accept, certificate_of
from qsotn.service.delivery.http_protocol import Answer, Application, Connection, Limits, Request
from qsotn.service.delivery.throttled import Throttled

WATCH_S: Final = 1.0
_PAUSE_S: Final = 0.1
_RETRY: Final = b"Retry-After: 1\r\n"
_MAPPED: Final = bytes(10) + b"\xff\xff"
"""How an IPv6 address begins that stands for one of IPv4 (RFC 4291, clause 2.5.5.2)."""

Holder = Callable[[asyncio.BaseTransport], str]
"""Return who is at the other end of a connection, as far as its share of all connections goes. Raises nothing."""

_log = structlog.get_logger("delivery")


def by_certificate(transport: asyncio.BaseTransport) -> str:
    """Tell clients apart by their certificates, whatever these say."""
    return hashlib.sha256(certificate_of(transport) or b"").hexdigest()


@contextlib.asynccontextmanager
async def serving(
    application: Application,
    listener: socket.socket,
    context: ssl.SSLContext,
    limits: Limits,
    holder: Holder = by_certificate,
) -> AsyncIterator[HttpServer]:
    """Serve on a listening socket, which is closed at the end; answers under way are sent before."""
    server = HttpServer(application, listener, context, limits, holder)
    tasks = [asyncio.create_task(server.accept()), asyncio.create_task(server.watch())]
    try:
        yield server
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
        await server.stop()


@dataclass(eq=False, slots=True)
class _Newcomer:
    """A connection that is not admitted: its handshake is under way, or it has yet to hear that there is no room."""

    accepted: socket.socket
    source: bytes
    dropped: bool = False

    def drop(self) -> None:
        """End it. Its transport finds the socket at its end, and closes it."""
        self.dropped = True
        with contextlib.suppress(OSError):  # the client was quicker
            self.accepted.shutdown(socket.SHUT_RDWR)


class _Newcomers:
    """Those that are not admitted, the oldest first, all of them and by source."""

    def __init__(self, limits: Limits, throttled: Throttled) -> None:
        self._limits, self._throttled = limits, throttled
        self._all: dict[_Newcomer, None] = {}
        self._from: dict[bytes, dict[_Newcomer, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, newcomer: _Newcomer) -> None:
        """Take one more, and drop one if there are too many."""
        own = self._from.get(newcomer.source, {})
        if len(own) >= self._limits.handshakes_a_source:
            self._drop(next(iter(own)), "one source", self._limits.handshakes_a_source)
        elif len(self._all) >= self._limits.handshakes:
            self._drop(next(iter(self._all)), "all sources", self._limits.handshakes)
        self._all[newcomer] = None
        self._from.setdefault(newcomer.source, {})[newcomer] = None

    def _drop(self, newcomer: _Newcomer, whose: str, limit: int) -> None:
        self.remove(newcomer)
        newcomer.drop()
        self._throttled.tell(_log.warning, "too many TLS handshakes", whose, whose=whose, limit=limit)

    def remove(self, newcomer: _Newcomer) -> None:
        """Count one no more, if it was counted."""
        if newcomer in self._all:
            del self._all[newcomer]
            own = self._from[newcomer.source]
            del own[newcomer]
            if not own:
                del self._from[newcomer.source]


@dataclass(frozen=True, slots=True)
class _NoRoom:
    """Answers a client for which there is no room, in the form of the interface."""

    application: Application

    async def answer(self, request: Request) -> Answer:  # noqa: ARG002 - whatever it is
        """Answer the only request."""
        told = self.application.problem(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections, and none of them idle")
        return msgspec.structs.replace(told, fields=told.fields + _RETRY, last=True)


class HttpServer:
    """The connections of one listener."""

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        context: ssl.SSLContext,
        limits: Limits,
        holder: Holder = by_certificate,
    ) -> None:
        self._application, self._listener, self._context, self._limits = application, listener, context, limits
        self._holder, self._throttled = holder, Throttled()
        self._newcomers = _Newcomers(limits, self._throttled)
        self._handshakes: dict[asyncio.Task[None], _Newcomer] = {}
        self._open: set[Connection] = set()
        self._admitted: dict[Connection, str] = {}
        self._held: dict[str, set[Connection]] = {}
        self._date = _date_line()
        self.turned_away = 0
        """Connections that found no room, and were answered 503."""
        listener.setblocking(False)

    @property
    def connections(self) -> int:
        """Connections that are open, those that are not admitted among them."""
        return len(self._admitted) + len(self._newcomers)

    # --- newcomers --------------------------------------------------------------------------------------------------

    async def accept(self) -> None:
        """Take connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listener)
            except OSError as error:  # no file descriptors left, or a client that went away at once
                self._throttled.tell(_log.warning, "a connection could not be taken", reason=str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            newcomer = _Newcomer(accepted, _source(str(address[0])))
            self._newcomers.add(newcomer)
            handshake = loop.create_task(self._begin(newcomer))
            self._handshakes[handshake] = newcomer
            handshake.add_done_callback(self._handshakes.pop)
            await asyncio.sleep(0)  # a queue of connections does not let `sock_accept` wait, and others must go on

    async def _begin(self, newcomer: _Newcomer) -> None:
        # An answer must not wait for the acknowledgement of the one before it.
        newcomer.accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await accept(self._context, newcomer.accepted, lambda: self._connection(newcomer), self._limits.handshake_s)
        except OSError as error:  # of TLS, too: an `ssl.SSLError` is one, a handshake out of time as well
            self._newcomers.remove(newcomer)
            if not newcomer.dropped:
                kind = type(error).__name__
                self._throttled.tell(_log.info, "a TLS handshake failed", kind, reason=str(error) or kind)

    def _connection(self, newcomer: _Newcomer) -> Connection:
        return Connection(
            self._application,
            self._limits,
            lambda: self._date,
            lambda connection: self._opened(connection, newcomer),
            lambda connection: self._closed(connection, newcomer),
        )

    # --- who is admitted --------------------------------------------------------------------------------------------

    def _opened(self, connection: Connection, newcomer: _Newcomer) -> None:
        self._open.add(connection)
        holder = self._holder(connection.transport)
        if self._make_room(holder):
            self._newcomers.remove(newcomer)
            self._admitted[connection] = holder
            self._held.setdefault(holder, set()).add(connection)
            return
        # It stays a newcomer until it has been answered: those that find no room cannot pile up, either.
        self.turned_away += 1
        connection.hand_over(_NoRoom(self._application))
        self._throttled.tell(_log.warning, "too many connections", holder=holder, turned_away=self.turned_away)

    def _make_room(self, holder: str) -> bool:
        """Say whether there is room for one more, after the longest idle connection was closed if there was none."""
        own = self._held.get(holder, set())
        if len(own) >= self._limits.connections_each:
            return self._part_with_idle(own)
        return len(self._admitted) < self._limits.connections or self._part_with_idle(self._admitted)

    def _part_with_idle(self, connections: Iterable[Connection]) -> bool:
        idle = [(since, id(one), one) for one in connections if (since := one.idle_since) is not None]
        if not idle:
            return False
        _, _, longest = min(idle)
        self._release(longest)
        longest.part()
        return True

    def _closed(self, connection: Connection, newcomer: _Newcomer) -> None:
        self._open.discard(connection)
        self._newcomers.remove(newcomer)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        holder = self._admitted.pop(connection, None)
        if holder is not None:
            own = self._held[holder]
            own.discard(connection)
            if not own:
                del self._held[holder]

    # --- all of them ------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Keep the date, and end connections that are overdue, until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._date = _date_line()
            for connection in tuple(self._open):
                connection.overdue()

    async def stop(self) -> None:
        """Let what is under way be answered, for `stop_s` at most; then end all connections."""
        loop = asyncio.get_running_loop()
        for newcomer in tuple(self._handshakes.values()):
            newcomer.drop()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        for connection in tuple(self._open):
            connection.stop()
        until = loop.time() + self._limits.stop_s
        while self._open and loop.time() < until:
            await asyncio.sleep(0.01)
        tasks = [connection.task for connection in self._open if connection.task is not None]
        for connection in tuple(self._open):
            connection.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _date_line() -> bytes:
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()


def _source(host: str) -> bytes:
    """Return what an address has in common with all that one client may have: of IPv6, the /64."""
    if ":" not in host:
        return socket.inet_aton(host)
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return packed[12:] if packed.startswith(_MAPPED) else packed[:8]
