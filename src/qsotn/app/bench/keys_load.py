"""The load of `qsotn bench keys`, a process of its own: `python -m qsotn.app.bench.keys_load`.

It is the same for every server: a number of workers, each with one connection as the master SAE and one as the slave
SAE, that ask for keys and collect them, one round trip after the other, and compare both answers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final

import msgspec

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.adapters.transport.exchange import Exchanges
from qsotn.app.bench.keys_ground import HOST, KM, MASTER, SLAVE, credentialed
from qsotn.app.bench.steered import begin, obey
from qsotn.errors import QsotnError
from qsotn.service.delivery.saes import party_sae

PATIENCE_S: Final = 30.0
_OK: Final = 200
_ENC, _DEC = form.path(party_sae(SLAVE), "enc_keys"), form.path(party_sae(MASTER), "dec_keys")
_CONTAINER: Final = msgspec.json.Decoder(form.KeyContainer)


class Connect(msgspec.Struct, frozen=True, tag=True):
    """Open that many pairs of connections to a server, and make one round trip over each."""

    port: int
    pairs: int


class Load(msgspec.Struct, frozen=True, tag=True):
    """Make round trips over the connections of a server for some seconds, each with that many keys of 256 bits."""

    port: int
    seconds: float
    number: int = 1


class Disconnect(msgspec.Struct, frozen=True, tag=True):
    """Close the connections of a server."""

    port: int


class Done(msgspec.Struct, frozen=True):
    """What came of it. Latencies are of one round trip, in milliseconds."""

    trips: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    """Processor seconds of the load itself."""
    median_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True)
class Pair:
    """One worker's connections."""

    master: Exchanges
    slave: Exchanges

    async def trip(self, request: bytes) -> None:
        """Ask for keys, and collect them. Raises `QsotnError` if the slave does not get what the master got."""
        given = await _ask(self.master, _ENC, request)
        named = tuple(form.KeyIdentifier(one.key_id) for one in _CONTAINER.decode(given).keys)
        if await _ask(self.slave, _DEC, msgspec.json.encode(form.KeyIdentifiers(named))) != given:
            raise QsotnError("the slave was given other keys than the master")

    async def close(self) -> None:
        """Close both."""
        await asyncio.gather(self.master.close(), self.slave.close())


async def _ask(exchanges: Exchanges, path: str, body: bytes) -> bytes:
    answer = await exchanges.request("POST", path, body, form.JSON, PATIENCE_S)
    if answer.status != _OK:
        raise QsotnError(f"{path} was answered {answer.status}: {answer.body[:200]!r}")
    return answer.body


class Generator:
    """All connections, by the port of their server."""

    def __init__(self, ground: Path) -> None:
        self._master, self._slave = credentialed(ground, MASTER), credentialed(ground, SLAVE)
        self._pairs: dict[int, list[Pair]] = {}

    async def do(self, command: Connect | Load | Disconnect) -> Done:
        """Do what is asked."""
        match command:
            case Connect(port, number):
                self._pairs[port] = [self._pair(port) for _ in range(number)]
                await self._load(port, 1, lambda: False)
            case Load(port, seconds, number):
                ends = time.perf_counter() + seconds
                return await self._load(port, number, lambda: time.perf_counter() < ends)
            case Disconnect(port):
                await asyncio.gather(*(pair.close() for pair in self._pairs.pop(port)))
        return Done()

    def _pair(self, port: int) -> Pair:
        url, context = f"https://{HOST}:{port}", (self._master.client(KM), self._slave.client(KM))
        return Pair(Exchanges(url, lambda: context[0]), Exchanges(url, lambda: context[1]))

    async def _load(self, port: int, number: int, go_on: Callable[[], bool]) -> Done:
        request, taken = msgspec.json.encode(form.KeyRequest(number, 256)), list[float]()
        began, processor = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for pair in self._pairs[port]:
                tasks.create_task(_work(pair, request, go_on, taken))
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        cuts = quantiles(taken, n=100) if len(taken) > 1 else taken * 99
        return Done(len(taken), seconds, processor, 1000 * cuts[49], 1000 * cuts[98])


async def _work(pair: Pair, request: bytes, go_on: Callable[[], bool], taken: list[float]) -> None:
    """Make one round trip, and more as long as there is time."""
    while True:
        began = time.perf_counter()
        await pair.trip(request)
        taken.append(time.perf_counter() - began)
        if not go_on():
            return


async def run(ground: Path) -> None:
    """Do what is asked until standard input ends."""
    await obey(Connect | Load | Disconnect, Generator(ground).do)


if __name__ == "__main__":
    (_ground,) = begin()
    sys.exit(asyncio.run(run(Path(_ground))))
