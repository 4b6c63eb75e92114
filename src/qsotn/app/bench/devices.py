"""Many devices in one process: each with its own identity, store, certificate and connection, as it would be alone.

A device runs the service's own parts: a desk thread, a sender, a collector. Only its process is shared with others, and
its line goes dark once nobody measures it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.http import DEVICE_CONNECTIONS, HttpPeer
from qsotn.app.authority import Authority, pem_certificate, pem_key
from qsotn.crypto.identity import Identity
from qsotn.crypto.suites import DEFAULT_SUITE
from qsotn.crypto.transport_certificates import issue_transport
from qsotn.crypto.vault import Vault
from qsotn.domain import PartyId, Secret
from qsotn.errors import PeerError
from qsotn.parties.cpe import DeviceConfiguration
from qsotn.ports import Posted, Store
from qsotn.procedures.turn import Row, State
from qsotn.runtime import Node
from qsotn.runtime.batch import Accepted
from qsotn.runtime.outcomes import Observer
from qsotn.service.collector import Collector
from qsotn.service.config import TlsSection
from qsotn.service.doorbell import Doorbell
from qsotn.service.host import now_us
from qsotn.service.identity_files import Credentialed
from qsotn.service.installation import (
    IDENTITY_CONTEXT,
    MODULE_KEY,
    Installation,
    ProvisionedTrust,
    open_installed,
    open_vault,
    provision,
)
from qsotn.service.lines import NO_LINE_S, Line
from qsotn.service.sender import LEASE_US, Sender
from qsotn.service.worker import DeskWorker

BACKDATED: Final = dt.timedelta(minutes=5)
LIFETIME: Final = dt.timedelta(days=1)
PATIENCE_S: Final = 180.0
WAITING: Final = 256
"""How much may wait at a device's desk."""


@dataclass(frozen=True)
class Workshop:
    """Where devices are made: the roots, and the province's folder."""

    authority: Authority
    pmp: PartyId
    urls: tuple[str, ...]
    shared: TlsSection
    """The roots and revocation lists that every device is given."""
    folder: Path

    def make(self, party: PartyId, serial_number: str) -> None:
        """Make one device: keys, certificates, store."""
        now = dt.datetime.now(dt.UTC)
        place = self.place(party)
        place.mkdir(mode=0o700, parents=True)
        root = self.authority.manufacturer
        identity = Identity.create(party, root, now - BACKDATED, now + LIFETIME, os.urandom, serial_number)
        kek = Secret(os.urandom(32))
        (place / MODULE_KEY).touch(0o600)
        (place / MODULE_KEY).write_bytes(kek.reveal())
        trust = ProvisionedTrust(self.authority.operator.certificate, root.certificate)
        built = DeviceConfiguration(serial_number, (1,), ("ODU0", "ODU2"))
        installation = Installation(party, trust, identity.chain, {}, built)
        shutil.copyfile(self._empty_store(), place / "store.db")
        store = SqliteStore(place / "store.db", synchronous="OFF")  # made before the measurement: nothing to lose yet
        with store.transaction() as transaction:
            sealed = Vault(kek, os.urandom).wrap(identity.to_secret(), IDENTITY_CONTEXT)
            provision(transaction, sealed, installation)
        store.close()
        self._make_transport(place, party, serial_number, now)

    def _empty_store(self) -> Path:
        """A store as it is before its party: its tables are made once for all devices."""
        path = self.folder / "empty.db"
        if not path.exists():
            SqliteStore(path).close()
        return path

    def _make_transport(self, place: Path, party: PartyId, serial_number: str, now: dt.datetime) -> None:
        key = DEFAULT_SUITE.generate_signing_key(os.urandom)
        public = key.public_key().public_bytes_raw()
        window = (now - BACKDATED, now + LIFETIME)
        made = issue_transport(self.authority.manufacturer, party, public, *window, (), serial_number)
        (place / "transport.pem").write_bytes(pem_certificate(made))
        (place / "transport.key").touch(0o600)
        (place / "transport.key").write_bytes(pem_key(key))

    def place(self, party: PartyId) -> Path:
        """The folder of one device."""
        return self.folder / party.replace("/", "-")

    def tls(self, party: PartyId) -> Credentialed:
        """The credentials of one device."""
        place, shared = self.place(party), self.shared
        section = TlsSection(
            place / "transport.pem",
            place / "transport.key",
            shared.operator_root,
            shared.manufacturer_root,
            shared.operator_list,
            shared.manufacturer_list,
        )
        return Credentialed(party, section)


