"""The desk thread: everything that reads or changes a party happens here, one thing after another.

The core is synchronous and a store belongs to one thread, so the event loop hands work over and waits for its end.
While one transaction is being made durable, others gather; all datagrams that have gathered are then taken in one
transaction (group commit: one sync of the disk and one signature for all of them).

What always holds: a future resolves only after the transaction that it waits for is durable. What waits is bounded;
beyond that `Overloaded` is raised at once, so that a party that is asked too much says so instead of growing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from qsotn.domain import PartyId
from qsotn.errors import LocalError
from qsotn.ports import Posted, Store
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.runtime.outcomes import Begun
from qsotn.service.doorbell import Doorbell
from qsotn.service.repeating import repeated
from qsotn.service.taking import Receipts, cut, take_all

T = TypeVar("T")

LARGEST_BATCH: Final = 64
"""Datagrams in one transaction."""
IDLE_S: Final = 3600.0
GATHER_S, LONGEST_GATHER_S = 0.005, 0.02
"""How long datagrams wait for others behind a batch that has just ended: as long as that one took, within these."""


class Overloaded(LocalError):
    """Too much is waiting at this party's desk; ask again after a moment."""


@dataclass(frozen=True)
class _Datagrams:
    datagrams: Sequence[bytes]
    bearer: Bearer
    future: asyncio.Future[Receipts]


@dataclass(frozen=True)
class _Call:
    function: Callable[[Node], Any]
    future: asyncio.Future[Any]


@dataclass(frozen=True)
class _Order:
    start: Callable[[Any, Work], Any]
    traceparent: str
    future: asyncio.Future[Any]

    def alone(self) -> _Call:
        return _Call(lambda node: node.begin(self.start, self.traceparent), self.future)


_Job = _Datagrams | _Call | _Order


class Outlet(Protocol):
    """Who is told, in the event loop, what was committed to be sent."""

    def posted(self, posted: Sequence[Posted]) -> None:
        """These datagrams are on lease to this process."""

    def mail(self, mail: Mapping[PartyId, Sequence[Posted]]) -> None:
        """Something waits for these to collect it; what is given here is on lease to this process for them."""


Idle = Callable[[Node], float]
"""Called when nothing waits; returns after how many seconds it wants to be called again."""


def _never(_: Node) -> float:
    return IDLE_S


