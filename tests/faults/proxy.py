"""A TCP proxy that does to connections what networks do, between any two parties, and counts what it did.

It stands at a free port of 127.0.0.1 and forwards to a target. What happens to a connection its `Weather` decides,
which may be changed at any time: connections that are open meet the new one with their next bytes.

    async with FaultProxy(target) as proxy: ...     in an asyncio test
    with FaultProxy(target) as proxy: ...           anywhere else: the proxy gets a thread and a loop of its own
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import Self

from tests.faults.connection import Conditions, Connection
from tests.faults.loop_thread import PATIENCE_S, LoopThread
from tests.faults.weather import Always, Fault, Refuse, Towards, Weather

HOST = "127.0.0.1"


class FaultProxy:
    """One port that forwards to one target."""

    def __init__(self, target: tuple[str, int], weather: Weather | Fault | None = None, *, seed: int = 0) -> None:
        self.port = 0
        self.connections = 0
        """How many were accepted."""
        self._conditions = Conditions(target, seed)
        if weather is not None:
            self._conditions.weather = _whole(weather)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: LoopThread | None = None
        self._listener: socket.socket | None = None
        self._serving: dict[asyncio.Task[None], socket.socket] = {}
        self._failures: list[BaseException] = []

    # --- open and closed ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._conditions.began = self._loop.time()
        self._listen()
        self._change(self._conditions.weather)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._deafen()
        for task in list(self._serving):
            task.cancel()
        while self._serving:
            await asyncio.wait(self._serving)
        if self._failures:
            raise BaseExceptionGroup("the proxy itself failed", self._failures)

    def __enter__(self) -> Self:
        self._thread = LoopThread(self)
        self._thread.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.__exit__()

    # --- what a test asks and says ------------------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return HOST, self.port

    @property
    def happened(self) -> Counter[type[Fault]]:
        """Faults that really took place, by type: chunks for `Delay` and `Trickle`, connections for all others."""
        return self._conditions.happened

    @property
    def forwarded(self) -> Counter[Towards]:
        """Bytes that passed, by direction."""
        return self._conditions.forwarded

    @property
    def unreachable(self) -> int:
        """How many connections were reset because the target took none."""
        return self._conditions.unreachable

    def set(self, weather: Weather | Fault) -> None:
        """Change the weather, from any thread; it has changed when this returns."""
        if self._loop is None or self._loop is _running_loop():
            self._change(_whole(weather))
        else:
            asyncio.run_coroutine_threadsafe(self._change_there(_whole(weather)), self._loop).result(PATIENCE_S)

    async def _change_there(self, weather: Weather) -> None:
        self._change(weather)

    def _change(self, weather: Weather) -> None:
        self._conditions.weather = weather
        refusing = isinstance(weather, Always) and isinstance(weather.fault, Refuse)
        if refusing and self._listener is not None:
            self._deafen()
            self.happened[Refuse] += 1
        elif not refusing and self._listener is None and self._loop is not None:
            self._listen()

    # --- the port -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.create_server((HOST, self.port))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _deafen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it went away while it waited
        client.setblocking(False)
        serving = Connection(self._conditions, self.connections).serve(client)
        self.connections += 1
        task = asyncio.get_running_loop().create_task(serving)
        self._serving[task] = client
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled before it began never took its socket; after any other this does nothing.
        self._serving.pop(task).close()
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)


def _whole(weather: Weather | Fault) -> Weather:
    return Always(weather) if isinstance(weather, Fault) else weather


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
