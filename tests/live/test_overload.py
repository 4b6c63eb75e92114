"""More than a service can do, and peers that are slow on purpose: it says so, stays as large as it is, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

from tests.live import client
from tests.live.client import Client
from tests.live.harness import check_run
from tests.live.load import Load
from tests.live.province import Province, Shape
from tests.live.stores import Stores

from qsotn.app.record import party_place
from qsotn.app.service_files import tls_section
from qsotn.domain import PartyId
from qsotn.procedures.turn import State
from qsotn.service.config import split_address
from qsotn.service.http.bodies import EVERYBODY, ROOM
from qsotn.service.http.framing import LARGEST_SEQUENCE
from qsotn.service.identity_files import Credentialed

MEGABYTE = 1024 * 1024
WAITING, AT_ONCE, SECONDS = 16, 64, 4.0
"""What may wait at the POMP's desk; how many ask it at once, and for how long."""
SPARE = 48 * MEGABYTE
"""What a process may grow by, beside what it is meant to hold."""
HANDSHAKES, SLOW = 300, 40
EACH_HANDSHAKE = MEGABYTE // 2
_log = logging.getLogger(__name__)


async def flood(operator: Client, opened: dict[str, int], retry: Counter[str | None], until: float) -> None:
    """Open accounts without a pause."""
    while time.monotonic() < until:
        name = f"account-{uuid4()}"
        answer = await operator.ask("POST", "/accounts", {"name": name}, {"Idempotency-Key": name})
        if answer is not None:
            opened[name] = answer.status
            retry[answer.retry_after] += answer.status == 503


async def accounts(operator: Client) -> set[str]:
    """The accounts the POMP has."""
    found: set[str] = set()
    cursor = ""
    while True:
        answer = await operator.ask("GET", f"/accounts?limit=200&cursor={cursor}")
        assert answer is not None
        found |= {account["name"] for account in answer.body["items"]}
        cursor = answer.body["next_cursor"]
        if not cursor:
            return found


def test_what_does_not_fit_is_refused_with_a_time_to_come_back_and_nothing_accepted_is_lost(folder: Path) -> None:
    shape = Shape(pairs=0, houses=1, limits={"pomp": WAITING})
    with Province(folder, Stores(), shape) as province:
        load = Load(province, seed=31, onboarding=0, made=2)
        province.begin()
        opened: dict[str, int] = {}
        retry: Counter[str | None] = Counter()

        async def run() -> int:
            async with load, client.connected(province.state) as crowd:
                assert await load.initialise(1) is State.COMPLETED
                before = province.memory("pomp/live")
                until = time.monotonic() + SECONDS
                flooding = [flood(crowd, opened, retry, until) for _ in range(AT_ONCE)]
                states = await asyncio.gather(load.initialise(2), *flooding)
                assert states[0] is State.COMPLETED, "an order among the crowd was not carried out"
                grown = province.memory("pomp/live") - before
                assert await accounts(load.client) >= {name for name, status in opened.items() if status == 201}
                return grown

        grown, answers = asyncio.run(run()), Counter(opened.values())
        _log.info("%s answered by status; grown by %.1f MB", dict(answers), grown / MEGABYTE)
        assert set(answers) == {201, 503}
        assert set(retry) <= {"1", None}
        assert retry["1"] == answers[503]
        assert grown < SPARE
        check_run(province, load)


# --- peers that are slow ----------------------------------------------------------------------------------------------


