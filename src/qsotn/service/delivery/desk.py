"""The delivery desk of one key manager: new keys for its master SAEs, waiting keys for its slave SAEs.

A key for a slave elsewhere goes in three steps, each durable before the next: it is *held* here, it is assigned at the
slave's key manager (`assignments`), and it is confirmed here. Only then is the master answered. If that does not come
to its end, whatever ended it, the key is void at both ends (`voids`).

Slaves at several key managers get the same key (multicast, ETSI GS QKD 014 clause 6.2). It is drawn from the pool of
the first of them, this key manager before others; each further one is sent it under a one-time pad from its own pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog

from qsotn.domain import KeyId, PartyId
from qsotn.errors import LineError, QsotnError, Refusal
from qsotn.keynetwork.delivery import (
    Applied,
    Assign,
    Collect,
    Confirm,
    KeyStore,
    Pool,
    ReadyKey,
    Reserve,
    shortage,
    units_of,
)
from qsotn.service.delivery.assignments import FarEnd, silent
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.offered import Offer
from qsotn.service.delivery.parts import Part, assignment, parts_of
from qsotn.service.delivery.priorities import Priorities, Stock
from qsotn.service.delivery.saes import Saes
from qsotn.service.delivery.voids import Voids, may_confirm

_log: Final = structlog.get_logger("keys")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for (ETSI GS QKD 014 clause 6.1). Sizes in bits."""

    key_size: int = 256
    most_stored_keys: int = 1_000_000
    most_keys: int = 128
    smallest_key: int = 64
    largest_key: int = 1024
    most_additional_slaves: int = 16


