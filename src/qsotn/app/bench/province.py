"""A province for a benchmark: the platform's parties as real processes, keys in stock, and no twin.

The keys are drawn at random and put into both ends' stores before the parties start, because procedures are measured
here and not photons.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app.authority import Authority
from qsotn.app.bench.devices import Workshop
from qsotn.app.installation import create_installation
from qsotn.app.plan import Plan
from qsotn.app.processes import Child, is_ready
from qsotn.app.programs import TWIN_NAME, programs
from qsotn.app.record import OPERATOR_FOLDER, PKI, ProvinceRecord, load_plan, party_place
from qsotn.app.service_files import tls_section
from qsotn.domain import PartyId, Secret
from qsotn.errors import QsotnError
from qsotn.keynetwork.pool import UNIT_BYTES
from qsotn.parties.km import BlockState, Km
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.service.host import STORE_FILE, now_us
from qsotn.service.installation import install, open_installed, open_vault

UNITS_A_BLOCK: Final = 16_384
PATIENCE_S, GRACE_S = 60.0, 10.0
TICKS: Final = os.sysconf("SC_CLK_TCK")
PROVINCE: Final = """\
name = "bench"

[[city]]
name = "jinan"

[[city]]
name = "qingdao"

[[link]]
name = "jinan-qingdao"
ends = ["jinan", "qingdao"]

[listen]
first_port = 0
"""
HOPS: Final = 1
"""Links of the QKDN between the two cities."""


@dataclass(frozen=True)
class BenchProvince:
    """A province at work."""

    folder: Path
    record: ProvinceRecord
    plan: Plan
    children: tuple[Child, ...]

    def url(self, party: PartyId) -> str:
        """Where a party is reached."""
        return self.record.urls(party)[0]

    def processor_seconds(self) -> dict[str, float]:
        """Return the processor time that every process has used so far, this one as `devices and operator`."""
        used = {child.program.name: _used_by(child.pid) for child in self.children}
        own = resource.getrusage(resource.RUSAGE_SELF)
        return {**used, "devices and operator": own.ru_utime + own.ru_stime}

    @contextlib.contextmanager
    def workshop(self) -> Iterator[Workshop]:
        """Open the place where devices are made."""
        with Authority.opened(self.folder / PKI, self.plan.lifetime, os.urandom) as authority:
            shared = tls_section(self.folder / OPERATOR_FOLDER)
            yield Workshop(authority, self.plan.pmp, self.record.urls(self.plan.pmp), shared, self.folder / "devices")


def _used_by(pid: int | None) -> float:
    if pid is None:
        raise QsotnError("a party of the benchmark's province has ended; the measurement is void")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextlib.contextmanager
def running_province(folder: Path, keys_an_end: int) -> Iterator[BenchProvince]:
    """Make a province with that many keys of 256 bits at each end of its link, and run its platform."""
    file, state = folder / "bench.toml", folder / "province"
    file.write_text(PROVINCE)
    record = create_installation(file, state, os.urandom, dt.datetime.now(dt.UTC))
    plan = load_plan(state)
    _stock(state, plan, keys_an_end)
    children = tuple(Child(one) for one in programs(state, record, plan) if one.name != TWIN_NAME)
    try:
        _start(children)
        yield BenchProvince(state, record, plan, children)
    finally:
        _stop(children)


def _stock(state: Path, plan: Plan, keys_an_end: int) -> None:
    blocks = 1 + 2 * keys_an_end // UNITS_A_BLOCK
    nodes = [_opened(state, km) for km in plan.kms]
    for link in plan.links:
        for number in range(1, blocks + 1):
            block = os.urandom(UNITS_A_BLOCK * UNIT_BYTES)
            for node, _ in nodes:
                node.begin(partial(_deposit, link=link, number=number, block=block))
    for _, store in nodes:
        store.close()


def _deposit(km: Km, _: Work, *, link: str, number: int, block: bytes) -> None:
    km.deposit(link, number, Secret(block), LEDGER)
    km.set_state(km.block(link, number), BlockState.AVAILABLE)


LEDGER: Final[dict[str, Any]] = {"source": "random, for a benchmark"}


def _opened(state: Path, party: PartyId) -> tuple[Node, SqliteStore]:
    folder = state / party_place(party)
    store = SqliteStore(folder / STORE_FILE)
    install(folder, store, os.urandom)
    vault = open_vault(folder, party, os.urandom)
    identity, anchors = open_installed(store, vault, party)
    return Node(identity, anchors, store, vault, os.urandom, now_us), store


def _start(children: tuple[Child, ...]) -> None:
    ends = time.monotonic() + PATIENCE_S
    for child in children:
        child.start(time.monotonic())
    while not all(is_ready(child.program.monitoring, 1.0) for child in children):
        if time.monotonic() > ends:
            raise QsotnError(f"the benchmark's province was not ready within {PATIENCE_S:.0f} s")
        time.sleep(0.1)


def _stop(children: tuple[Child, ...]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for child in children:
            child.signal(number)
        ends = time.monotonic() + GRACE_S
        while time.monotonic() < ends and any(child.ended(0) is None and child.pid for child in children):
            time.sleep(0.05)
