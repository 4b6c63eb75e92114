"""Schemathesis reads each role's document as each kind of peer, and finds nothing.

It runs on what a peer may call; that everything else is forbidden is in `test_roles`. Three things are said to it that
no document can say: a cursor is one that was given out, an order has a key of its own, and a datagram is a real one.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import cbor2
import pytest
import schemathesis
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from schemathesis import hooks
from schemathesis.engine import events, from_schema
from tests.service.http.driver import DEPLOYMENT, TlsPeer, always_ready
from tests.service.http.test_roles import HOSTS, PARTIES
from tests.world import Chance, Clock, Worlds

from qsotn import wire
from qsotn.app.province import KM_RELAY, QSSP_B, open_node, party_folder
from qsotn.domain import PartyId, Role
from qsotn.ports import Posted
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.service.http import idempotency
from qsotn.service.http.application import make_application, operations_of
from qsotn.service.http.operation import Operation
from qsotn.service.taking import Receipts

T = TypeVar("T")

MARKER: Final = b"datagrams "
"""Stands in a generated body for so many real datagrams, which are put in on the way to the application."""
schemathesis.openapi.media_type("application/cbor-seq", st.integers(1, 3).map(lambda count: MARKER + b"%d" % count))

ACCEPTED: Final = ["2xx", "3xx", "404", "409", "412"]
"""What data that is right may be answered with. 412: an If-Match that was made up does not match."""
REJECTED: Final = ["400", "404", "405", "409", "413", "414", "415", "422"]
BY_VISITOR: Final = {"qkd": ["403", "422"]}
"""A module has to do with its own link alone, and a schema cannot say how many bytes a base64 text holds."""


def configuration(visitor: str) -> schemathesis.Config:
    """Few examples, the same ones each time, and every case that the schemas' bounds give rise to."""
    return schemathesis.Config.from_dict(
        {
            "seed": 1,
            "warnings": False,
            "generation": {"max-examples": 2, "deterministic": True, "database": "none"},
            "phases": {"stateful": {"enabled": False}},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": [*ACCEPTED, *BY_VISITOR.get(visitor, ())]},
                "negative_data_rejection": {"expected-statuses": [*REJECTED, *BY_VISITOR.get(visitor, ())]},
            },
        }
    )


NEIGHBOURS: Final = {("km", "km"): KM_RELAY, ("qssp", "qssp"): QSSP_B}
"""Who visits a party of its own role; else the one that `PARTIES` names."""


