"""Accounts go after their time: how keys came, who shared keys with whom, and what is left of pools that have ended.

Keys are forgotten elsewhere (`sweeping`). What protects an ID from a second use is never forgotten: a pool that has
ended stays ended, and of one that has not, nothing is taken in again with a number below its `kept_from`.

When units go, nothing is written about it that one could search by: that would be a row for every key. Instead, once
in a while (`MARKS`), a pool is marked: below this place no unit was left at this time. When a mark is as old as
accounts are to be kept, every batch below it has been without a unit for at least as long, and goes.

An audience is touched whenever it is used, but at most `TOUCHES` times in the time that it is kept: so it outlives
every key that names it (`Times.retention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.registry import KnownPool
from qsotn.adapters.keystore.statements import Tally
from qsotn.adapters.keystore.work import Work, units_in
from qsotn.keynetwork.delivery import Forgotten

BATCHES_AT_ONCE: Final = 256
AUDIENCES_AT_ONCE: Final = 1024
UNITS_AT_ONCE: Final = 2048
TOUCHES: Final = 4
MARKS: Final = 30
"""How many times a pool is marked within the time that accounts are kept."""


def forget(work: Work) -> Forgotten:
    """Delete some of what is past its time, the oldest first."""
    before = work.now - work.times.retention
    units = _burn_ended(work)
    batches = 0
    marked = {pool: (at, below) for pool, at, below in work.tables.fetch(sql.MARKED, before)}
    for pool in list(work.registry.pools.values()):
        newest, below = marked.get(pool.number, (None, None))
        if newest is None or work.now - newest >= work.times.retention // MARKS:
            _mark(work, pool)
        if below is not None and batches < BATCHES_AT_ONCE:
            batches += _forget_batches(work, pool, before, below, BATCHES_AT_ONCE - batches)
    audiences = _forget_audiences(work, before)
    unfinished = units == UNITS_AT_ONCE or batches == BATCHES_AT_ONCE or audiences == AUDIENCES_AT_ONCE
    work.changed |= bool(units or batches or audiences)
    return Forgotten(batches, audiences, units, unfinished)


# --- pools that have ended --------------------------------------------------------------------------------------------


def _burn_ended(work: Work) -> int:
    """Destroy units that are ready in pools that have ended: their origin gives none of them to anybody."""
    burned = 0
    for number, _ in work.tables.fetch(sql.READY_IN_ENDED):
        pool = work.registry.pools[number]
        rows = work.tables.ready(pool.floor, pool.ceiling, UNITS_AT_ONCE - burned) if burned < UNITS_AT_ONCE else ()
        gone = work.gone(work.tables.fetch(sql.REMOVE, [row.place for row in rows])) if rows else []
        units = sum(map(units_in, gone))
        work.move(Tally.READY, Tally.BURNED, number, units)
        burned += units
    return burned


# --- how keys came ----------------------------------------------------------------------------------------------------


def _mark(work: Work, pool: KnownPool) -> None:
    work.tables.fetch(sql.ADD_MARK, pool.number, work.now, _gone_below(work, pool))
    work.changed = True


def _gone_below(work: Work, pool: KnownPool) -> int:
    """Return the place below which no unit is left."""
    ((lowest,),) = work.tables.fetch(sql.LOWEST_UNIT, pool.floor, pool.ceiling)
    if lowest is not None:
        return int(lowest)
    newest = work.tables.fetch(sql.BATCH_BELOW, pool.ceiling - 1)
    return int(newest[0][1]) + 1 if newest and newest[0][0] >= pool.floor else pool.floor


def _forget_batches(work: Work, pool: KnownPool, before: int, below: int, limit: int) -> int:
    found = work.tables.fetch(sql.OLD_BATCHES, pool.floor, below, limit)
    gone = _first_gone(work, found)
    if gone:
        work.tables.fetch(sql.FORGET_BATCHES, [first for first, _ in gone])
        work.tables.fetch(sql.KEEP_FROM, pool.number, gone[-1][1] - pool.floor + 1)
    if len(found) < limit:
        work.tables.fetch(sql.FORGET_MARKS, pool.number, before)
    return len(gone)


def _first_gone(work: Work, batches: Sequence[Any]) -> list[tuple[int, int]]:
    """Return the batches before the first that came late, below a mark, and has units yet."""
    found: list[tuple[int, int]] = []
    for first, last in batches:
        if work.tables.fetch(sql.ANY_UNIT, first, last):
            break
        found.append((first, last))
    return found


# --- who shared keys with whom ----------------------------------------------------------------------------------------


def _forget_audiences(work: Work, before: int) -> int:
    work.tables.fetch(sql.STAMP_AUDIENCES, work.now)
    if work.tables.fetch(sql.ANY_DUE, work.now):
        return 0  # keys that are past their time, and name some of them, are not swept yet
    gone = [number for (number,) in work.tables.fetch(sql.FORGET_AUDIENCES, before, AUDIENCES_AT_ONCE)]
    work.registry.forget_audiences(gone)
    return len(gone)
