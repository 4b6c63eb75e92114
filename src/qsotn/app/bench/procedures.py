"""`qsotn bench procedures`: initialisations and line establishments, with everything on.

Every party of the platform is a process of its own, with mutual TLS, a store that syncs each commit, and logs; devices
share one process, each with its own store, certificate and connection. An order begins at the POMP's API, as an
operator gives it, and its procedure ends when the POMP has recorded the end. What is counted is the processor time of
all processes together.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar
from uuid import uuid4

import aiohttp
import msgspec

from qsotn.app.bench import bare
from qsotn.app.bench.devices import Device, SwitchableLine, Workshop
from qsotn.app.bench.province import HOPS, BenchProvince, running_province
from qsotn.app.record import ADMIN, operator_tls
from qsotn.domain import PartyId
from qsotn.errors import QsotnError
from qsotn.procedures.initialization import DEFAULT_ENTRIES, INITIALIZATION
from qsotn.procedures.leased_line import LEASED_LINE
from qsotn.service.config import LineSection
from qsotn.service.garbage import collect_rarely
from qsotn.service.identity_files import Credentialed

T = TypeVar("T")

ACCOUNT: Final = "bench"
CITIES: Final = ("jinan", "qingdao")
GROUP, LINES_AT_ONCE = 96, 48
"""Devices, and lines, that are started together."""
OPERATORS_CONNECTIONS, KEPT_ALIVE_S = 8, 60.0
"""Orders are given over as many connections, which stand before."""
PATIENCE_S: Final = 120.0
POLL_S: Final = 0.1
ENDED: Final = r'qsotn_procedures_ended_total{{ladder="{}",state="(\w+)"}} (\S+)'
SMALLEST_WINDOW: Final = 100
Tell = Callable[[str, float], None]
"""Told how far the benchmark is: a phase, and the part of it that is done."""


class Growth(msgspec.Struct, frozen=True):
    """The rate at which devices came into service when so many were there."""

    cpes: int
    initialisations_per_cpu_s: float
    wall_seconds: float


class ProcedureBenchmark(msgspec.Struct, frozen=True):
    """What was measured. Rates are per second of processor time of all processes together."""

    initialisations_per_cpu_s: float
    lines_per_cpu_s: float
    initialisation_ratio_to_bare_crypto: float
    line_ratio_to_bare_crypto: float
    growth: tuple[Growth, ...]
    initialisations: int
    lines: int
    concurrency: int
    bare_crypto_ms: dict[str, float]
    """What the cryptography of one procedure costs when every message is signed by itself, milliseconds."""
    operations: dict[str, bare.Operations]
    unit_costs_ms: dict[str, float]
    processor_share: dict[str, dict[str, float]]
    """Which process used which part of the processor time."""
    not_measured: tuple[str, ...]


NOT_MEASURED: Final = (
    "distillation: keys are drawn at random and put in stock before",
    "devices: they are made, started and connected before their orders are given, and end after all of their group",
    "the operator: the connections on which orders are given stand before",
    "lines at work: one that is established goes dark",
    "the network: everything runs on one machine's loopback",
)


class Meter:
    """Adds up the processor and wall time of what is done within it, by process."""

    def __init__(self, province: BenchProvince) -> None:
        self._province = province
        self.processor: defaultdict[str, float] = defaultdict(float)
        self.wall = 0.0
        self._before: tuple[dict[str, float], float] = ({}, 0.0)

    def __enter__(self) -> None:
        self._before = (self._province.processor_seconds(), time.monotonic())

    def __exit__(self, *_: object) -> None:
        before, began = self._before
        for name, seconds in self._province.processor_seconds().items():
            self.processor[name] += seconds - before[name]
        self.wall += time.monotonic() - began

    def add(self, other: Meter) -> None:
        """Add what another one measured."""
        for name, seconds in other.processor.items():
            self.processor[name] += seconds
        self.wall += other.wall

    @property
    def seconds(self) -> float:
        """Processor seconds of all processes together."""
        return sum(self.processor.values())

    def shares(self) -> dict[str, float]:
        """Which process used which part."""
        return {name: round(used / self.seconds, 3) for name, used in self.processor.items()}


@dataclass(frozen=True)
class End:
    """A device and its line."""

    device: Device
    line: SwitchableLine


@dataclass(frozen=True)
class Pair:
    """Two devices that a fibre joins."""

    number: int
    a: End
    b: End


@dataclass
class _Bench:
    """One run's means."""

    province: BenchProvince
    workshop: Workshop
    session: aiohttp.ClientSession
    concurrency: int
    tell: Tell

    async def order(self, path: str, body: dict[str, Any]) -> None:
        """Give an order at the POMP. Raises `QsotnError` if it is not taken."""
        url = self.province.url(self.province.plan.pomp) + path
        async with self.session.post(url, json=body, headers={"Idempotency-Key": str(uuid4())}) as answer:
            if answer.status not in (201, 202):
                raise QsotnError(f"the POMP answered {answer.status} to {path}: {await answer.text()}")

    async def recorded(self, ladder: str, count: int) -> None:
        """Wait until the POMP has recorded the end of so many procedures. Raises `QsotnError` if one failed."""
        async with asyncio.timeout(PATIENCE_S):
            while (ended := await self._ended(ladder)).get("COMPLETED", 0) < count:
                if "FAILED" in ended:
                    raise QsotnError(f"{ended['FAILED']:.0f} procedures of {ladder} failed at the POMP")
                await asyncio.sleep(POLL_S)

    async def _ended(self, ladder: str) -> dict[str, float]:
        """Return from the POMP's metrics how many procedures ended, by state."""
        async with self.session.get(self.province.url(self.province.plan.pomp) + "/metrics") as answer:
            text = await answer.text()
        return {state: float(count) for state, count in re.findall(ENDED.format(ladder), text)}

    # --- initialisation ---------------------------------------------------------------------------------------------

    async def initialise(self, first: int, last: int, meter: Meter) -> None:
        """Bring devices into service, so many at a time."""
        phase, done = f"initialisation up to {last}", first
        for start in range(first, last, GROUP):
            group = [Device(self.workshop, device_name(number)) for number in range(start, min(start + GROUP, last))]
            async with contextlib.AsyncExitStack() as stack:
                await self._all(group, lambda device: stack.enter_async_context(device.running()))
                with meter:
                    await self._all(group, self._initialise_one)
                    await self.recorded(INITIALIZATION.name, start + len(group))
            done += len(group)
            self.tell(phase, (done - first) / (last - first))

    async def _initialise_one(self, device: Device) -> None:
        number = number_of(device.party)
        home = f"qssp/{CITIES[number % 2]}"
        await self.order(
            "/operations/v1/cpes",
            {"cpe": device.party, "serial_number": serial_number(number), "home_qssp": home},
        )
        await device.completed(INITIALIZATION.name)

    # --- lines ------------------------------------------------------------------------------------------------------

    async def establish(self, pairs: int, meter: Meter) -> None:
        """Establish lines between devices of the two cities, so many at a time."""
        await self.order("/operations/v1/accounts", {"name": ACCOUNT})
        for start in range(0, pairs, LINES_AT_ONCE):
            numbers = range(start, min(start + LINES_AT_ONCE, pairs))
            async with contextlib.AsyncExitStack() as stack:
                group = [await self._begin_pair(number, stack) for number in numbers]
                with meter:
                    await self._all(group, self._establish_one)
                    await self.recorded(LEASED_LINE.name, numbers.stop)
            self.tell("lines", numbers.stop / pairs)

    async def _begin_pair(self, number: int, stack: contextlib.AsyncExitStack) -> Pair:
        ports = _free_udp_ports(4)
        near = await self._begin_end(2 * number, LineSection(ports[0], ports[1], ports[2]), stack)
        far = await self._begin_end(2 * number + 1, LineSection(ports[1], ports[0], ports[3]), stack)
        return Pair(number, near, far)

    async def _begin_end(self, number: int, section: LineSection, stack: contextlib.AsyncExitStack) -> End:
        line = SwitchableLine(section)
        stack.callback(line.close)
        device = Device(self.workshop, device_name(number), line)
        await stack.enter_async_context(device.running())
        return End(device, line)

    async def _establish_one(self, pair: Pair) -> None:
        ends = {"cpe_a": pair.a.device.party, "cpe_b": pair.b.device.party}
        await self.order("/operations/v1/lines", {"line": f"line-{pair.number}", "account": ACCOUNT, **ends, **QUALITY})
        for end in (pair.a, pair.b):
            await end.device.completed(LEASED_LINE.name)
        pair.a.line.dark = pair.b.line.dark = True

    async def _all(self, things: Sequence[T], act: Callable[[T], Awaitable[object]]) -> None:
        waiting = iter(things)

        async def work() -> None:
            for thing in waiting:
                await act(thing)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(things))):
                group.create_task(work())