class DeskWorker:
    """The desk thread of one party, and its queue."""

    def __init__(
        self,
        open_node: Callable[[], tuple[Node, Store]],
        limit: int,
        idle: Idle = _never,
        before: Callable[[Node], None] | None = None,
        doorbell: Doorbell | None = None,
    ) -> None:
        """`before` is called ahead of every batch of datagrams, in the desk thread.

        With a `doorbell`, the thread also wakes, and `idle` is called, when a socket of its can be read, and `idle`
        follows every batch too: what a message brought, the line looks at without delay.
        """
        self._open_node = open_node
        self._limit = limit
        self._idle = idle
        self._before = before
        self._doorbell = doorbell
        self._waiting: deque[_Job] = deque()
        self._at_work: list[_Job] = []
        self._count = 0
        self._gather_until = 0.0
        self._condition = threading.Condition()
        self._stopping = False
        self._outlet: Outlet | None = None
        self._node: Node | None = None
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[Node]
        self.failed: asyncio.Future[None]
        """Raises what ended the desk thread, if anything but `stop` does."""

    # --- from the event loop ----------------------------------------------------------------------------------------

    async def start(self, outlet: Outlet | None = None) -> Node:
        """Open the party in its thread. Raises what opening it raises."""
        self._loop, self._outlet = asyncio.get_running_loop(), outlet
        self._opened, self.failed = self._loop.create_future(), self._loop.create_future()
        self._thread.start()
        self._node = await self._opened
        return self._node

    async def stop(self) -> None:
        """Finish what waits, and close the store."""
        with self._condition:
            self._stopping = True
            self._wake()
        await asyncio.to_thread(self._thread.join)
        if self._doorbell is not None:
            self._doorbell.close()

    async def receive(self, datagrams: Sequence[bytes], bearer: Bearer) -> Receipts:
        """Take datagrams that `bearer` handed over; the result says which of them are durable here.

        Raises `Overloaded`.
        """
        future: asyncio.Future[Receipts] = self._loop.create_future()
        self._enqueue(_Datagrams(datagrams, bearer, future), len(datagrams))
        return await future

    async def call(self, function: Callable[[Node], T]) -> T:
        """Run a function at the desk; it may be run again if another replica was faster, and must be repeatable.

        Raises what it raises, and `Overloaded`.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(_Call(function, future), 1)
        return await future

    async def order(self, start: Callable[[Any, Work], T], traceparent: str = "") -> T:
        """Run a local command of this party, in one transaction with others that wait; as repeatable as a call.

        Raises what it raises, and `Overloaded`.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(_Order(start, traceparent, future), 1)
        return await future

    def acknowledge(self, numbers: Sequence[int], collector: PartyId | None = None) -> None:
        """Note that next hops, or one collector, have these datagrams; written down with the next transaction."""
        if self._node is not None:
            self._node.acknowledge(numbers, collector)

    @property
    def repeats(self) -> int:
        """See `Node.repeats`."""
        return 0 if self._node is None else self._node.repeats

    @property
    def waiting(self) -> int:
        """How many datagrams and calls wait."""
        return self._count

    def _enqueue(self, job: _Job, weight: int) -> None:
        with self._condition:
            if self._stopping:
                raise Overloaded("this party is stopping")
            if self._count + weight > self._limit:
                raise Overloaded(f"{self._count} things wait at this desk already; the limit is {self._limit}")
            self._waiting.append(job)
            self._count += weight
            self._wake()

    def _wake(self) -> None:
        if self._doorbell is None:
            self._condition.notify()
        else:
            self._doorbell.ring()

    # --- in the desk thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            node, store = self._open_node()
        except BaseException as error:  # noqa: BLE001  (whoever awaits start() must hear of anything that went wrong)
            self._loop.call_soon_threadsafe(self._opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, node)
        try:
            self._work(node)
        except BaseException as error:  # noqa: BLE001  (a desk that died must end the process, not leave it deaf)
            self._loop.call_soon_threadsafe(_reject, self.failed, error)
            self._let_go()
        finally:
            store.close()

    def _let_go(self) -> None:
        """Nobody will ever be answered who waits here: tell them, and take nothing more."""
        with self._condition:
            self._stopping = True
            jobs = [*self._at_work, *self._waiting]
            self._waiting.clear()
            self._count = 0
        for job in jobs:
            self._loop.call_soon_threadsafe(_reject, job.future, Overloaded("this party's desk has ended"))

    def _work(self, node: Node) -> None:
        due = time.monotonic()
        while True:
            arrived = self._sleep(due - time.monotonic())
            jobs = self._next_jobs(due - time.monotonic())
            if jobs is None:
                return
            self._at_work = jobs
            self._carry_out(node, jobs)
            if arrived or (jobs and self._doorbell is not None) or time.monotonic() >= due:
                due = time.monotonic() + self._idle(node)
                self._hand_out(node)

    def _carry_out(self, node: Node, jobs: list[_Job]) -> None:
        """Do one call, or take datagrams, or orders: a batch is of one kind."""
        if not jobs:
            return
        if isinstance(jobs[0], _Call):
            self._do(node, jobs[0])
            return
        began = time.monotonic()
        if isinstance(jobs[0], _Order):
            self._give(node, [job for job in jobs if isinstance(job, _Order)])
        else:
            self._take(node, [job for job in jobs if isinstance(job, _Datagrams)])
        ended = time.monotonic()
        self._gather_until = ended + min(max(ended - began, GATHER_S), LONGEST_GATHER_S)

    def _sleep(self, patience: float) -> bool:
        """With a doorbell, sleep on it while nothing waits; say whether frames arrived."""
        if self._doorbell is None:
            return False
        return self._doorbell.wait(0 if self._waiting or self._stopping else patience)

    def _next_jobs(self, patience: float) -> list[_Job] | None:
        """Return one call, or all datagrams or orders gathered; nothing after `patience` seconds; None at the end."""
        with self._condition:
            if not self._waiting and not self._stopping and patience > 0 and self._doorbell is None:
                self._condition.wait(patience)
            if not self._waiting:
                return None if self._stopping else []
            if not isinstance(self._waiting[0], _Call):
                self._let_gather()
            jobs = self._first_job()
            self._count -= sum(map(_weight, jobs))
            return jobs

    def _let_gather(self) -> None:
        """Under load wait a moment for more: what a batch costs beside its datagrams is paid once for all of them.

        Only if the last batch has just ended, so that a party with little to do answers at once.
        """
        until = self._gather_until
        while not self._stopping and self._count < LARGEST_BATCH and (left := until - time.monotonic()) > 0:
            self._condition.wait(left)

    def _first_job(self) -> list[_Job]:
        """Take the first call, or the first datagrams or orders and all others that fit, ahead of the rest."""
        jobs = [self._waiting.popleft()]
        if isinstance(jobs[0], _Call):
            return jobs
        kind, size, left = type(jobs[0]), _weight(jobs[0]), deque[_Job]()
        for job in self._waiting:
            if type(job) is kind and size + _weight(job) <= LARGEST_BATCH:
                jobs.append(job)
                size += _weight(job)
            else:
                left.append(job)
        self._waiting = left
        return jobs

    def _take(self, node: Node, jobs: list[_Datagrams]) -> None:
        if self._before is not None:
            self._before(node)
        together = [(data, job.bearer) for job in jobs for data in job.datagrams]
        receipts = take_all(node, together)
        finished, first = [], 0
        for job in jobs:
            finished.append((job.future, cut(receipts, first, len(job.datagrams))))
            first += len(job.datagrams)
        self._hand_out(node, partial(_resolve_all, finished))

    def _give(self, node: Node, jobs: list[_Order]) -> None:
        try:
            begun = repeated(lambda: node.begin_all([(job.start, job.traceparent) for job in jobs]))
        except Exception:  # noqa: BLE001  (each order alone shows whose it is)
            for job in jobs:
                self._do(node, job.alone())
            return
        self._hand_out(node, partial(_answer_all, jobs, begun))

    def _do(self, node: Node, job: _Call) -> None:
        try:
            result = repeated(lambda: job.function(node))
        except Exception as failure:  # noqa: BLE001  (it is raised again where the call was made)
            self._hand_out(node, partial(_reject, job.future, failure))
        else:
            self._hand_out(node, partial(_resolve_all, [(job.future, result)]))

    def _hand_out(self, node: Node, finish: Callable[[], object] | None = None) -> None:
        """Back to the event loop, if there is anything: results, and what is to be sent now that it is durable."""
        posted, mail, outlet = node.posted(), node.mail(), self._outlet
        if finish is None and not posted and not mail:
            return

        def in_loop() -> None:
            if finish is not None:
                finish()
            if outlet is not None:
                outlet.posted(posted)
                outlet.mail(mail)

        self._loop.call_soon_threadsafe(in_loop)


def _weight(job: _Job) -> int:
    return len(job.datagrams) if isinstance(job, _Datagrams) else 1


def _resolve_all(finished: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in finished:
        if not future.done():
            future.set_result(result)


def _answer_all(jobs: Sequence[_Order], begun: Begun[Any]) -> None:
    for position, job in enumerate(jobs):
        if position in begun.failed:
            _reject(job.future, begun.failed[position])
        else:
            _resolve_all([(job.future, begun.results[position])])


def _reject(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
