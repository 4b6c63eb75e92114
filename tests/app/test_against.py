"""The main job against running services: over the parties' real applications, and a file over their UDP ports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.app.served_world import as_operator, served
from tests.world import World, Worlds

from qsotn.app import operator as app_operator
from qsotn.app import report
from qsotn.app.against import Job, check_pomp
from qsotn.app.client import CHUNK, ReceivingHost, SendingHost, Window
from qsotn.app.operator_errors import Unreachable
from qsotn.app.operator_orders import DEFAULT_ACCOUNT
from qsotn.app.operator_report import gather
from qsotn.app.operator_transfer import Passage, UdpPort
from qsotn.app.province import CPE_A, CPE_B, LINE, PLAN, POMP, QKMP
from qsotn.app.record import VERSION, FibreRecord, ProvinceRecord, ServiceRecord, TwinRecord
from qsotn.app.report_form import Report, compose
from qsotn.app.state import STATE_VERSION, RunState
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import LineError, QsotnError, UsageError
from qsotn.parties.pomp import DeviceState
from qsotn.service.config import LineSection
from qsotn.service.lines import Line

HERE = "127.0.0.1"
URL = "https://127.0.0.1:7400"


class Silent:
    """Nobody watches; the phases are noted."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def advance(self, detail: str, part: float) -> None:
        pass


# --- a window -------------------------------------------------------------------------------------------------------


def test_a_window_grows_by_what_arrives_and_begins_again_after_a_loss() -> None:
    window = Window(10 * CHUNK, 100 * CHUNK)
    window.arrived(10 * CHUNK)
    assert window.bytes == 20 * CHUNK
    window.arrived(1000 * CHUNK)
    assert window.bytes == 100 * CHUNK
    window.lost()
    assert window.bytes == 10 * CHUNK
    for _ in range(4):
        window.arrived(10 * CHUNK)
    assert window.bytes == 50 * CHUNK, "twice as many each time, up to half of what was too many"
    window.arrived(50 * CHUNK)
    assert window.bytes == 51 * CHUNK, "then one more each round trip"


# --- a file through two UDP ports -----------------------------------------------------------------------------------


class Devices(asyncio.DatagramProtocol):
    """Two client ports and all between them: what comes in at one goes out at the other, if its host has spoken."""

    def __init__(self, passes: Callable[[bytes], bool]) -> None:
        self._passes = passes
        self.ports: list[asyncio.DatagramTransport] = []
        self.hosts: list[tuple[str, int] | None] = [None, None]

    def took(self, end: int, frame: bytes, host: tuple[str, int]) -> None:
        self.hosts[end] = host
        far = self.hosts[1 - end]
        if far is not None and self._passes(frame):
            self.ports[1 - end].sendto(frame, far)


class Port(asyncio.DatagramProtocol):
    def __init__(self, devices: Devices, end: int) -> None:
        self._devices, self._end = devices, end

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._devices.took(self._end, data, addr)


@contextlib.asynccontextmanager
async def between(passes: Callable[[bytes], bool]) -> AsyncIterator[tuple[str, str]]:
    """The addresses of two client ports that are joined by a line which lets some frames pass."""
    devices, loop = Devices(passes), asyncio.get_running_loop()
    for end in (0, 1):
        port, _ = await loop.create_datagram_endpoint(lambda end=end: Port(devices, end), (HERE, 0))  # type: ignore[misc]  # a lambda's own end
        devices.ports.append(port)
    try:
        one, other = (f"{HERE}:{port.get_extra_info('sockname')[1]}" for port in devices.ports)
        yield one, other
    finally:
        for port in devices.ports:
            port.close()


class Carried:
    """What one passage did."""

    def __init__(self) -> None:
        self.rekeyed_at: list[int] = []
        self.shown: list[tuple[int, int]] = []


def carry(
    folder: Path, content: bytes, passes: Callable[[bytes], bool], stalled_s: float = 10.0
) -> tuple[bytes, Carried]:
    """Carry a file between two hosts; return what arrived, and what happened on the way."""
    source, target, done = folder / "source", folder / "target", Carried()
    source.write_bytes(content)

    async def run() -> None:
        async with between(passes) as addresses:
            window = Window(20 * CHUNK, 200 * CHUNK)
            sender = SendingHost(source, len(content), 0, patience=0.05, window=window)
            receiver = ReceivingHost(target, 0)

            async def rekey() -> None:
                done.rekeyed_at.append(sender.acknowledged)
                await asyncio.sleep(0.01)

            with contextlib.closing(sender), contextlib.closing(receiver), contextlib.ExitStack() as stack:
                near, far = (stack.enter_context(UdpPort(address)) for address in addresses)
                show = lambda received, rekeys: done.shown.append((received, rekeys))  # noqa: E731
                await Passage(sender, receiver, near, far, rekey, show, stalled_s=stalled_s).run()

    asyncio.run(run())
    return target.read_bytes(), done


