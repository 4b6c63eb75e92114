"""SAEs at work: masters draw keys, slaves collect them, and everything that they were told is written down.

An SAE that got no answer asks again as it asked before, as ETSI GS QKD 014 clients do. SAEs also do what they should
not: they ask for keys of others, for some of the keys of an earlier request, and again for keys that they have.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Self

from tests.faults.delivered_keys import Delivered, Draw, Ended, Pickup, value_of
from tests.faults.loop_thread import LoopThread
from tests.live.key_delivery_province import KeyProvince
from tests.live.key_delivery_quick import WINDOW_US

from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.transport.http import Unavailable
from qsotn.domain import KeyId, PartyId
from qsotn.errors import LineError, QsotnError, Refusal, WrongParty
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.host import now_us

SIZES: Final = (256, 256, 256, 128, 512, 384)
PAUSE_S: Final = 0.08
AGAIN_S: Final = 0.15
PATIENCE_S: Final = 60.0
"""How long a slave asks for its keys."""
LATE_S: Final = WINDOW_US / 1e6 + 0.5
MOST_AT_ONCE: Final = 24
NOT_CARRIED_OUT: Final = ("too few keys are ready", "does not answer now")
"""What a 503 says when nobody was given anything, nor will be."""


class Saes:
    """All SAEs of a province. An asynchronous context manager: they work while it is open."""

    def __init__(
        self, province: KeyProvince, seed: int, *, several: float = 0.3, most_slaves: int = 2, later_s: float = 0.0
    ) -> None:
        """`several` is how often a master names more slaves than one, up to `most_slaves`.

        A slave comes for its keys `later_s` seconds after its master has them.
        """
        self.chance = random.Random(seed)
        self._later_s = later_s
        self._several, self._most_slaves = several, most_slaves
        self.homes = province.homes
        self._province = province
        self._clients: dict[str, list[Etsi014Client]] = {}
        """For each SAE, one for each replica of its key manager."""
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self.draws: list[Draw] = []
        self.pickups: list[Pickup] = []
        self.keys: dict[KeyId, bytes] = {}
        """Every key that anybody was given, to be looked for where it must not be."""
        self.wrong: list[str] = []
        """Answers that no SAE may get."""
        self.told: Counter[str] = Counter()
        self.last_given: dict[tuple[PartyId, PartyId], float] = {}
        """When a key was last given from one key manager to another."""

    async def __aenter__(self) -> Self:
        for sae, home in self.homes.items():
            context = partial(self._province.credentials(sae).client, home)
            clients = [Etsi014Client(url, context) for url in self._province.delivery_urls(home)]
            self._clients[sae] = [await self._stack.enter_async_context(client) for client in clients]
        for sae in self.homes:
            self._begin(self._master(sae))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    def stop(self) -> None:
        """Draw nothing more; what was begun is brought to its end."""
        self._stopping = True

    @property
    def running(self) -> int:
        """Stories that have not ended. Raises what one of them raised."""
        for task in self._tasks:
            if task.done():
                task.result()
        return sum(not task.done() for task in self._tasks)

    def delivered(self, province: KeyProvince, restored: frozenset[PartyId] = frozenset(), at: int = -1) -> Delivered:
        """All that is known of the run; nothing may run any more."""
        ends = tuple(province.ends())
        return Delivered(WINDOW_US, self.homes, tuple(self.draws), tuple(self.pickups), ends, restored, at)

    # --- masters ------------------------------------------------------------------------------------------------------

    async def _master(self, sae: str) -> None:
        while not self._stopping:
            async with self._room:
                draw = await self._draw(sae, self._slaves(sae), self.chance.randint(1, 4), self.chance.choice(SIZES))
            if draw.outcome is Ended.GIVEN:
                for slave in draw.slaves:
                    self._begin(self._collect_all(slave, draw))
                self.last_given.update(
                    {(self.homes[sae], self.homes[slave]): time.monotonic() for slave in draw.slaves}
                )
            await asyncio.sleep(self.chance.uniform(0, 2 * PAUSE_S))

    def _slaves(self, sae: str) -> tuple[str, ...]:
        others = [other for other in self.homes if other != sae]
        most = min(self._most_slaves, len(others))
        return tuple(self.chance.sample(others, 1 if self.chance.random() >= self._several else most))

    def _client(self, sae: str) -> Etsi014Client:
        """Any replica: SAEs stay with none, so that what one answered is asked of another."""
        return self.chance.choice(self._clients[sae])

    async def _draw(self, sae: str, slaves: tuple[str, ...], number: int, size: int) -> Draw:
        began, outcome, keys = now_us(), Ended.UNKNOWN, tuple[ReadyKey, ...]()
        try:
            keys = await self._client(sae).enc_keys(slaves[0], number, size, slaves[1:])
            outcome = Ended.GIVEN
        except Unavailable as error:
            outcome = Ended.REFUSED if any(text in str(error) for text in NOT_CARRIED_OUT) else Ended.UNKNOWN
            self.told[f"enc_keys 503 {_shortened(error)}"] += 1
        except LineError as error:
            self.told[f"enc_keys without an answer: {type(error.__cause__).__name__}"] += 1
        except QsotnError as error:
            self.wrong.append(f"enc_keys of {sae} for {slaves}, {number} of {size} bits: {error}")
        draw = Draw(sae, slaves, number, size, began, now_us(), outcome, tuple(map(value_of, keys)))
        self.draws.append(draw)
        self._keep(keys, "enc_keys")
        return draw

    # --- slaves -------------------------------------------------------------------------------------------------------

    async def _collect_all(self, slave: str, draw: Draw) -> None:
        key_ids = [value.key_id for value in draw.keys]
        await asyncio.sleep(self._later_s)
        if self.chance.random() < 0.1:
            await self._collect_as_stranger(draw, key_ids)
        async with self._room:
            given = await self._collect(slave, draw, key_ids)
        if not given:
            return
        if self.chance.random() < 0.3:
            await self._ask(slave, draw.master, key_ids, draw.size, "again at once")
        if len(key_ids) > 1 and self.chance.random() < 0.1:
            await self._ask(slave, draw.master, key_ids[:1], draw.size, "some again")
        if self.chance.random() < 0.15:
            await asyncio.sleep(LATE_S)
            await self._ask(slave, draw.master, key_ids, draw.size, "again too late")

    async def _collect_as_stranger(self, draw: Draw, key_ids: Sequence[KeyId]) -> None:
        strangers = [sae for sae in self.homes if sae not in (draw.master, *draw.slaves)]
        if strangers:
            await self._ask(self.chance.choice(strangers), draw.master, key_ids, draw.size, "of others")

    async def _collect(self, slave: str, draw: Draw, key_ids: Sequence[KeyId]) -> bool:
        """Ask until there is an answer; say whether the keys came with it."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            outcome = await self._ask(slave, draw.master, key_ids, draw.size, "")
            if outcome is not Ended.UNKNOWN:
                return outcome is Ended.GIVEN
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * AGAIN_S)
        return False

    async def _ask(self, slave: str, master: str, key_ids: Sequence[KeyId], size: int, what: str) -> Ended:
        began, outcome, keys = now_us(), Ended.UNKNOWN, tuple[ReadyKey, ...]()
        try:
            keys = await self._client(slave).dec_keys(master, key_ids, size)
            outcome = Ended.GIVEN
        except LineError:
            pass  # asked again, unless that was all there was to ask
        except Refusal as error:
            outcome = Ended.REFUSED
            if error.code != "KEYS_NOT_FOUND":
                self.wrong.append(f"dec_keys {what} of {slave}: {error}")
        except WrongParty as error:
            outcome = Ended.REFUSED
            if what != "of others":
                self.wrong.append(f"dec_keys {what} of {slave}: {error}")
        except QsotnError as error:
            self.wrong.append(f"dec_keys {what} of {slave}: {error}")
        values = tuple(map(value_of, keys))
        self.pickups.append(Pickup(slave, master, tuple(key_ids), began, now_us(), outcome, values))
        self.told[f"dec_keys {what}: {outcome}" if what else f"dec_keys: {outcome}"] += 1
        self._keep(keys, "")
        return outcome

    # --- all ----------------------------------------------------------------------------------------------------------

    def _keep(self, keys: Sequence[ReadyKey], what: str) -> None:
        self.keys.update({ready.key_id: ready.key.reveal() for ready in keys})
        if what and keys:
            self.told[f"{what}: given"] += 1

    def _begin(self, story: Coroutine[Any, Any, None]) -> None:
        self._tasks = {task for task in self._tasks if not task.done() or task.exception() is not None}
        self._tasks.add(asyncio.create_task(story))


def _shortened(error: Exception) -> str:
    return str(error).removeprefix("the key manager cannot answer now: ")[:60]


class SaeThread(LoopThread):
    """SAEs in a thread of their own, so that the test's thread may start and kill processes meanwhile."""

    def __init__(self, saes: Saes) -> None:
        super().__init__(saes)
        self.saes = saes

    def served_since(self, moment: float, ways: Sequence[tuple[PartyId, PartyId]], patience_s: float) -> float:
        """Wait until a key was given over each of these ways after a moment; return how long after it that was."""
        end = time.monotonic() + patience_s
        while not all(self.saes.last_given.get(way, 0.0) > moment for way in ways):
            assert time.monotonic() < end, f"no keys within {patience_s:g} s: {self.saes.told}"
            time.sleep(0.05)
        return time.monotonic() - moment

    def finish(self) -> None:
        """Let everything come to its end."""
        self.saes.stop()
        end = time.monotonic() + PATIENCE_S + 2 * LATE_S
        while running := self.saes.running:
            assert time.monotonic() < end, f"{running} requests have not come to their end"
            time.sleep(0.1)
