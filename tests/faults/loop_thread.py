"""A thread with an asyncio loop of its own, for what is asynchronous in a test that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE_S = 10.0
"""How long a thread may take to begin, to answer, or to end."""


class LoopThread:
    """Holds one asynchronous context manager open, in a thread."""

    def __init__(self, held: AbstractAsyncContextManager[object]) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="faults")
        entered: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._left = self._executor.submit(lambda: asyncio.run(_hold(held, entered)))
        either: tuple[Future[Any], ...] = (entered, self._left)
        wait(either, PATIENCE_S, FIRST_COMPLETED)
        if self._left.done():
            self._end()
        self._loop, self._over = entered.result(0)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread's loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def stop(self) -> None:
        """Leave the context manager and end the thread. Raises what the manager raised."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._end()

    def _end(self) -> None:
        try:
            self._left.result(PATIENCE_S)
        finally:
            self._executor.shutdown()


async def _hold(
    held: AbstractAsyncContextManager[object], entered: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    over = asyncio.Event()
    async with held:
        entered.set_result((asyncio.get_running_loop(), over))
        await over.wait()
