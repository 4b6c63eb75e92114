"""Group commit in front of a key store: while one transaction is being made durable, the operations that come gather.

Everything that has gathered is one transaction. Where the store can do its statements at once, and they are few, the
event loop does them, and the store's thread has the commit, which waits for the disk: a thread that runs statements
beside the loop gives away and fights for the interpreter at each of them. All else is the thread's (`KeyStore.prepare`
says which). Either way it is one call back for all, a sync of the disk is paid once for many SAEs, and the store is
used by one of the two at a time.

What always holds: whoever waits is answered only after the commit, in the order of asking. What waits is bounded;
beyond that `Overloaded` is raised at once. A caller that goes away disturbs nobody: what it asked for is dropped if it
was not begun. If it was, keys that were held for it are void, for no master will ever learn of them (those that wait
for slaves of this key manager are left to expire, as are any whose answer is lost); keys that it collected can be
collected again by the same request (`Collect`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import structlog

from qsotn.errors import StoreError
from qsotn.keynetwork.delivery import Applied, KeyStore, Operation, ReadyKey, Reserve, Void
from qsotn.service.repeating import defect, repeated
from qsotn.service.worker import Overloaded

T = TypeVar("T")

LARGEST_BATCH: Final = 512
"""Operations in one transaction: what waits behind it waits some tens of milliseconds."""
FEW_JOBS: Final = 4
PAUSE_A_JOB_S: Final = 60e-6
LONGEST_GATHERING_S: Final = 0.004
"""After a transaction for more than `FEW_JOBS`, others are on their way, and are waited for as long as the loop needs
for about so many: a sync costs as much for one as for all. Fewer would wait longer for it than they save."""
_log = structlog.get_logger("keys")


@dataclass(slots=True)  # not frozen, which would cost more than all else about it
class _Job:
    """Operations of one caller, or a function that reads the store."""

    operations: Sequence[Operation]
    future: asyncio.Future[Any]
    function: Callable[[KeyStore], Any] | None = None

    @property
    def weight(self) -> int:
        return max(1, len(self.operations))


@dataclass(slots=True)
class _Batch:
    """What is handed to the thread: jobs that it is to do, or, with what came of them, to commit."""

    jobs: list[_Job]
    applied: Applied | None


class Group:
    """A key store in its thread, and the queue before it. Every method is for the event loop that started it."""

    def __init__(self, open_store: Callable[[], KeyStore], limit: int) -> None:
        """`limit` is how many operations may wait."""
        self._open_store = open_store
        self._limit = limit
        self._waiting: deque[_Job] = deque()
        self._count = 0
        self._busy = False
        self._stopping = False
        self._handed: SimpleQueue[_Batch | None] = SimpleQueue()
        self._store: KeyStore
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._opened: asyncio.Future[None]
        self._idle = asyncio.Event()
        self._idle.set()
        self.batches = 0
        """Transactions so far."""
        self.vanished: Callable[[Reserve, tuple[ReadyKey, ...]], None] = self._void
        """Who destroys keys whose caller went away while they were reserved: this store alone, or the far end too."""

    async def start(self) -> None:
        """Open the store in its thread. Raises what opening it raises."""
        self._loop = asyncio.get_running_loop()
        self._opened = self._loop.create_future()
        self._thread.start()
        await self._opened

    async def stop(self) -> None:
        """Take nothing more, finish what waits, and close the store."""
        self._stopping = True
        await self._idle.wait()
        self._handed.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def waiting(self) -> int:
        """How many operations wait, those under way not counted."""
        return self._count

    async def apply(self, operation: Operation) -> tuple[ReadyKey, ...]:
        """Do one operation, a sweep to its end; return the keys it yielded, once that is durable.

        Raises why it was refused; `Overloaded`; `StoreError` with nothing done.
        """
        applied = await self.apply_all((operation,))
        while applied.unfinished:  # each time with what others asked meanwhile
            applied = await self.apply_all((operation,))
        if applied.refused:
            raise applied.refused[0]
        return applied.done[0]

    async def apply_all(self, operations: Sequence[Operation]) -> Applied:
        """Do several operations in one transaction, each standing alone. Raises `Overloaded`, `StoreError`."""
        future: asyncio.Future[Applied] = self._loop.create_future()
        self._enqueue(_Job(operations, future))
        return await future

    async def call(self, function: Callable[[KeyStore], T]) -> T:
        """Run a function in the store's thread, between two transactions; it must be repeatable.

        Raises what it raises, and `Overloaded`.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(_Job((), future, function))
        return await future

    # --- in the event loop ------------------------------------------------------------------------------------------

    def _enqueue(self, job: _Job) -> None:
        if self._stopping:
            raise Overloaded("this key store is being closed")
        if self._count + job.weight > self._limit:
            raise Overloaded(f"{self._count} operations wait for the key store already; the limit is {self._limit}")
        self._append(job)

    def _append(self, job: _Job) -> None:
        self._waiting.append(job)
        self._count += job.weight
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)  # so that all who ask in this turn of the loop go together

    def _hand_over(self) -> None:
        batch, size = list[_Job](), 0
        while self._waiting and (not batch or size + self._waiting[0].weight <= LARGEST_BATCH):
            job = self._waiting.popleft()
            self._count -= job.weight
            if not job.future.cancelled():
                batch.append(job)
                size += job.weight
        if batch:
            self.batches += 1
            self._handed.put(_Batch(batch, _prepared(self._store, batch)))
        else:
            self._busy = False
            self._idle.set()

    def _finish(self, jobs: list[_Job], results: list[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            if job.future.cancelled():
                self._forget(job, result)
            elif isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        if len(jobs) > FEW_JOBS and self._count < LARGEST_BATCH and not self._stopping:
            self._loop.call_later(min(len(jobs) * PAUSE_A_JOB_S, LONGEST_GATHERING_S), self._hand_over)
        else:
            self._hand_over()

    def _forget(self, job: _Job, result: object) -> None:
        """Destroy what a caller reserved that went away while it was made durable."""
        if not isinstance(result, Applied):
            return
        for at, one in enumerate(job.operations):
            if isinstance(one, Reserve) and (keys := result.done.get(at)):
                self.vanished(one, keys)

    def _void(self, _: Reserve, keys: tuple[ReadyKey, ...]) -> None:
        unheard = self._loop.create_future()
        unheard.add_done_callback(_log_failure)
        self._append(_Job((Void(tuple(key.key_id for key in keys), "whoever asked went away"),), unheard))

    # --- in the store's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._store = store = self._open_store()
        except BaseException as error:  # noqa: BLE001  (whoever awaits start() must hear of anything that went wrong)
            self._loop.call_soon_threadsafe(self._opened.set_exception, error)
            return
        self._loop.call_soon_threadsafe(self._opened.set_result, None)
        try:
            while (batch := self._handed.get()) is not None:
                jobs, applied = batch.jobs, batch.applied
                results = _done(store, jobs) if applied is None else _committed(store, jobs, applied)
                self._loop.call_soon_threadsafe(self._finish, jobs, results)
        finally:
            store.close()


def _prepared(store: KeyStore, jobs: Sequence[_Job]) -> Applied | None:
    """Do what a batch asks, up to its commit; None if that is for the thread."""
    if any(job.function is not None for job in jobs):
        return None
    try:
        return store.prepare(_operations(jobs))
    except Exception:  # noqa: BLE001  (nothing was done; the thread meets the same, has time to repeat it, and tells)
        return None


def _committed(store: KeyStore, jobs: Sequence[_Job], applied: Applied) -> list[Any]:
    """Make durable what was prepared, and return what came of each job."""
    try:
        store.commit()
    except StoreError as error:
        return [error] * len(jobs)
    except Exception as error:  # noqa: BLE001  (everybody is told, as of any other failure)
        return [defect(error, "the key store could not do what was asked")] * len(jobs)
    return _cut(applied, jobs)


def _operations(jobs: Sequence[_Job]) -> list[Operation]:
    return [one for job in jobs for one in job.operations]


def _done(store: KeyStore, batch: Sequence[_Job]) -> list[Any]:
    """Return, for each job, what came of it, or the exception that its caller is to get."""
    doers = [job for job in batch if job.function is None]
    results = dict(zip(map(id, doers), _applied(store, doers), strict=True))
    return [results[id(job)] if job.function is None else _called(store, job.function) for job in batch]


def _applied(store: KeyStore, jobs: Sequence[_Job]) -> list[Any]:
    if not jobs:
        return []
    try:
        applied = repeated(lambda: store.apply(_operations(jobs)))
    except StoreError as error:
        return [error] * len(jobs)
    except Exception as error:  # noqa: BLE001  (alone, each shows whose fault it is; it is told there, and logged)
        if len(jobs) > 1:
            return [result for job in jobs for result in _applied(store, [job])]
        return [defect(error, "the key store could not do what was asked")]
    return _cut(applied, jobs)


def _cut(applied: Applied, jobs: Sequence[_Job]) -> list[Any]:
    """Give each job its own part, by its own positions."""
    parts, first = [], 0
    for job in jobs:
        after = first + len(job.operations)
        parts.append(_part(applied, first, after))
        first = after
    return parts


def _part(applied: Applied, first: int, after: int) -> Applied:
    if after == first + 1 and first in applied.done:  # what most are
        return Applied({0: applied.done[first]}, {}, {0} if first in applied.unfinished else set())
    done = {at - first: applied.done[at] for at in range(first, after) if at in applied.done}
    refused = {at - first: applied.refused[at] for at in range(first, after) if at in applied.refused}
    return Applied(done, refused, {at - first for at in applied.unfinished if first <= at < after})


def _called(store: KeyStore, function: Callable[[KeyStore], Any]) -> Any:
    try:
        return repeated(lambda: function(store))
    except Exception as error:  # noqa: BLE001  (it is raised again where the call was made)
        return error


def _log_failure(future: asyncio.Future[Any]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        _log.error("keys of a caller that went away are left to expire", reason=str(error))
