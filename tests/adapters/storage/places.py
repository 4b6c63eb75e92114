"""Where a store can be: one place of each kind, at which any number of replicas can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from qsotn.adapters.storage import open_store
from qsotn.domain import PartyId, ProcedureId
from qsotn.ports import Store, StoredRow, Taken

HOP: Final = PartyId("pmp/shandong")
DEVICE: Final = PartyId("cpe/jinan-1")
NEVER: Final = 2**62
"""Later than any time in these tests."""


@dataclass
class Place:
    """One database, new and empty. All stores opened at it share it."""

    url: str
    party: PartyId
    _opened: list[Store] = field(default_factory=list)

    def open(self) -> Store:
        """Open a store here, until the test ends."""
        store = open_store(self.url, self.party)
        self._opened.append(store)
        return store

    @contextmanager
    def replica(self) -> Iterator[Store]:
        """Open a store here for a thread of its own."""
        store = open_store(self.url, self.party)
        try:
            yield store
        finally:
            store.close()

    def close(self) -> None:
        for store in self._opened:
            store.close()


def row(procedure: str, seat: str = "pmp", **changes: object) -> StoredRow:
    """A running row about `line-1` whose content is its name."""
    fields = {"ladder": "leased-line", "subject": "line-1", "running": True, "deadline": 100}
    return StoredRow(
        procedure=ProcedureId(procedure), seat=seat, content=f"{procedure}/{seat}".encode(), **{**fields, **changes}
    )


def taken(procedure: str, number: int) -> Taken:
    """One accepted step."""
    return Taken(ProcedureId(procedure), "leased-line", number, "a", "ServiceRequest", HOP, DEVICE, "Ax", 1, 2)
