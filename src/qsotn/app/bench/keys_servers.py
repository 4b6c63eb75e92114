"""The servers that `qsotn bench keys` compares, each a process: `python -m qsotn.app.bench.keys_servers`.

* `grouped`: the server of ETSI GS QKD 014 over a key store with group commit, as a key manager runs it.
* `single`: the same server and the same store, with one transaction for each request.
* `memory`: a plain aiohttp server that keeps keys in one dict and nothing on disk.

All speak TLS with the same certificates and the same settings, and the same JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from uuid import uuid4

import msgspec
from aiohttp import web

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.adapters.keystore import Times, open_key_store
from qsotn.app.bench.keys_ground import HOMES, HOST, KM, MASTER, SLAVE, credentialed, identify
from qsotn.app.bench.steered import begin, obey
from qsotn.crypto.vault import Vault
from qsotn.domain import Secret
from qsotn.errors import QsotnError, UsageError
from qsotn.keynetwork.delivery import Applied, Collect, Deposit, KeyStore, Operation, Pool, Reserve, Sweep
from qsotn.service.config import LimitsSection
from qsotn.service.delivery import etsi014
from qsotn.service.delivery.desk import DeliveryDesk, Limits
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.saes import Saes, party_sae
from qsotn.service.delivery.voids import Voids
from qsotn.service.garbage import collect_rarely
from qsotn.service.host import now_us

T = TypeVar("T")

BATCH: Final = 4096
"""Units of one deposit."""
AT_ONCE: Final = 4
"""Requests under way while keys are consumed at the store."""
SWEEP_S: Final = 5.0
"""As often as the service sweeps."""
_TIMES: Final = Times()


class Settle(msgspec.Struct, frozen=True, tag=True):
    """Forget what was delivered, as if the time for it had come; then have that many units ready."""

    units: int


class Consume(msgspec.Struct, frozen=True, tag=True):
    """Reserve and collect that many keys at the store, 128 a request."""

    keys: int


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Say the port and the processor time so far."""


class Told(msgspec.Struct, frozen=True):
    """Where a server listens, and the processor seconds that it has used, apart from those for deposits."""

    port: int
    processor: float
    deposits: float
    """Processor seconds for deposits."""


# --- the two with a store -------------------------------------------------------------------------------------------


class OneByOne(Group):
    """A transaction for each request, in the event loop: what a server without group commit does."""

    _store: KeyStore

    async def start(self) -> None:
        """Open the store here."""
        self._store = self._open_store()

    async def stop(self) -> None:
        """Close it."""
        self._store.close()

    async def apply_all(self, operations: Sequence[Operation]) -> Applied:
        """Do what one request asks."""
        return self._store.apply(operations)

    async def call(self, function: Callable[[KeyStore], T]) -> T:
        """Run a function."""
        return function(self._store)


