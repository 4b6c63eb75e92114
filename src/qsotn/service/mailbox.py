"""The other way out of the outbox: a device has no address, and collects what waits for it (Ax).

A device asks and is kept waiting until there is something, so that it hears of it at once. What it was given is on
lease to it; it is forgotten when the device says that it has it durably, and is given again when the lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

import structlog

from qsotn.domain import PartyId
from qsotn.errors import StoreError
from qsotn.ports import Posted
from qsotn.runtime import Node
from qsotn.service.worker import DeskWorker, Overloaded

LOOK_S: Final = 0.5
"""How often the store is asked for mail that this process did not post itself: by another replica, or due again."""
_log = structlog.get_logger("mailbox")


class Mailbox:
    """Which devices wait for mail at this process."""

    def __init__(self, worker: DeskWorker) -> None:
        self._worker = worker
        self._waiting: dict[PartyId, asyncio.Event] = {}
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for mail that came from elsewhere."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Let everybody go who waits."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self.wake(tuple(self._waiting))

    def wake(self, devices: Collection[PartyId]) -> None:
        """There may be mail for these."""
        for device in devices:
            if device in self._waiting:
                self._waiting[device].set()

    async def collect(
        self, device: PartyId, wait_s: float, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        """Return what waits for a device; wait for the first that comes. Nothing after `wait_s` seconds.

        `received` are its receipts for what it collected before. Nothing, too, as soon as the device asks again: who
        waits for the older answer may be a connection that is dead.
        Raises `Overloaded`, `StoreError`.
        """
        self.wake((device,))
        arrived = self._waiting[device] = asyncio.Event()
        try:
            mail = await self._lease(device, limit, received)
            if mail or not wait_s:
                return mail
            # Not `wait_for`: in Python 3.11 it forgets a cancellation that comes with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await arrived.wait()
            return await self._lease(device, limit) if self._waiting.get(device) is arrived else ()
        finally:
            if self._waiting.get(device) is arrived:
                del self._waiting[device]

    async def _lease(self, device: PartyId, limit: int, received: Sequence[int] = ()) -> Sequence[Posted]:
        return await self._worker.call(lambda node: node.lease(limit, device, received))

    async def acknowledge(self, device: PartyId, numbers: Sequence[int]) -> None:
        """Take a device's receipts. Raises `Overloaded`, `StoreError`."""
        await self._worker.call(lambda node: node.collected(numbers, device))

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
