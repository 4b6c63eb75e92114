"""`qsotn bench keys`: keys for SAEs over ETSI GS QKD 014, their relay over the QKDN, and the planning of its ways.

Three servers (`keys_servers`) are measured by one load (`keys_load`), each a process; the load is the same for all.
What is counted is the processor time of the *server's* process: an SAE's own is not the key manager's. Rounds alternate
between the servers, a ratio is the median of the ratios within each round, and a rate the median of its rounds, so that
whatever else the machine does is shared.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from qsotn.app.bench import relay
from qsotn.app.bench.keys_ground import make_certificates, sync_ms
from qsotn.app.bench.keys_load import Connect, Disconnect, Done, Load
from qsotn.app.bench.keys_servers import Consume, Settle, Tell, Told
from qsotn.app.bench.relay import Relayed
from qsotn.app.bench.steered import Steered
from qsotn.keynetwork.routing import plan_all
from qsotn.keynetwork.synthesis import national

GROUPED, MEMORY, SINGLE, AGED = "grouped", "memory", "single", "aged"
SERVERS: Final = (GROUPED, MEMORY, SINGLE)
LARGEST_REQUEST: Final = 128
PILED_AT_ONCE: Final = 25_600
"""Keys that are consumed between two words about it; a multiple of 128."""
PLANS: Final = 9
Report = Callable[[str, float], None]
"""Told how far the benchmark is: a phase, and the part of it that is done."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    connections: tuple[int, ...] = (1, 8, 64)
    """Round trips under way at once; each needs a connection of the master SAE and one of the slave SAE."""
    rounds: int = 9
    seconds: float = 1.0
    """Of one round at one server."""
    few: int = 10_000
    many: int = 1_000_000
    """Keys consumed before the two rates whose ratio is the flatness."""
    connections_at_128: int = 8
    most_trips_s: int = 15_000
    most_keys_s: int = 150_000
    """Round trips a second, and keys a second at 128 a request, that units are laid in for."""
    hops: tuple[int, ...] = (1, 4, 16)
    relayed: relay.Amount = field(default_factory=relay.Amount)


class RoundTrips(msgspec.Struct, frozen=True):
    """enc_keys and dec_keys of one key of 256 bits. Rates are per processor second of the server's process."""

    connections: int
    per_cpu_s: float
    ratio_to_memory_server: float
    ratio_to_naive: float
    memory_server_per_cpu_s: float
    naive_per_cpu_s: float
    per_s: float
    median_ms: float
    p99_ms: float
    load_busy: float
    """Processor seconds of the load, a second."""


class KeyBenchmark(msgspec.Struct, frozen=True):
    """What was measured."""

    round_trips: tuple[RoundTrips, ...]
    keys_per_cpu_s_at_128: float
    """Keys given to both SAEs, 128 a request."""
    memory_server_keys_per_cpu_s_at_128: float
    flatness: float
    """The rate of round trips with `consumed[1]` keys consumed over that with `consumed[0]`."""
    consumed: tuple[int, int]
    consumed_per_cpu_s: float
    """Keys reserved, collected and forgotten, 128 at a time, at the store itself: without TLS and HTTP."""
    deposited_per_cpu_s: float
    """Units laid in, which no other rate counts."""
    relay: tuple[Relayed, ...]
    plan_seconds: float
    sync_ms: float
    """How long the disk takes to make 4 KiB durable."""
    not_measured: tuple[str, ...]


NOT_MEASURED: Final = (
    "the SAEs: the load is a process of its own, the same for every server, and its processor time is in no rate",
    "TLS handshakes: connections stand before a round begins",
    "deposits: the units of a round are laid in before it; what it costs to forget them afterwards is counted",
    "a slave SAE at another key manager: both SAEs of a round trip are at the one that is measured",
    "the network: everything runs on one machine's loopback, and relays hand over within one process",
)


@dataclass
class _Round:
    """What one round at one server came to."""

    per_cpu_s: float
    done: Done


