"""The other way out of the outbox: a device has no address, and collects what waits for it (Ax).

A device asks and is kept waiting until there is something, so that it hears of it at once. What it was given is on
lease to it; it is forgotten when the device says that it has it durably, and is given again when the lease ends.

What is posted here for a device that waits here goes from the transaction to the device: it is on lease from the
beginning (`expects`), and the store is not asked for it. Where no other process serves the store, it is not asked
either for a device that has got all there was: what is posted while it does not wait is noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from qsotn.domain import PartyId
from qsotn.errors import StoreError
from qsotn.ports import Posted
from qsotn.runtime import Node
from qsotn.service.worker import DeskWorker, Overloaded

LOOK_S: Final = 0.5
"""How often the store is asked for mail that this process did not post itself: by another replica, or due again."""
_log = structlog.get_logger("mailbox")


@dataclass(eq=False)
class _Waiting:
    """A device's question."""

    told: asyncio.Event = field(default_factory=asyncio.Event)
    promised: bool = False
    """A transaction has put mail for it on lease; it gets no second promise."""
    passed_over: bool = False
    """Something was posted that is not handed to it, and lies in the store."""
    mail: Sequence[Posted] = ()


class Mailbox:
    """Which devices wait for mail at this process."""

    def __init__(self, worker: DeskWorker, *, alone: bool = False) -> None:
        """`alone`: no other process serves the same store."""
        self._worker = worker
        self._alone = alone
        self._lock = threading.Lock()
        self._waiting: dict[PartyId, _Waiting] = {}
        self._empty: set[PartyId] = set()
        """Devices for which nothing lies in the store that would not be noticed otherwise."""
        self._looking: asyncio.Task[None] | None = None
        self._returns: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to look for mail that came from elsewhere."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Let everybody go who waits."""
        tasks = [task for task in (self._looking, *self._returns) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.wake(tuple(self._waiting))

    # --- what is posted here ----------------------------------------------------------------------------------------

    def expects(self, device: PartyId) -> bool:
        """Say, in the desk thread, whether what a transaction posts for a device is handed to it here. Once a question.

        It is put on lease then, and brought by `deliver`.
        """
        with self._lock:
            waiting = self._waiting.get(device)
            if waiting is not None and not waiting.promised:
                waiting.promised = True
                return True
            if waiting is not None:
                waiting.passed_over = True
            self._empty.discard(device)
            return False

    def deliver(self, mail: Mapping[PartyId, Sequence[Posted]]) -> None:
        """Hand over what was committed, by device; for whom there is none of it, some may lie in the store."""
        for device, posted in mail.items():
            waiting = self._waiting.get(device)
            if waiting is not None and not waiting.mail:
                waiting.mail = posted
                waiting.told.set()
            elif posted:  # who waited for it has gone
                self._in_background(self._give_back(device, posted))

    def wake(self, devices: Collection[PartyId]) -> None:
        """There may be mail for these."""
        for device in devices:
            if device in self._waiting:
                self._waiting[device].told.set()

    # --- what devices ask -------------------------------------------------------------------------------------------

    async def collect(
        self, device: PartyId, wait_s: float, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        """Return what waits for a device; wait for the first that comes. Nothing after `wait_s` seconds.

        `received` are its receipts for what it collected before. Nothing, too, as soon as the device asks again: who
        waits for the older answer may be a connection that is dead.
        Raises `Overloaded`, `StoreError`.
        """
        self.wake((device,))
        waiting, known_empty = self._begin(device)
        try:
            if known_empty and wait_s:  # what falls due again is found while it waits
                self._worker.acknowledge(received, device)
            elif (mail := await self._lease(waiting, device, limit, received)) or not wait_s:
                return mail
            # Not `wait_for`: in Python 3.11 it forgets a cancellation that comes with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await waiting.told.wait()
            if self._waiting.get(device) is not waiting:
                return ()
            return self._take(waiting, limit) or await self._lease(waiting, device, limit)
        finally:
            self._end(device, waiting)

    def _begin(self, device: PartyId) -> tuple[_Waiting, bool]:
        waiting = _Waiting()
        with self._lock:
            self._waiting[device] = waiting
            return waiting, device in self._empty

    def _take(self, waiting: _Waiting, limit: int) -> Sequence[Posted]:
        taken, waiting.mail = waiting.mail[:limit], waiting.mail[limit:]
        return taken

    def _end(self, device: PartyId, waiting: _Waiting) -> None:
        with self._lock:
            if self._waiting.get(device) is waiting:
                del self._waiting[device]
        if waiting.mail:
            self._in_background(self._give_back(device, waiting.mail))

    async def _lease(
        self, waiting: _Waiting, device: PartyId, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        mail: Sequence[Posted] = await self._worker.call(lambda node: node.lease(limit, device, received))
        with self._lock:
            told_of_all = self._waiting.get(device) is waiting and not waiting.passed_over
            if self._alone and len(mail) < limit and told_of_all:
                self._empty.add(device)
        return mail

    async def acknowledge(self, device: PartyId, numbers: Sequence[int]) -> None:
        """Take a device's receipts. Raises `Overloaded`, `StoreError`."""
        await self._worker.call(lambda node: node.collected(numbers, device))

    # --- what comes from elsewhere ----------------------------------------------------------------------------------

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)

    async def _give_back(self, device: PartyId, posted: Sequence[Posted]) -> None:
        """Have what could not be handed over be due again, before its lease ends."""
        with self._lock:
            self._empty.discard(device)
        try:
            await self._worker.call(lambda node: node.postpone(posted))
        except (StoreError, Overloaded) as error:
            _log.warning("left to its lease", datagrams=len(posted), reason=str(error))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            waiting = tuple(self._waiting)
            if not waiting:
                continue
            try:
                self.wake(await self._worker.call(partial(Node.mail_for, collectors=waiting)))
            except (StoreError, Overloaded) as error:
                _log.warning("cannot look for mail", reason=str(error))
