"""Which class of SAEs may have units of which ready pool now: a throttle for each pool (`keynetwork.throttle`).

A throttle hears from the key store how many units ever came and how many are ready, at most every quarter of a second,
and before anybody is refused. Requests go on meanwhile: of units whose reservation is not answered yet, nobody can say
whether they were still counted. So a count is a span, and what is known is moved only into it.

Nothing here is durable. A process that begins anew shares out what it finds as if it had just arrived. Each of several
processes of one key manager has throttles of its own: it sees all that arrives, and counts what the others give out as
lost, from the common part first. So with n of them the least that is left of a class's minimum is that less n - 1 times
the minimum of each other class.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from qsotn.domain import PartyId
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import Pool
from qsotn.keynetwork.throttle import ServiceClass, Throttle
from qsotn.service.delivery.saes import Saes

LOOK_US: Final = 250_000
"""How old a count may be for whoever is served."""
REFUSED_US: Final = 20_000
"""How old a count may be for whoever is refused: many refusals cost the store one look."""


@dataclass(frozen=True, slots=True)
class Stock:
    """How the pool in use stands: units that are ready, and that it ever had."""

    pool: Pool
    ready: int
    ever: int


Count = Callable[[PartyId], Awaitable[Stock]]
"""Returns the units towards a key manager."""


@dataclass(slots=True)
class ClassCount:
    """What became of the requests of one class since the start."""

    given: int = 0
    """Keys."""
    refused: int = 0
    """Requests for which there were too few units, or too few for this class."""


@dataclass(slots=True)
class _Pool:
    """The units towards one key manager."""

    throttle: Throttle
    stock: Stock | None = None
    """As it was counted last."""
    looked_at: int = 0
    drawn: int = 0
    """Units since the start."""
    answered: int = 0
    """Those of them whose reservation was answered: a count that is asked for now knows of them."""
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def is_older(self, age: int, now: int) -> bool:
        """Say whether the last count is older than so many microseconds. A clock that was put back makes it so."""
        return self.stock is None or not 0 <= now - self.looked_at < age

    def hear(self, stock: Stock, unsure: int) -> None:
        """Take in a count that may contain so many units which are drawn."""
        if self.stock is not None and self.stock.pool == stock.pool:
            self.throttle.arrive(max(0, stock.ever - self.stock.ever))
        self.throttle.settle(min(max(self.throttle.units, stock.ready - unsure), stock.ready))
        self.stock = stock


class Priorities:
    """The classes of one key manager's SAEs, and what each may have. Belongs to one event loop."""

    def __init__(self, classes: Sequence[ServiceClass], saes: Saes, mark: int, clock: Callable[[], int]) -> None:
        """`classes` from the highest down; a pool is low below `mark` units; `clock` in microseconds."""
        self._classes = tuple(classes)
        self._saes = saes
        self._mark = mark
        self._clock = clock
        self._pools: dict[PartyId, _Pool] = {}
        self.counts = {one.name: ClassCount() for one in classes}
        """By class."""

    async def take(self, master: str, targets: Sequence[PartyId], number: int, each: int, count: Count) -> None:
        """Take `number` keys of `each` units from every one of these pools, or from none.

        Raises `Refusal` KEY_SHORTAGE, and what `count` raises. Tell `answered` when their reservation is answered.
        """
        name, units = self._saes.service_class(master), number * each
        for target in targets:
            await self._look(target, LOOK_US, count)
        if self._short(name, targets, units) is not None:
            for target in targets:
                await self._look(target, REFUSED_US, count)
        # From here on nothing is awaited: what is allowed is taken.
        if (short := self._short(name, targets, units)) is not None:
            self.counts[name].refused += 1
            raise self._refusal(name, short, number, each)
        for pool in map(self._pool, targets):
            pool.throttle.draw(name, units)
            pool.drawn += units

    def answered(self, targets: Sequence[PartyId], units: int) -> None:
        """Hear that a reservation of units that were taken came to its end: done, refused, or unheard."""
        for target in targets:
            self._pool(target).answered += units

    def given(self, master: str, number: int) -> None:
        """Count keys that a master was given."""
        self.counts[self._saes.service_class(master)].given += number

    async def allowance(self, master: str, target: PartyId, count: Count) -> int:
        """Return how many units an SAE may have of a pool now. Raises what `count` raises."""
        await self._look(target, 0, count)
        return self._pool(target).throttle.allowance(self._saes.service_class(master))

    def _pool(self, target: PartyId) -> _Pool:
        if target not in self._pools:
            self._pools[target] = _Pool(Throttle(self._classes, self._mark))
        return self._pools[target]

    async def _look(self, target: PartyId, age: int, count: Count) -> None:
        """Have a count that is not older than so many microseconds; who comes meanwhile waits for the same one."""
        pool = self._pool(target)
        if not pool.is_older(age, self._clock()):
            return
        async with pool.looking:
            if not pool.is_older(age, self._clock()):
                return
            certain = pool.answered
            stock = await count(target)
            pool.hear(stock, pool.drawn - certain)
            pool.looked_at = self._clock()

    def _short(self, name: str, targets: Sequence[PartyId], units: int) -> PartyId | None:
        """Return the first of the pools that has too few units for a class, or None."""
        return next((one for one in targets if self._pool(one).throttle.allowance(name) < units), None)

    def _refusal(self, name: str, target: PartyId, number: int, each: int) -> Refusal:
        throttle, towards = self._pool(target).throttle, f"from {self._saes.own} to {target}"
        if throttle.units < number * each:
            return Refusal("KEY_SHORTAGE", f"too few keys are ready {towards}")
        allowed = throttle.allowance(name) // each
        asked = f"an SAE of class {name} may have {allowed} keys of this size now, and asked for {number}"
        return Refusal("KEY_SHORTAGE", f"keys {towards} run low, and the rest is kept for other classes: {asked}")
