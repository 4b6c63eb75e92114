"""Small ways to falsify a history: each returns a function from a history to one that differs in one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from msgspec import structs
from tests.faults.facts import History, Operation
from tests.faults.snapshots import KmSnapshot, Snapshot

from qsotn.domain import PartyId
from qsotn.interfaces import Seat
from qsotn.procedures.turn import Row

Plant = Callable[[History], History]


class Planted(NamedTuple):
    """A fault, the rule that must find it, and what the rule must name."""

    rule: str
    plant: Plant
    names: tuple[str, ...]


def _at(party: PartyId, change: Callable[[Any], Any]) -> Plant:
    """Change one party's snapshot, which must be there."""

    def plant(history: History) -> History:
        assert party in {snapshot.party for snapshot in history.snapshots}
        snapshots = (change(one) if one.party == party else one for one in history.snapshots)
        return History(tuple(snapshots), history.operations)

    return plant


def added(party: PartyId, collection: str, key: str, record: object) -> Plant:
    """A record more, or another in its place."""
    return _at(party, lambda old: replace(old, **{collection: {**getattr(old, collection), key: record}}))


def changed(party: PartyId, collection: str, key: str, **fields: object) -> Plant:
    """Other fields in a record that is there."""

    def change(old: Any) -> Any:
        records = getattr(old, collection)
        return replace(old, **{collection: {**records, key: structs.replace(records[key], **fields)}})

    return _at(party, change)


def dropped(party: PartyId, collection: str, key: str) -> Plant:
    """A record less."""

    def change(old: Any) -> Any:
        records = dict(getattr(old, collection))
        del records[key]
        return replace(old, **{collection: records})

    return _at(party, change)


def lost(party: PartyId) -> Plant:
    """A party of which there is no snapshot."""
    return lambda history: History(tuple(one for one in history.snapshots if one.party != party), history.operations)


def row(procedure: str, seat: Seat, /, **fields: object) -> Plant:
    """Other fields in a row that is there."""
    return _rows(procedure, seat, lambda one: [structs.replace(one, **fields)])


def no_row(procedure: str, seat: Seat) -> Plant:
    """A row less."""
    return _rows(procedure, seat, lambda _: [])


def one_more_row(procedure: str, seat: Seat, /, **fields: object) -> Plant:
    """A row more, like one that is there but for some fields."""
    return _rows(procedure, seat, lambda one: [one, structs.replace(one, **fields)])


def _rows(procedure: str, seat: Seat, change: Callable[[Row], list[Row]]) -> Plant:
    def plant(history: History) -> History:
        found = history.procedures[procedure][seat]  # type: ignore[index]  # a test names procedures by plain strings
        rows = (change(one) if one is found.row else [one] for one in history.at(found.party, Snapshot).rows)
        whole = tuple(one for some in rows for one in some)
        return _at(found.party, lambda old: replace(old, rows=whole))(history)

    return plant


def units(party: PartyId, *, gone: frozenset[str] = frozenset(), back: frozenset[str] = frozenset()) -> Plant:
    """Units of a link's block that are stored no more, or still."""

    def change(old: KmSnapshot) -> KmSnapshot:
        assert gone <= old.units
        assert not back & old.units
        return replace(old, units=old.units - gone | back)

    return _at(party, change)


def told(operation: Operation) -> Plant:
    """A client that was told something more."""
    return lambda history: History(history.snapshots, (*history.operations, operation))


def both(*plants: Plant) -> Plant:
    """One after the other."""

    def plant(history: History) -> History:
        for one in plants:
            history = one(history)
        return history

    return plant
