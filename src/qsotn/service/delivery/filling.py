"""Pools of ready keys are kept full: supplies are asked of the QKDN, and laid into the key store.

A supply arrives in the party's own store, which has its procedures; ready keys lie in a key store of their own. Each
end hands over by itself: it deposits a batch under the supply's name, and forgets it in the party's store only when
that is durable. A death between the two deposits the same batch again, which changes nothing.

A pool of an older copy of the key store that was put back has ended: what still arrives for it is thrown away, and its
next series is filled (`KeyStore.begin_pool`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from qsotn.domain import PartyId
from qsotn.errors import KeyShortage, Refusal, StoreError
from qsotn.keynetwork.choosing import Path
from qsotn.keynetwork.delivery import Deposit, KeyStore, Pool
from qsotn.keynetwork.failures import LINK_BARRED
from qsotn.keynetwork.inquest import Charge, Finding
from qsotn.keynetwork.relay import Mode, misnamed
from qsotn.parties import km_pool
from qsotn.parties.desk import Desk
from qsotn.parties.km import Km
from qsotn.parties.km_pool import Batch, BatchState
from qsotn.parties.link_knowledge import known_links
from qsotn.procedures.pool_supply import begin_pool_supply
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.routes import FEWEST_UNITS, Routes
from qsotn.service.delivery.routes import REFILLED_PARTS as REFILLED_PARTS
from qsotn.service.worker import Overloaded

T = TypeVar("T")

PERIOD_S: Final = 0.25
MOST_UNITS: Final = 512
"""Of one supply. It is signed at every hop however large it is: a few large ones cost a fraction of many small ones."""
COMMON_UNITS: Final = 64
"""A small pool is asked for in supplies of so many, a larger one by its parts."""
MOST_BATCHES: Final = 32
SUPPLY_US: Final = 20 * 1_000_000
"""How long a supply may take. What is lost on the way is sent again after 5 s at the latest (`sender.LEASE_US`), and a
process that died is back within a few: whoever has not answered by then is silent, and every pool that waits for its
units on another way waits as long as this."""
LOOK_AT_LINKS_US: Final = 2 * 1_000_000
"""How often it is looked how the links stand while no supply begins, for who watches; before one begins, always."""
SHORTEST_PAUSE: Final = 4
LONGEST_PAUSE: Final = 240
"""Looks for which a pool is left alone when the QKDN has no bits for it, or a supply failed and burned some."""
_log = structlog.get_logger("keys")


class Worker(Protocol):
    """The party's desk, as `service.worker.DeskWorker` offers it."""

    async def call(self, function: Callable[[Node], T]) -> T:
        """Run a repeatable function at the desk. Raises what it raises, and `Overloaded`."""


@dataclass(frozen=True, slots=True)
class Supply:
    """How pools are supplied: over which ways, and in which mode. `clock` in microseconds since the epoch."""

    routes: Routes
    clock: Callable[[], int]
    mode: Mode = Mode.ONE_TIME_PAD


@dataclass(slots=True)
class _Target:
    """One key manager towards which there is a pool."""

    party: PartyId
    begun: list[str] = field(default_factory=list)
    """Batches that this process began and has not seen the end of."""
    pause: int = 0
    """How many looks it is still left alone."""
    failures: int = 0
    judged: list[str] = field(default_factory=list)
    """Batches that failed and whose inquest is not over."""

    def note_failure(self, reason: str) -> None:
        if not self.failures:
            _log.warning("a pool cannot be supplied", target=self.party, reason=reason)
        self.pause = min(SHORTEST_PAUSE << min(self.failures, 16), LONGEST_PAUSE)
        self.failures += 1

    def note_success(self) -> None:
        if self.failures:
            _log.info("a pool is supplied again", target=self.party)
        self.failures = 0


