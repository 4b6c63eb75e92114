"""Out of the outbox, to whoever is sent to: one queue a next hop and interface, one request under way in each.

While a request is under way, others gather behind it and leave together. What was posted here is on lease to this
process; whatever is not acknowledged when its lease ends is due again, for this replica or another. That, and not
memory, is what makes delivery certain: a killed sender's datagrams leave from elsewhere within seconds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from qsotn import wire
from qsotn.adapters.transport.http import Receipt, Unavailable
from qsotn.domain import PartyId
from qsotn.errors import LineError, StoreError
from qsotn.ports import Posted
from qsotn.runtime import Node
from qsotn.service.worker import DeskWorker, Overloaded

LEASE_US: Final = 5_000_000
SWEEP_S, IDLE_SWEEP_S = 1.0, 5.0
"""How often the store is asked for what fell due: stored answers again, failed attempts, a dead replica's leases; and
how often it is thought of where nothing can have fallen due."""
SOONEST_SWEEP_S: Final = 0.03
LARGEST_REQUEST, LARGEST_REQUEST_BYTES = 64, 6 * 1024 * 1024
SWEEP_LIMIT: Final = 256
_log = structlog.get_logger("sender")


class Destination(Protocol):
    """One next hop, as `adapters.transport.http.HttpPeer` is one."""

    async def send(self, interface: str, datagrams: Sequence[bytes]) -> tuple[Receipt, ...]:
        """Hand over datagrams of one interface; a receipt for each. Raises `LineError`."""


class Sender:
    """Sends what this process has on lease, and looks for more."""

    def __init__(
        self, worker: DeskWorker, destination: Callable[[PartyId], Destination | None], *, alone: bool = False
    ) -> None:
        """`alone`: no other process serves the same store, and what is due is looked for only if something can be."""
        self._worker = worker
        self._alone = alone
        self._unacknowledged: set[int] = set()
        self._left_over = True
        """There may be something in the store from before this process."""
        self._repeats = 0
        self._destination = destination
        self._queues: dict[tuple[PartyId, str], deque[Posted]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[int] = set()
        self._sweep_due = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for what is due."""
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Stop sending. What is under way falls due again when its lease ends."""
        tasks = [task for task in (self._sweeping, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def take(self, posted: Sequence[Posted]) -> None:
        """Send these; they are on lease to this process."""
        if self._alone and self._worker.repeats != self._repeats:
            self.look_soon()
        for one in posted:
            if one.number not in self._held:
                self._held.add(one.number)
                self._unacknowledged.add(one.number)
                self._enqueue(one)

    def look_soon(self) -> None:
        """Something may have fallen due."""
        self._sweep_due.set()

    def _enqueue(self, one: Posted) -> None:
        way = (one.next_hop, one.interface or wire.interface_of(one.datagram))
        queue = self._queues.get(way)
        if queue is None:
            self._queues[way] = deque([one])
            task = asyncio.create_task(self._drain(way))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            queue.append(one)

    async def _drain(self, way: tuple[PartyId, str]) -> None:
        queue = self._queues[way]
        try:
            while queue:
                await self._hand_over(way, _next_request(queue))
        finally:
            # Whatever ended it: what is left here falls due when its lease ends, and then finds no dead queue.
            self._let_go(queue)
            del self._queues[way]

    async def _hand_over(self, way: tuple[PartyId, str], batch: list[Posted]) -> None:
        try:
            await self._request(way, batch)
        finally:
            self._let_go(batch)

    def _let_go(self, posted: Iterable[Posted]) -> None:
        self._held.difference_update(one.number for one in posted)

    async def _request(self, way: tuple[PartyId, str], batch: list[Posted]) -> None:
        hop, interface = way
        destination = self._destination(hop)
        try:
            if destination is None:
                raise LineError(f"no address of {hop} is configured")  # noqa: TRY301
            receipts = await destination.send(interface, [one.datagram for one in batch])
        except LineError as error:
            _log.warning("not delivered", to=hop, interface=interface, datagrams=len(batch), reason=str(error))
            if isinstance(error, Unavailable):
                await asyncio.sleep(min(error.retry_after_s, LEASE_US / 2e6))
            await self._postpone(batch)
        else:
            await self._settle(way, list(zip(batch, receipts, strict=True)))

    async def _settle(self, way: tuple[PartyId, str], answered: list[tuple[Posted, Receipt]]) -> None:
        taken = [posted.number for posted, receipt in answered if receipt.taken]
        self._worker.acknowledge(taken)
        self._unacknowledged.difference_update(taken)
        refused = [(posted, receipt) for posted, receipt in answered if not receipt.taken]
        for _, receipt in refused:
            _log.info("no receipt", to=way[0], interface=way[1], status=receipt.status, reason=receipt.detail)
        if refused:
            await self._postpone([posted for posted, _ in refused])

    async def _postpone(self, failed: list[Posted]) -> None:
        try:
            await self._worker.call(lambda node: node.postpone(failed))
        except (StoreError, Overloaded) as error:
            _log.warning("left to its lease", datagrams=len(failed), reason=str(error))
        self.look_soon()

    async def _sweep(self) -> None:
        if self._alone:
            await self._look()
        while True:
            try:
                # Not `wait_for`: in Python 3.11 it forgets a cancellation that comes with what it waits for.
                async with asyncio.timeout(SWEEP_S if self._may_be_due() else IDLE_SWEEP_S):
                    await self._sweep_due.wait()
                await asyncio.sleep(SOONEST_SWEEP_S)
            except TimeoutError:
                pass  # nothing was said to be due, and a look is due all the same
            self._sweep_due.clear()
            await self._look()

    def _may_be_due(self) -> bool:
        return not self._alone or self._left_over or bool(self._unacknowledged) or self._worker.repeats != self._repeats

    async def _look(self) -> None:
        if not self._may_be_due():
            return
        repeats = self._worker.repeats
        try:
            due = await self._worker.call(lambda node: node.lease(SWEEP_LIMIT))
            if self._alone and self._left_over:
                self._left_over = await self._worker.call(Node.settle) > len(self._unacknowledged)
        except (StoreError, Overloaded) as error:
            _log.warning("cannot look for what is due", reason=str(error))
            return
        self._repeats = repeats
        self.take(due)
        if due:
            self.look_soon()


def _next_request(queue: deque[Posted]) -> list[Posted]:
    batch, size = [queue.popleft()], 0
    size = len(batch[0].datagram)
    while queue and len(batch) < LARGEST_REQUEST and size + len(queue[0].datagram) <= LARGEST_REQUEST_BYTES:
        batch.append(queue.popleft())
        size += len(batch[-1].datagram)
    return batch
