"""A party at a desk thread of its own, over a SQLite file in a test's folder, and stores that a test holds up.

Identities, vaults, nodes and stores are the real ones. The clock is the real one, set back to when the worlds of
`tests.world` begin, and a test may advance it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.world import BEGINS_US, LIFETIME_US, World

from qsotn import wire
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app.province import PMP, POMP, QSSP_A, party_folder
from qsotn.domain import PartyId, Role, role_of
from qsotn.ports import Posted
from qsotn.procedures import initialization
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.service.installation import open_installed, open_vault
from qsotn.service.sender import LEASE_US
from qsotn.service.worker import DeskWorker

T = TypeVar("T")
PATIENCE_S = 20.0
"""Far more than anything here takes; a test that hangs ends by it."""


def run(story: Coroutine[Any, Any, T]) -> T:
    """Tell an asynchronous story to its end."""
    return asyncio.run(asyncio.wait_for(story, PATIENCE_S))


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    while not holds():
        await asyncio.sleep(0.005)


class RunningClock:
    """Microseconds since the epoch, real ones, from when the worlds begin."""

    def __init__(self) -> None:
        self._began = time.monotonic_ns()
        self._ahead = 0

    def __call__(self) -> int:
        return BEGINS_US + self._ahead + (time.monotonic_ns() - self._began) // 1000

    def advance(self, microseconds: int) -> None:
        self._ahead += microseconds


@dataclass
class HeldStore:
    """A store that counts its transactions, and waits before a COMMIT while a test says so.

    `fails` may raise in the place of a transaction, or of one call of it.
    """

    inner: SqliteStore
    fails: Callable[[str], None] = lambda _: None
    committing: threading.Event = field(default_factory=threading.Event)
    may_commit: threading.Event = field(default_factory=threading.Event)
    transactions: int = 0
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_commit.set()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self.fails("transaction")
        with self.inner.transaction() as transaction:
            yield HeldTransaction(self, transaction)
            self.committing.set()
            assert self.may_commit.wait(PATIENCE_S)
            self.fails("commit")
        self.transactions += 1

    def close(self) -> None:
        self.inner.close()


class HeldTransaction:
    def __init__(self, store: HeldStore, inner: Any) -> None:
        self._store, self._inner = store, inner

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            self._store.calls.append(name)
            self._store.fails(name)
            return call(*arguments, **named)

        return counted


@dataclass
class Heard:
    """`worker.Outlet` that remembers."""

    sent: list[Posted] = field(default_factory=list)
    waiting: set[PartyId] = field(default_factory=set)

    def posted(self, posted: Sequence[Posted]) -> None:
        self.sent += posted

    def mail(self, mail: Mapping[PartyId, Sequence[Posted]]) -> None:
        self.waiting |= set(mail)


class Desk:
    """One party's desk thread. Several may share a folder, as replicas share a store."""

    def __init__(self, folder: Path, party: PartyId, clock: RunningClock | None = None, **worker: Any) -> None:
        self.folder, self.party = folder, party
        self.clock = clock or RunningClock()
        self.store: HeldStore
        self.node: Node
        self._expects = worker.pop("expects", _is_nobody)
        self.worker = DeskWorker(self._open, worker.pop("limit", 4096), **worker)

    def _open(self) -> tuple[Node, Any]:
        place = party_folder(self.folder, self.party)
        self.store = HeldStore(SqliteStore(place / "store.db", synchronous="OFF"))
        vault = open_vault(place, self.party, os.urandom)
        identity, anchors = open_installed(self.store, vault, self.party)
        courier = PMP if role_of(self.party) in (Role.CPE, Role.QSSP) else None
        collects = _is_device if role_of(self.party) is Role.PMP else _is_nobody
        self.node = Node(
            identity,
            anchors,
            self.store,
            vault,
            os.urandom,
            self.clock,
            courier,
            lease=LEASE_US,
            collects=collects,
            expects=self._expects,
        )
        self.store.transactions = 0
        return self.node, self.store

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the desk thread at a call, so that whatever comes gathers behind it."""
        leave, entered = threading.Event(), threading.Event()

        def stay(_: Node) -> None:
            entered.set()
            assert leave.wait(PATIENCE_S)

        task = asyncio.get_running_loop().create_task(self.worker.call(stay))
        self._stayed = task
        try:
            yield
        finally:
            leave.set()

    async def waiting(self, count: int) -> None:
        """Wait until so many things wait (one call keeps the desk busy, and does not)."""
        await until(lambda: self.worker.waiting == count)


def _is_device(party: PartyId) -> bool:
    return role_of(party) is Role.CPE


def _is_nobody(_: PartyId) -> bool:
    return False


# --- datagrams --------------------------------------------------------------------------------------------------------


def orders(world: World, count: int, first: int = 0) -> list[bytes]:
    """Datagrams from the POMP to the PMP, each the beginning of another device's initialisation."""

    def begin(pomp: Any, work: Any) -> None:
        for number in range(first, first + count):
            cpe = PartyId(f"cpe/jinan-{100 + number}")
            initialization.begin(pomp, work, cpe, f"QS-2026-{100_000 + number}", QSSP_A, PMP, LIFETIME_US)

    world.begin(POMP, begin)
    posted = list(world.nodes[POMP].lease(count))
    world.nodes[POMP].acknowledge([one.number for one in posted])
    world.nodes[POMP].settle()
    assert len(posted) == count
    return [one.datagram for one in posted]


def procedure_of(world: World, datagram: bytes) -> str:
    return world.opened(datagram).envelope.procedure


FROM_POMP = Bearer(POMP, "Ioa")


def junk(hop: PartyId, interface: str, number: int, sender: PartyId = POMP) -> bytes:
    """A datagram that is one by its outside alone."""
    return wire.encode(wire.Datagram(interface, sender, hop, b"%d" % number))
