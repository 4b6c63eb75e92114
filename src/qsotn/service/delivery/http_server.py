"""Connections on one listening socket: accepted up to a number, watched once a second, brought to an end together.

`asyncio` has a server, and it does not count connections whose handshake is under way. This one does: a handshake is
the dearest thing that a stranger can ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Final

import structlog

from qsotn.service.delivery.http_protocol import Application, Connection, Limits

WATCH_S: Final = 1.0
SHUTDOWN_S: Final = 2.0
"""How long a client may take to answer our goodbye in TLS."""
_PAUSE_S: Final = 0.1

_log = structlog.get_logger("delivery")


@contextlib.asynccontextmanager
async def serving(
    application: Application, listener: socket.socket, context: ssl.SSLContext, limits: Limits
) -> AsyncIterator[HttpServer]:
    """Serve on a listening socket, which is closed at the end; answers under way are sent before."""
    server = HttpServer(application, listener, context, limits)
    tasks = [asyncio.create_task(server.accept()), asyncio.create_task(server.watch())]
    try:
        yield server
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        listener.close()
        await server.stop()


class HttpServer:
    """The connections of one listener."""

    def __init__(
        self, application: Application, listener: socket.socket, context: ssl.SSLContext, limits: Limits
    ) -> None:
        self._application, self._listener, self._context, self._limits = application, listener, context, limits
        self._connections: set[Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._date = _date_line()
        self.turned_away = 0
        """Connections that were closed at once, because there were too many."""
        listener.setblocking(False)

    @property
    def connections(self) -> int:
        """Connections that are open, handshakes under way among them."""
        return len(self._connections) + len(self._handshakes)

    async def accept(self) -> None:
        """Take connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # no file descriptors left, or a client that went away at once
                _log.warning("a connection could not be taken", reason=str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            if self.connections >= self._limits.connections:
                self._turn_away(accepted)
                continue
            handshake = loop.create_task(self._begin(accepted))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    def _turn_away(self, accepted: socket.socket) -> None:
        accepted.close()
        self.turned_away += 1
        if self.turned_away.bit_count() == 1:  # the first, second, fourth, eighth, … one
            _log.warning("too many connections", limit=self._limits.connections, turned_away=self.turned_away)

    async def _begin(self, accepted: socket.socket) -> None:
        # An answer must not wait for the acknowledgement of the one before it.
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except OSError as error:  # of TLS, too: an `ssl.SSLError` is one, a handshake out of time as well
            _log.info("a TLS handshake failed", reason=str(error) or type(error).__name__)

    def _connection(self) -> Connection:
        opened, closed = self._connections.add, self._connections.discard
        return Connection(self._application, self._limits, lambda: self._date, opened, closed)

    async def watch(self) -> None:
        """Keep the date, and end connections that are overdue, until it is cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._date = _date_line()
            for connection in tuple(self._connections):
                connection.overdue()

    async def stop(self) -> None:
        """Let what is under way be answered, for `stop_s` at most; then end all connections."""
        loop = asyncio.get_running_loop()
        for handshake in tuple(self._handshakes):
            handshake.cancel()
        for connection in tuple(self._connections):
            connection.stop()
        until = loop.time() + self._limits.stop_s
        while self._connections and loop.time() < until:
            await asyncio.sleep(0.01)
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in tuple(self._connections):
            connection.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._handshakes, return_exceptions=True)


def _date_line() -> bytes:
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()
