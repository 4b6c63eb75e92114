"""What an application works with: the desk it asks, and what it is told about its own process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from qsotn.domain import LineId, PartyId, Role
from qsotn.keynetwork.delivery import Pool, PoolCount
from qsotn.ports import Posted
from qsotn.procedures.turn import Work
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.service.delivery.assignments import (
    AssignmentAnswer,
    AssignmentRequest,
    Stock,
    StockQuestion,
    VoidRequest,
)
from qsotn.service.delivery.passing_on import ForeignPart
from qsotn.service.interoperation.etsi004_messages import (
    Connect,
    Connected,
    Leave,
    Locate,
    Located,
    StreamReport,
)
from qsotn.service.orders import Terms
from qsotn.service.taking import Receipts

T = TypeVar("T")


class Peer(Protocol):
    """Who is at the other end of the connection, by its verified certificate (`scope["extensions"]["tls"]["peer"]`)."""

    @property
    def party(self) -> PartyId:
        """`role/name`."""

    @property
    def role(self) -> Role:
        """The role that the identifier begins with."""


class Worker(Protocol):
    """The desk, as `service.worker.DeskWorker` offers it."""

    async def call(self, function: Callable[[Node], T]) -> T:
        """Run a repeatable function at the desk. Raises what it raises, and `Overloaded`."""

    async def order(self, start: Callable[[Any, Work], T], traceparent: str = "") -> T:
        """Run a repeatable local command of the party. Raises what it raises, and `Overloaded`."""

    async def receive(self, datagrams: Sequence[bytes], bearer: Bearer) -> Receipts:
        """Take datagrams; what was taken is durable. Raises `Overloaded`."""


class Mailbox(Protocol):
    """The outbox of a PMP as devices see it, which have no address and collect."""

    async def collect(
        self, device: PartyId, wait_s: float, limit: int, received: Sequence[int] = ()
    ) -> Sequence[Posted]:
        """Return datagrams for a device, on lease to it; wait up to `wait_s` seconds for the first one.

        `received` are those it has durably, as for `acknowledge`.
        """

    async def acknowledge(self, device: PartyId, numbers: Sequence[int]) -> None:
        """Note durably that a device has these datagrams; numbers that are not its own change nothing."""


class Assigned(Protocol):
    """Ready keys as another key manager sees them, as `service.delivery.assigned.Assigned` offers them."""

    async def assign(self, origin: PartyId, request: AssignmentRequest) -> AssignmentAnswer:
        """Have keys wait for slave SAEs; what is not refused is durable. Raises `Overloaded`, `StoreError`."""

    async def void(self, origin: PartyId, request: VoidRequest) -> None:
        """Destroy keys that no SAE was given. Raises `Overloaded`, `StoreError`."""

    async def stock(self, origin: PartyId, question: StockQuestion) -> Stock:
        """Say how a pool of another key manager stands here. Raises `Overloaded`, `StoreError`."""


class Streams(Protocol):
    """Streams of key as another key manager sees them, as `service.interoperation.etsi004_peers` offers them.

    Every method raises `WrongParty` for a key manager that is not the application's, `Refusal` UNKNOWN_SAE.
    """

    async def connect(self, peer: PartyId, asked: Connect) -> Connected:
        """Connect an application of the peer."""

    async def locate(self, peer: PartyId, asked: Locate) -> Located:
        """Say where a chunk waits for an application of the peer. Raises `StoreError`."""

    async def leave(self, peer: PartyId, asked: Leave) -> None:
        """Note that an application of the peer is gone."""

    def reports(self) -> Sequence[StreamReport]:
        """Return the streams that are owned here, by name, for an operator."""


class Readiness(msgspec.Struct, frozen=True):
    """Whether a service can do its work now; `reasons` say why not."""

    ready: bool
    reasons: tuple[str, ...] = ()


def no_alarms(_: LineId) -> tuple[str, ...]:
    """Say that no line terminal of this process reports anything."""
    return ()


async def no_pools() -> Mapping[Pool, PoolCount]:
    """Say that this process delivers no ready keys."""
    return {}


async def no_provenance(_: str) -> bytes | None:
    """Say that this process knows no key."""
    return None


async def no_foreign(_: str) -> ForeignPart | None:
    """Say that no key of another operator went on from this process."""
    return None


@dataclass(frozen=True)
class Deployment:
    """What a process knows of itself that its party does not. `started_at` in microseconds since the epoch.

    `terms` are what a POMP's orders are given under; without them, orders are refused. `alarms` tells what a device's
    line terminal reports, `pools` how a key manager's ready keys stand. `provenance` tells how a key came here, signed
    (`keynetwork.provenance`), and None for an unknown key ID; `foreign` whose a key is that went on from a border.
    """

    started_at: int
    store: Literal["sqlite", "postgresql"]
    terms: Terms | None = None
    alarms: Callable[[LineId], tuple[str, ...]] = no_alarms
    assigned: Assigned | None = None
    streams: Streams | None = None
    pools: Callable[[], Awaitable[Mapping[Pool, PoolCount]]] = no_pools
    provenance: Callable[[str], Awaitable[bytes | None]] = no_provenance
    foreign: Callable[[str], Awaitable[ForeignPart | None]] = no_foreign


@dataclass(frozen=True)
class Service:
    """One party's service, as its endpoints see it."""

    role: Role
    worker: Worker
    ready: Callable[[], Readiness]
    registry: CollectorRegistry
    mailbox: Mailbox | None
    deployment: Deployment
    document: bytes
    """The OpenAPI document it serves."""
