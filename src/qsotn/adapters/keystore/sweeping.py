"""What is past its time: answers kept for repetition, keys that nobody came for, epochs.

An epoch is shredded by the first sweep that finds it empty *in what is committed*: were it shredded in the transaction
that empties it, and that one undone, units could no longer be read.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Final

import structlog

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.epochs import EpochUnreadable
from qsotn.adapters.keystore.registry import KnownPool
from qsotn.adapters.keystore.statements import Kind, State, Tally, Unit
from qsotn.adapters.keystore.work import Work, units_in
from qsotn.errors import StoreError
from qsotn.keynetwork.delivery import Sweep

AT_ONCE: Final = 4096
DUE_AT_ONCE: Final = 2048
"""Keys that one sweep removes at most, so that whoever asks meanwhile waits for some milliseconds."""
_ENTRIES: Final = 16
_PLACE_BYTES: Final = 8
_log = structlog.get_logger("keys")


def sweep(work: Work, operations: list[tuple[int, Sweep]]) -> None:
    """Remove what is due, the oldest first, or as much of it as is removed at once."""
    due, is_all = _due(work)
    for index, _ in operations:
        work.done(index)
    if not is_all:
        work.applied.unfinished.update(index for index, _ in operations)
    for kind, listed in due.items():
        _remove(work, kind, listed.tolist())
    work.changed |= bool(due)
    work.tables.fetch(sql.STAMP_EPOCHS, work.now)
    work.tables.fetch(sql.CLOSE_OLD_EPOCHS, work.now - work.times.epoch)


def _due(work: Work) -> tuple[dict[Kind, array[int]], bool]:
    """Take places off the agenda; say whether nothing that is due is left there."""
    found: dict[Kind, array[int]] = {}
    room = DUE_AT_ONCE * _PLACE_BYTES
    while room and (entries := work.tables.due(work.now, _ENTRIES)):
        for due, kind, places in entries:
            taken, rest = places[:room], places[room:]
            found.setdefault(Kind(kind), array("q")).frombytes(taken)
            room -= len(taken)
            if rest:
                work.tables.fetch(sql.NOTE, due, kind, rest)
    return found, room > 0


def _remove(work: Work, kind: Kind, places: list[int]) -> None:
    match kind:
        case Kind.FORGET:
            rows = work.gone(work.tables.fetch(sql.FORGET, places, work.now))
        case Kind.EXPIRE_HELD:
            rows = work.gone(work.tables.fetch(sql.EXPIRE_HELD, places))
        case Kind.EXPIRE_WAITING:
            rows = work.gone(work.tables.fetch(sql.EXPIRE_WAITING, places))
    if kind is not Kind.FORGET:
        for row in rows:
            work.move(Tally.WAITING, Tally.EXPIRED, work.registry.pool_at(row.place).number, units_in(row))
    if rows:
        work.tables.fetch(sql.REMOVE_NAMES, [row.place for row in rows])


def rewrap(work: Work, epochs: set[int], after: int) -> int:
    """Wrap anew what is left of epochs, among the rows behind a place; return where to go on, -1 at the end.

    Nothing finds rows by their epoch: an index would be written for every unit, to be used once a day. This looks
    through all of them, some at a time.
    """
    seen = work.tables.fetch(sql.EPOCH_OF_UNITS, after, AT_ONCE)
    left = [place for place, epoch in seen if epoch in epochs]
    units = [unit for unit in work.tables.read(left) if unit.epoch in epochs] if left else []
    opened = [(unit, key) for unit in units if (key := _opened(work, unit)) is not None]
    for unit, _ in opened:
        work.count(Tally.LIVE, unit.epoch, -1)
    if opened:
        work.tables.write([_wrapped_anew(work, unit, key) for unit, key in opened])
    _destroy(work, {unit.place for unit in units} - {unit.place for unit, _ in opened})
    return seen[-1][0] if len(seen) == AT_ONCE else -1


def _opened(work: Work, unit: Unit) -> bytes | None:
    """Return what a row holds, or None if its bytes have changed: nobody could be given that."""
    try:
        return work.reveal(unit)
    except EpochUnreadable:
        raise
    except StoreError as error:
        _log.error("a damaged unit of an old epoch is destroyed", place=unit.place, reason=str(error))
        return None


def _destroy(work: Work, damaged: Collection[int]) -> None:
    """Destroy rows that do not open, counted as burned; of what was delivered, the answer kept for a repetition."""
    if not damaged:
        return
    delivered = {unit.place for unit in work.tables.read(sorted(damaged)) if unit.until is not None}
    for row in work.gone(work.tables.fetch(sql.REMOVE, sorted(damaged))):
        if row.place not in delivered:
            before = Tally.READY if row.state == State.READY else Tally.WAITING
            work.move(before, Tally.BURNED, work.registry.pool_at(row.place).number, units_in(row))
    work.tables.fetch(sql.REMOVE_NAMES, sorted(damaged))


def _wrapped_anew(work: Work, unit: Unit, key: bytes) -> Unit:
    (row,) = work.wrap(work.registry.pool_at(unit.place), unit.place, [key])
    return unit._replace(epoch=row.epoch, wrapped=row.wrapped)


def burn(work: Work, pool: KnownPool) -> None:
    """Destroy what nobody was given of a pool, and end it."""
    work.tables.fetch(sql.END_POOL, pool.number)
    work.changed = True
    while rows := work.tables.fetch(sql.OPEN_UNITS, pool.floor, pool.ceiling, AT_ONCE):
        places = [place for (place,) in rows]
        for row in work.gone(work.tables.fetch(sql.REMOVE, places)):
            before = Tally.READY if row.state == State.READY else Tally.WAITING
            work.move(before, Tally.BURNED, pool.number, units_in(row))
        work.tables.fetch(sql.REMOVE_NAMES, places)