QUALITY: Final = {"odu": "ODU2", "rekey_interval_s": 3600, "max_latency_us": 5000}


def number_of(party: PartyId) -> int:
    """Inverse of `device_name`."""
    return int(party.rpartition("-")[2])


def device_name(number: int) -> PartyId:
    """The device of that number."""
    return PartyId(f"cpe/{CITIES[number % 2]}-{number}")


def serial_number(number: int) -> str:
    """Its serial number."""
    return f"BENCH-{number:06}"


def run(sizes: Sequence[int], pairs: int, concurrency: int, tell: Tell) -> ProcedureBenchmark:
    """Measure. `sizes` are numbers of devices, growing; `pairs` the lines between the first of them."""
    unit = bare.measure()
    with TemporaryDirectory(prefix="qsotn-bench-") as folder:
        tell("keys in stock", 0.0)
        keys = (sizes[-1] * DEFAULT_ENTRIES) // 2 + 2 * pairs + 1024
        with running_province(Path(folder), keys) as province, province.workshop() as workshop:
            _make_devices(workshop, sizes[-1], tell)
            return asyncio.run(_measure(province, workshop, sizes, pairs, concurrency, tell, unit))


def _make_devices(workshop: Workshop, count: int, tell: Tell) -> None:
    for number in range(count):
        workshop.make(device_name(number), serial_number(number))
        tell("devices made", (number + 1) / count)