class Crowd:
    """Connections to the PMP that are begun and not ended, by a device and by the POMP."""

    def __init__(self, province: Province, load: Load) -> None:
        plan, device = province.plan, PartyId("cpe/jinan-slow")
        self.name = plan.pmp
        self._address = split_address(province.record.urls(self.name)[0].removeprefix("https://"))
        load.workshop.make(device, "SLOW-000001")
        pomp = Credentialed(plan.pomp, tls_section(province.state / party_place(plan.pomp)))
        self._doors = {"ax": load.workshop.tls(device).client(self.name), "ioa": pomp.client(self.name)}
        self._sockets: list[socket.socket] = []
        self.connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def shake_half_a_hand(self) -> None:
        """Connect, and begin a record of TLS that never ends."""
        one = socket.socket()
        one.setblocking(False)
        self._sockets.append(one)
        await asyncio.get_running_loop().sock_connect(one, self._address)
        await asyncio.get_running_loop().sock_sendall(one, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")

    async def say(self, size: int, announced: int, door: str = "ax") -> None:
        """Send a request, and of its body not all that was announced."""
        connection = await asyncio.open_connection(*self._address, ssl=self._doors[door])
        self.connections.append(connection)
        head = (
            f"POST /{door}/v1/messages HTTP/1.1\r\nHost: pmp\r\n"
            f"Content-Type: application/cbor-seq\r\nContent-Length: {announced}\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            connection[1].write(head.encode() + bytes(size))
            await connection[1].drain()

    async def answers(self) -> Counter[bytes]:
        """The status lines that came back so far."""
        return Counter([line for line in [await _line(reader) for reader, _ in self.connections] if line])

    def end(self) -> None:
        """Go away."""
        for one in self._sockets:
            one.close()
        for _, writer in self.connections:
            writer.transport.abort()


async def _line(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.05):
            return await reader.readline()
    return b""


@contextlib.asynccontextmanager
async def crowded(province: Province, load: Load) -> AsyncIterator[Crowd]:
    async with load:
        crowd = Crowd(province, load)
        try:
            yield crowd
        finally:
            crowd.end()
            await asyncio.sleep(0.1)


def test_bodies_that_do_not_come_to_an_end_do_not_fill_the_memory(folder: Path) -> None:
    with Province(folder, Stores(), Shape(pairs=0, houses=1)) as province:
        load = Load(province, seed=32, onboarding=0, made=2)
        province.begin()

        async def run() -> None:
            async with crowded(province, load) as crowd:
                assert await load.initialise(1) is State.COMPLETED
                before = province.memory(crowd.name)
                whole = LARGEST_SEQUENCE
                await asyncio.gather(*(crowd.say(whole - 1, whole, door) for door in ("ax", "ioa") * (SLOW // 2)))
                assert await load.initialise(2) is State.COMPLETED
                grown, answers = province.memory(crowd.name) - before, await crowd.answers()
                _log.info("%s; grown by %.1f MB", dict(answers), grown / MEGABYTE)
                assert set(answers) == {b"HTTP/1.1 503 Service Unavailable\r\n"}
                assert grown < ROOM[EVERYBODY] + 2 * SPARE

        asyncio.run(run())
        check_run(province, load)


def test_half_open_handshakes_and_slow_requests_keep_nobody_from_working(folder: Path) -> None:
    with Province(folder, Stores(), Shape(pairs=0, houses=1)) as province:
        load = Load(province, seed=33, onboarding=0, made=2)
        province.begin()

        async def run() -> None:
            async with crowded(province, load) as crowd:
                assert await load.initialise(1) is State.COMPLETED
                before, quiet = province.memory(crowd.name), province.descriptors(crowd.name)
                await asyncio.gather(*(crowd.shake_half_a_hand() for _ in range(HANDSHAKES)))
                await asyncio.gather(*(crowd.say(10, 1000) for _ in range(SLOW)))
                assert await load.initialise(2) is State.COMPLETED
                held = province.descriptors(crowd.name) - quiet
                grown = province.memory(crowd.name) - before
                _log.info("%d connections are held; grown by %.1f MB", held, grown / MEGABYTE)
                assert held >= HANDSHAKES
                assert grown < SPARE + (HANDSHAKES + SLOW) * EACH_HANDSHAKE
                crowd.end()
                async with asyncio.timeout(10):
                    while province.descriptors(crowd.name) > quiet + 4:
                        await asyncio.sleep(0.1)

        asyncio.run(run())
        check_run(province, load)