@pytest.fixture
def content(worlds: Worlds) -> bytes:
    return bytes(range(256)) * 2000


def every(number: int) -> Callable[[bytes], bool]:
    """Let every frame pass but each so many-th."""
    count = 0

    def passes(_: bytes) -> bool:
        nonlocal count
        count += 1
        return count % number != 0

    return passes


def test_a_file_arrives_whole_with_two_key_changes_at_its_thirds(tmp_path: Path, content: bytes) -> None:
    arrived, done = carry(tmp_path, content, lambda _: True)
    assert arrived == content
    assert len(done.rekeyed_at) == 2
    for acknowledged, third in zip(done.rekeyed_at, (1, 2), strict=True):
        assert acknowledged >= len(content) * third // 3
    assert done.shown[-1] == (len(content), 1) or done.shown[-1] == (len(content), 2)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_a_file_of_any_size_arrives(tmp_path: Path, content: bytes, size: int) -> None:
    arrived, done = carry(tmp_path, content[:size], lambda _: True)
    assert arrived == content[:size]
    assert len(done.rekeyed_at) == 2


def test_what_is_dropped_on_the_way_is_sent_again(tmp_path: Path, content: bytes) -> None:
    assert carry(tmp_path, content[:100_000], every(13))[0] == content[:100_000]


def test_a_line_that_carries_nothing_ends_the_passage_and_says_how_far_it_came(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LineError, match=r"nothing has moved for 0.3 s: 0 of 512000 bytes and 0 key changes"):
        carry(tmp_path, content, lambda _: False, stalled_s=0.3)


# --- the whole job --------------------------------------------------------------------------------------------------


def free_udp_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for one in taken:
            one.bind((HERE, 0))
        return [f"{HERE}:{one.getsockname()[1]}" for one in taken]


def record_of(world: World, addresses: list[str]) -> ProvinceRecord:
    """What `province.json` would say of a world whose two devices have these ports: line, line, client, client."""
    return ProvinceRecord(
        VERSION,
        "shandong",
        tuple(ServiceRecord(party, 1, URL, "", "", "") for party in world.nodes),
        TwinRecord("", "", "", tuple(PLAN.links)),
        (FibreRecord((CPE_A, CPE_B), (addresses[0], addresses[1])),),
        {CPE_A: addresses[2], CPE_B: addresses[3]},
    )


@contextlib.contextmanager
def wired(world: World, addresses: list[str]) -> Iterator[Callable[[], None]]:
    """Both devices with their ports of UDP; yields what the province does between two requests."""
    a, b, client_a, client_b = addresses
    sections = {CPE_A: LineSection(a, b, client_a), CPE_B: LineSection(b, a, client_b)}
    with contextlib.ExitStack() as stack:
        ports: dict[PartyId, Line] = {}
        for cpe, section in sections.items():
            ports[cpe] = stack.enter_context(contextlib.closing(Line(section)))

        def work() -> None:
            for cpe, port in ports.items():
                port.before(world.nodes[cpe])
                port.idle(world.nodes[cpe])
                world.nodes[cpe].tick()
            world.pump()

        yield work


