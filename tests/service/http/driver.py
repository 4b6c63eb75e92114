"""An ASGI client of thirty lines, a desk without a thread, and a party's application in front of a real node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry
from tests.world import World

from qsotn.app.province import PMP
from qsotn.domain import PartyId, Role, role_of
from qsotn.ports import Posted
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.service.http.application import make_application
from qsotn.service.http.context import Deployment, Mailbox, Readiness
from qsotn.service.orders import Terms
from qsotn.service.taking import Receipts

T = TypeVar("T")

OPERATOR = PartyId("operator/alice")
STARTED_AT = 1_780_000_000_000_000
DEPLOYMENT = Deployment(STARTED_AT, "sqlite", Terms(PMP))


@dataclass(frozen=True)
class TlsPeer:
    """What the server reads from a verified certificate."""

    party: PartyId

    @property
    def role(self) -> Role:
        return role_of(self.party)


class DirectWorker:
    """The desk's calls, carried out at once."""

    def __init__(self, node: Node) -> None:
        self.node = node

    async def call(self, function: Callable[[Node], T]) -> T:
        return function(self.node)

    async def order(self, start: Callable[[Any, Work], T], traceparent: str = "") -> T:
        return self.node.begin(start, traceparent)

    async def receive(self, datagrams: Sequence[bytes], bearer: Bearer) -> Receipts:
        intake = self.node.receive_all([(data, bearer) for data in datagrams])
        return Receipts(intake.taken, dict(intake.refused))


class DirectMailbox:
    """A PMP's mailbox that never waits."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.waits: list[float] = []

    async def collect(
        self, device: PartyId, wait_s: float, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        self.waits.append(wait_s)
        return self.node.lease(limit, device, received)

    async def acknowledge(self, device: PartyId, numbers: Sequence[int]) -> None:
        self.node.collected(numbers, device)


@dataclass
class Reply:
    """One response as it was sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def problem(self) -> str:
        """The kind of a problem document, which this must be."""
        assert self.headers["content-type"] == "application/problem+json", self
        document = self.json()
        assert document["status"] == self.status
        assert document["title"]
        return str(document["type"].removeprefix("urn:qsotn:problem:"))


Headers = Mapping[str, str] | Sequence[tuple[str, str]]


def scope_of(method: str, target: str, headers: Headers = (), party: PartyId | None = OPERATOR) -> dict[str, Any]:
    """The scope of one request of a peer, or of a connection without a certificate."""
    path, _, query = target.partition("?")
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    peer = {} if party is None else {"tls": {"peer": TlsPeer(party)}}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "extensions": peer,
    }


class Incoming:
    """A body that arrives in chunks; counts what was taken of it, and then the client waits or goes."""

    def __init__(self, chunks: Iterable[bytes], *, leaves: bool = False) -> None:
        self._chunks = list(chunks) or [b""]
        self._leaves = leaves
        self.taken = 0

    async def __call__(self) -> dict[str, Any]:
        if self.taken < len(self._chunks):
            self.taken += 1
            more = self.taken < len(self._chunks) or self._leaves
            return {"type": "http.request", "body": self._chunks[self.taken - 1], "more_body": more}
        if not self._leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


async def ask(application: Any, scope: dict[str, Any], incoming: Callable[[], Any]) -> Reply:
    """Send one request and gather its response."""
    reply = Reply()

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
        else:
            reply.body += message.get("body", b"")

    await application(scope, incoming, send)
    return reply


@dataclass(frozen=True)
class Client:
    """One peer of one application."""

    application: Any
    party: PartyId | None = OPERATOR

    def __call__(
        self, method: str, target: str, *, headers: Headers = (), body: bytes | Iterable[bytes] = b"", json: Any = None
    ) -> Reply:
        pairs = [*(headers.items() if isinstance(headers, Mapping) else headers)]
        if json is not None:
            body = msgspec.json.encode(json)
            pairs.append(("content-type", "application/json"))
        chunks = [body] if isinstance(body, bytes) else list(body)
        scope = scope_of(method, target, pairs, self.party)
        return asyncio.run(ask(self.application, scope, Incoming(chunks)))

    def order(self, method: str, target: str, key: str, *, headers: Headers = (), json: Any = None) -> Reply:
        """Ask under an Idempotency-Key."""
        return self(method, target, headers=[("idempotency-key", key), *dict(headers).items()], json=json)


def always_ready() -> Readiness:
    return Readiness(True)


def application_of(
    world: World,
    party: PartyId,
    *,
    ready: Callable[[], Readiness] = always_ready,
    registry: CollectorRegistry | None = None,
    mailbox: Mailbox | None = None,
    deployment: Deployment = DEPLOYMENT,
) -> Any:
    """The application of one party of a world."""
    node = world.nodes[party]
    opened = mailbox or (DirectMailbox(node) if node.role is Role.PMP else None)
    return make_application(DirectWorker(node), node.role, ready, registry or CollectorRegistry(), opened, deployment)