@dataclass
class Stocked:
    """A key manager's store at work, with a clock that can be put forward."""

    group: Group
    pool: Pool
    skipped: int = 0
    deposits: float = 0.0

    def clock(self) -> int:
        """Microseconds since the epoch, and what was skipped."""
        return now_us() + self.skipped

    async def settle(self, units: int) -> None:
        """Forget what was delivered; lay in what is missing of that many units."""
        self.skipped += _TIMES.window
        await self.group.apply(Sweep(self.clock()))
        began = time.process_time()
        await self.stock(units)
        self.deposits += time.process_time() - began

    async def stock(self, units: int) -> None:
        """Have that many units ready."""
        ready, first = await self.group.call(lambda store: (store.count(self.pool).ready, store.next_number(self.pool)))
        while ready < units:
            number = min(BATCH, units - ready)
            drawn = os.urandom(32 * number)
            cut = tuple(Secret(drawn[at : at + 32]) for at in range(0, len(drawn), 32))
            await self.group.apply(Deposit(self.pool, f"bench-{first}", first, cut))
            ready, first = ready + number, first + number

    async def consume(self, keys: int) -> None:
        """Give keys to the two SAEs."""
        each = Limits().most_keys
        wanted = iter([each] * -(-keys // each))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(self._consume(wanted))

    async def _consume(self, wanted: Iterator[int]) -> None:
        master, slave = map(party_sae, (MASTER, SLAVE))
        for number in wanted:
            keys = await self.group.apply(Reserve(self.pool, master, (slave,), number, 256, self.clock()))
            ids = tuple(key.key_id for key in keys)
            if await self.group.apply(Collect(slave, master, ids, self.clock())) != keys:
                raise QsotnError("a slave was given other keys than its master")

    async def sweep(self) -> None:
        """Sweep as the service does, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            await self.group.apply(Sweep(self.clock()))


@contextlib.asynccontextmanager
async def _store(folder: Path, kind: type[Group]) -> AsyncIterator[Stocked]:
    folder.mkdir(mode=0o700)
    vault = Vault(Secret(os.urandom(32)), os.urandom)
    url, epochs = f"sqlite:///{folder / 'keys.db'}", folder / "epochs"
    group = kind(lambda: open_key_store(url, KM, epochs, vault, os.urandom, times=_TIMES), LimitsSection().waiting)
    await group.start()
    stocked = Stocked(group, await group.call(lambda store: store.begin_pool(KM, KM)))
    sweeping = asyncio.create_task(stocked.sweep())
    try:
        yield stocked
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        await group.stop()


async def _run_stored(folder: Path, kind: type[Group], listener: socket.socket, context: ssl.SSLContext) -> None:
    async with _store(folder, kind) as stocked:
        saes, voids = Saes(KM, HOMES), Voids(KM, stocked.group, {}, stocked.clock)
        desk = DeliveryDesk(saes, Limits(), stocked.group, {}, voids, stocked.clock)

        async def do(command: Settle | Consume | Tell) -> Told:
            match command:
                case Settle(units):
                    await stocked.settle(units)
                case Consume(keys):
                    await stocked.settle(keys + Limits().most_keys)
                    await stocked.consume(keys)
            return Told(_port(listener), time.process_time() - stocked.deposits, stocked.deposits)

        collect_rarely()  # as every service does once it is ready
        async with etsi014.listen(desk, listener, context, identify):
            await obey(Settle | Consume | Tell, do)


# --- the one without ------------------------------------------------------------------------------------------------


def memory_application() -> web.Application:
    """Return enc_keys and dec_keys over one dict."""
    kept: dict[str, bytes] = {}

    async def enc_keys(request: web.Request) -> web.Response:
        asked = _KEY_REQUEST.decode(await request.read())
        size = (asked.size or 256) // 8
        made = tuple(form.Key(str(uuid4()), os.urandom(size)) for _ in range(asked.number or 1))
        kept.update((one.key_id, one.key) for one in made)
        return _answer(made)

    async def dec_keys(request: web.Request) -> web.Response:
        named = _KEY_IDS.decode(await request.read()).key_ids
        return _answer(tuple(form.Key(one.key_id, kept.pop(one.key_id)) for one in named))

    application = web.Application()
    application.router.add_post(form.PREFIX + "{slave}/enc_keys", enc_keys)
    application.router.add_post(form.PREFIX + "{master}/dec_keys", dec_keys)
    return application


def _answer(keys: tuple[form.Key, ...]) -> web.Response:
    return web.Response(body=_ENCODER.encode(form.KeyContainer(keys)), content_type=form.JSON)


_KEY_REQUEST: Final = msgspec.json.Decoder(form.KeyRequest)
_KEY_IDS: Final = msgspec.json.Decoder(form.KeyIdentifiers)
_ENCODER: Final = msgspec.json.Encoder()


async def _run_memory(listener: socket.socket, context: ssl.SSLContext) -> None:
    runner = web.AppRunner(memory_application(), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=context).start()

        async def do(_: Settle | Tell) -> Told:
            return Told(_port(listener), time.process_time(), 0.0)

        await obey(Settle | Tell, do)
    finally:
        await runner.cleanup()


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


async def run(kind: str, ground: Path, folder: Path) -> None:
    """Serve, and do what is asked, until standard input ends."""
    listener = socket.create_server((HOST, 0), backlog=256)
    context = credentialed(ground, KM).server()
    match kind:
        case "memory":
            await _run_memory(listener, context)
        case "grouped" | "single":
            await _run_stored(folder, Group if kind == "grouped" else OneByOne, listener, context)
        case _:
            raise UsageError(f"{kind!r} is no server of this benchmark")


if __name__ == "__main__":
    _kind, _ground, _folder = begin()
    sys.exit(asyncio.run(run(_kind, Path(_ground), Path(_folder))))