class _Bench:
    """The processes of one run."""

    def __init__(self, folder: Path, sizes: Sizes, report: Report, stack: contextlib.ExitStack) -> None:
        self._folder, self.sizes, self._report, self._stack = folder, sizes, report, stack
        load = Steered("qsotn.app.bench.keys_load", str(folder), log=folder / "load.log")
        self._load = stack.enter_context(load)
        self._servers: dict[str, Steered] = {}

    def start(self, name: str, kind: str) -> None:
        """Start a server."""
        arguments = (kind, str(self._folder), str(self._folder / f"store-{name}"))
        log = self._folder / f"{name}.log"
        self._servers[name] = self._stack.enter_context(Steered("qsotn.app.bench.keys_servers", *arguments, log=log))

    def told(self, name: str) -> Told:
        """Ask a server how it stands."""
        return self._servers[name].ask(Tell(), Told)

    def settle(self, name: str, units: int = 0) -> Told:
        """Have a server forget what it delivered, and lay in units."""
        return self._servers[name].ask(Settle(units), Told)

    def rounds(self, phase: str, names: tuple[str, ...], pairs: int, number: int) -> Mapping[str, list[_Round]]:
        """Load the servers in turn, several times."""
        found: defaultdict[str, list[_Round]] = defaultdict(list)
        with self._connected(names, pairs):
            for at in range(self.sizes.rounds):
                for name in names[at % len(names) :] + names[: at % len(names)]:
                    found[name].append(self._round(name, number))
                self._report(phase, (at + 1) / self.sizes.rounds)
        return found

    @contextlib.contextmanager
    def _connected(self, names: tuple[str, ...], pairs: int) -> Iterator[None]:
        ports = [self.settle(name, pairs).port for name in names]
        for port in ports:
            self._load.ask(Connect(port, pairs), Done)
        yield
        for port in ports:
            self._load.ask(Disconnect(port), Done)

    def _round(self, name: str, number: int) -> _Round:
        most = self.sizes.most_trips_s if number == 1 else self.sizes.most_keys_s
        before = self.settle(name, int(most * self.sizes.seconds))
        done = self._load.ask(Load(before.port, self.sizes.seconds, number), Done)
        spent = self.settle(name).processor - before.processor
        return _Round(done.trips * number / spent, done)

    def pile_up(self, name: str, keys: int, phase: str) -> tuple[float, float]:
        """Have a server consume that many keys at its store; return how many it consumes, and is given, a second."""
        before, left = self.told(name), keys
        while left > 0:
            part = min(left, PILED_AT_ONCE)
            self._servers[name].ask(Consume(part), Told)
            left -= part
            self._report(phase, 1 - left / keys)
        after = self.told(name)
        spent, laid_in = after.processor - before.processor, after.deposits - before.deposits
        return round(keys / spent, 1), round(keys / laid_in, 1)


def run(sizes: Sizes, report: Report) -> KeyBenchmark:
    """Measure."""
    report("certificates", 0.0)
    with TemporaryDirectory(prefix="qsotn-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        make_certificates(folder)
        bench = _Bench(folder, sizes, report, stack)
        for server in SERVERS:
            bench.start(server, server)
        trips = tuple(_round_trips(bench, pairs) for pairs in sizes.connections)
        at_128 = _at_128(bench)
        flatness, consumed, laid_in = _flatness(bench)
        return KeyBenchmark(
            round_trips=trips,
            keys_per_cpu_s_at_128=at_128[GROUPED],
            memory_server_keys_per_cpu_s_at_128=at_128[MEMORY],
            flatness=flatness,
            consumed=(sizes.few, sizes.many),
            consumed_per_cpu_s=consumed,
            deposited_per_cpu_s=laid_in,
            relay=relay.measure(folder / "relay", sizes.hops, sizes.relayed, lambda part: report("relay", part)),
            plan_seconds=_plan_seconds(),
            sync_ms=round(sync_ms(folder), 3),
            not_measured=NOT_MEASURED,
        )


def _round_trips(bench: _Bench, connections: int) -> RoundTrips:
    found = bench.rounds(f"round trips, {connections} at once", SERVERS, connections, 1)
    own = found[GROUPED]
    return RoundTrips(
        connections=connections,
        per_cpu_s=_rate(own),
        ratio_to_memory_server=_ratio(own, found[MEMORY]),
        ratio_to_naive=_ratio(own, found[SINGLE]),
        memory_server_per_cpu_s=_rate(found[MEMORY]),
        naive_per_cpu_s=_rate(found[SINGLE]),
        per_s=round(median(one.done.trips / one.done.seconds for one in own), 1),
        median_ms=round(median(one.done.median_ms for one in own), 3),
        p99_ms=round(median(one.done.p99_ms for one in own), 3),
        load_busy=round(median(one.done.processor / one.done.seconds for one in own), 3),
    )


def _at_128(bench: _Bench) -> dict[str, float]:
    names = (GROUPED, MEMORY)
    found = bench.rounds("128 keys a request", names, bench.sizes.connections_at_128, LARGEST_REQUEST)
    return {name: _rate(found[name]) for name in names}


def _flatness(bench: _Bench) -> tuple[float, float, float]:
    """Compare two stores that differ in what was consumed, in alternating rounds; return also what piling up gave."""
    sizes, young = bench.sizes, "young"
    for name in (young, AGED):
        bench.start(name, GROUPED)
    bench.pile_up(young, sizes.few, "a few keys consumed")
    piled = bench.pile_up(AGED, sizes.many, f"{sizes.many:,} keys consumed")
    found = bench.rounds("round trips after that", (young, AGED), max(sizes.connections), 1)
    return _ratio(found[AGED], found[young]), *piled


def _rate(rounds: list[_Round]) -> float:
    return round(median(one.per_cpu_s for one in rounds), 1)


def _ratio(own: list[_Round], others: list[_Round]) -> float:
    return round(median(one.per_cpu_s / other.per_cpu_s for one, other in zip(own, others, strict=True)), 3)


def _plan_seconds() -> float:
    """Return how long the best ways between all nodes of the national backbone take to find: the median."""
    backbone, taken = national().backbone, []
    for _ in range(PLANS):
        began = time.perf_counter()
        plan_all(backbone)
        taken.append(time.perf_counter() - began)
    return round(median(taken), 5)
