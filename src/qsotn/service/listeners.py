"""Where a process listens: sockets, and uvicorn on them, begun and ended by whoever enters and leaves a context."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

import uvicorn

from qsotn.errors import UsageError
from qsotn.service.config import split_address
from qsotn.service.http.health import Monitoring

BACKLOG: Final = 1024


def bound(address: str, where: str) -> socket.socket:
    """Open a listening socket. Raises `UsageError` for an address that cannot be had; it stands in `where`."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio would leave Nagle's algorithm on for every connection it accepts (`proto` would be 0),
    # and an answer of two segments would wait for a delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UsageError(f"{where}: {address} cannot be listened on: {error.strerror}") from error
    return listener


@contextlib.asynccontextmanager
async def monitored(address: str, application: Monitoring) -> AsyncIterator[None]:
    """Serve the plain monitoring listener, if an address is given. Raises `UsageError` if it cannot be bound."""
    if not address:
        yield
        return
    config = uvicorn.Config(
        application, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    async with served(config, bound(address, "[listen] monitoring")):
        yield


@contextlib.asynccontextmanager
async def served(config: uvicorn.Config, listener: socket.socket) -> AsyncIterator[None]:
    """Serve on an open socket; at the end take no more, and let what is under way come to its end."""
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn, in a process whose signals are somebody else's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


@contextlib.contextmanager
def stopped_by_signals(stopping: asyncio.Event) -> Iterator[None]:
    """Set an event when this process is told to stop (SIGTERM, SIGINT)."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