async def _measure(
    province: BenchProvince,
    workshop: Workshop,
    sizes: Sequence[int],
    pairs: int,
    concurrency: int,
    tell: Tell,
    unit: bare.UnitCosts,
) -> ProcedureBenchmark:
    tls = Credentialed(ADMIN, operator_tls(province.folder))
    context = tls.client(province.plan.pomp)
    connector = aiohttp.TCPConnector(ssl=context, limit=OPERATORS_CONNECTIONS, keepalive_timeout=KEPT_ALIVE_S)
    collect_rarely()  # as the process of a device does once it is ready
    async with aiohttp.ClientSession(connector=connector) as session:
        bench = _Bench(province, workshop, session, concurrency, tell)
        await asyncio.gather(*(bench.recorded(INITIALIZATION.name, 0) for _ in range(OPERATORS_CONNECTIONS)))
        whole, growth, reached = Meter(province), [], 0
        for size in sizes:
            window = max(reached, size - max(SMALLEST_WINDOW, size // 10))
            await bench.initialise(reached, window, whole)
            last = Meter(province)
            await bench.initialise(window, size, last)
            whole.add(last)
            growth.append(Growth(size, round((size - window) / last.seconds, 2), round(last.wall, 2)))
            reached = size
        lines = Meter(province)
        await bench.establish(pairs, lines)
    return _result(sizes[-1], pairs, concurrency, tuple(growth), unit, whole, lines)


def _result(
    devices: int,
    pairs: int,
    concurrency: int,
    growth: tuple[Growth, ...],
    unit: bare.UnitCosts,
    initialised: Meter,
    established: Meter,
) -> ProcedureBenchmark:
    needed = {"initialisation": bare.initialization(HOPS), "line": bare.leased_line(HOPS)}
    cost = {name: bare.cost(operations, unit) for name, operations in needed.items()}
    rates = {"initialisation": devices / initialised.seconds, "line": pairs / established.seconds}
    return ProcedureBenchmark(
        initialisations_per_cpu_s=round(rates["initialisation"], 2),
        lines_per_cpu_s=round(rates["line"], 2),
        initialisation_ratio_to_bare_crypto=round(rates["initialisation"] * cost["initialisation"], 3),
        line_ratio_to_bare_crypto=round(rates["line"] * cost["line"], 3),
        growth=growth,
        initialisations=devices,
        lines=pairs,
        concurrency=concurrency,
        bare_crypto_ms={name: round(1000 * seconds, 3) for name, seconds in cost.items()},
        operations=needed,
        unit_costs_ms={name: round(1000 * value, 4) for name, value in msgspec.structs.asdict(unit).items()},
        processor_share={"initialisation": initialised.shares(), "line": established.shares()},
        not_measured=NOT_MEASURED,
    )


def _free_udp_ports(number: int) -> list[str]:
    """Return addresses that are free and differ: all are held until the last one is found."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{probe.getsockname()[1]}" for probe in probes]
