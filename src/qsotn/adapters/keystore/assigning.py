"""What the two ends say to each other about a key: assigned here, confirmed there, or void.

All of these read the rows they name, decide, and write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.epochs import EpochUnreadable
from qsotn.adapters.keystore.statements import Kind, State, Tally, Unit
from qsotn.adapters.keystore.work import Work, audience, units_in
from qsotn.errors import MalformedMessage, QsotnError, Refusal
from qsotn.keynetwork.delivery import Assign, Confirm, Void, units_of

Rows = dict[int, Unit]


def not_found() -> Refusal:
    """Say that a key is not here: it never was, it is gone, or it is not for whoever asks."""
    return Refusal("KEYS_NOT_FOUND", "one or more keys specified are not found on KME")


def read(work: Work, places: Iterable[int]) -> Rows:
    """Read rows by place."""
    wanted = sorted(set(places))
    return {unit.place: unit for unit in work.tables.read(wanted)} if wanted else {}


# --- assign -----------------------------------------------------------------------------------------------------------


def assign(work: Work, operations: list[tuple[int, Assign]]) -> None:
    """At the target: have keys wait for the slaves that the origin named."""
    places = {index: _places(work, operation) for index, operation in operations}
    lengths = {index: units_of(operation.size) for index, operation in operations}
    rows = read(work, (at + n for index, its in places.items() for at in its for n in range(lengths[index])))
    for index, operation in operations:
        try:
            _assign(work, operation, places[index], rows)
            work.done(index)
        except EpochUnreadable:
            raise
        except QsotnError as error:
            work.refused(index, error)


def _places(work: Work, operation: Assign) -> list[int]:
    """Where the keys begin; none at all if one of the IDs is not of this pool, or their size is none."""
    pool = work.pool(operation.pool)
    found = [work.place(key_id) for key_id in operation.key_ids]
    if pool is None or operation.size < 8 or operation.size % 8:
        return []
    ours = [place for place in found if place is not None and pool.floor <= place < pool.ceiling]
    return ours if len(ours) == len(found) else []


def _assign(work: Work, operation: Assign, places: Sequence[int], rows: Rows) -> None:
    _check(operation)
    if not places or len(set(places)) != len(operation.key_ids):
        raise not_found()
    if _is_assigned(work, operation, places, rows):
        return
    keys = [_units(operation, place, rows) for place in places]
    if operation.names and work.named(operation.names):
        raise Refusal("KEY_REUSED", "a key by one of these names was assigned here before")
    _write(work, operation, keys, rows)
    for name, place in zip(operation.names, places, strict=bool(operation.names)):
        work.tables.fetch(sql.ADD_NAME, name, place)


def _check(operation: Assign) -> None:
    sealed, names, keys = len(operation.sealed), len(operation.names), len(operation.key_ids)
    if sealed != names or sealed not in {0, keys} or not operation.slaves:
        raise MalformedMessage(f"an assignment of {keys} keys has {sealed} sealed keys and {names} names for them")
    if any(len(one) * 8 != operation.size for one in operation.sealed):
        raise MalformedMessage(f"a sealed key is not of {operation.size} bits, as its assignment says")


def _is_assigned(work: Work, operation: Assign, places: Sequence[int], rows: Rows) -> bool:
    """Whether this very assignment was made before."""
    number = audience(work, operation.master, operation.slaves).number
    same = (State.ASSIGNED, number, operation.size)
    units = [rows.get(place) for place in places]
    if any(unit is None or (unit.state, unit.audience, unit.size) != same for unit in units):
        return False
    return not operation.names or work.named(operation.names) == dict(zip(operation.names, places, strict=True))


def _units(operation: Assign, place: int, rows: Rows) -> list[Unit]:
    """The units of a key: ready, or, where both ends of the pool are here, what was held as one key already."""
    first = rows.get(place)
    here = operation.pool.origin == operation.pool.target
    if here and first is not None and _is_held(first) and first.size == operation.size:
        return [first]
    units = [rows[at] for at in range(place, place + units_of(operation.size)) if at in rows]
    if len(units) < units_of(operation.size) or any(unit.state != State.READY for unit in units):
        raise not_found()
    return units


def _is_held(unit: Unit) -> bool:
    return unit.state == State.HELD and unit.until is None


def _write(work: Work, operation: Assign, keys: list[list[Unit]], rows: Rows) -> None:
    pads = operation.sealed or (b"",) * len(keys)
    joined = [work.join(units, operation.size, pad) for units, pad in zip(keys, pads, strict=True)]
    several = None if len(operation.slaves) == 1 else "{}"
    number = audience(work, operation.master, operation.slaves).number
    for units, key in zip(keys, joined, strict=True):
        same = len(units) == 1 and not operation.sealed
        row = units[0] if same else work.replace(units, key)
        for unit in units:
            del rows[unit.place]
        rows[row.place] = Unit(
            row.place, State.ASSIGNED, number, operation.size, None, 0, several, row.epoch, row.wrapped
        )
        if units[0].state == State.READY:
            work.move(Tally.READY, Tally.WAITING, work.registry.pool_at(row.place).number, units_of(operation.size))
    places = [units[0].place for units in keys]
    work.tables.write([rows[place] for place in places])
    work.note(Kind.EXPIRE_WAITING, places)


# --- confirm ----------------------------------------------------------------------------------------------------------


def confirm(work: Work, operations: list[tuple[int, Confirm]]) -> None:
    """At the origin: the master gets what was held for it; a repeated confirmation gets it again for a while."""
    places = {index: [work.place(name) for name in operation.key_ids] for index, operation in operations}
    rows = read(work, (place for its in places.values() for place in its if place is not None))
    given: list[Unit] = []
    for index, operation in operations:
        units = [rows[place] for place in places[index] if place in rows]
        if (
            not operation.key_ids
            or len(units) < len(operation.key_ids)
            or not all(_may_have(work, one) for one in units)
        ):
            work.refused(index, not_found())
            continue
        work.give_named(index, operation.key_ids, units)
        for unit in units:
            if unit.until is None and rows[unit.place].until is None:
                rows[unit.place] = unit._replace(until=work.now + work.times.window)
                given.append(rows[unit.place])
    _forget_later(work, given)


def _may_have(work: Work, unit: Unit) -> bool:
    return unit.state == State.HELD and (unit.until is None or unit.until > work.now)


def _forget_later(work: Work, given: list[Unit]) -> None:
    if not given:
        return
    work.tables.write(given)
    work.note(Kind.FORGET, [unit.place for unit in given])
    for unit in given:
        work.move(Tally.WAITING, Tally.DELIVERED, work.registry.pool_at(unit.place).number, units_in(unit))


# --- void -------------------------------------------------------------------------------------------------------------


def void(work: Work, operations: list[tuple[int, Void]]) -> None:
    """Destroy keys that nobody was given, at either end. What is merely ready here is one unit by each ID."""
    names = [name for _, operation in operations for name in operation.key_ids]
    found = {place for name in names if (place := work.place(name)) is not None}
    found.update(work.named(names).values())
    doomed = [unit for unit in read(work, found).values() if _is_nobodys(unit)]
    if doomed:
        work.remove([unit.place for unit in doomed])
        work.tables.fetch(sql.REMOVE_NAMES, [unit.place for unit in doomed])
    for unit in doomed:
        before = Tally.READY if unit.state == State.READY else Tally.WAITING
        work.move(before, Tally.VOIDED, work.registry.pool_at(unit.place).number, units_in(unit))
    for index, _ in operations:
        work.done(index)


def _is_nobodys(unit: Unit) -> bool:
    return unit.until is None and unit.state != State.GIVEN and unit.handed in {None, "{}"}
