"""Key managers' delivery desks, joined by a wire that a test may cut: real ones, but for the store and the network.

A house may be abandoned at any moment, as a process that is killed is, and opened again on what its disk holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
from tests.service.delivery.memory_store import MemoryKeyStore, Place

from qsotn.domain import PartyId, Secret
from qsotn.errors import LineError, QsotnError
from qsotn.keynetwork.delivery import Deposit, Pool
from qsotn.keynetwork.throttle import ServiceClass
from qsotn.service.delivery.assigned import Assigned
from qsotn.service.delivery.assignments import (
    ASSIGNMENTS,
    STOCKS,
    VOIDS,
    AssignmentRequest,
    Destination,
    FarEnd,
    StockQuestion,
    VoidRequest,
)
from qsotn.service.delivery.desk import DeliveryDesk, Limits
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.priorities import Priorities
from qsotn.service.delivery.saes import Saes
from qsotn.service.delivery.voids import Voids

JINAN, QINGDAO, YANTAI = PartyId("km/jinan"), PartyId("km/qingdao"), PartyId("km/yantai")
CITIES = (JINAN, QINGDAO, YANTAI)
HOMES = {"alice": JINAN, "anna": JINAN, "bob": QINGDAO, "bert": QINGDAO, "carol": YANTAI}
BEGINS_US = 1_780_000_000_000_000


@dataclass
class Clock:
    """Microseconds since the epoch, for all houses."""

    now: int = BEGINS_US

    def __call__(self) -> int:
        return self.now


async def nothing_arrived() -> int:
    return 0


@dataclass
class House:
    """One key manager's desk at work."""

    party: PartyId
    group: Group
    assigned: Assigned
    voids: Voids
    desk: DeliveryDesk
    far_ends: dict[PartyId, FarEnd]


@dataclass
class Wire:
    """The way from one key manager to another. `before` and `after` may raise, or wait."""

    town: Town
    origin: PartyId
    target: PartyId
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None
    requests: list[str] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        assert (method, expected) == ("POST", 204 if path == VOIDS else 200)
        self.before(path)
        house = self.town.houses.get(self.target)
        if house is None:
            raise LineError(f"{self.target} is down")
        content = msgspec.json.encode(body)
        assert len(content) < 64 * 1024, "what the server reads"
        self.requests.append(path)
        self.heard.append(content)
        try:
            answer = await self._served(house, path, content)
        except QsotnError as error:
            raise LineError(f"{self.target} answered 503: {error}") from error
        self.after(path)
        return answer

    async def _served(self, house: House, path: str, content: bytes) -> bytes:
        if path == ASSIGNMENTS:
            request = msgspec.json.decode(content, type=AssignmentRequest)
            return msgspec.json.encode(await house.assigned.assign(self.origin, request))
        if path == STOCKS:
            question = msgspec.json.decode(content, type=StockQuestion)
            return msgspec.json.encode(await house.assigned.stock(self.origin, question))
        assert path == VOIDS
        await house.assigned.void(self.origin, msgspec.json.decode(content, type=VoidRequest))
        return b""


@dataclass
class Town:
    """Every house, the wires between them, and the disks that outlive both."""

    clock: Clock = field(default_factory=Clock)
    places: dict[PartyId, Place] = field(default_factory=lambda: {city: Place() for city in CITIES})
    houses: dict[PartyId, House] = field(default_factory=dict)
    wires: dict[tuple[PartyId, PartyId], Wire] = field(default_factory=dict)
    drawn: int = 0
    classes: tuple[ServiceClass, ...] = ()
    of_class: dict[str, str] = field(default_factory=dict)
    """SAEs that are not of the lowest class."""
    mark: int = 0
    """Below how many units a pool is low."""

    def wire(self, origin: PartyId, target: PartyId) -> Wire:
        return self.wires.setdefault((origin, target), Wire(self, origin, target))

    async def open(self, party: PartyId, destinations: dict[PartyId, Destination] | None = None) -> House:
        group = Group(lambda: MemoryKeyStore(self.places[party]), 10_000)
        await group.start()
        saes = Saes(party, HOMES, self.of_class, self.classes[-1].name if self.classes else "")
        ways: dict[PartyId, Destination] = destinations or {
            other: self.wire(party, other) for other in CITIES if other != party
        }
        far_ends = {other: FarEnd(other, way) for other, way in ways.items()}
        voids = Voids(party, group, far_ends, self.clock)
        priorities = Priorities(self.classes, saes, self.mark, self.clock) if self.classes else None
        desk = DeliveryDesk(saes, Limits(), group, far_ends, voids, self.clock, priorities)
        house = House(party, group, Assigned(saes, group, self.clock, nothing_arrived), voids, desk, far_ends)
        self.houses[party] = house
        return house

    async def close(self, party: PartyId) -> None:
        """End a house; what its disk does not hold is lost, as in a death."""
        house = self.houses.pop(party)
        for far_end in house.far_ends.values():
            await far_end.stop()
        await house.group.stop()

    async def supply(self, origin: PartyId, target: PartyId, count: int) -> Pool:
        """Lay the same new units into both ends of a pool."""
        pool = await self.houses[origin].desk.pool(target)
        first = await self.houses[origin].group.call(lambda store: store.next_number(pool))
        self.drawn += count
        units = tuple(Secret((self.drawn * 1_000_003 + at).to_bytes(32, "little")) for at in range(count))
        deposit = Deposit(pool, f"{origin}-{target}-{pool.series}-{first}", first, units)
        for end in dict.fromkeys((origin, target)):
            await self.houses[end].group.apply(deposit)
        return pool


@asynccontextmanager
async def town(cities: Iterable[PartyId] = CITIES, units: int = 100, made: Town | None = None) -> AsyncIterator[Town]:
    """Open houses whose pools are full."""
    made = made or Town()
    for city in cities:
        await made.open(city)
    for origin in list(made.houses):
        for target in list(made.houses):
            await made.supply(origin, target, units)
    try:
        yield made
    finally:
        for city in list(made.houses):
            await made.close(city)
