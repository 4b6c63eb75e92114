"""A slave SAE collects its keys, all that it names or none.

What is asked most is keys that wait for one slave: a batch of such requests is served with one statement. All else is
looked at one request at a time: keys that wait for several slaves, keys known by a name of another pool, repeated
requests, and whatever the statement did not find.

Which request a key was given for is kept with it until it is forgotten: only the same request gets it again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from qsotn.adapters.keystore import statements as sql
from qsotn.adapters.keystore.assigning import Rows, not_found, read
from qsotn.adapters.keystore.registry import Audience
from qsotn.adapters.keystore.statements import NUMBER_BITS, Collected, Kind, State, Tally, Unit
from qsotn.adapters.keystore.work import Work
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import UNIT_BITS, Collect, units_of

Indexed = tuple[int, Collect]
Handed = dict[str, tuple[int, int]]
"""For each slave that was answered: until when its answer is kept, and the digest of its request."""


def collect(work: Work, operations: list[Indexed]) -> None:
    """Hand keys to slaves."""
    for indexed in _collect_plain(work, operations):
        _collect_alone(work, *indexed)


def _digest(key_ids: Sequence[str]) -> int:
    """Stand for a request of several keys in 63 bits; that for one key needs nothing to stand for it."""
    if len(key_ids) == 1:
        return 0
    return int.from_bytes(sha256("\n".join(key_ids).encode()).digest()[:8]) >> 1 or 1


# --- keys for one slave, all at once ----------------------------------------------------------------------------------


Plain = tuple[Indexed, int, list[int]]
"""A request for keys that, as far as is known, wait for this slave alone: its audience, and where they are."""


def _collect_plain(work: Work, operations: list[Indexed]) -> list[Indexed]:
    """Serve what can be served at once, and return the others."""
    plain: list[Plain] = []
    others: list[Indexed] = []
    claimed: set[int] = set()
    for indexed in operations:
        request = _plain(work, indexed, claimed)
        if request is None:
            others.append(indexed)
        else:
            plain.append(request)
    return [*_serve(work, plain), *others] if plain else others


def _plain(work: Work, indexed: Indexed, claimed: set[int]) -> Plain | None:
    """Claim the places that a request names, if there is one for each of its keys and nobody has."""
    operation = indexed[1]
    audience = work.registry.audience(operation.master, (operation.slave,))
    find = work.registry.place
    places = [place for name in operation.key_ids if (place := find(name)) is not None and place not in claimed]
    if audience is None or not places or len(set(places)) < len(operation.key_ids):
        return None
    claimed.update(places)
    return indexed, audience.number, places


def _serve(work: Work, plain: list[Plain]) -> list[Indexed]:
    alone = [places[0] for _, _, places in plain if len(places) == 1]
    requests = [(_digest(one[1].key_ids), places) for one, _, places in plain if len(places) > 1]
    until = work.now + work.times.window
    found = {row.place: row for row in work.tables.collect([(0, alone), *requests] if alone else requests, until)}
    others: list[Indexed] = []
    given: list[Collected] = []
    for indexed, audience, places in plain:
        rows = [found[place] for place in places if place in found]
        if len(rows) == len(places) and {row.audience for row in rows} == {audience}:
            work.give(indexed[0], rows, [row.size for row in rows])
            given += rows
        else:
            if rows:
                work.tables.fetch(sql.PUT_BACK, [row.place for row in rows])
            others.append(indexed)
    _forget_later(work, given)
    return others


# --- one request alone ------------------------------------------------------------------------------------------------


def _collect_alone(work: Work, index: int, operation: Collect) -> None:
    rows, places = _rows(work, operation)
    if not places or len(set(places)) < len(places) or len(places) < len(operation.key_ids):
        work.refused(index, not_found())
        return
    digest = _digest(operation.key_ids)
    units = [rows[place] for place in places]
    verdicts = [_verdict(work, operation, digest, unit) for unit in units]
    if refusals := [verdict for verdict in verdicts if isinstance(verdict, Refusal)]:
        work.refused(index, max(refusals, key=lambda refusal: refusal.code))  # NOT_NAMED before KEYS_NOT_FOUND
        return
    work.give_named(index, operation.key_ids, units)
    _note(work, [verdict for verdict in verdicts if isinstance(verdict, Unit)])


def _rows(work: Work, operation: Collect) -> tuple[Rows, list[int]]:
    """Read the rows of all keys; a name of another pool comes before a place here, which is then its other copy."""
    named = work.named(operation.key_ids)
    found = [named.get(name) or work.place(name) for name in operation.key_ids]
    places = [place for place in found if place is not None]
    rows = read(work, places)
    return rows, [place for place in places if place in rows]


def _verdict(work: Work, operation: Collect, digest: int, unit: Unit) -> Unit | Refusal | None:
    """Return the row as it is once this slave has the key; None if it has it already, by the same request."""
    if unit.state < State.GIVEN:
        return not_found()
    audience = work.registry.audience_of(unit.audience)
    if operation.slave not in audience.slaves:
        return Refusal("NOT_NAMED", f"{operation.slave} was not named for one of these keys")
    if operation.master != audience.master:
        return not_found()
    if unit.handed is not None:
        return _verdict_of_several(work, operation, digest, unit, audience)
    until = work.now + work.times.window
    if unit.until is None:
        return unit._replace(until=until, request=digest)
    return None if unit.until > work.now and unit.request == digest else not_found()


def _verdict_of_several(
    work: Work, operation: Collect, digest: int, unit: Unit, audience: Audience
) -> Unit | Refusal | None:
    handed = msgspec.json.decode(unit.handed or "{}", type=Handed)
    if (before := handed.get(operation.slave)) is not None:
        until, request = before
        return None if until > work.now and request == digest else not_found()
    until = work.now + work.times.window
    handed[operation.slave] = (until, digest)
    is_last = len(handed) == len(set(audience.slaves))
    return unit._replace(handed=msgspec.json.encode(handed).decode(), until=until if is_last else None)


def _note(work: Work, changed: Sequence[Unit]) -> None:
    if changed:
        work.tables.write(changed)
        work.changed = True
        _forget_later(work, [unit for unit in changed if unit.until is not None])


def _forget_later(work: Work, given: Sequence[Collected | Unit]) -> None:
    """Count keys as delivered, and put them on the agenda."""
    delivered: dict[int, int] = defaultdict(int)
    for row in given:
        delivered[row.place >> NUMBER_BITS] += 1 if row.size <= UNIT_BITS else units_of(row.size)
    for pool, units in delivered.items():
        work.move(Tally.WAITING, Tally.DELIVERED, pool, units)
    work.note(Kind.FORGET, [row.place for row in given])
