"""Every key ID of a run: who made it, what it serves, and what became of the request it was made for.

A key's record names no procedure. But a key manager makes a key in the transaction that takes the request and opens the
first hop, and all three carry that transaction's time: a record and its rows are found by party and time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tests.faults.facts import History, Seated
from tests.faults.snapshots import KmSnapshot, QsspSnapshot

from qsotn.domain import Direction, End, KeyId, PartyId, ProcedureId, Role
from qsotn.interfaces import Seat
from qsotn.parties.km import KeyRecord
from qsotn.procedures.turn import State


class Kept(NamedTuple):
    """A key's record at one key manager."""

    km: PartyId
    record: KeyRecord

    def __str__(self) -> str:
        return f"key {self.record.key_id} ({self.record.role} at {self.km})"


@dataclass(frozen=True)
class Use:
    """What a key serves at one QSSP: `what` is the same at both ends of a line."""

    what: str
    qssp: PartyId
    drawn: bool
    """Whether this QSSP asked for the key (`enc_keys`)."""
    told: bool
    """Whether this QSSP is the one that the key was supplied for (`dec_keys`); of a key file it is both."""


class KeyBook:
    """The keys of one history."""

    def __init__(self, history: History) -> None:
        self.records: dict[KeyId, list[Kept]] = defaultdict(list)
        self.uses: dict[KeyId, list[Use]] = defaultdict(list)
        self._opened: dict[tuple[PartyId, int], list[Seated]] = defaultdict(list)
        for km in history.all(KmSnapshot):
            for record in km.keys.values():
                self.records[record.key_id].append(Kept(km.party, record))
        for qssp in history.all(QsspSnapshot):
            for key_id, use in _uses(qssp):
                self.uses[key_id].append(use)
        for one in history.seated:
            if one.row.seat.role is Role.KM:
                self._opened[one.party, one.row.started].append(one)

    def kept(self, role: str) -> Iterator[Kept]:
        """Yield the records of one role: origin, relay, destination or discarded."""
        for records in self.records.values():
            yield from (one for one in records if one.record.role == role)

    def requests(self, origin: Kept) -> list[Seated]:
        """Return the rows of the request that a key was made for, at the key manager that made it."""
        opened, seats = self._opened[origin.km, origin.record.at], (Seat.KM, Seat.KM_A)
        return [one for one in opened if one.row.seat in seats and one.row.subject == origin.record.master]

    def hops(self, near: Kept, far: PartyId) -> list[Seated]:
        """Return the rows of the hop that a key manager opened towards another with a key, at the near end."""
        opened = self._opened[near.km, near.record.at]
        return [one for one in opened if one.row.seat is Seat.KM_NEAR and one.row.seats.get(Seat.KM_FAR) == far]


def unfinished(rows: list[Seated]) -> bool:
    """Say whether one of these did not complete, so that what it carried may be gone, or at one end alone."""
    return any(one.row.state is not State.COMPLETED for one in rows)


def carried(history: History, km: KmSnapshot) -> Iterator[tuple[Seated, tuple[KeyId, ...]]]:
    """Yield each hop whose far end a key manager is, and the keys it carried."""
    for procedure, hop in km.hops.items():
        far = history.procedures.get(ProcedureId(procedure), {}).get(Seat.KM_FAR)
        if far is not None:
            yield far, tuple(KeyId(key_id) for key_id in hop.key_ids)


def _uses(qssp: QsspSnapshot) -> Iterator[tuple[KeyId, Use]]:
    for file in qssp.key_files.values():
        for number, key_id in enumerate(file.key_ids):
            yield key_id, Use(f"entry {number} of key file {file.key_file_id}", qssp.party, drawn=True, told=True)
    for name, kept in qssp.generations.items():
        end_a = name.split("/")[-2] == End.A
        keys = ((kept.key_id_a_to_b, Direction.A_TO_B), (kept.key_id_b_to_a, Direction.B_TO_A))
        for key_id, direction in keys:
            what = f"generation {kept.generation} of {kept.line} {direction}"
            yield key_id, Use(what, qssp.party, drawn=end_a, told=not end_a)
