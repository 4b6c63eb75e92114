"""A thread with an asyncio loop of its own, for what is asynchronous in a test that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractAsyncContextManager
from threading import Thread
from typing import Any, Self, TypeVar

T = TypeVar("T")
PATIENCE_S = 30.0
"""How long a thread may take to begin, to answer, or to end, on a machine that is busy."""


class LoopThread:
    """Holds one asynchronous context manager open, in a thread; a context manager itself."""

    def __init__(self, held: AbstractAsyncContextManager[object]) -> None:
        self._held = held
        self._entered: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._left: Future[None] = Future()
        # A daemon: a test that fails must not keep its process from ending.
        self._thread = Thread(target=self._run, name="faults", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        either: tuple[Future[Any], ...] = (self._entered, self._left)
        wait(either, PATIENCE_S, FIRST_COMPLETED)
        if self._left.done():
            self._left.result()
        self._entered.result(0)
        return self

    def __exit__(self, *_: object) -> None:
        loop, over = self._entered.result(0)
        loop.call_soon_threadsafe(over.set)
        self._left.result(PATIENCE_S)
        self._thread.join(PATIENCE_S)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread's loop, and wait for it."""
        loop, _ = self._entered.result(0)
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._hold())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for this one
            self._left.set_exception(error)
        else:
            self._left.set_result(None)

    async def _hold(self) -> None:
        over = asyncio.Event()
        async with self._held:
            self._entered.set_result((asyncio.get_running_loop(), over))
            await over.wait()
