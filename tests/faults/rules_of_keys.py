"""Every key that was ever made is accounted for: it serves one thing, or it was destroyed with what it was made for."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.facts import History, rule
from tests.faults.key_book import Kept, KeyBook, Use, carried, unfinished
from tests.faults.snapshots import KmSnapshot

from qsotn.domain import ProcedureId
from qsotn.interfaces import Seat
from qsotn.procedures.turn import State


@rule
def a_key_was_made_once(history: History) -> Iterator[str]:
    """Every key ID that a key manager knows has one origin."""
    for key_id, records in KeyBook(history).records.items():
        origins = [str(kept) for kept in records if kept.record.role == "origin"]
        if len(origins) != 1:
            known = ", ".join(str(kept) for kept in records)
            yield f"key {key_id} has {len(origins)} origins: {known}"


@rule
def a_key_in_use_was_made_for_it(history: History) -> Iterator[str]:
    """A QSSP uses no key but one that was supplied to it: as master, as slave, or as both."""
    book = KeyBook(history)
    for key_id, uses in book.uses.items():
        origins = [kept for kept in book.records.get(key_id, []) if kept.record.role == "origin"]
        for use in uses:
            if not any(_made_for(kept, use) for kept in origins):
                made = ", ".join(f"{kept} for {kept.record.master} and {kept.record.slave}" for kept in origins)
                yield f"key {key_id} is {use.what} at {use.qssp}, but {made or 'no key manager made it'}"


def _made_for(origin: Kept, use: Use) -> bool:
    record = origin.record
    return (not use.drawn or record.master == use.qssp) and (not use.told or record.slave == use.qssp)


@rule
def a_key_serves_once(history: History) -> Iterator[str]:
    """One entry of one key file, or one direction of one generation of one line."""
    for key_id, uses in KeyBook(history).uses.items():
        distinct = {use.what: use for use in uses}
        if len(distinct) > 1:
            yield f"key {key_id} is " + " and ".join(f"{use.what} at {use.qssp}" for use in distinct.values())


@rule
def a_key_is_accounted_for(history: History) -> Iterator[str]:
    """A key that serves nothing was made for a request that did not complete, or went with a revoked device."""
    book = KeyBook(history)
    for origin in book.kept("origin"):
        requests = book.requests(origin)
        destroyed = unfinished(requests) or any(_went_with_device(history, one.row.procedure) for one in requests)
        if not book.uses.get(origin.record.key_id) and not destroyed:
            asked = ", ".join(str(one) for one in requests) or "nobody"
            yield f"{origin} serves nothing and was destroyed with nothing; asked for by: {asked}"


def _went_with_device(history: History, procedure: ProcedureId) -> bool:
    qssp = history.procedures.get(procedure, {}).get(Seat.QSSP)
    return qssp is not None and history.is_revoked(qssp.row.subject)


@rule
def a_failed_supply_gives_no_key(history: History) -> Iterator[str]:
    """What a failed hop carried waits for nobody and serves nothing."""
    book = KeyBook(history)
    for km in history.all(KmSnapshot):
        for far, key_ids in carried(history, km):
            for key_id in key_ids if far.row.state is State.FAILED else ():
                if key_id in km.stored:
                    yield f"key {key_id} is still stored; {far}"
                yield from (f"key {key_id} is {use.what} at {use.qssp}; {far}" for use in book.uses.get(key_id, []))


@rule
def a_key_is_handed_over_once(history: History) -> Iterator[str]:
    """A key that went to its slave SAE is stored no more."""
    for km in history.all(KmSnapshot):
        for key_id in km.stored:
            record = km.keys.get(key_id)
            if record is None:
                yield f"key {key_id} is stored at {km.party}, which has no record of it"
            elif record.role == "destination" and record.delivered_at:
                yield f"{Kept(km.party, record)} was handed over to {record.slave} and is still stored"


@rule
def a_key_waits_until_it_is_handed_over(history: History) -> Iterator[str]:
    """A key at its destination is stored, or was handed over, or its supply failed."""
    for km in history.all(KmSnapshot):
        failed = {i for far, ids in carried(history, km) if far.row.state is State.FAILED for i in ids}
        for record in km.keys.values():
            waits = record.key_id in km.stored or record.key_id in failed
            if record.role == "destination" and not record.delivered_at and not waits:
                yield f"{Kept(km.party, record)} was not handed over to {record.slave}, and is not stored"


@rule
def a_key_that_was_handed_over_arrived(history: History) -> Iterator[str]:
    """The slave SAE of a key that was handed over knows what it serves, even if it had to destroy it."""
    book = KeyBook(history)
    for kept in book.kept("destination"):
        told = [use for use in book.uses.get(kept.record.key_id, []) if use.told]
        if kept.record.delivered_at and not told:
            yield f"{kept} was handed over to {kept.record.slave}, which knows nothing of it"


@rule
def a_supply_that_ended_keeps_nothing(history: History) -> Iterator[str]:
    """Keys wait at their origin for the receipt, and no longer."""
    for km in history.all(KmSnapshot):
        for procedure, supply in km.supplies.items():
            near = history.procedures.get(ProcedureId(procedure), {}).get(Seat.KM_NEAR)
            if near is None or near.row.state is not State.RUNNING:
                ids = ", ".join(supply.key_ids)
                yield f"{km.party} keeps a supply of {ids} under {procedure}; {near or 'which nobody knows'}"
