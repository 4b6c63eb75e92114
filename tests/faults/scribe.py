"""Writes a history down, record by record, with the names of a small province: for histories that are made by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import Any

from tests.faults.facts import History, Operation
from tests.faults.snapshots import (
    CpeSnapshot,
    KmSnapshot,
    PmpSnapshot,
    PompSnapshot,
    QkmpSnapshot,
    QsspSnapshot,
    Snapshot,
)

from qsotn.domain import KeyId, PartyId, ProcedureId, QualityOfService, Role, role_of
from qsotn.interfaces import Seat
from qsotn.parties import km
from qsotn.procedures.turn import Row, State

POMP, PMP, QKMP = PartyId("pomp/p"), PartyId("pmp/p"), PartyId("qkmp/p")
QSSP_A, QSSP_B = PartyId("qssp/a"), PartyId("qssp/b")
KM_A, KM_B, KM_R = PartyId("km/a"), PartyId("km/b"), PartyId("km/r")
CPE_A, CPE_B, CPE_C, CPE_D = PartyId("cpe/a"), PartyId("cpe/b"), PartyId("cpe/c"), PartyId("cpe/d")
PARTIES = (POMP, PMP, QKMP, QSSP_A, QSSP_B, KM_A, KM_B, KM_R, CPE_A, CPE_B, CPE_C, CPE_D)
NEIGHBOURS = {KM_A: {"a-r": KM_R}, KM_B: {"b-r": KM_R}, KM_R: {"a-r": KM_A, "b-r": KM_B}}
UNITS = 64
QUALITY = QualityOfService("ODU2", 60, 5_000)
PLATFORM_SEATS: dict[Seat, PartyId] = {Seat.POMP: POMP, Seat.PMP: PMP}
END_SEATS: dict[Seat, PartyId] = {Seat.CPE_A: CPE_A, Seat.CPE_B: CPE_B, Seat.QSSP_A: QSSP_A, Seat.QSSP_B: QSSP_B}
KEY_SEATS: dict[Seat, PartyId] = {Seat.KM_A: KM_A, Seat.KM_B: KM_B, Seat.QKMP: QKMP}
LINE_SEATS = PLATFORM_SEATS | END_SEATS
REKEY_SEATS = END_SEATS | KEY_SEATS
_KINDS: dict[Role, type[Snapshot]] = {
    Role.POMP: PompSnapshot,
    Role.PMP: PmpSnapshot,
    Role.QKMP: QkmpSnapshot,
    Role.QSSP: QsspSnapshot,
    Role.KM: KmSnapshot,
    Role.CPE: CpeSnapshot,
}


class Scribe:
    """Writes down what happened, party by party."""

    def __init__(self) -> None:
        self._rows: dict[PartyId, list[Row]] = defaultdict(list)
        self._records: dict[PartyId, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        self._now = count(1000)
        self._keys, self._hops = count(1), count(1)
        self._marks = {(KM_A, "a-r"): 0, (KM_R, "a-r"): UNITS // 2, (KM_B, "b-r"): 0, (KM_R, "b-r"): UNITS // 2}
        self._taken: dict[PartyId, set[str]] = defaultdict(set)

    def put(self, party: PartyId, collection: str, key: str, record: Any) -> None:
        self._records[party][collection][key] = record

    def get(self, party: PartyId, collection: str, key: str) -> Any:
        return self._records[party][collection][key]

    def drop(self, party: PartyId, collection: str, key: str) -> None:
        del self._records[party][collection][key]

    def procedure(
        self,
        name: str,
        ladder: str,
        subject: str,
        seats: Mapping[Seat, PartyId],
        *,
        failure: str = "",
        generation: int = 0,
        at: int = 0,
    ) -> int:
        """Write every seat's row, all of one moment; return it."""
        now, state = at or next(self._now), State.FAILED if failure else State.COMPLETED
        for seat, party in seats.items():
            about = _asker(seat, seats) if role_of(party) is Role.KM and ladder != "key-supply" else subject
            row = Row(
                ProcedureId(name), ladder, seat, about, dict(seats), now + 1000, now, state=state, failure=failure
            )
            row.generation = generation if seat in (Seat.QSSP_A, Seat.QSSP_B) else 0
            self._rows[party].append(row)
        return now

    def row(self, party: PartyId, procedure: str, seat: Seat) -> Row:
        return next(row for row in self._rows[party] if (row.procedure, row.seat) == (procedure, seat))

    def key_ids(self, number: int) -> tuple[KeyId, ...]:
        return tuple(KeyId(f"key-{next(self._keys)}") for _ in range(number))

    def take(self, party: PartyId, link: str, first: int, units: int) -> km.Allocation:
        self._taken[party] |= {f"{link}/00000001/{unit:06}" for unit in range(first, first + units)}
        return km.Allocation(link, 1, first, units)

    def allocate(self, party: PartyId, link: str, units: int) -> int:
        first = self._marks[party, link]
        self._marks[party, link] += units
        return first

    def record(self, party: PartyId, record: km.KeyRecord) -> None:
        self.put(party, "keys", record.key_id, record)

    def hop(self, near: PartyId, far: PartyId, at: int, failure: str = "") -> ProcedureId:
        """Write one hop of a supply, at both its ends."""
        name, seats = ProcedureId(f"hop-{next(self._hops)}"), {Seat.KM_NEAR: near, Seat.KM_FAR: far}
        self.procedure(name, "key-supply", far, seats, failure=failure, at=at)
        return name

    def history(self, operations: tuple[Operation, ...]) -> History:
        return History(tuple(self._snapshot(party) for party in PARTIES), operations)

    def _snapshot(self, party: PartyId) -> Snapshot:
        found: dict[str, Any] = {name: dict(records) for name, records in self._records[party].items()}
        if role_of(party) is Role.KM:
            links = NEIGHBOURS[party]
            found["neighbours"] = links
            found["blocks"] = {f"{link}/00000001": self._block(party, link) for link in links}
            places = {f"{link}/00000001/{unit:06}" for link in links for unit in range(UNITS)}
            found["units"] = frozenset(places - self._taken[party])
        return _KINDS[role_of(party)](party, tuple(self._rows[party]), **found)

    def _block(self, party: PartyId, link: str) -> km.KeyBlock:
        return km.KeyBlock(link, 1, UNITS, km.BlockState.AVAILABLE, self._marks[party, link], {})


def _asker(seat: Seat, seats: Mapping[Seat, PartyId]) -> str:
    """What a key manager's row is about: the QSSP that asks."""
    return seats[{Seat.KM: Seat.QSSP, Seat.KM_A: Seat.QSSP_A, Seat.KM_B: Seat.QSSP_B}[seat]]
