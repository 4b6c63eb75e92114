"""The origin takes the next units of a pool, for a master and its slaves.

Keys of one unit are most of all: a batch of them is taken with one statement. What that leaves unserved, and keys of
several successive units, are looked for one operation at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice, repeat

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.epochs import EpochUnreadable
from qsotn.adapters.keystore.registry import KnownPool
from qsotn.adapters.keystore.statements import Fate, Kind, Ready, State, Tally, Unit, Want
from qsotn.adapters.keystore.work import Work, audience
from qsotn.errors import StoreError, UsageError
from qsotn.keynetwork.delivery import UNIT_BITS, Pool, Reserve, shortage, units_of

Indexed = tuple[int, Reserve]
LOOKED_AT = 1024
"""Units that are read at a time when successive ones are looked for."""


def reserve(work: Work, operations: list[Indexed]) -> None:
    """Reserve keys for each operation."""
    plain: dict[Pool, list[Indexed]] = defaultdict(list)
    others: list[Indexed] = []
    for indexed in operations:
        index, operation = indexed
        if operation.number < 1 or operation.size < 8 or operation.size % 8:
            work.refused(index, UsageError(f"{operation.number} keys of {operation.size} bits cannot be reserved"))
        elif operation.size > UNIT_BITS:
            others.append(indexed)
        else:
            plain[operation.pool].append(indexed)
    known = [(pool, its) for name, its in plain.items() if (pool := work.pool(name)) is not None]
    unknown = [indexed for name, its in plain.items() if work.pool(name) is None for indexed in its]
    for indexed in [*_take_plain(work, known), *others, *unknown]:
        _reserve_alone(work, *indexed)


# --- keys of one unit, all at once ------------------------------------------------------------------------------------


def _take_plain(work: Work, plain: list[tuple[KnownPool, list[Indexed]]]) -> list[Indexed]:
    """Serve as many as the pools have units for, from where they were last seen, and return the others."""
    if not plain:
        return []
    wants = [_want(work, pool, its) for pool, its in plain]
    unserved: list[Indexed] = []
    for (pool, its), taken in zip(plain, work.tables.take(wants), strict=True):
        unserved += _hand_out(work, pool, its, taken)
    return unserved


def _want(work: Work, pool: KnownPool, operations: list[Indexed]) -> Want:
    fates: list[Fate] = []
    for _, operation in operations:
        fates += [_fate(work, operation)] * operation.number
    return Want(work.floors.get(pool.number, pool.floor), pool.ceiling, fates)


def _fate(work: Work, operation: Reserve) -> Fate:
    number = audience(work, operation.master, operation.slaves).number
    if operation.held:
        return Fate(State.HELD, number, operation.size, None)
    return Fate(State.GIVEN, number, operation.size, None if len(operation.slaves) == 1 else "{}")


def _hand_out(work: Work, pool: KnownPool, operations: list[Indexed], taken: Sequence[Ready]) -> list[Indexed]:
    """Give each operation its units; return the operations from the first that they do not suffice for."""
    at = served = 0
    given: list[int] = []
    held: list[int] = []
    for index, operation in operations:
        rows = taken[at : at + operation.number]
        if len(rows) < operation.number:
            break
        served, at = served + 1, at + operation.number
        work.give(index, rows, repeat(operation.size))
        (held if operation.held else given).extend([row.place for row in rows])
    if at < len(taken):
        work.tables.fetch(sql.RELEASE, [row.place for row in taken[at:]])
    if at:
        work.floors[pool.number] = taken[at - 1].place + 1
    _reserved(work, pool, at, given, held)
    return operations[served:]


def _reserved(work: Work, pool: KnownPool, units: int, given: list[int], held: list[int]) -> None:
    work.move(Tally.READY, Tally.WAITING, pool.number, units)
    work.note(Kind.EXPIRE_WAITING, given)
    work.note(Kind.EXPIRE_HELD, held)


# --- one operation alone ----------------------------------------------------------------------------------------------


def _reserve_alone(work: Work, index: int, operation: Reserve) -> None:
    pool = work.pool(operation.pool)
    wanted = operation.number * units_of(operation.size)
    runs = _find_runs(work, pool, operation) if pool is not None and wanted <= work.ready_in(pool) else []
    if pool is None or not runs:
        work.refused(index, shortage(operation.pool))
        return
    try:
        joined = [work.join(run, operation.size) for run in runs]
    except EpochUnreadable:
        raise
    except StoreError as error:
        work.refused(index, error)
        return
    whole = zip(runs, joined, strict=True)
    keys = [run[0] if len(run) == 1 else work.replace(run, key) for run, key in whole]
    fate = _fate(work, operation)
    work.tables.write([Unit(key.place, *fate[:3], None, 0, fate.handed, key.epoch, key.wrapped) for key in keys])
    work.floors[pool.number] = runs[-1][-1].place + 1
    work.give(index, keys, repeat(operation.size))
    places = [key.place for key in keys]
    _reserved(work, pool, wanted, *(([], places) if operation.held else (places, [])))


def _find_runs(work: Work, pool: KnownPool, operation: Reserve) -> list[list[Ready]]:
    """Find successive units for every key: from where units were last seen, else from the first of all."""
    for floor in dict.fromkeys((work.floors.get(pool.number, pool.floor), pool.floor)):
        found = list(islice(_runs(work, pool, floor, operation), operation.number))
        if len(found) == operation.number:
            return found
    return []


def _runs(work: Work, pool: KnownPool, floor: int, operation: Reserve) -> Iterator[list[Ready]]:
    length = units_of(operation.size)
    limit, run = length * operation.number, list[Ready]()
    while rows := work.tables.ready(floor, pool.ceiling, limit):
        for row in rows:
            if run and row.place != run[-1].place + 1:
                run = []
            run.append(row)
            if len(run) == length:
                yield run
                run = []
        floor, limit = rows[-1].place + 1, LOOKED_AT
