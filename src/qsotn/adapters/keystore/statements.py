"""What a key store asks of its tables, and the statements that both dialects have in common.

Parameters are `?1`, `?2`. `AMONG(?1)` is a list of integers and `AMONG_TEXTS(?1)` one of texts: SQLite takes them as
JSON, PostgreSQL as arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Any, Final, NamedTuple, Protocol

NUMBER_BITS: Final = 44
"""Of a place; the bits above are the pool's. 2^44 units last one pool, at a million a second, for half a year; then
comes its next series."""


class State(IntEnum):
    """What has happened to a unit so far."""

    READY = 0
    HELD = 1
    """Reserved at the origin; no SAE has it."""
    GIVEN = 2
    """Reserved at the origin for SAEs of its own; the master has it."""
    ASSIGNED = 3
    """At the target: waits for its slaves, and may still be voided."""


class Kind(IntEnum):
    """What an entry of the agenda is about."""

    FORGET = 0
    EXPIRE_HELD = 1
    EXPIRE_WAITING = 2


class Tally(IntEnum):
    """What is counted, and of which subject: a pool, an epoch, or (TRANSACTIONS) nothing else."""

    READY = 0
    WAITING = 1
    DELIVERED = 2
    VOIDED = 3
    EXPIRED = 4
    BURNED = 5
    LIVE = 6
    """Rows of an epoch."""
    TRANSACTIONS = 7


class Unit(NamedTuple):
    """One row: a unit, or from its reservation on a key, under the place of its first unit."""

    place: int
    state: int
    audience: int
    size: int
    """Bits of the key; of a unit that is ready, its own."""
    until: int | None
    """When the answer to the last slave (or the master, if it was held) is forgotten; None before it was given."""
    request: int
    """Digest of the request it was given for; 0 if that was for this key alone."""
    handed: str | None
    """With several slaves: which were answered, until when and for which request, in JSON."""
    epoch: int
    wrapped: bytes


class Fate(NamedTuple):
    """What is made of a ready unit."""

    state: int
    audience: int
    size: int
    handed: str | None


class Ready(NamedTuple):
    """A unit that is ready."""

    place: int
    epoch: int
    wrapped: bytes


class Collected(NamedTuple):
    """A key that was just collected."""

    place: int
    audience: int
    size: int
    epoch: int
    wrapped: bytes


class Removed(NamedTuple):
    """A row that is gone."""

    place: int
    state: int
    size: int
    epoch: int


class Want(NamedTuple):
    """What is wanted of a pool: its first ready units with a place from `floor` up to `ceiling`, one for each fate."""

    floor: int
    ceiling: int
    fates: list[Fate]


class Tables(Protocol):
    """The tables of one store in one dialect. All but `transaction` and `begin_at_once` happens inside one."""

    name: str
    """Which store, for a person to read."""

    def transaction(self, exclusive: bool = False) -> AbstractContextManager[None]:
        """Open a transaction: durable on a clean exit, undone on an exception. `exclusive`: of all replicas, no two."""

    def begin_at_once(self) -> bool:
        """Open a transaction if that and its statements wait for nobody else; say whether it is open.

        It is ended by `commit` or `roll_back`, which, unlike all the rest, may be called from another thread.
        """

    def commit(self) -> None:
        """Make it durable; if that cannot be, undo it and raise `StoreError`."""

    def roll_back(self) -> None:
        """Undo it, if it is open."""

    def take(self, wants: Sequence[Want]) -> list[list[Ready]]:
        """Give ready units their fates, in order of place; fewer where there are fewer. One statement."""

    def collect(self, requests: Sequence[tuple[int, Sequence[int]]], until: int) -> Sequence[Collected]:
        """Mark as collected, for each request's digest, the keys at these places that wait for one slave."""

    def ready(self, floor: int, ceiling: int, limit: int) -> Sequence[Ready]:
        """Return ready units in order of place, and keep them from other replicas."""

    def read(self, places: Sequence[int]) -> Sequence[Unit]:
        """Return the rows at these places, and keep them from other replicas."""

    def write(self, units: Sequence[Unit]) -> None:
        """Write rows that exist."""

    def insert(self, units: Sequence[Ready]) -> None:
        """Add units that are ready."""

    def tally(self, changes: Sequence[tuple[int, int, int]]) -> int:
        """Add to tallies (what, subject, by how much) of this replica, count its transaction, and return how many."""

    def due(self, now: int, limit: int) -> Sequence[tuple[int, int, bytes]]:
        """Take the oldest entries that are due off the agenda: when they were, kinds and packed places."""

    def fills(self, epoch: int) -> bool:
        """Whether an epoch is still being filled, and will be until this transaction ends."""

    def close(self) -> None:
        """Close them."""

    def fetch(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Run one of the statements below and return its rows. A list is one argument."""


PUT_BACK: Final = "UPDATE key_units SET until = NULL, request = 0 WHERE place AMONG(?1)"
RELEASE: Final = "UPDATE key_units SET state = 0, audience = 0, size = 256, handed = NULL WHERE place AMONG(?1)"
REMOVE: Final = "DELETE FROM key_units WHERE place AMONG(?1) RETURNING place, state, size, epoch"
FORGET: Final = "DELETE FROM key_units WHERE place AMONG(?1) AND until <= ?2 RETURNING place, state, size, epoch"
EXPIRE_HELD: Final = (
    "DELETE FROM key_units WHERE place AMONG(?1) AND state = 1 AND until IS NULL RETURNING place, state, size, epoch"
)
EXPIRE_WAITING: Final = (
    "DELETE FROM key_units WHERE place AMONG(?1) AND state >= 2 AND until IS NULL RETURNING place, state, size, epoch"
)
CLEAR: Final = "DELETE FROM key_units"

OPEN_UNITS: Final = (
    "SELECT place FROM key_units WHERE place >= ?1 AND place < ?2 AND until IS NULL ORDER BY place LIMIT ?3"
)
EPOCH_OF_UNITS: Final = "SELECT place, epoch FROM key_units WHERE place > ?1 ORDER BY place LIMIT ?2"

FIND_POOLS: Final = "SELECT number, origin, target, series, ended FROM key_pools ORDER BY number"
ADD_POOL: Final = (
    "INSERT INTO key_pools (origin, target, series) VALUES (?1, ?2, ?3) ON CONFLICT (origin, target, series) DO NOTHING"
)
TAKES_IN: Final = "SELECT ended, kept_from FROM key_pools WHERE number = ?1"
END_POOL: Final = "UPDATE key_pools SET ended = true WHERE number = ?1"
END_POOLS: Final = "UPDATE key_pools SET ended = true"
SERIES: Final = "SELECT series, ended FROM key_pools WHERE origin = ?1 AND target = ?2 ORDER BY series DESC LIMIT 1"
HIGHEST_SERIES: Final = "SELECT max(series) FROM key_pools"
KEEP_FROM: Final = "UPDATE key_pools SET kept_from = ?2 WHERE number = ?1 AND kept_from < ?2"
READY_IN_ENDED: Final = (
    "SELECT number, sum(value) FROM key_pools JOIN key_tallies ON what = 0 AND subject = number WHERE ended"
    " GROUP BY number HAVING sum(value) > 0 ORDER BY number"
)

_AUDIENCES: Final = "SELECT number, master, slaves, coalesce(used, 0) FROM key_audiences"
ALL_AUDIENCES: Final = _AUDIENCES
AUDIENCE: Final = f"{_AUDIENCES} WHERE number = ?1"
AUDIENCE_OF: Final = f"{_AUDIENCES} WHERE master = ?1 AND slaves = ?2"
USE_AUDIENCE: Final = (
    "INSERT INTO key_audiences (master, slaves, used) VALUES (?1, ?2, ?3) ON CONFLICT (master, slaves)"
    " DO UPDATE SET used = excluded.used WHERE coalesce(key_audiences.used, 0) < excluded.used"
)
STAMP_AUDIENCES: Final = "UPDATE key_audiences SET used = ?1 WHERE used IS NULL"
# The moment is compared again in the row that is deleted: another replica may have touched it meanwhile.
FORGET_AUDIENCES: Final = (
    "DELETE FROM key_audiences WHERE number IN (SELECT number FROM key_audiences WHERE used <= ?1 LIMIT ?2)"
    " AND used <= ?1 RETURNING number"
)

SAME_BATCH: Final = "SELECT first, last FROM key_batches WHERE pool = ?1 AND batch = ?2"
BATCH_BELOW: Final = (
    "SELECT first, last, batch, provenance FROM key_batches WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
)
ADD_BATCH: Final = "INSERT INTO key_batches (first, last, pool, batch, provenance) VALUES (?1, ?2, ?3, ?4, ?5)"

OLD_BATCHES: Final = (
    "SELECT first, last FROM key_batches WHERE first >= ?1 AND first < ?2 AND last < ?2 ORDER BY first LIMIT ?3"
)
FORGET_BATCHES: Final = "DELETE FROM key_batches WHERE first AMONG(?1)"
MARKED: Final = "SELECT pool, max(at), max(CASE WHEN at <= ?1 THEN below END) FROM key_marks GROUP BY pool"
ADD_MARK: Final = "INSERT INTO key_marks (pool, at, below) VALUES (?1, ?2, ?3) ON CONFLICT (pool, at) DO NOTHING"
FORGET_MARKS: Final = "DELETE FROM key_marks WHERE pool = ?1 AND at <= ?2"
CLEAR_MARKS: Final = "DELETE FROM key_marks"
LOWEST_UNIT: Final = "SELECT min(place) FROM key_units WHERE place >= ?1 AND place < ?2"
ANY_UNIT: Final = "SELECT 1 FROM key_units WHERE place >= ?1 AND place <= ?2 LIMIT 1"

PLACES_OF_NAMES: Final = "SELECT name, place FROM key_names WHERE name AMONG_TEXTS(?1)"
ADD_NAME: Final = "INSERT INTO key_names (name, place) VALUES (?1, ?2)"
REMOVE_NAMES: Final = "DELETE FROM key_names WHERE place AMONG(?1)"
CLEAR_NAMES: Final = "DELETE FROM key_names"

NOTE: Final = "INSERT INTO key_agenda (due, kind, places) VALUES (?1, ?2, ?3)"
HELD_SINCE: Final = "SELECT places FROM key_agenda WHERE due < ?1 AND kind = 1 ORDER BY due, number"
ANY_DUE: Final = "SELECT 1 FROM key_agenda WHERE due <= ?1 LIMIT 1"
CLEAR_AGENDA: Final = "DELETE FROM key_agenda"

COUNT: Final = "SELECT what, sum(value) FROM key_tallies WHERE subject = ?1 AND what <= 5 GROUP BY what"
READY_IN_POOL: Final = "SELECT sum(value) FROM key_tallies WHERE what = 0 AND subject = ?1"
TRANSACTIONS: Final = "SELECT replica, value FROM key_tallies WHERE what = 7"
JOIN: Final = (
    "INSERT INTO key_tallies (what, subject, replica, value) VALUES (7, 0, ?1, ?2)"
    " ON CONFLICT (what, subject, replica) DO UPDATE SET value = excluded.value"
    " WHERE key_tallies.value < excluded.value"
)
LEAVE: Final = "DELETE FROM key_tallies WHERE what = 7 AND replica = ?1"
IN_STOCK: Final = "SELECT subject, sum(value) FROM key_tallies WHERE what <= 1 GROUP BY subject"
CLEAR_STOCK: Final = "DELETE FROM key_tallies WHERE what <= 1 OR what = 6"

BEGIN_EPOCH: Final = "INSERT INTO key_epochs (replica) VALUES (?1) RETURNING number"
EPOCHS: Final = (
    "SELECT number, begun, filling, (SELECT coalesce(sum(value), 0) FROM key_tallies WHERE what = 6"
    " AND subject = number) FROM key_epochs ORDER BY number"
)
STAMP_EPOCHS: Final = "UPDATE key_epochs SET begun = ?1 WHERE begun IS NULL"
CLOSE_EPOCHS: Final = "UPDATE key_epochs SET filling = false WHERE replica = ?1 AND filling"
CLOSE_OLD_EPOCHS: Final = "UPDATE key_epochs SET filling = false WHERE filling AND begun <= ?1"
FILLS: Final = "SELECT 1 FROM key_epochs WHERE number = ?1 AND filling"
CLEAR_EPOCHS: Final = "DELETE FROM key_epochs"
END_EPOCHS: Final = "DELETE FROM key_epochs WHERE number AMONG(?1)"
END_LIVE: Final = "DELETE FROM key_tallies WHERE what = 6 AND subject AMONG(?1)"

STORE: Final = "SELECT identity, series_floor FROM key_store"
NEW_STORE: Final = "INSERT INTO key_store (identity, series_floor) VALUES (?1, ?2)"
SERIES_FLOOR: Final = "UPDATE key_store SET series_floor = ?1"
