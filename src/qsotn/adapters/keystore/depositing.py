"""Units come in: whole batches, each of them once."""

from __future__ import annotations

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.registry import NUMBERS, KnownPool
from qsotn.adapters.keystore.statements import Tally
from qsotn.adapters.keystore.work import Work
from qsotn.errors import QsotnError, Refusal, UsageError
from qsotn.keynetwork.delivery import UNIT_BITS, Deposit


def deposit(work: Work, operations: list[tuple[int, Deposit]]) -> None:
    """Put batches into their pools."""
    for index, operation in operations:
        try:
            _deposit(work, operation)
            work.done(index)
        except (Refusal, UsageError) as error:
            work.refused(index, error)


def _deposit(work: Work, operation: Deposit) -> None:
    if (wrong := _flaw(operation)) is not None:
        raise wrong
    pool = work.pool(operation.pool)
    ended, kept_from = (True, 0) if pool is None else work.tables.fetch(sql.TAKES_IN, pool.number)[0]
    if pool is None or ended:
        raise Refusal("KEY_REUSED", f"{_named(operation)} has ended: an older copy of a store was restored")
    if operation.first < kept_from:
        raise Refusal("KEY_REUSED", f"units below {kept_from} were in {_named(operation)} before")
    first, last = pool.floor + operation.first, pool.floor + operation.first + len(operation.units) - 1
    if _is_there(work, pool, operation, first, last):
        return
    for earlier in work.registry.superseded(pool):
        # Its origin gives none of it out any more. What is ready of it is destroyed later (`forgetting`); what waits
        # for slaves may still be collected.
        work.tables.fetch(sql.END_POOL, earlier.number)
    work.tables.fetch(sql.ADD_BATCH, first, last, pool.number, operation.batch, operation.provenance)
    work.tables.insert(work.wrap(pool, first, [unit.reveal() for unit in operation.units]))
    work.count(Tally.READY, pool.number, len(operation.units))
    # Units may come in another order than that of their numbers.
    work.floors[pool.number] = min(first, work.floors.get(pool.number, pool.floor))


def _flaw(operation: Deposit) -> QsotnError | None:
    if not operation.units or any(len(unit) * 8 != UNIT_BITS for unit in operation.units):
        return UsageError(f"batch {operation.batch!r} is not one or more units of {UNIT_BITS} bits")
    if operation.first < 0 or operation.first + len(operation.units) > NUMBERS:
        return UsageError(f"batch {operation.batch!r} has numbers outside 0 to {NUMBERS - 1}")
    return None


def _is_there(work: Work, pool: KnownPool, operation: Deposit, first: int, last: int) -> bool:
    """Whether this very batch is here. Another replica may put it in between the two searches."""
    named = work.tables.fetch(sql.SAME_BATCH, pool.number, operation.batch)
    if named and tuple(named[0]) != (first, last):
        raise Refusal("KEY_REUSED", f"batch {operation.batch!r} came to {_named(operation)} before, with other numbers")
    below = work.tables.fetch(sql.BATCH_BELOW, last)
    if below and below[0][1] >= first and tuple(below[0][:3]) != (first, last, operation.batch):
        raise Refusal("KEY_REUSED", f"units of batch {operation.batch!r} were in {_named(operation)} before")
    return bool(named) or bool(below and below[0][0] == first)


def _named(operation: Deposit) -> str:
    return f"the pool from {operation.pool.origin} to {operation.pool.target}, series {operation.pool.series}"
