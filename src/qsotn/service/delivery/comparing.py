"""An origin compares its pools with their targets: what the far end has lost is promised to nobody, and ends at once.

What is ready here was at the target before (`procedures.pool_confirmation`), and leaves the target only after it has
left here. So with the target's numbers between two looks at our own there is nothing to tolerate: what was ever laid in
here before we asked is there too, and what is gone there by its answer is gone here by now. A target that contradicts
this has lost its key store, or has an older copy of it. Its pool ends, counted as burned; the next series is filled.

More at the target than here is no contradiction: a batch that was not confirmed may have stayed there alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from qsotn.domain import PartyId
from qsotn.errors import LineError, StoreError
from qsotn.keynetwork.delivery import KeyStore, Pool, PoolCount
from qsotn.service.delivery.assignments import FarEnd, Stock
from qsotn.service.delivery.group import Group
from qsotn.service.worker import Overloaded

PERIOD_S: Final = 5.0
_log = structlog.get_logger("keys")


@dataclass(frozen=True, slots=True)
class _Own:
    """How a pool stands here."""

    pool: Pool
    count: PoolCount
    next_number: int


class Comparing:
    """Compares the pools of one key manager with their far ends. Every method is for one event loop."""

    def __init__(
        self,
        own: PartyId,
        group: Group,
        far_ends: Mapping[PartyId, FarEnd],
        end_lost: Callable[[Pool, str], Awaitable[None]],
    ) -> None:
        """`end_lost` ends a pool, for a reason."""
        self._own = own
        self._group = group
        self._far_ends = far_ends
        self._end_lost = end_lost
        self._silent: set[PartyId] = set()

    async def run(self) -> None:
        """Go on comparing, until cancelled."""
        while True:
            await self.compare()
            await asyncio.sleep(PERIOD_S)

    async def compare(self) -> None:
        """Compare once with every far end that answers."""
        for target, far_end in self._far_ends.items():
            try:
                await self._compare(target, far_end)
                self._silent.discard(target)
            except (LineError, StoreError, Overloaded) as error:
                if target not in self._silent:
                    _log.warning("a pool is not compared with its far end now", target=target, reason=str(error))
                self._silent.add(target)

    async def _compare(self, target: PartyId, far_end: FarEnd) -> None:
        before = await self._group.call(lambda store: _in_use(store, self._own, target))
        if before is None or not before.count.ready:
            return
        told = await far_end.stock(before.pool.series)
        after = await self._group.call(lambda store: store.count(before.pool))
        if reason := contradiction(before.count, before.next_number, told, after):
            await self._end_lost(before.pool, reason)


def contradiction(before: PoolCount, next_number: int, told: Stock, after: PoolCount) -> str:
    """Say how a target's word on a pool contradicts what its origin counted before and after, or nothing."""
    laid_in = before.ready + before.gone
    if told.laid_in < laid_in:
        return f"{laid_in} units were laid in here before {told.laid_in} were there"
    if told.next_number < next_number:
        return f"it has no number from {told.next_number} on, and {next_number} is the next one here"
    if told.gone > after.gone:
        return f"{told.gone} units are ready no more there, and {after.gone} here"
    return ""


def _in_use(store: KeyStore, own: PartyId, target: PartyId) -> _Own | None:
    """Return the newest series of a pool, if there is one."""
    found = [pool for pool in store.pools() if (pool.origin, pool.target) == (own, target)]
    if not found:
        return None
    pool = max(found, key=lambda one: one.series)
    return _Own(pool, store.count(pool), store.next_number(pool))