class Filling:
    """Keeps the pools of one key manager full, and takes in what arrives for the pools of others."""

    def __init__(
        self, own: PartyId, targets: Iterable[PartyId], ready_keys: int, group: Group, worker: Worker, supply: Supply
    ) -> None:
        """`targets` are the key managers towards which there is a pool; a full one holds `ready_keys` units."""
        self._own = own
        self._supply = supply
        self._targets = [_Target(party) for party in sorted(targets)]
        self._ready_keys = ready_keys
        self._group = group
        self._worker = worker
        self._handing_over = asyncio.Lock()
        self._due = asyncio.Event()
        self._looked_at = -LOOK_AT_LINKS_US

    @property
    def short(self) -> tuple[PartyId, ...]:
        """The key managers towards which the QKDN brought no units when it was last asked."""
        return tuple(one.party for one in self._targets if one.failures)

    def look_soon(self) -> None:
        """A pool may have fallen below its mark, or something arrived."""
        self._due.set()

    async def run(self) -> None:
        """Go on filling, until cancelled."""
        while True:
            self._due.clear()
            await self.look()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._due.wait()
            except TimeoutError:
                pass  # a look is due all the same

    async def look(self) -> None:
        """Hand over once what arrived, and begin what is missing."""
        try:
            await self.hand_over()
            if self._targets and abs(self._supply.clock() - self._looked_at) >= LOOK_AT_LINKS_US:
                await self._look_at_links()
            for target in self._targets:
                await self.fill(target)
        except (StoreError, Overloaded) as error:
            _log.warning("pools are not looked after now", reason=str(error))

    async def _look_at_links(self) -> None:
        self._supply.routes.know(await self._at_desk(known_links))
        self._looked_at = self._supply.clock()

    # --- what arrived -----------------------------------------------------------------------------------------------

    async def hand_over(self) -> int:
        """Lay into the key store what arrived; return how many batches. Raises `StoreError`, `Overloaded`."""
        async with self._handing_over:
            deposits = await self._at_desk(lambda km: list(km_pool.arrived(km.desk, limit=MOST_BATCHES)))
            if deposits:
                await self._deposit(deposits)
            return len(deposits)

    async def _deposit(self, deposits: Sequence[Deposit]) -> None:
        applied = await self._group.apply_all(deposits)
        for at, error in applied.refused.items():
            if isinstance(error, StoreError):
                raise error
            # It can never be laid in: its units are lost, and none of them is given twice.
            _log.error("a supply is thrown away", batch=deposits[at].batch, reason=str(error))
            if isinstance(error, Refusal) and error.code == "KEY_REUSED":
                # Its numbers are those of other units here: one end has begun anew, and what is ready is not shared.
                await self._group.call(partial(_end_pool, pool=deposits[at].pool))
        await self._at_desk(lambda km: _forget(km.desk, deposits))

    # --- what is missing --------------------------------------------------------------------------------------------

    async def fill(self, target: _Target) -> None:
        """Begin the supplies that a pool wants. Raises `StoreError`, `Overloaded`."""
        pool, ready, above = await self._group.call(lambda store: _state(store, self._own, target.party))
        under_way, ended = await self._at_desk(lambda km: _progress(km.desk, pool, target.begun))
        self._take_note(target, ended)
        if target.judged:
            await self._tell_findings(target)
        if target.pause:
            target.pause -= 1
            return
        wanted = self._ready_keys - ready - under_way
        if wanted * REFILLED_PARTS < self._ready_keys:
            return
        await self._look_at_links()
        most = most_units(self._ready_keys)
        while wanted > 0 and (units := await self._begin(target, pool, above, min(wanted, most))):
            wanted -= units

    async def _begin(self, target: _Target, pool: Pool, above: int, units: int) -> int:
        """Begin one supply of so many units, or of fewer; return of how many, or 0 for a shortage."""
        ways: tuple[Path, ...] = ()
        try:
            ways = self._supply.routes.ways(target.party, self._supply.clock())
            batch = await self._worker.call(
                lambda node: node.begin(lambda km, work: _start(km, work, pool, above, units, ways, self._supply.mode))
            )
        except KeyShortage as error:
            if units > FEWEST_UNITS:
                return await self._begin(target, pool, above, max(units // 2, FEWEST_UNITS))
            target.note_failure(str(error))
            self._supply.routes.short(ways, self._supply.clock())
            return 0
        except Refusal as error:
            target.note_failure(f"{error.code} {error.detail}")
            return 0
        target.begun.append(batch)
        return units

    def _take_note(self, target: _Target, ended: Sequence[Batch]) -> None:
        """Leave a pool alone for a while whose supply failed, and the link it failed at for longer."""
        failed = [batch for batch in ended if batch.state is BatchState.FAILED]
        if len(failed) < len(ended):
            target.note_success()
        if failed:
            # Those that fail together failed of one thing: they count once, or the pause would outlast `AVOIDED_US`.
            target.note_failure(f"{failed[-1].code} {failed[-1].detail}".strip())
        for batch in ended:
            target.begun.remove(batch.orders[0].batch)
            if batch.state is BatchState.ARRIVED:
                self._supply.routes.crossed(order.path for order in batch.orders)
        for batch in failed:
            target.judged.append(batch.orders[0].batch)
            if batch.link:
                self._leave_out(batch)

    def _leave_out(self, batch: Batch) -> None:
        """Leave the link out that a supply failed at, or if it is none of its way, the first of that."""
        routes, way = self._supply.routes, batch.orders[batch.failed_share].path
        link = routes.held_against(way, batch.detail)
        if link != batch.link:
            _log.warning("a link that is not on the way was named", named=misnamed(batch.detail, way[1]), held=link)
            routes.failed(link, self._supply.clock())
        else:
            (routes.refused if batch.code == LINK_BARRED else routes.failed)(link, self._supply.clock())

    async def _tell_findings(self, target: _Target) -> None:
        """Say whom an inquest named, once it is over."""
        found = await self._at_desk(lambda km: [km_pool.batches(km.desk).get(name) for name in target.judged])
        for batch in (one for one in found if one is not None and one.judged_at):
            target.judged.remove(batch.orders[0].batch)
            for finding in batch.findings:
                _tell_finding(batch, finding)

    async def _at_desk(self, function: Callable[[Km], T]) -> T:
        def run(node: Node) -> T:
            with node.desk() as km:
                return function(km)

        return await self._worker.call(run)


def _tell_finding(batch: Batch, finding: Finding) -> None:
    told = {
        "named": ", ".join(finding.parties),
        "charge": str(finding.charge),
        "link": finding.link,
        "batch": batch.orders[0].batch,
    }
    if finding.charge is Charge.COULD_NOT_CARRY:  # which is no lie
        _log.info("a link could not carry a supply", **told)
    else:
        _log.error("an inquest named a key manager", **told)


def most_units(ready_keys: int) -> int:
    """Return how many units one supply brings at most to a pool that holds so many when it is full."""
    return min(max(ready_keys // REFILLED_PARTS, COMMON_UNITS), MOST_UNITS)


def _end_pool(store: KeyStore, pool: Pool) -> None:
    store.end_pool(pool)


def _forget(desk: Desk, deposits: Iterable[Deposit]) -> None:
    for one in deposits:
        km_pool.handed_over(desk, one.batch)


def _start(km: Km, work: Work, pool: Pool, above: int, units: int, ways: Sequence[Path], mode: Mode) -> str:
    # Also a supply that failed may have brought its units to the far end: its numbers are not used again.
    first = max(above, km_pool.next_number(km.desk, pool))
    # The moment is in the name: a key manager that lost all its stores begins with the numbers of its first life.
    batch = f"{pool.tag:015x}-{first:012}-{km.desk.now:x}"
    begin_pool_supply(km, work, pool, batch, first, units, paths=ways, mode=mode, lifetime=SUPPLY_US)
    return batch


def _progress(desk: Desk, pool: Pool, begun: Iterable[str]) -> tuple[int, list[Batch]]:
    """Return the units on their way to a pool, and what became of the batches that have come to their end."""
    found = filter(None, map(km_pool.batches(desk).get, begun))
    ended = [batch for batch in found if batch.state in (BatchState.ARRIVED, BatchState.FAILED)]
    return km_pool.units_under_way(desk, pool), ended


def _state(store: KeyStore, own: PartyId, target: PartyId) -> tuple[Pool, int, int]:
    """Return the pool in use towards a target, its units that are ready, and the number above all it ever had."""
    pool = store.begin_pool(own, target)
    return pool, store.count(pool).ready, store.next_number(pool)