class DeliveryDesk:
    """Ready keys for the SAEs of one key manager (`offered.KeyDelivery`)."""

    def __init__(
        self,
        saes: Saes,
        limits: Limits,
        group: Group,
        far_ends: Mapping[PartyId, FarEnd],
        voids: Voids,
        clock: Callable[[], int],
        priorities: Priorities | None = None,
    ) -> None:
        """`clock` returns microseconds since the epoch. Without `priorities` all SAEs are of one class."""
        self._saes = saes
        self._limits = limits
        self._group = group
        self._far_ends = far_ends
        self._voids = voids
        self._clock = clock
        self._priorities = priorities
        self._pools: dict[PartyId, Pool] = {}
        group.vanished = lambda asked, keys: self._abandon([Part(asked.pool, asked.slaves, keys, asked.size)])

    @property
    def own(self) -> PartyId:
        """Whose desk this is."""
        return self._saes.own

    async def pool(self, target: PartyId) -> Pool:
        """Return the pool in use towards a key manager. Raises `Overloaded`, `StoreError`."""
        if target not in self._pools:
            self._pools[target] = await self._group.call(lambda store: store.begin_pool(self.own, target))
        return self._pools[target]

    # --- what SAEs ask ----------------------------------------------------------------------------------------------

    async def offer(self, master: str, slave: str) -> Offer:
        """Return what is on offer (`offered.KeyDelivery.offer`)."""
        self._saes.check_own(master)
        target, limits = self._saes.home(slave), self._limits
        self._pools.pop(target, None)
        units = await self._ready(master, target)
        return Offer(
            source=self.own,
            target=target,
            key_size=limits.key_size,
            stored_keys=min(units // units_of(limits.key_size), limits.most_stored_keys),
            most_stored_keys=limits.most_stored_keys,
            most_keys_a_request=limits.most_keys,
            largest_key=limits.largest_key,
            smallest_key=limits.smallest_key,
            most_additional_slaves=limits.most_additional_slaves,
        )

    async def _ready(self, master: str, target: PartyId) -> int:
        """Return how many units an SAE may have now."""
        if self._priorities is None:
            return (await self._counted(target)).ready
        return await self._priorities.allowance(master, target, self._counted)

    async def _counted(self, target: PartyId) -> Stock:
        pool = await self.pool(target)
        count = await self._group.call(lambda store: store.count(pool))
        if not count.ready:  # or the pool has ended, and another replica knows
            self._pools.pop(target, None)
        return Stock(pool, count.ready, count.ready + count.gone)

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        """Give new keys to a master SAE (`offered.KeyDelivery.reserve`)."""
        self._saes.check_own(master)
        self._check(slaves, number, size)
        keys = await self._reserved(master, slaves, number, size)
        if self._priorities is not None:
            self._priorities.given(master, number)
        return keys

    async def _reserved(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        if len(slaves) == 1 and self._saes.home(slaves[0]) == self.own:  # nobody else has to know of it
            return await self._drawn_here(master, slaves[0], number, size)
        homes = self._saes.by_home(slaves)
        for home in homes:
            if home != self.own:
                self._far_end(home).check()
        began = self._clock()
        parts = await self._drawn(master, homes, number, size)
        if parts[-1].pool.target != self.own:
            await self._shared(master, parts, size, began)
        return parts[0].keys

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        """Give waiting keys to a slave SAE (`offered.KeyDelivery.collect`)."""
        self._saes.check_own(slave)
        self._saes.home(master)
        if not 1 <= len(key_ids) <= self._limits.most_keys:
            raise Refusal("BAD_REQUEST", f"{len(key_ids)} key IDs; a request names 1 to {self._limits.most_keys}")
        if len(set(key_ids)) != len(key_ids):
            raise Refusal("BAD_REQUEST", "a key ID is named twice; each key is given once")
        return await self._group.apply(Collect(slave, master, tuple(key_ids), self._clock()))

    def _check(self, slaves: Sequence[str], number: int, size: int) -> None:
        limits = self._limits
        if not slaves or len(slaves) > limits.most_additional_slaves + 1:
            asked = f"{len(slaves) - 1} additional slave SAEs"
            raise Refusal("BAD_REQUEST", f"{asked}; a request names at most {limits.most_additional_slaves}")
        if not 1 <= number <= limits.most_keys:
            raise Refusal("BAD_REQUEST", f"{number} keys; a request asks for 1 to {limits.most_keys}")
        if size % 8:
            raise Refusal("BAD_REQUEST", "size shall be a multiple of 8")
        if not limits.smallest_key <= size <= limits.largest_key:
            sizes = f"{limits.smallest_key} to {limits.largest_key} bits"
            raise Refusal("BAD_REQUEST", f"a size of {size} bits; a key has {sizes}")

    # --- held, assigned, confirmed ----------------------------------------------------------------------------------

    def _far_end(self, home: PartyId) -> FarEnd:
        """Return a far key manager. Raises `Refusal` FAR_END_SILENT for one whose address is not known here."""
        try:
            return self._far_ends[home]
        except KeyError:
            raise silent(home) from None

    async def _drawn_here(self, master: str, slave: str, number: int, size: int) -> tuple[ReadyKey, ...]:
        pool = self._pools.get(self.own) or await self.pool(self.own)
        applied = await self._applied([Reserve(pool, master, (slave,), number, size, self._clock())])
        _check_done(applied)
        return applied.done[0]

    async def _drawn(self, master: str, homes: Mapping[PartyId, tuple[str, ...]], number: int, size: int) -> list[Part]:
        """Take keys from the pool of each key manager; those of the others are void if one pool is short."""
        pools = [self._pools.get(home) or await self.pool(home) for home in homes]
        now = self._clock()
        reserves = [
            Reserve(pool, master, slaves, number, size, now, held=set(homes) != {self.own})
            for pool, slaves in zip(pools, homes.values(), strict=True)
        ]
        applied = await self._applied(reserves)
        parts = parts_of(reserves, applied)
        if applied.refused:
            self._abandon(parts)
            _check_done(applied)
        return parts

    async def _applied(self, reserves: Sequence[Reserve]) -> Applied:
        """Reserve keys of one request, as far as the class of its master may have them."""
        if self._priorities is None:
            applied = await self._group.apply_all(reserves)
        else:
            applied = await self._shared_out(reserves, self._priorities)
        if applied.refused:  # too few units, or a pool has ended, and another replica knows
            self._pools.clear()
        return applied

    async def _shared_out(self, reserves: Sequence[Reserve], priorities: Priorities) -> Applied:
        first, targets = reserves[0], [one.pool.target for one in reserves]
        each = units_of(first.size)
        await priorities.take(first.master, targets, first.number, each, self._counted)
        try:
            return await self._group.apply_all(reserves)
        finally:
            priorities.answered(targets, first.number * each)

    async def _shared(self, master: str, parts: Sequence[Part], size: int, began: int) -> None:
        """Have the keys wait at every key manager; raise, with all of them void, if that cannot be, or takes long."""
        far = [part for part in parts if part.pool.target != self.own]
        near = [part for part in parts if part.pool.target == self.own]
        try:
            errors = await _ended([self._assigned(part, parts[0], master, size) for part in far])
            await self._end_lost(far, errors)
            _raise_first(far, errors)
            _check_in_time(far, began, self._clock())
            confirmed = Confirm(tuple(key_id for part in far for key_id in part.key_ids))
            _check_done(await self._group.apply_all((confirmed, *(self._waiting(part, master) for part in near))))
        except BaseException:  # also a caller that goes away: nobody will ever use these keys
            self._abandon(parts)
            raise

    async def _end_lost(self, far: Sequence[Part], errors: Sequence[BaseException | None]) -> None:
        """End the pools whose ready units the far end does not have: an older copy of its store was restored there.

        What arrived there was laid in before it answered, so nothing of them is on its way; the next series is filled.
        """
        for part, error in zip(far, errors, strict=True):
            if isinstance(error, Refusal) and error.code == "KEYS_NOT_FOUND":
                await self.end_lost(part.pool, "it lacks a key that was assigned there")

    async def end_lost(self, pool: Pool, reason: str) -> None:
        """End a pool of which the far end does not have what is ready here. Raises `Overloaded`, `StoreError`."""
        _log.error("the far end has lost a pool, which ends", target=pool.target, series=pool.series, reason=reason)
        await self._group.call(partial(_end_pool, pool=pool))
        self._pools.pop(pool.target, None)

    def _waiting(self, part: Part, master: str) -> Assign:
        """What makes keys that were held here wait for slaves here."""
        return Assign(part.pool, part.key_ids, master, part.slaves, part.size, self._clock())

    async def _assigned(self, part: Part, first: Part, master: str, size: int) -> None:
        await self._far_end(part.pool.target).assign(assignment(part, first, master, size))

    def _abandon(self, parts: Sequence[Part]) -> None:
        """Have keys destroyed that the master is not given, wherever they may be."""
        for part in parts:
            home = part.pool.target
            # Under a pad of its own pool, a key waits at a further key manager under the name it has in the first.
            told = () if home == self.own else tuple(dict.fromkeys((part.units, parts[0].named)))
            self._voids.later(home, told, part.key_ids)


async def _ended(doing: Sequence[Coroutine[Any, Any, None]]) -> list[BaseException | None]:
    """Wait for the end of all; return what each raised."""
    if len(doing) > 1:
        return await asyncio.gather(*doing, return_exceptions=True)
    try:  # the ordinary case, which needs no task of its own
        await doing[0]
    except QsotnError as error:
        return [error]
    return [None]


def _raise_first(far: Sequence[Part], errors: Sequence[BaseException | None]) -> None:
    for part, error in zip(far, errors, strict=True):
        if isinstance(error, LineError):
            raise silent(part.pool.target) from error
        if isinstance(error, Refusal) and error.code == "KEYS_NOT_FOUND":
            raise shortage(part.pool) from error
        if error is not None:
            raise error


def _check_in_time(far: Sequence[Part], began: int, now: int) -> None:
    if not may_confirm(began, now):  # another replica may be about to have them void
        raise silent(far[0].pool.target)


def _end_pool(store: KeyStore, pool: Pool) -> None:
    store.end_pool(pool)


def _check_done(applied: Applied) -> None:
    for error in applied.refused.values():
        raise error