class Work:
    """One run of the job against a world."""

    def __init__(self, world: World, folder: Path, content: bytes) -> None:
        self.world = world
        self.source, self.received = folder / "file", folder / "received"
        self.source.write_bytes(content)
        self.begun = RunState(STATE_VERSION, str(self.source), len(content), generated=False)
        self.watcher = Silent()

    def run(self) -> Report:
        addresses = free_udp_ports(4)

        async def act() -> Report:
            with wired(self.world, addresses) as work:
                async with served(self.world, work=work) as one:
                    self._faults = one.faults
                    self.job = Job(one.operator, record_of(self.world, addresses), PLAN, self.watcher)
                    self.job.line = LINE
                    return await self.job.run(self.begun, self.received)

        return asyncio.run(act())

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for, in their order."""
        return [path for _, path, _ in self._faults.asked]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_operator, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(app_operator, "LAST_LOOK_S", 0.1)


def test_the_whole_job_and_its_report_is_what_the_stores_say(
    open_world: Callable[..., World], tmp_path: Path, content: bytes
) -> None:
    """From two devices on their way to a deleted line; what is read over HTTP agrees with the stores field by field."""
    world = open_world("provisioned")
    under_way = [world.initialize(CPE_A), world.initialize(CPE_B)]
    work = Work(world, tmp_path, content)
    told = work.run()
    before_the_line = work.asked[: work.asked.index("/operations/v1/lines")]
    assert {f"/operations/v1/procedures/{one}" for one in under_way} <= set(before_the_line), "they were waited for"
    assert [_work_order(world, cpe) for cpe in (CPE_A, CPE_B)] == under_way
    assert work.received.read_bytes() == content
    assert told.intact
    assert told.traffic.rekeys >= 2
    assert work.watcher.phases == ["initialisation", "leased line", "traffic", "deletion and usage"]
    assert not work.job.line_may_be_there
    begun = msgspec.structs.replace(work.begun, earlier_seconds=told.traffic.seconds)
    assert told == compose(report.gather(world.province), begun, work.received)
    assert [step.n for step in told.leased_line.steps] == list(range(1, 13))
    assert all(key.source == "qkd:km/jinan–km/weifang–km/qingdao" for key in told.keys)


def test_a_device_that_is_ready_stays_so_and_one_that_nobody_ordered_is_ordered(
    open_world: Callable[..., World], tmp_path: Path
) -> None:
    world = open_world("provisioned")
    before = world.initialize(CPE_A)
    world.settle()
    told = Work(world, tmp_path, b"short").run()
    assert told.intact
    assert told.usage.account == DEFAULT_ACCOUNT
    assert _work_order(world, CPE_A) == before


def _put_state(world: World, cpe: PartyId, state: DeviceState) -> None:
    with world.desk(POMP) as pomp:
        pomp.devices.put(cpe, msgspec.structs.replace(pomp.devices.require(cpe), state=state))


def _work_order(world: World, cpe: PartyId) -> str:
    with world.desk(POMP) as pomp:
        return str(pomp.devices.require(cpe).work_order)


def test_a_report_that_would_lack_a_partys_journal_is_not_made(encrypted: World) -> None:
    encrypted.delete()
    with encrypted.nodes[POMP].rows() as rows:
        deletion = next(row.procedure for row in rows if row.ladder == "deletion")
    with pytest.raises(Unreachable, match="qkmp/shandong is not reached"):
        as_operator(encrypted, lambda operator: gather(operator, LINE, deletion, PLAN.links), without=[QKMP])


def test_a_line_that_was_not_deleted_has_no_report(encrypted: World) -> None:
    with pytest.raises(QsotnError, match="line-1 has no usage record yet"):
        as_operator(encrypted, lambda operator: gather(operator, LINE, ProcedureId("none"), PLAN.links))


def test_no_line_is_taken_away_from_whoever_has_one(encrypted: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no fibre of shandong is free for a line: cpe/jinan-1 serves line-1, which"):
        Work(encrypted, tmp_path, b"short").run()


def test_a_revoked_device_is_not_used(ready: World, tmp_path: Path) -> None:
    _put_state(ready, CPE_B, DeviceState.REVOKED)
    with pytest.raises(UsageError, match=r"no fibre of shandong is free for a line: cpe/qingdao-1 is revoked"):
        Work(ready, tmp_path, b"short").run()


def test_whoever_ends_a_run_early_is_told_of_its_line(
    ready: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(ready, tmp_path, b"short")

    async def cut(_: object) -> float:
        raise LineError("nothing has moved for 60 s: 0 of 5 bytes and 0 key changes are through")

    monkeypatch.setattr(Passage, "run", cut)
    with pytest.raises(LineError, match=r"are through; alarms cpe/jinan-1: none; cpe/qingdao-1: none"):
        work.run()
    assert work.job.line_may_be_there


@pytest.mark.parametrize("url", [URL, f"{URL}/"])
def test_the_url_is_the_pomps_that_the_folder_knows(ready: World, url: str) -> None:
    check_pomp(record_of(ready, [""] * 4), url)


def test_another_url_is_refused_with_the_one_that_would_be_right(ready: World) -> None:
    with pytest.raises(
        UsageError, match=r"is not the POMP of the province shandong, which is at https://127\.0\.0\.1:7400"
    ):
        check_pomp(record_of(ready, [""] * 4), "https://127.0.0.1:7401")
