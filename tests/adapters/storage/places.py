"""Where a store can be: one place of each kind, at which any number of replicas can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest

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


def row(
    procedure: str,
    seat: str = "pmp",
    *,
    ladder: str = "leased-line",
    subject: str = "line-1",
    running: bool = True,
    deadline: int = 100,
) -> StoredRow:
    """A row whose content is its name."""
    content = f"{procedure}/{seat}".encode()
    return StoredRow(ProcedureId(procedure), seat, ladder, subject, running, deadline, content)


def taken(procedure: str, number: int) -> Taken:
    """One accepted step."""
    return Taken(ProcedureId(procedure), "leased-line", number, "a", "ServiceRequest", HOP, DEVICE, "Ax", 1, 2)


class Undone(Exception):
    """Raised to leave a transaction or a part."""


def refused(error: type[BaseException], match: str | None = None) -> AbstractContextManager[object, bool]:
    """Expect that a whole transaction or part comes to nothing; at which of its statements is not the story."""
    return pytest.raises(error, match=match)
