"""Two operators whose key managers meet at a border, on a wire that can lose what is said or what is answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from qsotn.crypto.vault import Vault
from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import LineError, Refusal
from qsotn.keynetwork.delivery import ReadyKey, key_id
from qsotn.service.delivery.offered import Offer
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation.border_store import BorderStore, InThread
from qsotn.service.interoperation.etsi020 import Etsi020
from qsotn.service.interoperation.etsi020_client import Courier
from qsotn.service.interoperation.gateway import Gateway
from qsotn.service.interoperation.operators import Operator, Operators
from qsotn.service.interoperation.relaying import Onward, Relaying
from qsotn.service.interoperation.reply import Reply

T = TypeVar("T")

EAST, WEST = PartyId("km/east"), PartyId("km/west")
ALICE, BOB, CAROL = "sae-alice", "sae-bob", "sae-carol"
"""Alice and Carol are attached in the east, Bob in the west."""
SECOND = 1_000_000


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(story, 20))


def seeded(seed: str) -> Callable[[int], bytes]:
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(size)

    return draw


@dataclass
class Clock:
    now: int = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


@dataclass
class Network:
    """Ready keys within one operator's network: every key once for its master, once for each slave."""

    own: PartyId
    homes: dict[str, PartyId]
    most: int = 1000
    waiting: dict[tuple[str, str, KeyId], Secret] = field(default_factory=dict)
    given: list[KeyId] = field(default_factory=list)
    silent: bool = False

    async def offer(self, master: str, slave: str) -> Offer:  # noqa: ARG002 - all masters are offered the same
        if slave not in self.homes:
            raise Refusal("UNKNOWN_SAE", f"no SAE {slave}")
        left = self.most - len(self.given)
        return Offer(self.own, self.homes[slave], 256, left, self.most, 128, 1024, 64, 4)

    async def reserve(self, master: str, slaves: Sequence[str], number: int, size: int) -> Sequence[ReadyKey]:
        await asyncio.sleep(0)
        if self.silent:
            raise Refusal("FAR_END_SILENT", "the far end is silent")
        if len(self.given) + number > self.most:
            raise Refusal("KEY_SHORTAGE", "too few keys are ready")
        keys = [self._new(size) for _ in range(number)]
        for key in keys:
            for slave in slaves:
                self.waiting[slave, master, key.key_id] = key.key
        return keys

    def _new(self, size: int) -> ReadyKey:
        number = len(self.given)
        name = key_id(77, number)
        self.given.append(name)
        return ReadyKey(name, Secret(hashlib.shake_256(f"{self.own}/{number}".encode()).digest(size // 8)))

    async def collect(self, slave: str, master: str, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        await asyncio.sleep(0)
        places = [(slave, master, one) for one in key_ids]
        if not all(place in self.waiting for place in places):
            raise Refusal("KEYS_NOT_FOUND", "one or more keys specified are not found on KME")
        return [ReadyKey(place[2], self.waiting.pop(place)) for place in places]


@dataclass
class Wire:
    """What one operator says to the other; `lost` takes the path and says whether request or answer is lost."""

    speaker: str
    listener: Callable[[], Etsi020]
    lost: Callable[[str, int], str | None] = lambda _, __: None
    said: list[tuple[str, bytes]] = field(default_factory=list)

    async def post(self, path: str, body: bytes) -> int:
        self.said.append((path, body))
        fate = self.lost(path, len(self.said))
        if fate == "request":
            raise LineError("lost on the way")
        reply = await self.listener().answer(self.speaker, "POST", path, body)
        if fate == "answer":
            raise LineError("the answer was lost")
        return reply.status


class Border:
    """One operator's side: a network, a store on disk, and everything that works on it."""

    def __init__(self, folder: Path, own: PartyId, saes: dict[str, PartyId], other: Operator, clock: Clock) -> None:
        self.folder, self.own, self.clock = folder, own, clock
        homes = {**saes, **dict.fromkeys(other.saes, own)}
        self.saes = Saes(own, homes)
        self.network = Network(own, homes)
        self.operators = Operators([other])
        self.entropy = seeded(own)
        self.vault = Vault(Secret(hashlib.sha256(own.encode()).digest()), self.entropy)
        self.wire: Wire
        self.patience_s = 5.0
        self.onward: Onward | None = None

    @property
    def path(self) -> Path:
        return self.folder / f"{self.own.replace('/', '-')}.db"

    async def begin(self) -> None:
        self.store = InThread(lambda: BorderStore(self.path, self.vault, self.entropy))
        await self.store.__aenter__()
        self.courier = Courier(
            self.operators,
            self.store,
            lambda _: self.wire,
            self.clock,
            f"https://{self.own.replace('/', '-')}.example",
            lambda changed: self.gateway.settled(changed),
        )
        self.gateway = Gateway(
            self.network, self.operators, self.saes, self.store, self.clock, self.courier.nudge, self.patience_s
        )
        self.relaying = None
        if self.onward is not None:
            self.relaying = Relaying(self.onward, self.saes, self.store, self.clock, self.courier.nudge)
        self.interface = Etsi020(
            self.operators,
            self.saes,
            self.store,
            self.clock,
            self.courier.nudge,
            self.gateway.settled,
            self.relaying,
        )
        await self.gateway.recover()
        self.task = asyncio.create_task(self.courier.run())

    async def end(self) -> None:
        """As a kill would: nothing is finished but what the store has."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.store.__aexit__()

    async def again(self) -> None:
        await self.end()
        await self.begin()

    async def ask(self, peer: str, method: str, path: str, body: bytes = b"") -> Reply:
        return await self.interface.answer(peer, method, path, body)


class Borders:
    """East and west. Use it as an asynchronous context."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        east = Operator(EAST, "https://km-east.example", frozenset({ALICE, CAROL}))
        west = Operator(WEST, "https://km-west.example", frozenset({BOB}))
        self.east = Border(folder, EAST, {ALICE: EAST, CAROL: EAST}, west, self.clock)
        self.west = Border(folder, WEST, {BOB: WEST}, east, self.clock)
        self.east.wire = Wire(EAST, lambda: self.west.interface)
        self.west.wire = Wire(WEST, lambda: self.east.interface)

    async def __aenter__(self) -> Self:
        await self.west.begin()
        await self.east.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.east.end()
        await self.west.end()

    async def settle(self, done: Callable[[], Coroutine[Any, Any, bool]], step_s: float = 2) -> None:
        """Let time pass until something holds."""
        for _ in range(200):
            if await done():
                return
            self.clock.pass_s(step_s)
            self.east.courier.nudge()
            self.west.courier.nudge()
            await asyncio.sleep(0.005)
        raise AssertionError("it never came to that")
