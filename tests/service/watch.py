"""The QKMP's supervision of a world: it asks the parties' real applications, as itself, and a test moves the time.

Only the connections are left out: a question reaches the application as one of a peer with the QKMP's certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from tests.service.desks import run
from tests.service.http.driver import (
    DEPLOYMENT,
    Client,
    DirectWorker,
    Incoming,
    Reply,
    application_of,
    ask,
    scope_of,
)
from tests.world import LEDGER, World

from qsotn.app.province import LINKS, PLAN, QKMP
from qsotn.domain import PartyId, Secret
from qsotn.errors import LineError
from qsotn.keynetwork.delivery import Pool, PoolCount
from qsotn.procedures import key_supply
from qsotn.service.config import SupervisionSection
from qsotn.service.http.operations_sights import SIGHTS
from qsotn.service.supervision import Supervision
from qsotn.service.supervision_metrics import NetworkMetrics

LOOK_US = 10_000_000
WATCHED = (*PLAN.kms, *PLAN.qssps)


@dataclass
class Watch:
    """A world, watched. `silent` are those that do not answer, `lies` what others answer instead, by party and path."""

    world: World
    section: SupervisionSection = field(default_factory=SupervisionSection)
    watched: tuple[PartyId, ...] = WATCHED
    silent: set[PartyId] = field(default_factory=set)
    lies: dict[tuple[PartyId, str], bytes] = field(default_factory=dict)
    pools: dict[PartyId, dict[Pool, PoolCount]] = field(default_factory=dict)
    asked: list[tuple[PartyId, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = NetworkMetrics(self.registry, self.world.clock)

    def supervision(self) -> Supervision:
        """A process of the QKMP, which knows nothing but what is in the store."""
        worker = DirectWorker(self.world.nodes[QKMP])
        return Supervision(worker, self.watched, lambda party: _Door(self, party), self.section, self.metrics)

    def look(self, times: int = 1, between: Callable[[], object] = lambda: None) -> None:
        """Look, a look's time after the last one; `between` happens ahead of each."""
        for _ in range(times):
            between()
            self.world.clock.advance(LOOK_US)
            run(self.supervision().look())

    # --- what an operator reads -------------------------------------------------------------------------------------

    def call(self, method: str, path: str, json: Any = None) -> Reply:
        return Client(application_of(self.world, QKMP))(method, f"/operations/v1/{path}", json=json)

    def read(self, path: str) -> Any:
        reply = self.call("GET", path)
        assert reply.status == 200, reply
        return reply.json()

    def link(self, name: str) -> Any:
        return {one["link"]: one for one in self.read("network")["links"]}[name]

    def alarms(self, *, cleared: bool = False) -> dict[tuple[str, str], Any]:
        found = self.read("network/alarms?limit=200")["items"]
        return {(one["subject"], one["cause"]): one for one in found if bool(one["cleared_at"]) == cleared}

    def admission(self, **question: Any) -> Reply:
        asked = {"origin": "km/jinan", "target": "km/qingdao", "lines": 1, **question}
        return self.call("POST", "network/admission", asked)

    def scraped(self) -> list[str]:
        return generate_latest(self.registry).decode().splitlines()


@dataclass(frozen=True)
class _Door:
    watch: Watch
    party: PartyId

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        assert (method, body) == ("GET", None) or path == SIGHTS, "looking changes nothing"
        watch, short = self.watch, path.partition("?")[0].removeprefix("/operations/v1")
        watch.asked.append((self.party, short))
        if self.party in watch.silent:
            raise LineError(f"{self.party} gave no answer")
        if (self.party, short) in watch.lies:
            return watch.lies[self.party, short]

        async def pools() -> Mapping[Pool, PoolCount]:
            return watch.pools.get(self.party, {})

        application = application_of(watch.world, self.party, deployment=replace(DEPLOYMENT, pools=pools))
        headers = {} if body is None else {"content-type": "application/json"}
        content = b"" if body is None else msgspec.json.encode(body)
        reply = await ask(application, scope_of(method, path, headers, party=QKMP), Incoming([content]))
        if reply.status != expected:
            raise LineError(f"{self.party} answered {reply.status}")
        return reply.body


def distilled(world: World, link: str, number: int, *, size: int = 8192, **ledger: Any) -> None:
    """Give both ends of a link a block of measured light with a ledger of its own, and let them agree on it."""
    block = world.entropy(size)
    for party in LINKS[link]:
        world.begin(
            party, lambda km, _: km.deposit(link, number, Secret(block), {**LEDGER, "pulses": 1_000_000, **ledger})
        )
    world.begin(min(LINKS[link]), lambda km, work: key_supply.announce(km, work, link, number))
    world.settle()


def ready(count: int, delivered: int = 0) -> PoolCount:
    """A pool with so many units ready."""
    return PoolCount(ready=count, waiting=0, delivered=delivered, voided=0, expired=0, burned=0)
