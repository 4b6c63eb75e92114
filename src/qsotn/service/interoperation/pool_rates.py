"""What the pools of ready keys gain: the rate that streams of key may be promised (ETSI GS QKD 004).

A pool that is full gains nothing, whatever the network could bring; so it is looked at while it wants keys, and what it
gained then counts, newer looks more than older ones. What it holds can be promised all the same, over an hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from qsotn.domain import PartyId
from qsotn.errors import StoreError
from qsotn.keynetwork.delivery import UNIT_BITS, KeyStore
from qsotn.service.delivery.filling import REFILLED_PARTS
from qsotn.service.delivery.group import Group
from qsotn.service.worker import Overloaded

LOOK_S: Final = 1.0
REMEMBERED_S: Final = 60.0
"""Of wanting, after which a look counts a third of a new one."""
HOLDING_S: Final = 3600
_log = structlog.get_logger("keys")


@dataclass(frozen=True, slots=True)
class Seen:
    """A pool at one moment (seconds, monotonic): the units that ever came to it, and those that are ready."""

    at: float
    came: int
    ready: int


class PoolRate:
    """One pool. `mark` is how many ready units it has when nothing more is asked for."""

    def __init__(self, mark: int) -> None:
        self._mark = mark
        self._last: Seen | None = None
        self._bits = self._seconds = 0.0

    def look(self, seen: Seen) -> None:
        """Take note of how the pool stands now; of a new series, whose count begins anew, from the next time on."""
        last, self._last = self._last, seen
        if last is None or seen.came < last.came or last.ready >= self._mark:
            return
        passed = seen.at - last.at
        kept = max(0.0, 1 - passed / REMEMBERED_S)
        self._bits = self._bits * kept + (seen.came - last.came) * UNIT_BITS
        self._seconds = self._seconds * kept + passed

    @property
    def bits_per_second(self) -> int:
        """What it gains."""
        held = 0 if self._last is None else self._last.ready * UNIT_BITS // HOLDING_S
        return max(held, int(self._bits / self._seconds) if self._seconds else 0)


class PoolRates:
    """The pools of one key manager, of which it is the origin."""

    def __init__(
        self,
        own: PartyId,
        targets: Iterable[PartyId],
        ready_keys: int,
        group: Group,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ready_keys` are the units that a full pool holds."""
        mark = ready_keys - ready_keys // REFILLED_PARTS
        self._own, self._group, self._now = own, group, now
        self._rates = {target: PoolRate(mark) for target in targets}

    def rate(self, source: PartyId, target: PartyId) -> int:
        """Return what a pool gains, bits per second; 0 for one that is not there."""
        found = self._rates.get(target) if source == self._own else None
        return 0 if found is None else found.bits_per_second

    async def run(self) -> None:
        """Go on looking, until cancelled."""
        while True:
            try:
                await self.look()
            except (StoreError, Overloaded) as error:
                _log.warning("what pools gain is not seen now", reason=str(error))
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once at every pool. Raises `StoreError`, `Overloaded`."""
        for target, rate in self._rates.items():
            came, ready = await self._group.call(partial(_state, own=self._own, target=target))
            rate.look(Seen(self._now(), came, ready))


def _state(store: KeyStore, own: PartyId, target: PartyId) -> tuple[int, int]:
    pool = store.begin_pool(own, target)
    return store.next_number(pool), store.count(pool).ready
