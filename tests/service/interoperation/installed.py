"""Key managers of one installation as hosts of this process, over real TLS on loopback, configured by files."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.transport.http import HttpPeer
from qsotn.app.installation import create_installation
from qsotn.app.plan import sample_file
from qsotn.app.record import SAES, party_place, sae_party
from qsotn.app.service_files import tls_section
from qsotn.domain import PartyId, Secret
from qsotn.keynetwork.delivery import Deposit, Pool
from qsotn.service.config import CONFIGURATION, ServiceConfiguration, load_configuration
from qsotn.service.delivery.server import DeliveryService
from qsotn.service.host import Host
from qsotn.service.identity_files import Credentialed

JINAN, QINGDAO, WEIFANG = (PartyId(f"km/{place}") for place in ("jinan", "qingdao", "weifang"))
ALICE, ANNA = "alice", "anna"
"""Alice is attached in Jinan, Anna in Qingdao."""
UNITS = 200


def install(place: Path) -> Path:
    """A province with two SAEs that nobody started."""
    saes = "\n".join(
        f'[[sae]]\nname = "{name}"\ncity = "{city}"\n' for name, city in ((ALICE, "jinan"), (ANNA, "qingdao"))
    )
    file = place / "province.toml"
    file.write_text(f"{sample_file().read_text().replace('first_port = 7400', 'first_port = 0')}\n{saes}")
    create_installation(file, place / "state", os.urandom, dt.datetime.now(dt.UTC))
    return place / "state"


def configured(state: Path, party: PartyId, more: str = "") -> ServiceConfiguration:
    """What a party's file says, with more written at its end."""
    own = state / party_place(party) / CONFIGURATION
    changed = own.with_name(f"changed-{CONFIGURATION}")
    changed.write_text(f"{own.read_text()}\n{more}")
    return load_configuration(changed)


@contextlib.asynccontextmanager
async def hosted(configuration: ServiceConfiguration) -> AsyncIterator[Host]:
    """Serve one party."""
    host = Host(configuration)
    task = asyncio.create_task(host.serve())
    try:
        while host._readiness().reasons == ("starting",):
            assert not task.done(), task.exception()
            await asyncio.sleep(0.01)
        yield host
    finally:
        host._stopping.set()
        await task


def delivery_of(host: Host) -> DeliveryService:
    assert host._delivery is not None
    return host._delivery


async def supply(origin: Host, target: Host, batch: str = "laid") -> Pool:
    """Lay the same units into both ends of a pool, as a supply of the network does."""
    pool = await delivery_of(origin).desk.pool(target.party)
    first = await delivery_of(origin)._group.call(lambda store: store.next_number(pool))
    units = tuple(Secret(os.urandom(32)) for _ in range(UNITS))
    for end in dict.fromkeys((origin, target)):
        await delivery_of(end)._group.apply(Deposit(pool, f"{batch}-{first}", first, units))
    return pool


def sae_tls(state: Path, sae: str) -> Credentialed:
    return Credentialed(sae_party(sae), tls_section(state / SAES / sae))


@contextlib.asynccontextmanager
async def asking(state: Path, sae: str, km: ServiceConfiguration) -> AsyncIterator[Etsi014Client]:
    """An SAE at its key manager, by ETSI GS QKD 014."""
    assert km.delivery is not None
    tls = sae_tls(state, sae)
    async with Etsi014Client(f"https://{km.delivery.address}", lambda: tls.client(km.party)) as client:
        yield client


@contextlib.asynccontextmanager
async def reaching(state: Path, sae: str, km: ServiceConfiguration) -> AsyncIterator[HttpPeer]:
    """An SAE at its key manager's listener for streams."""
    assert km.streams is not None
    tls = sae_tls(state, sae)
    peer = HttpPeer(km.party, (f"https://{km.streams.address}",), lambda: tls.client(km.party))
    yield peer
    await peer.close()


def free_address() -> str:
    """An address of the loopback that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    while not await done():
        await asyncio.sleep(0.05)
