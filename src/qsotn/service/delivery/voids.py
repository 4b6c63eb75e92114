"""Keys that no SAE will be given: destroyed at the far end as soon as it can be reached, and then here.

The key store itself remembers them. A key that was reserved for an SAE elsewhere is *held* until it is confirmed, and
nobody gets a held key; it is void here only when the far key manager has said that it is void there. So after a death
at any moment the next process, or another replica, finds what is held for longer than any request takes, and goes on.
What is held expires here some time after that (`HELD_US`), and this process goes on telling the far end all the same;
only if it dies too before that can be reached, the key waits there until it expires.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from qsotn.domain import KeyId, PartyId
from qsotn.errors import LineError, StoreError
from qsotn.keynetwork.delivery import Pool, Void, parse_key_id, units_of
from qsotn.service.delivery.assignments import MOST_NUMBERS, FarEnd, Named
from qsotn.service.delivery.group import Group
from qsotn.service.worker import Overloaded

PERIOD_S: Final = 1.0
ORPHANED_US: Final = 30_000_000
"""After how long a held key is nobody's: several times what a request may take."""
HELD_US: Final = 90_000_000
"""After how long the key store lets go of a held key. All that was held within it is looked at by `recover`."""
RECOVER_S: Final = 30.0
MOST_REMEMBERED: Final = 4096
"""Abandoned requests that this process remembers itself, for each far key manager; the store remembers all."""
_REASON: Final = "the master was not given them"
_log = structlog.get_logger("keys")


@dataclass(frozen=True, slots=True)
class _Abandoned:
    told: tuple[Named, ...]
    key_ids: tuple[KeyId, ...]


def may_confirm(reserved: int, now: int) -> bool:
    """Whether keys that were reserved at a moment may still be confirmed: no process takes them for nobody's yet.

    Between the two is as long as a transaction may pause, so that what is confirmed late is not void at the far end.
    """
    return now - reserved < ORPHANED_US * 2 // 3


class Voids:
    """What is to be destroyed, and the task that has it destroyed."""

    def __init__(
        self, own: PartyId, group: Group, far_ends: Mapping[PartyId, FarEnd], clock: Callable[[], int]
    ) -> None:
        """`clock` returns microseconds since the epoch."""
        self._own = own
        self._group = group
        self._far_ends = far_ends
        self._clock = clock
        self._abandoned: dict[PartyId, deque[_Abandoned]] = defaultdict(deque)
        self._known: set[KeyId] = set()
        """Keys in `_abandoned`, which `recover` need not find again."""
        self._due = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many abandoned requests this process has not yet seen destroyed."""
        return sum(map(len, self._abandoned.values()))

    def later(self, home: PartyId, told: tuple[Named, ...], key_ids: tuple[KeyId, ...]) -> None:
        """Have keys destroyed: `told` at the key manager `home`, if there is anything to tell it, and then here."""
        if len(self._abandoned[home]) < MOST_REMEMBERED:
            self._abandoned[home].append(_Abandoned(told, key_ids))
            self._known.update(key_ids)
        self._due.set()

    async def run(self) -> None:
        """Go on destroying, until cancelled."""
        recovered = -RECOVER_S
        while True:
            self._due.clear()
            if (now := asyncio.get_running_loop().time()) >= recovered + RECOVER_S:
                await self.recover()
                recovered = now
            await self.settle()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._due.wait()
            except TimeoutError:
                pass  # a look is due all the same

    async def settle(self) -> None:
        """Try once to have everything destroyed that this process abandoned."""
        await asyncio.gather(*(self._settle(home) for home in list(self._abandoned)))

    async def recover(self) -> None:
        """Look once for keys that another process, now dead, left held; have them destroyed by `settle`."""
        try:
            orphans = await self._orphans()
        except (StoreError, Overloaded) as error:
            _log.warning("cannot look for held keys", reason=str(error))
            return
        # The far end may have them under names of the other pools (multicast), so each is told of all.
        names = tuple(Named(pool.target, pool.series, tuple(numbers)) for pool, numbers in orphans.items())
        for home in sorted({pool.target for pool in orphans}, key=lambda home: home == self._own):
            ids = [one.key_ids(self._own) for one in names if one.target == home]
            told = () if home == self._own else names
            self.later(home, told, tuple(key_id for some in ids for key_id in some))

    async def _orphans(self) -> dict[Pool, list[int]]:
        """Return every unit of the keys that are held too long, by pool and number."""
        before = self._clock() - ORPHANED_US
        held, pools = await self._group.call(lambda store: (store.held(before), store.pools()))
        by_tag = {pool.tag: pool for pool in pools}
        found: dict[Pool, list[int]] = defaultdict(list)
        for key_id, size in held:
            parsed = parse_key_id(key_id)
            if parsed is not None and key_id not in self._known:
                found[by_tag[parsed[0]]] += range(parsed[1], parsed[1] + units_of(size))
        return found

    async def _settle(self, home: PartyId) -> None:
        waiting = self._abandoned[home]
        while waiting and await self._destroy(home, waiting[0]):
            self._known.difference_update(waiting.popleft().key_ids)

    async def _destroy(self, home: PartyId, abandoned: _Abandoned) -> bool:
        """Destroy keys there, and then here; say whether that is done."""
        try:
            for request in _requests(abandoned.told):
                await self._tell(home, request)
            await self._group.apply(Void(abandoned.key_ids, _REASON))
        except (LineError, StoreError, Overloaded) as error:
            _log.warning("keys are not void yet", at=home, keys=len(abandoned.key_ids), reason=str(error))
            return False
        _log.info("void", at=home, keys=len(abandoned.key_ids))
        return True

    async def _tell(self, home: PartyId, voids: Sequence[Named]) -> None:
        if home not in self._far_ends:
            raise LineError(f"no address of {home} is known")
        await self._far_ends[home].void(voids)


def _requests(told: Iterable[Named]) -> Iterator[tuple[Named, ...]]:
    """Cut what is to be told into requests that are not too large."""
    for one in told:
        for first in range(0, len(one.numbers), MOST_NUMBERS):
            yield (Named(one.target, one.series, one.numbers[first : first + MOST_NUMBERS]),)
