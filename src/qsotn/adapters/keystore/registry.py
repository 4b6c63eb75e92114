"""The few rows that everything else refers to by number: pools, and audiences (one master and the slaves it named).

Both are added in a transaction of their own, before the one that uses them, so that what is remembered here is never of
a transaction that was undone. Another replica may have added some: they are looked up when missed. Pools stay for good;
an audience stays for as long as it is used (`forgetting`), which is written down now and then (`refresh`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.statements import NUMBER_BITS, Tables
from qsotn.domain import KeyId, PartyId
from qsotn.keynetwork.delivery import Pool, key_id, parse_key_id

NUMBERS: Final = 1 << NUMBER_BITS
_FIXED: Final = 24
"""Characters of a key ID that are the same for all of a pool: those of its tag, and the upper bits of every number."""
_DIGITS: Final = re.compile("[0-9a-f]{12}").fullmatch


Members = tuple[str, tuple[str, ...]]
"""A master, and the slaves that it named."""


@dataclass(frozen=True, slots=True)
class KnownPool:
    """A pool and where its units lie."""

    number: int
    pool: Pool
    tag: int
    floor: int
    """The place of unit 0."""
    prefix: str

    """What every key ID of the pool begins with; the rest is the number in 12 hexadecimal digits."""

    @property
    def ceiling(self) -> int:
        """The first place behind its units."""
        return self.floor + NUMBERS


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may have a key."""

    number: int
    master: str
    slaves: tuple[str, ...]


@dataclass
class Registry:
    """What of these is known so far."""

    tables: Tables
    refresh: int
    """After how long a use of an audience is written down again, in microseconds."""
    pools: dict[int, KnownPool] = field(default_factory=dict)
    """By number."""
    _by_pool: dict[Pool, KnownPool] = field(default_factory=dict)
    _by_tag: dict[int, KnownPool] = field(default_factory=dict)
    _by_prefix: dict[str, KnownPool] = field(default_factory=dict)
    _audiences: dict[int, Audience] = field(default_factory=dict)
    _by_members: dict[Members, Audience] = field(default_factory=dict)
    _used: dict[Members, int] = field(default_factory=dict)
    """When an audience was used last, as far as that is written down."""
    _ended: set[int] = field(default_factory=set)
    """Pools that are known to have ended."""

    # --- looking up -------------------------------------------------------------------------------------------------

    def pool(self, pool: Pool) -> KnownPool | None:
        """Return a pool, if it is known."""
        return self._by_pool.get(pool)

    def pool_at(self, place: int) -> KnownPool:
        """Return the pool that a place belongs to."""
        return self.pools[place >> NUMBER_BITS]

    def superseded(self, pool: KnownPool) -> list[KnownPool]:
        """Return the earlier series of a pool that are not known to have ended."""
        pair, series = (pool.pool.origin, pool.pool.target), pool.pool.series
        return [
            one
            for one in self.pools.values()
            if one.pool.series < series and (one.pool.origin, one.pool.target) == pair and one.number not in self._ended
        ]

    def key_id(self, place: int) -> KeyId:
        """Return the ID of the key at a place."""
        pool = self.pool_at(place)
        return KeyId(f"{pool.prefix}{place - pool.floor:012x}")

    def place(self, text: str) -> int | None:
        """Return the place that a key ID names, or None if it is of no pool here."""
        # As we write them, they are read without making a UUID of them.
        found = self._by_prefix.get(text[:_FIXED])
        if found is None or not _DIGITS(text, _FIXED):
            return self._place_of_any_form(text)
        number = int(text[_FIXED:], 16)
        return found.floor + number if number < NUMBERS else None

    def _place_of_any_form(self, text: str) -> int | None:
        parsed = parse_key_id(text)
        found = None if parsed is None else self._by_tag.get(parsed[0])
        if parsed is None or found is None or parsed[1] >= NUMBERS:
            return None
        return found.floor + parsed[1]

    def audience(self, master: str, slaves: tuple[str, ...]) -> Audience | None:
        """Return an audience, if it is known."""
        return self._by_members.get((master, slaves))

    def audience_of(self, number: int) -> Audience:
        """Return an audience that a row names."""
        if number not in self._audiences:
            self._know_audiences(self.tables.fetch(sql.AUDIENCE, number))
        return self._audiences[number]

    # --- adding -----------------------------------------------------------------------------------------------------

    def knows(self, audiences: Iterable[Members], now: int) -> bool:
        """Whether there is nothing to add, or to write down."""
        used, since = self._used, now - self.refresh
        return all(used.get(members, since) > since for members in audiences)

    def add(self, pools: Iterable[Pool], audiences: Iterable[Members], now: int) -> None:
        """Make those known that are not yet, and write down that audiences are used where that is due."""
        new_pools = [pool for pool in dict.fromkeys(pools) if pool not in self._by_pool]
        new_audiences = [members for members in dict.fromkeys(audiences) if not self.knows([members], now)]
        if not new_pools and not new_audiences:
            return
        with self.tables.transaction():
            for pool in new_pools:
                self.tables.fetch(sql.ADD_POOL, pool.origin, pool.target, pool.series)
            for master, slaves in new_audiences:
                self.tables.fetch(sql.USE_AUDIENCE, master, _written(slaves), now)
        with self.tables.transaction():
            self.read_pools()
            for master, slaves in new_audiences:
                self._know_audiences(self.tables.fetch(sql.AUDIENCE_OF, master, _written(slaves)))

    def read_pools(self) -> None:
        """Read all pools."""
        for number, origin, target, series, ended in self.tables.fetch(sql.FIND_POOLS):
            if ended:
                self._ended.add(number)
            if number not in self.pools:
                self._know(number, Pool(PartyId(origin), PartyId(target), series))

    def _know(self, number: int, pool: Pool) -> None:
        tag = pool.tag
        known = KnownPool(number, pool, tag, number << NUMBER_BITS, key_id(tag, 0)[:_FIXED])
        self.pools[number] = self._by_pool[pool] = self._by_tag[tag] = self._by_prefix[known.prefix] = known

    def read_audiences(self) -> None:
        """Read all audiences."""
        self._know_audiences(self.tables.fetch(sql.ALL_AUDIENCES))

    def forget_audiences(self, numbers: Iterable[int]) -> None:
        """Forget audiences that were deleted."""
        for number in numbers:
            audience = self._audiences.pop(number, None)
            if audience is not None and self._by_members.get((audience.master, audience.slaves)) is audience:
                del self._by_members[audience.master, audience.slaves]
                self._used.pop((audience.master, audience.slaves), None)

    def _know_audiences(self, rows: Iterable[tuple[int, str, str, int]]) -> None:
        for number, master, slaves, used in rows:
            audience = Audience(number, master, msgspec.json.decode(slaves, type=tuple[str, ...]))
            self._audiences[number] = self._by_members[master, audience.slaves] = audience
            self._used[master, audience.slaves] = used


def _written(slaves: tuple[str, ...]) -> str:
    return msgspec.json.encode(slaves).decode()
