"""What operators do all day, several at once: bring devices into service, revoke some, lease, rekey and end lines.

Each story waits for the end of what it began before it goes on; the stories stop between two orders when they are told
to, and leave some lines in service.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Self

from tests.faults.history import Operation, Outcome
from tests.faults.loop_thread import LoopThread
from tests.live import client
from tests.live.client import Client
from tests.live.house import file_of, open_workshop
from tests.live.province import CITIES, Province

from qsotn.domain import PartyId
from qsotn.procedures.turn import State

ACCOUNT: Final = "bank-of-shandong"
REVOKED: Final = 0.4
"""The part of the devices that are stolen soon."""
QUALITY: Final = {"odu": "ODU2", "rekey_interval_s": 3600, "max_latency_us": 5000}


@dataclass(repr=False)
class Load:
    """Stories at a province, in one event loop: an asynchronous context, within which they run."""

    province: Province
    seed: int
    onboarding: int = 2
    """How many stories of devices; there is one of a line for each pair of devices."""
    made: int = 0
    """Devices made beforehand; where there are some, no others are made, and the stories of devices end with them."""
    thinking_s: float = 0.3
    """The longest pause before a story's next order."""
    leasing_s: float = 0.3
    """The same in a story of a line. A key file has 64 entries: at a pace of 1/20 of the whole time they last."""
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Procedures by ladder, and by COMPLETED or what they failed with."""
    housed: dict[PartyId, str] = field(default_factory=dict)
    """The devices that were given to a house, and to which."""
    _devices: count[int] = field(default_factory=lambda: count(1))
    _lines: count[int] = field(default_factory=lambda: count(1))
    _stopping: bool = False
    _stories: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.workshop = open_workshop(self.province.state)
        for number in range(1, self.made + 1):
            self.workshop.make(*_housed(number))

    @property
    def operations(self) -> list[Operation]:
        """Everything the POMP was asked for."""
        return self.client.operations

    @property
    def procedures(self) -> int:
        """How many procedures the stories have seen to their end."""
        return sum(self.ended.values())

    async def __aenter__(self) -> Self:
        self._connected = client.connected(self.province.state)
        self.client: Client = await self._connected.__aenter__()
        await self.client.open_account(ACCOUNT)
        self._begin(*(self._onboard() for _ in range(self.onboarding)))
        self._begin(*(self._lease(number, pair) for number, pair in enumerate(self.province.pairs())))
        return self

    def _begin(self, *stories: Coroutine[Any, Any, None]) -> None:
        self._stories += [asyncio.create_task(story) for story in stories]

    async def __aexit__(self, *_: object) -> None:
        for story in self._stories:
            story.cancel()
        await asyncio.gather(*self._stories, return_exceptions=True)
        await self._connected.__aexit__(None, None, None)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping = True

    @property
    def running(self) -> list[asyncio.Task[None]]:
        """The stories that have not ended. Raises what one of them raised."""
        for story in self._stories:
            if story.done():
                story.result()
        return [story for story in self._stories if not story.done()]

    # --- devices ------------------------------------------------------------------------------------------------------

    async def _onboard(self) -> None:
        while not self._stopping:
            number = next(self._devices)
            if self.made and number > self.made:
                return
            state = await self.initialise(number)
            if state is State.COMPLETED and self.chance.random() < REVOKED:
                party, _ = _housed(number)
                name = party.partition("/")[2]
                await self._do("revocation", party, "DELETE", f"/cpes/{name}?reason=stolen")
            await self._think(self.thinking_s)

    async def initialise(self, number: int) -> State:
        """Bring a housed device into service: odd ones are in Qingdao, even ones in Jinan."""
        party, serial_number = _housed(number)
        if number > self.made:
            await asyncio.to_thread(self.workshop.make, party, serial_number)
        self._house(party, self.chance.choice(self.province.houses))
        return await self._order_device(party, serial_number)

    def _house(self, party: PartyId, house: str) -> None:
        self.housed[party] = house
        (self.province.house(house) / file_of(party)).touch()

    def house_again(self) -> None:
        """Have the houses run the devices they were given, if their folders forgot."""
        for party, house in self.housed.items():
            self._house(party, house)

    async def _order_device(self, party: PartyId, serial_number: str) -> State:
        city = party.removeprefix("cpe/").partition("-")[0]
        order = {"cpe": party, "serial_number": serial_number, "home_qssp": f"qssp/{city}"}
        return await self._do("initialization", party, "POST", "/cpes", order)

    # --- lines --------------------------------------------------------------------------------------------------------

    async def _lease(self, number: int, pair: tuple[PartyId, PartyId]) -> None:
        for cpe in pair:
            serial_number = self.province.plan.serial_numbers[cpe]
            while await self._order_device(cpe, serial_number) is not State.COMPLETED and not self._stopping:
                await self._think(self.leasing_s)
        while not self._stopping:
            line = f"line-{number}-{next(self._lines)}"
            ordered = {"line": line, "account": ACCOUNT, "cpe_a": pair[0], "cpe_b": pair[1], **QUALITY}
            if await self._do("leased-line", line, "POST", "/lines", ordered) is State.COMPLETED:
                await self._serve(line)
            await self._think(self.leasing_s)

    async def _serve(self, line: str) -> None:
        for _ in range(self.chance.randint(1, 3)):
            if not self._stopping:
                await self._do("rekey-order", line, "POST", f"/lines/{line}/rekeys")
                await self._think(self.leasing_s)
        while not self._stopping:
            if await self._do("deletion", line, "DELETE", f"/lines/{line}") is State.COMPLETED:
                return

    async def _do(self, kind: str, subject: str, method: str, path: str, body: object = None) -> State:
        """Give an order and wait for its end; what was refused has failed."""
        told = await self.client.order(kind, subject, method, path, body)
        if told.outcome is Outcome.REFUSED:
            self.ended[kind, "refused"] += 1
            await asyncio.sleep(0.2)
            return State.FAILED
        state, failure = await self.client.ended(told.procedure)
        self.ended[kind, failure or state] += 1
        return state

    async def _think(self, longest_s: float) -> None:
        end = time.monotonic() + self.chance.uniform(0, longest_s)
        while time.monotonic() < end and not self._stopping:
            await asyncio.sleep(0.05)


def _housed(number: int) -> tuple[PartyId, str]:
    """A device without a line, and its serial number."""
    return PartyId(f"cpe/{CITIES[number % len(CITIES)]}-housed-{number}"), f"HOUSED-{number:06}"


class LoadThread(LoopThread):
    """A load in a thread of its own, so that the test's thread may start and kill processes meanwhile."""

    def __init__(self, load: Load) -> None:
        super().__init__(load)
        self.load = load

    def watch(self, seconds: float) -> None:
        """Let the stories go on for so long. Raises what one of them raised."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.load.running, "every story has ended already"
            time.sleep(0.05)

    def until(self, holds: Callable[[], bool], patience_s: float) -> None:
        """Let the stories go on until something holds. Raises what one of them raised."""
        end = time.monotonic() + patience_s
        while not holds():
            assert self.load.running, "every story has ended already"
            assert time.monotonic() < end, f"not reached within {patience_s:g} s"
            time.sleep(0.05)

    def finish(self, patience_s: float) -> None:
        """Let every story come to its end. Raises what one of them raised."""
        self.load.stop()
        end = time.monotonic() + patience_s
        while running := self.load.running:
            assert time.monotonic() < end, f"{len(running)} stories have not ended within {patience_s:g} s"
            time.sleep(0.1)