class ThreadWorker:
    """A desk with a thread of its own, as a store needs one; every event loop may ask it."""

    def __init__(self, folder: Path, party: PartyId, now: int) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.node, self._store = self._thread.submit(open_node, folder, party, Chance("http"), Clock(now)).result()
        self._thread.submit(self._store._connection.execute, "PRAGMA synchronous=OFF").result()

    async def call(self, function: Callable[[Node], T]) -> T:
        return await asyncio.wrap_future(self._thread.submit(function, self.node))

    async def order(self, start: Callable[[Any, Work], T], traceparent: str = "") -> T:
        return await self.call(lambda node: node.begin(start, traceparent))

    async def receive(self, datagrams: Sequence[bytes], bearer: Bearer) -> Receipts:
        intake = await self.call(lambda node: node.receive_all([(data, bearer) for data in datagrams]))
        return Receipts(intake.taken, dict(intake.refused))

    async def collect(
        self, device: PartyId, wait_s: float, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        assert 0 <= wait_s <= 30
        return await self.call(lambda node: node.lease(limit, device, received))

    async def acknowledge(self, device: PartyId, numbers: Sequence[int]) -> None:
        await self.call(lambda node: node.collected(numbers, device))

    def close(self) -> None:
        self._thread.submit(self._store.close).result()
        self._thread.shutdown()


class Connected:
    """An application as one peer's connection reaches it, with real datagrams where a body stands for some."""

    def __init__(self, application: Any, peer: PartyId, heard: dict[str, list[bytes]]) -> None:
        self._application = application
        self._peer = TlsPeer(peer)
        self._heard = heard

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def received() -> Any:
            message = await receive()
            if not message.get("body", b"").startswith(MARKER):
                return message
            datagrams = self._heard[scope["path"].split("/")[1]][: int(message["body"].removeprefix(MARKER))]
            return {**message, "body": b"".join(map(cbor2.dumps, datagrams))}

        await self._application({**scope, "extensions": {"tls": {"peer": self._peer}}}, received, send)


@dataclass(frozen=True)
class Told:
    """A province that was told everything: where to open a party of it, and what each party has heard."""

    folder: Path
    now: int
    heard: dict[tuple[PartyId, PartyId], dict[str, list[bytes]]]
    """Datagrams by sender, receiver and interface."""


@pytest.fixture(scope="module")
def told(worlds: Worlds, encrypted_stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    world = worlds.begin(encrypted_stage, tmp_path_factory.mktemp("told") / "world")
    heard: dict[tuple[PartyId, PartyId], dict[str, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for sender in world.nodes:
        for _, _, hop, datagram, *_ in world.dump(sender)["outbox"]:
            heard[sender, hop][wire.unpack(datagram).interface.lower()].append(datagram)
    world.close()
    return Told(world.folder, world.clock(), heard)


@pytest.fixture
def worker(told: Told, host: str, tmp_path: Path) -> Iterator[ThreadWorker]:
    """The desk of the host's party, from a copy of its own."""
    shutil.copytree(party_folder(told.folder, PARTIES[host]), party_folder(tmp_path, PARTIES[host]))
    worker = ThreadWorker(tmp_path, PARTIES[host], told.now)
    yield worker
    worker.close()


@pytest.fixture(scope="module", autouse=True)
def sensible() -> Iterator[None]:
    """Put into every case what no document can say. Cases that are wrong on purpose stay so."""

    def before_call(_: Any, case: schemathesis.Case[Any], __: Any) -> None:
        key = case.headers.get("Idempotency-Key")
        if key is not None and re.fullmatch(idempotency.SYNTAX, key):
            case.headers["Idempotency-Key"] = str(uuid.uuid4())
        if case.meta is None or not case.meta.generation.mode.is_positive:
            return
        case.query.pop("cursor", None)
        if case.headers.get("If-None-Match") == "0":  # it takes this for a match of a pattern which it does not match
            del case.headers["If-None-Match"]

    schemathesis.hook(before_call)
    yield
    hooks.unregister(before_call)


def told_of(interaction: Any, check: Any) -> str:
    """One case of a finding: what was asked, what was answered, what was wrong with it."""
    asked, answer = interaction.request, interaction.response
    return "\n".join(
        (
            f"{asked.method} {asked.uri} {asked.headers} {asked.body!r}",
            f"{answer.status_code} {answer.headers} {answer.content!r}",
            str(check.failure_info.failure),
        )
    )


def may_call(one: Operation, visitor: Role, heard: dict[str, list[bytes]]) -> bool:
    """Whether a peer may call this, and has something to say where it may: on two interfaces one side only listens."""
    says = one.name.startswith("post_") and one.path.endswith("/messages")
    return (one.roles is None or visitor in one.roles) and (not says or one.path.split("/")[1] in heard)


def findings(schema: Any) -> tuple[int, dict[str, str]]:
    """Run every phase; return how many requests were made, and what was found: a title, and one case of it."""
    requests, found = 0, dict[str, str]()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found["it could not run"] = str(event.value if isinstance(event, events.NonFatalError) else event.exception)
        if isinstance(event, events.ScenarioFinished):
            requests += len(event.recorder.interactions)
            for case, checks in event.recorder.checks.items():
                for check in (check for check in checks if check.failure_info is not None):
                    found[f"{event.label}: {check.name}"] = told_of(event.recorder.interactions[case], check)
    return requests, found


@pytest.mark.parametrize("visitor", PARTIES)
@pytest.mark.parametrize("host", HOSTS)
def test_schemathesis_finds_nothing(told: Told, worker: ThreadWorker, host: str, visitor: str) -> None:
    mailbox, peer = worker if host == "pmp" else None, NEIGHBOURS.get((host, visitor), PARTIES[visitor])
    made = make_application(worker, Role(host), always_ready, CollectorRegistry(), mailbox, DEPLOYMENT)
    heard = told.heard[peer, PARTIES[host]]
    connected = Connected(made, peer, heard)
    schema = schemathesis.openapi.from_asgi("/openapi.json", connected, config=configuration(visitor))
    allowed = [one for one in operations_of(Role(host)) if may_call(one, Role(visitor), heard)]
    requests, found = findings(schema.include(name=[f"{one.method} {one.path}" for one in allowed]))
    assert not found, "\n\n".join(f"{title}\n{case}" for title, case in found.items())
    assert requests > 5 * len(allowed)
