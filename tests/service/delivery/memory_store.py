"""A key store in memory that keeps the contract of `keynetwork.delivery`, over a disk that outlives it.

A transaction works on a copy and replaces the disk's content at its end, so that a store that is abandoned at any
moment leaves what was committed, and nothing else.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import QsotnError, Refusal
from qsotn.keynetwork.delivery import (
    Applied,
    Assign,
    Collect,
    Confirm,
    Deposit,
    Forgotten,
    Operation,
    Pool,
    PoolCount,
    ReadyKey,
    Reserve,
    Sweep,
    Void,
    key_id,
    parse_key_id,
    shortage,
    units_of,
)

EXPIRY_US = 600_000_000
NOT_FOUND = "one or more keys specified are not found on KME"


@dataclass
class Waiting:
    """A key that is held, or waits for slaves."""

    pool: Pool
    material: bytes
    units: int
    master: str
    slaves: set[str]
    at: int
    held: bool = False
    given: bool = False
    """The master has it, or may have it."""


@dataclass
class Disk:
    """What is durable."""

    pools: dict[int, Pool] = field(default_factory=dict)
    batches: set[str] = field(default_factory=set)
    ready: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """By tag and number, units."""
    above: dict[int, int] = field(default_factory=dict)
    waiting: dict[str, Waiting] = field(default_factory=dict)
    answers: dict[tuple[str, str, tuple[KeyId, ...]], tuple[tuple[KeyId, bytes], ...]] = field(default_factory=dict)
    assigned: set[Assign] = field(default_factory=set)
    became: dict[int, Counter[str]] = field(default_factory=dict)
    """By tag, how many units were delivered, voided, expired."""
    over: set[int] = field(default_factory=set)
    """Tags of pools that have ended."""
    ended: int = 0
    """The highest series that an older copy of this disk had when it was put back."""


@dataclass
class Place:
    """A disk, and what a test does to the store on it."""

    disk: Disk = field(default_factory=Disk)
    before: Callable[[Sequence[Operation]], None] = lambda _: None
    """May raise, or wait, before a transaction."""
    commits: int = 0
    prepares: bool = False
    """Whether the store does its statements at once, and only the commit where its caller may wait."""
    before_commit: Callable[[], None] = lambda: None
    """May raise, or wait, before what was prepared is committed."""
    slices: int = 0
    """How many sweeps it takes until nothing is due, beyond the first."""


class MemoryKeyStore:
    """`keynetwork.delivery.KeyStore`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._thread = threading.get_ident()
        self._disk = place.disk
        self._prepared = False

    def apply(self, operations: Sequence[Operation]) -> Applied:
        assert threading.get_ident() == self._thread
        applied = self._worked_out(operations)
        self._keep()
        return applied

    def _worked_out(self, operations: Sequence[Operation]) -> Applied:
        assert not self._prepared, "a transaction is open"
        self._place.before(operations)
        self._disk = copy.deepcopy(self._place.disk)
        applied = Applied()
        for position, one in enumerate(operations):
            whole = copy.deepcopy(self._disk)
            try:
                applied.done[position] = self._do(one)
            except QsotnError as error:
                self._disk = whole
                applied.refused[position] = error
            if isinstance(one, Sweep) and self._place.slices:
                self._place.slices -= 1
                applied.unfinished.add(position)
        return applied

    def _keep(self) -> None:
        self._place.disk = self._disk
        self._place.commits += 1

    def prepare(self, operations: Sequence[Operation]) -> Applied | None:
        if not self._place.prepares or any(isinstance(one, Deposit | Sweep) for one in operations):
            return None
        assert threading.get_ident() != self._thread
        applied = self._worked_out(operations)
        self._prepared = True
        return applied

    def commit(self) -> None:
        assert threading.get_ident() == self._thread
        assert self._prepared
        self._prepared = False
        self._place.before_commit()
        self._keep()

    def pools(self) -> Sequence[Pool]:
        return tuple(self._place.disk.pools.values())

    def begin_pool(self, origin: PartyId, target: PartyId) -> Pool:
        disk, last = self._place.disk, self._place.disk.ended
        for pool in disk.pools.values():
            if (pool.origin, pool.target) == (origin, target) and pool.series > disk.ended:
                last = max(last, pool.series)
                if pool.tag not in disk.over:
                    return pool
        pool = Pool(origin, target, last + 1)
        disk.pools[pool.tag] = pool
        return pool

    def end_pool(self, pool: Pool) -> None:
        disk = self._place.disk
        burned = len(disk.ready.pop(pool.tag, {}))
        for name in [name for name, one in disk.waiting.items() if one.pool == pool and not one.given]:
            burned += disk.waiting.pop(name).units
        disk.became.setdefault(pool.tag, Counter())["burned"] += burned
        disk.over.add(pool.tag)

    def next_number(self, pool: Pool) -> int:
        return self._place.disk.above.get(pool.tag, 0)

    def held(self, before: int) -> Sequence[tuple[KeyId, int]]:
        return [
            (KeyId(key), len(one.material) * 8)
            for key, one in self._place.disk.waiting.items()
            if one.held and one.at < before
        ]

    def count(self, pool: Pool) -> PoolCount:
        disk = self._place.disk
        waiting = sum(one.units for one in disk.waiting.values() if one.pool == pool)
        became = disk.became.get(pool.tag, Counter())
        ready = len(disk.ready.get(pool.tag, {}))
        return PoolCount(ready, waiting, became["delivered"], became["voided"], became["expired"], became["burned"])

    def provenance(self, _: str) -> bytes | None:
        return None

    def forget(self, _: int) -> Forgotten:
        return Forgotten(0, 0, 0, unfinished=False)

    def close(self) -> None:
        assert threading.get_ident() == self._thread

    # --- operations -------------------------------------------------------------------------------------------------

    def _do(self, one: Operation) -> tuple[ReadyKey, ...]:
        match one:
            case Deposit():
                return self._deposit(one)
            case Reserve():
                return self._reserve(one)
            case Confirm():
                return self._confirm(one)
            case Assign():
                return self._assign(one)
            case Collect():
                return self._collect(one)
            case Void():
                return self._void(one)
            case Sweep():
                return self._sweep(one)

    def _deposit(self, one: Deposit) -> tuple[ReadyKey, ...]:
        if one.batch in self._disk.batches:
            return ()
        if one.pool.series <= self._disk.ended:
            raise Refusal("KEY_REUSED", "this series has ended")
        if one.first < self._disk.above.get(one.pool.tag, 0):
            raise Refusal("KEY_REUSED", f"number {one.first} was used before")
        self._disk.batches.add(one.batch)
        self._disk.pools[one.pool.tag] = one.pool
        ready = self._disk.ready.setdefault(one.pool.tag, {})
        ready.update({one.first + at: unit.reveal() for at, unit in enumerate(one.units)})
        self._disk.above[one.pool.tag] = one.first + len(one.units)
        return ()

    def _reserve(self, one: Reserve) -> tuple[ReadyKey, ...]:
        ready, each = self._disk.ready.get(one.pool.tag, {}), units_of(one.size)
        keys = []
        for _ in range(one.number):
            first = next((n for n in sorted(ready) if all(n + more in ready for more in range(each))), None)
            if first is None:
                raise shortage(one.pool)
            material = self._take(ready, first, one.size)
            named = key_id(one.pool.tag, first)
            self._disk.waiting[named] = Waiting(
                one.pool, material, each, one.master, set(one.slaves), one.now, one.held, not one.held
            )
            keys.append(ReadyKey(named, Secret(material)))
        return tuple(keys)

    def _confirm(self, one: Confirm) -> tuple[ReadyKey, ...]:
        found = [self._disk.waiting.get(key) for key in one.key_ids]
        if not all(key is not None and key.held for key in found):
            raise Refusal("KEYS_NOT_FOUND", NOT_FOUND)
        for key in one.key_ids:
            self._end(key, "delivered")
        return ()

    def _assign(self, one: Assign) -> tuple[ReadyKey, ...]:
        same = msgless(one)
        if same in self._disk.assigned:
            return ()
        ready, each = self._disk.ready.get(one.pool.tag, {}), units_of(one.size)
        for at, named in enumerate(one.key_ids):
            parsed = parse_key_id(named)
            assert parsed is not None
            held = self._disk.waiting.get(named)
            if one.pool.origin == one.pool.target and held is not None and held.held:
                held.held, held.slaves = False, set(one.slaves)
                continue
            if not all(parsed[1] + more in ready for more in range(each)):
                raise Refusal("KEYS_NOT_FOUND", NOT_FOUND)
            material = self._take(ready, parsed[1], one.size)
            if one.sealed:
                material = bytes(a ^ b for a, b in zip(material, one.sealed[at], strict=True))
            name = one.names[at] if one.names else named
            assert name not in self._disk.waiting
            self._disk.waiting[name] = Waiting(one.pool, material, each, one.master, set(one.slaves), one.now)
        self._disk.assigned.add(same)
        return ()

    def _collect(self, one: Collect) -> tuple[ReadyKey, ...]:
        asked = (one.slave, one.master, one.key_ids)
        if asked in self._disk.answers:
            return tuple(ReadyKey(key, Secret(material)) for key, material in self._disk.answers[asked])
        found = [self._disk.waiting.get(key) for key in one.key_ids]
        if not all(key is not None and not key.held for key in found):
            raise Refusal("KEYS_NOT_FOUND", NOT_FOUND)
        for key in found:
            assert key is not None
            if one.slave not in key.slaves or key.master != one.master:
                raise Refusal("NOT_NAMED", f"{one.slave} was not named")
        answer = tuple((name, self._disk.waiting[name].material) for name in one.key_ids)
        for name in one.key_ids:
            self._disk.waiting[name].slaves.discard(one.slave)
            if not self._disk.waiting[name].slaves:
                self._end(name, "delivered")
        self._disk.answers[asked] = answer
        return tuple(ReadyKey(key, Secret(material)) for key, material in answer)

    def _void(self, one: Void) -> tuple[ReadyKey, ...]:
        for name in one.key_ids:
            if name in self._disk.waiting and not self._disk.waiting[name].given:
                self._end(name, "voided")
            parsed = parse_key_id(name)
            assert parsed is not None
            if self._disk.ready.get(parsed[0], {}).pop(parsed[1], None) is not None:
                self._disk.became.setdefault(parsed[0], Counter())["voided"] += 1
        return ()

    def _sweep(self, one: Sweep) -> tuple[ReadyKey, ...]:
        for name in [name for name, key in self._disk.waiting.items() if key.at + EXPIRY_US <= one.now]:
            self._end(name, "expired")
        self._disk.answers.clear()
        return ()

    def _take(self, ready: dict[int, bytes], first: int, size: int) -> bytes:
        return b"".join(ready.pop(first + more) for more in range(units_of(size)))[: size // 8]

    def _end(self, name: str, became: str) -> None:
        key = self._disk.waiting.pop(name)
        self._disk.became.setdefault(key.pool.tag, Counter())[became] += key.units


def msgless(one: Assign) -> Assign:
    """An assignment without its moment."""
    return Assign(one.pool, one.key_ids, one.master, one.slaves, one.size, 0, one.sealed, one.names)
