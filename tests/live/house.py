"""Several devices in one process: `python -m tests.live.house STATE FOLDER`.

It runs every device for which there is a file in the folder, from the moment the file is there, until it is told to
stop. A house that was killed and is started again goes on with all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any, Final

from qsotn.app.authority import Authority
from qsotn.app.bench.devices import Device, Workshop
from qsotn.app.record import OPERATOR_FOLDER, PKI, load_plan, load_record
from qsotn.app.service_files import tls_section
from qsotn.domain import PartyId
from qsotn.service.config import LogSection
from qsotn.service.host import stopped_by_signals
from qsotn.service.observability import configure_logging

LOOK_S: Final = 0.1


def open_workshop(state: Path) -> Workshop:
    """Return where the devices of a province are made and found."""
    plan, record = load_plan(state), load_record(state)
    with Authority.opened(state / PKI, plan.lifetime, os.urandom) as authority:
        shared = tls_section(state / OPERATOR_FOLDER)
    return Workshop(authority, plan.pmp, record.urls(plan.pmp), shared, state / "devices")


def file_of(party: PartyId) -> str:
    """The name of the file that has a house run a device."""
    return party.replace("/", "-", 1)


async def keep(state: Path, folder: Path) -> None:
    """Run devices until SIGTERM. Raises what ended the desk of one."""
    workshop, stopping = open_workshop(state), asyncio.Event()
    devices: dict[str, asyncio.Task[None]] = {}
    with stopped_by_signals(stopping):
        while not stopping.is_set():
            for name in sorted(path.name for path in folder.iterdir()):
                if name not in devices:
                    device = Device(workshop, PartyId(name.replace("-", "/", 1)))
                    devices[name] = asyncio.create_task(_run(device, stopping))
            for task in devices.values():
                if task.done():
                    task.result()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_S)
    await asyncio.gather(*devices.values())


async def _run(device: Device, stopping: asyncio.Event) -> None:
    async with device.running():
        told = asyncio.create_task(stopping.wait())
        watched: set[asyncio.Future[Any]] = {told, device.worker.failed}
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            device.worker.failed.result()


if __name__ == "__main__":
    configure_logging(LogSection(), "house")
    asyncio.run(keep(Path(sys.argv[1]), Path(sys.argv[2])))
