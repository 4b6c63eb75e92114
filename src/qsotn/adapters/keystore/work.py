"""One batch of operations on its way through one transaction: what they have in common, and what they leave behind."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.epochs import Epochs, EpochUnreadable
from qsotn.adapters.keystore.registry import Audience, KnownPool, Registry
from qsotn.adapters.keystore.statements import NUMBER_BITS, Collected, Kind, Ready, Removed, Tables, Tally, Unit
from qsotn.domain import KeyId, Secret
from qsotn.errors import QsotnError, StoreError
from qsotn.keynetwork.delivery import Applied, Pool, ReadyKey, units_of

SECOND: Final = 1_000_000


Row = Ready | Collected | Unit


@dataclass(frozen=True, slots=True)
class Times:
    """How long things last, in microseconds, the unit of `now` in operations; and how much an epoch takes."""

    window: int = 30 * SECOND
    """A repeated `Collect` or `Confirm` gets the same keys for so long."""
    held: int = 60 * SECOND
    """Keys that were reserved as held, and neither confirmed nor voided, expire after so long."""
    waiting: int = 24 * 3600 * SECOND
    """Keys that nobody collected expire after so long."""
    retention: int = 30 * 24 * 3600 * SECOND
    """Accounts are kept for so long: how keys came, after the last of them was gone, and who shared keys with whom."""
    epoch: int = 3600 * SECOND
    """An epoch is filled for so long at most."""
    epoch_limit: int = 48 * 3600 * SECOND
    """What is left of an epoch after so long is wrapped anew, and the epoch shredded."""
    epoch_units: int = 1 << 20
    """An epoch is filled with so many units at most; far fewer than 2^32 (NIST SP 800-38D, section 8.3)."""


@dataclass
class Work:
    """What operations do is done through this."""

    tables: Tables
    registry: Registry
    epochs: Epochs
    times: Times
    now: int
    epoch: int | None
    """The epoch that new wrappings belong to; there is one if any operation needs it."""
    floors: dict[int, int]
    """For each pool, a place below which no unit is ready, as far as was seen."""
    applied: Applied = field(default_factory=Applied)
    tallies: Counter[tuple[int, int]] = field(default_factory=Counter)
    agenda: dict[tuple[Kind, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    ready: dict[int, int] = field(default_factory=dict)
    """For each pool that was asked after, its ready units before this transaction."""
    wrapped: int = 0
    changed: bool = False
    looked_again: bool = False

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def done(self, index: int, keys: tuple[ReadyKey, ...] = ()) -> None:
        """Note what an operation yielded."""
        self.applied.done[index] = keys

    def refused(self, index: int, error: QsotnError) -> None:
        """Note why an operation came to nothing."""
        self.applied.refused[index] = error

    def give(self, index: int, rows: Iterable[Row], sizes: Iterable[int]) -> None:
        """Yield keys of so many bits. One that does not open spoils this operation alone, and counts as given.

        Raises `EpochUnreadable`, so that all is undone: there the fault is this process's.
        """
        try:
            self.applied.done[index] = tuple(map(self._key, rows, sizes))
        except EpochUnreadable:
            raise
        except StoreError as error:
            self.refused(index, error)

    def give_named(self, index: int, names: Sequence[str], units: Sequence[Unit]) -> None:
        """Yield keys by the names that they were asked for."""
        self.give(index, units, [unit.size for unit in units])
        if keys := self.applied.done.get(index):
            self.done(index, tuple([ReadyKey(KeyId(name), one.key) for name, one in zip(names, keys, strict=True)]))

    def _key(self, row: Row, size: int) -> ReadyKey:
        place = row.place
        pool = self.registry.pools[place >> NUMBER_BITS]
        number = place - pool.floor
        material = self.epochs.unwrap(row.epoch, pool.tag, number, row.wrapped)
        return ReadyKey(KeyId(f"{pool.prefix}{number:012x}"), Secret(material[: size >> 3]))

    # --- looking up -------------------------------------------------------------------------------------------------

    def pool(self, pool: Pool) -> KnownPool | None:
        """Return a pool, if there is one here."""
        return self.registry.pool(pool) or (self._look_again() and self.registry.pool(pool)) or None

    def place(self, name: str) -> int | None:
        """Return the place that a key ID names, or None if it is of no pool here."""
        place = self.registry.place(name)
        return self.registry.place(name) if place is None and self._look_again() else place

    def named(self, names: Iterable[str]) -> dict[str, int]:
        """Return the places of those names that keys of other pools go by here."""
        rows = self.tables.fetch(sql.PLACES_OF_NAMES, list(names))
        return {name: int(place) for name, place in rows}

    def _look_again(self) -> bool:
        """Read pools that another replica may have begun, once."""
        if self.looked_again:
            return False
        self.looked_again = True
        self.registry.read_pools()
        return True

    # --- units ------------------------------------------------------------------------------------------------------

    def reveal(self, row: Row) -> bytes:
        """Unwrap a row. Raises `StoreError`."""
        pool = self.registry.pools[row.place >> NUMBER_BITS]
        return self.epochs.unwrap(row.epoch, pool.tag, row.place - pool.floor, row.wrapped)

    def wrap(self, pool: KnownPool, place: int, units: Sequence[bytes]) -> list[Ready]:
        """Wrap units for successive places, under the epoch that is being filled."""
        if self.epoch is None:
            raise StoreError("nothing can be wrapped: no epoch has begun")
        blobs = self.epochs.wrap(self.epoch, pool.tag, place - pool.floor, units)
        self.wrapped += len(units)
        self.count(Tally.LIVE, self.epoch, len(units))
        return [Ready(place + number, self.epoch, blob) for number, blob in enumerate(blobs)]

    def join(self, units: Sequence[Row], size: int, pad: bytes = b"") -> bytes:
        """Return the key of `size` bits that successive units are, under `pad` if there is one. Raises `StoreError`."""
        key = b"".join(map(self.reveal, units))[: size >> 3]
        return bytes(a ^ b for a, b in zip(key, pad, strict=True)) if pad else key

    def replace(self, units: Sequence[Row], key: bytes) -> Ready:
        """Wrap a key in place of its units: the rows behind the first go, the first is left to be written."""
        first = units[0]
        if len(units) > 1:
            self.remove([unit.place for unit in units[1:]])
        self.count(Tally.LIVE, first.epoch, -1)
        (replaced,) = self.wrap(self.registry.pool_at(first.place), first.place, [key])
        return replaced

    def remove(self, places: Sequence[int]) -> None:
        """Delete rows."""
        self.gone(self.tables.fetch(sql.REMOVE, list(places)))

    def gone(self, rows: Iterable[Sequence[int]]) -> list[Removed]:
        """Take note that rows were deleted."""
        removed = list(map(Removed._make, rows))
        for epoch, number in Counter(row.epoch for row in removed).items():
            self.count(Tally.LIVE, epoch, -number)
        return removed

    # --- what is counted, and what is to be looked at later ---------------------------------------------------------

    def count(self, what: Tally, subject: int, by: int) -> None:
        """Count."""
        self.tallies[what, subject] += by
        self.changed = True

    def ready_in(self, pool: KnownPool) -> int:
        """Return how many units of a pool are ready, other replicas' uncommitted changes apart."""
        if pool.number not in self.ready:
            ((counted,),) = self.tables.fetch(sql.READY_IN_POOL, pool.number)
            self.ready[pool.number] = int(counted or 0)
        return self.ready[pool.number] + self.tallies[Tally.READY, pool.number]

    def move(self, before: Tally, after: Tally, pool: int, units: int) -> None:
        """Count units of a pool as something else."""
        if not units:
            return
        self.count(before, pool, -units)
        self.count(after, pool, units)

    def note(self, kind: Kind, places: Sequence[int]) -> None:
        """Put places on the agenda, for when their time is over."""
        if not places:
            return
        lasts = {Kind.FORGET: self.times.window, Kind.EXPIRE_HELD: self.times.held}.get(kind, self.times.waiting)
        self.agenda[kind, self.now + lasts] += places

    def write_back(self) -> int | None:
        """Write agenda and tallies; return this replica's number of transactions, or None if nothing changed."""
        if not self.changed:
            return None
        for (kind, due), places in self.agenda.items():
            self.tables.fetch(sql.NOTE, due, kind, array("q", places).tobytes())
        return self.tables.tally([(what, subject, by) for (what, subject), by in self.tallies.items() if by])


def audience(work: Work, master: str, slaves: tuple[str, ...]) -> Audience:
    """Return an audience that was made known before the transaction began."""
    found = work.registry.audience(master, slaves)
    if found is None:
        raise StoreError(f"nobody made the audience of {master} known")
    return found


def units_in(row: Unit | Removed) -> int:
    """Units that a row counts for."""
    return units_of(row.size)
