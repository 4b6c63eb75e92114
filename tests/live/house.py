"""Several devices in one process: `python -m tests.live.house STATE FOLDER`.

It runs every device for which there is a file in the folder, from the moment the file is there, until it is told to
stop. A house that was killed and is started again goes on with all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.http import DEVICE_CONNECTIONS, HttpPeer
from qsotn.app.authority import Authority
from qsotn.app.bench.devices import Workshop
from qsotn.app.record import OPERATOR_FOLDER, PKI, load_plan, load_record
from qsotn.app.service_files import tls_section
from qsotn.domain import PartyId
from qsotn.ports import Posted, Store
from qsotn.runtime import Node
from qsotn.service.collector import Collector
from qsotn.service.config import LogSection
from qsotn.service.host import STORE_FILE, now_us
from qsotn.service.installation import open_installed, open_vault
from qsotn.service.listeners import stopped_by_signals
from qsotn.service.observability import configure_logging
from qsotn.service.sender import LEASE_US, Sender
from qsotn.service.worker import DeskWorker

LOOK_S: Final = 0.1
WAITING: Final = 256


def open_workshop(state: Path) -> Workshop:
    """Return where the devices of a province are made and found."""
    plan, record = load_plan(state), load_record(state)
    with Authority.opened(state / PKI, plan.lifetime, os.urandom) as authority:
        shared = tls_section(state / OPERATOR_FOLDER)
    return Workshop(authority, plan.pmp, record.urls(plan.pmp), shared, state / "devices")


def file_of(party: PartyId) -> str:
    """The name of the file that has a house run a device."""
    return party.replace("/", "-", 1)


class Device:
    """A device's service without its process: desk, sender and collector. `worker.Outlet` of its own desk."""

    def __init__(self, workshop: Workshop, party: PartyId) -> None:
        self.worker = DeskWorker(partial(_open, workshop, party), WAITING)
        tls = workshop.tls(party)
        self._peer = HttpPeer(workshop.pmp, workshop.urls, lambda: tls.client(workshop.pmp), DEVICE_CONNECTIONS)
        self._sender = Sender(self.worker, lambda _: self._peer)
        self._collector = Collector(self.worker, self._peer)

    def posted(self, posted: Sequence[Posted]) -> None:
        """These are on lease to this device."""
        self._sender.take(posted)

    def mail(self, _: Collection[PartyId]) -> None:
        """Nobody collects at a device."""

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop. Raises what ended the desk."""
        await self.worker.start(self)
        await self._sender.start()
        await self._collector.start()
        told = asyncio.create_task(stopping.wait())
        watched: set[asyncio.Future[Any]] = {told, self.worker.failed}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        await self._collector.stop()
        await self._sender.stop()
        await self._peer.close()
        await self.worker.stop()
        if not told.done():
            self.worker.failed.result()


def _open(workshop: Workshop, party: PartyId) -> tuple[Node, Store]:
    place = workshop.place(party)
    store = SqliteStore(place / STORE_FILE)
    vault = open_vault(place, party, os.urandom)
    identity, anchors = open_installed(store, vault, party)
    return Node(identity, anchors, store, vault, os.urandom, now_us, workshop.pmp, lease=LEASE_US), store


async def keep(state: Path, folder: Path) -> None:
    """Run devices until SIGTERM. Raises what ended the desk of one."""
    workshop, stopping = open_workshop(state), asyncio.Event()
    devices: dict[str, asyncio.Task[None]] = {}
    with stopped_by_signals(stopping):
        while not stopping.is_set():
            for name in sorted(path.name for path in folder.iterdir()):
                if name not in devices:
                    device = Device(workshop, PartyId(name.replace("-", "/", 1)))
                    devices[name] = asyncio.create_task(device.run(stopping))
            for task in devices.values():
                if task.done():
                    task.result()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_S)
    await asyncio.gather(*devices.values())


if __name__ == "__main__":
    configure_logging(LogSection(), "house")
    asyncio.run(keep(Path(sys.argv[1]), Path(sys.argv[2])))
