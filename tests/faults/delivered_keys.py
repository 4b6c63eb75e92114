"""What SAEs were given over a run, how the pools stood after it, and what must hold of every such history.

A key is known here by its ID and by digests of its units, never by itself. An SAE's request ends as given, refused, or
unknown: no answer came, or one that does not say whether it was carried out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

from qsotn.domain import KeyId, PartyId
from qsotn.keynetwork.delivery import UNIT_BITS, Pool, PoolCount, ReadyKey, parse_key_id, units_of

PREFIX_BYTES: Final = 8
"""Of a unit: the least that every key shows of its units, however short it is."""


class Ended(StrEnum):
    """What an SAE knows of its request."""

    GIVEN = "given"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Value:
    """One key as it was given: its ID, a digest of all of it, and one of the beginning of each of its units."""

    key_id: KeyId
    whole: str
    units: tuple[str, ...]


def value_of(ready: ReadyKey) -> Value:
    """Remember a key without its bits."""
    bits, unit = ready.key.reveal(), UNIT_BITS // 8
    begun = (bits[at : at + PREFIX_BYTES] for at in range(0, len(bits), unit))
    return Value(ready.key_id, _digest(bits), tuple(_digest(one) for one in begun if len(one) == PREFIX_BYTES))


def _digest(bits: bytes) -> str:
    return sha256(bits).hexdigest()[:32]


@dataclass(frozen=True)
class Draw:
    """One request of a master SAE for new keys. Times in microseconds since the epoch; `size` in bits."""

    master: str
    slaves: tuple[str, ...]
    number: int
    size: int
    began: int
    ended: int
    outcome: Ended
    keys: tuple[Value, ...] = ()


@dataclass(frozen=True)
class Pickup:
    """One request of a slave SAE for keys by their IDs."""

    slave: str
    master: str
    key_ids: tuple[KeyId, ...]
    began: int
    ended: int
    outcome: Ended
    keys: tuple[Value, ...] = ()


@dataclass(frozen=True)
class PoolEnd:
    """How one pool stands at one of its ends, and the first and last number of every batch that was deposited there."""

    km: PartyId
    pool: Pool
    count: PoolCount
    batches: Mapping[str, tuple[int, int]]

    @property
    def deposited(self) -> int:
        """Units that ever came."""
        return sum(last - first + 1 for first, last in self.batches.values())

    def __str__(self) -> str:
        return f"{self.pool.origin}>{self.pool.target}#{self.pool.series} at {self.km} ({self.count})"


@dataclass(frozen=True)
class Delivered:
    """One run. `window` is how long an answer is repeated, in microseconds; `homes` says where each SAE is.

    `restored` are the key managers that went back to an older copy of their store, the last time at `restored_at`: what
    they had given out before is counted by nobody, and what waited then is lost.
    """

    window: int
    homes: Mapping[str, PartyId]
    draws: tuple[Draw, ...]
    pickups: tuple[Pickup, ...]
    ends: tuple[PoolEnd, ...]
    restored: frozenset[PartyId] = frozenset()
    restored_at: int = -1


def violations(run: Delivered) -> list[str]:
    """Say what does not hold."""
    found = (
        _two_values(run),
        _one_value_twice(run),
        _drawn_twice(run),
        _not_named(run),
        _given_again(run),
        _lost(run),
        _unaccounted(run),
        _ends_differ(run),
        _more_or_less_than_was_given(run),
        _burned(run),
    )
    return [one for rule in found for one in rule]


# --- keys -------------------------------------------------------------------------------------------------------------


def _values(run: Delivered) -> Iterator[tuple[str, Value]]:
    yield from ((f"master {one.master}", value) for one in run.draws for value in one.keys)
    yield from ((f"slave {one.slave}", value) for one in run.pickups for value in one.keys)


def _two_values(run: Delivered) -> Iterator[str]:
    """Whoever has a key of an ID has the same key."""
    known: dict[KeyId, tuple[str, Value]] = {}
    for who, value in _values(run):
        first, expected = known.setdefault(value.key_id, (who, value))
        if value != expected:
            yield f"{value.key_id} has two values, at {first} and at {who}"


def _one_value_twice(run: Delivered) -> Iterator[str]:
    """No unit is in two keys, by its bits or by its number."""
    named: dict[str, tuple[KeyId, int]] = {}
    for value in {value.key_id: value for _, value in _values(run)}.values():
        for at, unit in enumerate(value.units):
            key_id, position = named.setdefault(unit, (value.key_id, at))
            if (key_id, position) != (value.key_id, at):
                yield f"unit {at} of {value.key_id} is unit {position} of {key_id} too"


def _drawn_twice(run: Delivered) -> Iterator[str]:
    """No unit is in two requests of masters."""
    taken: Counter[tuple[int, int]] = Counter()
    for draw in run.draws:
        for value in draw.keys:
            tag, first = _place(value.key_id)
            taken.update((tag, first + more) for more in range(units_of(draw.size)))
    yield from (
        f"unit {number} of pool {tag:x} was drawn {times} times" for (tag, number), times in taken.items() if times > 1
    )


def _place(key_id: str) -> tuple[int, int]:
    parsed = parse_key_id(key_id)
    if parsed is None:
        raise ValueError(f"{key_id} is no ID of a pool's key")
    return parsed


# --- slaves -----------------------------------------------------------------------------------------------------------


def _not_named(run: Delivered) -> Iterator[str]:
    """A key goes to the slaves that its master named, and to them for this master."""
    named = {value.key_id: one for one in run.draws for value in one.keys}
    for pickup in run.pickups:
        for value in pickup.keys:
            draw = named.get(value.key_id)
            if draw is not None and (pickup.slave not in draw.slaves or pickup.master != draw.master):
                yield f"{value.key_id} of {draw.master} for {draw.slaves} was given to {pickup.slave}"


def _given_again(run: Delivered) -> Iterator[str]:
    """A slave gets a key by one request, and by this one again only within the window."""
    first: dict[tuple[str, KeyId], Pickup] = {}
    for pickup in sorted(run.pickups, key=lambda one: one.ended):
        for value in pickup.keys:
            before = first.setdefault((pickup.slave, value.key_id), pickup)
            if set(before.key_ids) != set(pickup.key_ids):
                yield f"{value.key_id} was given to {pickup.slave} by two requests"
            elif pickup.began > before.ended + run.window:
                late = (pickup.began - before.ended) / 1e6
                yield f"{value.key_id} was given to {pickup.slave} again after {late:.1f} s"


def _lost(run: Delivered) -> Iterator[str]:
    """A slave that asks for what its master has gets it, unless an answer to the same request may have been lost."""
    named = {value.key_id: one for one in run.draws for value in one.keys}
    asked: dict[tuple[str, KeyId], list[Pickup]] = defaultdict(list)
    for pickup in run.pickups:
        for key_id in pickup.key_ids:
            asked[pickup.slave, key_id].append(pickup)
    for pickup in run.pickups:
        if pickup.outcome is Ended.REFUSED and _is_due(run, pickup, named):
            for key_id in pickup.key_ids:
                if all(_leaves(run, one, pickup) for one in asked[pickup.slave, key_id]):
                    yield f"{pickup.slave} was refused {key_id}, which {pickup.master} has, and it never had it"


def _is_due(run: Delivered, pickup: Pickup, named: Mapping[KeyId, Draw]) -> bool:
    """Whether a request names keys that were drawn for this slave, all of them after the last restore."""
    draws = [named.get(key_id) for key_id in pickup.key_ids]
    return all(
        one is not None and pickup.slave in one.slaves and pickup.master == one.master and one.began > run.restored_at
        for one in draws
    )


def _leaves(run: Delivered, other: Pickup, refused: Pickup) -> bool:
    """Whether another request leaves a key to one that was refused: it was refused itself, or comes within the window.

    One that was not answered may have been carried out at any time after it began.
    """
    if other.outcome is Ended.REFUSED or other.began > refused.ended:
        return True
    is_same = set(other.key_ids) == set(refused.key_ids)
    return is_same and refused.ended <= other.began + run.window


# --- pools ------------------------------------------------------------------------------------------------------------


def _unaccounted(run: Delivered) -> Iterator[str]:
    """Every unit that was ever deposited is somewhere."""
    for end in run.ends:
        if (total := sum(_kinds(end.count))) != end.deposited:
            yield f"{end}: {total} units are accounted for, {end.deposited} were deposited"


def _kinds(count: PoolCount) -> tuple[int, ...]:
    return (count.ready, count.waiting, count.delivered, count.voided, count.expired, count.burned)


def _ends_differ(run: Delivered) -> Iterator[str]:
    """What the origin can give is at the target too; what it gave waits there, or was collected, or expired."""
    ends = {(one.km, one.pool): one for one in run.ends}
    slack = sum(_units(run, one) for one in run.draws if one.outcome is Ended.UNKNOWN)
    for (km, pool), origin in ends.items():
        if km != pool.origin or km == pool.target or run.restored & {pool.origin, pool.target}:
            continue
        target = ends.get((pool.target, pool))
        if target is None:
            if origin.batches:
                yield f"{origin}: there is nothing of it at {pool.target}"
            continue
        yield from _batches_differ(origin, target)
        yield from _counts_differ(origin.count, target.count, f"{origin}, and {target}", slack)


def _batches_differ(origin: PoolEnd, target: PoolEnd) -> Iterator[str]:
    for batch, numbers in origin.batches.items():
        if target.batches.get(batch) != numbers:
            yield f"{origin}: batch {batch} has {numbers}, and {target.batches.get(batch)} at {target.km}"


def _counts_differ(origin: PoolCount, target: PoolCount, both: str, slack: int) -> Iterator[str]:
    arrived = target.waiting + target.delivered + target.expired
    if origin.ready > target.ready:
        yield f"{both}: {origin.ready} units can be given, and {target.ready} of them collected"
    if origin.delivered > arrived + slack:
        yield f"{both}: {origin.delivered} units were given, and {arrived} came to their slaves"
    if target.waiting + target.delivered > origin.delivered + origin.waiting + origin.expired:
        yield f"{both}: {target.waiting + target.delivered} units can be collected, and {origin.delivered} were given"


def _more_or_less_than_was_given(run: Delivered) -> Iterator[str]:
    """A key manager has given what its SAEs were given, and at most what they have asked for without an answer."""
    for km in sorted(set(run.homes.values()) - run.restored):
        draws = [one for one in run.draws if run.homes[one.master] == km]
        known = sum(_units(run, one) for one in draws if one.outcome is Ended.GIVEN)
        unknown = sum(_units(run, one) for one in draws if one.outcome is Ended.UNKNOWN)
        counts = [end.count for end in run.ends if end.km == end.pool.origin == km]
        given = sum(count.delivered + count.waiting + count.expired for count in counts)
        burned = sum(count.burned for count in counts) if run.restored else 0
        if not known - burned <= given <= known + unknown:
            yield f"{km} has given {given} units; its SAEs were given {known}, and may have been given {unknown} more"


def _burned(run: Delivered) -> Iterator[str]:
    """Nothing is destroyed as of an older copy where no store went back to one."""
    if not run.restored:
        yield from (f"{end}: {end.count.burned} units were burned" for end in run.ends if end.count.burned)


def _units(run: Delivered, draw: Draw) -> int:
    """Units that a request takes: from one pool for each key manager of its slaves."""
    return draw.number * units_of(draw.size) * len({run.homes[slave] for slave in draw.slaves})
