"""What a key manager's process does by itself, SAEs or none: it looks after blocks of its links and after its accounts.

Blocks that wait for the far end are offered again, and written off when they have waited too long
(`procedures.block_account`). Accounts are deleted after their time (`parties.km_retention`), in small steps with pauses
between them, so that nobody at the desk waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from qsotn.errors import StoreError
from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.parties.km import Km
from qsotn.parties.km_losses import LinkLosses, LostBlock, losses
from qsotn.parties.km_retention import Limits, Swept, sweep_accounts
from qsotn.parties.link_totals import totals
from qsotn.procedures.block_account import look_after_blocks
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.service.worker import Overloaded

T = TypeVar("T")

BLOCKS_S: Final = 10.0
"""How often blocks that wait are looked at."""
STEP_S: Final = 1.0
REST_S: Final = 600.0
"""Between two steps of a pass over the accounts, and between two passes."""
_log = structlog.get_logger("km")


class Worker(Protocol):
    """The party's desk, as `service.worker.DeskWorker` offers it."""

    async def call(self, function: Callable[[Node], T]) -> T:
        """Run a repeatable function at the desk. Raises what it raises, and `Overloaded`."""


class DutyMetrics:
    """What the duties show Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lost = Gauge(
            "qsotn_lost_blocks", "Blocks that a link lost here since it was installed", ["link"], registry=registry
        )
        self.deleted = Counter(
            "qsotn_accounts_deleted", "Accounts that were deleted after their time", ["kind"], registry=registry
        )
        self.swept = Gauge(
            "qsotn_accounts_swept_seconds", "When all accounts had been looked at last, Unix time", registry=registry
        )
        self.swept.set_to_current_time()  # a pass may take long; what is late is one since the start


class KmDuties:
    """The duties of one process. Of several replicas each does them: what one has done, the other finds done."""

    def __init__(self, worker: Worker, retention_us: int, metrics: DutyMetrics) -> None:
        """`retention_us` is for how long accounts are kept, in microseconds."""
        self._worker = worker
        self._retention_us = retention_us
        self._metrics = metrics

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again(self.look_after_blocks))
            tasks.create_task(self._again(self.sweep))

    async def _again(self, duty: Callable[[], Awaitable[float]]) -> None:
        while True:
            try:
                pause = await duty()
            except (StoreError, Overloaded) as error:
                _log.warning("links and accounts are not looked after now", reason=str(error))
                pause = BLOCKS_S
            await asyncio.sleep(pause)

    async def look_after_blocks(self) -> float:
        """Offer again, or write off, what waits for the far end; return the pause.

        Raises `StoreError`, `Overloaded`.
        """
        written_off, sums = await self._worker.call(lambda node: node.begin(_looked_after))
        for link, lost in sums.items():
            self._metrics.lost.labels(link).set(lost.blocks)
        for one in written_off:
            bits = one.units * UNIT_BITS
            _log.error("a block is written off", link=one.link, block=one.number, bits=bits, reason=one.reason)
        return BLOCKS_S

    async def sweep(self) -> float:
        """Delete some accounts; return the pause before the next step. Raises `StoreError`, `Overloaded`."""
        swept = await self._worker.call(self._swept)
        for kind, number in swept.deleted.items():
            self._metrics.deleted.labels(kind).inc(number)
        if swept.over:
            self._metrics.swept.set_to_current_time()
        return REST_S if swept.over else STEP_S

    def _swept(self, node: Node) -> Swept:
        with node.desk() as km:
            summed = {link: totals(km, link).summed for link in km.configuration.links}
            return sweep_accounts(km, Limits(km.desk.now - self._retention_us, summed))


def _looked_after(km: Km, work: Work) -> tuple[list[LostBlock], dict[str, LinkLosses]]:
    return look_after_blocks(km, work), dict(losses(km.desk).items())