class SwitchableLine(Line):
    """A line whose light can be put out: it then neither sends nor looks at what arrives."""

    dark = False

    def idle(self, node: Node) -> float:
        """Carry what there is, while there is light."""
        if self.dark:
            self._drop_arrivals()
            return NO_LINE_S
        return super().idle(node)


class Device:
    """One device at work: the outlet and the observer of its own desk. Make it within the event loop it runs in."""

    def __init__(self, workshop: Workshop, party: PartyId, line: Line | None = None) -> None:
        self.party = party
        self._loop = asyncio.get_running_loop()
        self._completed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        opened = partial(_open, workshop, party, self)
        self.worker = _worker(opened, line)
        tls = workshop.tls(party)
        self._peer = HttpPeer(workshop.pmp, workshop.urls, lambda: tls.client(workshop.pmp), DEVICE_CONNECTIONS)
        self.sender = Sender(self.worker, lambda _: self._peer, alone=True)
        self._collector = Collector(self.worker, self._peer)

    async def completed(self, ladder: str) -> None:
        """Wait until this device's part of a procedure is over. Raises `TimeoutError`."""
        async with asyncio.timeout(PATIENCE_S):
            await self._completed[ladder].wait()

    # `runtime.Observer`, called in the desk thread

    def accepted(self, _: Accepted) -> None:
        """Nobody asks for a device's steps."""

    def ended(self, row: Row) -> None:
        """Tell whoever waits for it."""
        if row.state is State.COMPLETED:
            self._loop.call_soon_threadsafe(self._completed[row.ladder].set)

    def refused(self, error: PeerError) -> None:
        """Nobody asks for a device's refusals."""

    # `worker.Outlet`, called in the event loop

    def posted(self, posted: Sequence[Posted]) -> None:
        """These are on lease to this device."""
        self.sender.take(posted)

    def mail(self, _: Mapping[PartyId, Sequence[Posted]]) -> None:
        """Nobody collects at a device."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it."""
        await self.worker.start(self)
        # Both connections that a device keeps, one to collect and one to send, stand before it is at work.
        await asyncio.gather(self._peer.confirm([]), self._peer.confirm([]))
        await self.sender.start()
        await self._collector.start()
        try:
            yield
        finally:
            await self._collector.stop()
            await self._until_sent()
            await self.sender.stop()
            await self._peer.close()
            await self.worker.stop()

    async def _until_sent(self) -> None:
        while await self.worker.call(Node.settle):
            await asyncio.sleep(0.01)


def _worker(opened: Callable[[], tuple[Node, Store]], line: Line | None) -> DeskWorker:
    if line is None:
        return DeskWorker(opened, WAITING)
    return DeskWorker(opened, WAITING, line.idle, line.before, Doorbell(line.ports))


def _open(workshop: Workshop, party: PartyId, observer: Observer) -> tuple[Node, Store]:
    place = workshop.place(party)
    store = SqliteStore(place / "store.db")
    vault = open_vault(place, party, os.urandom)
    identity, anchors = open_installed(store, vault, party)
    clock, chance = now_us, os.urandom
    node = Node(identity, anchors, store, vault, chance, clock, workshop.pmp, lease=LEASE_US, observer=observer)
    return node, store
