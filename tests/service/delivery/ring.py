"""A ring of key managers whose pools are filled for real: parties, procedures and filling are those of a service.

The wire and the clock are those of `tests.procedures.key_network`. The QKMP is played: what it would see of the links
is told to every key manager when a test says so, and not at all while it is down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.procedures.key_network import A, B, C, D, E, Network, link_of
from tests.procedures.sights import light, tell, units
from tests.service.delivery.memory_store import MemoryKeyStore, Place
from tests.service.http.driver import DirectWorker

from qsotn.domain import PartyId
from qsotn.keynetwork.delivery import Reserve
from qsotn.keynetwork.examination import examine
from qsotn.parties import km_pool
from qsotn.service.delivery.filling import Filling, Supply
from qsotn.service.delivery.group import Group
from qsotn.service.delivery.routes import Routes

RING = ((A, B), (B, C), (A, D), (D, E), (E, C))
SHORT, LONG = (A, B, C), (A, D, E, C)
READY_KEYS = 40
PART = READY_KEYS // 4
BELIEVED_S = 30.0


@dataclass
class Ring:
    """A fills its pool towards C, into a key store; C's key store is the network's."""

    network: Network
    group: Group
    filling: Filling
    routes: Routes
    place: Place

    # --- the light --------------------------------------------------------------------------------------------------

    def light(self, link: str, error_rate: float, *, distils: bool = True) -> None:
        """The modules at both ends of a link tell how many errors its light shows now."""
        light(self.network, link, error_rate, distils=distils)

    def tell(self) -> None:
        """The QKMP looks, and tells everybody."""
        tell(self.network, BELIEVED_S)

    def units(self, link: str) -> int:
        """Units that the emptier end of a link may still allocate."""
        return units(self.network, link)

    # --- supplies ---------------------------------------------------------------------------------------------------

    async def filled(self, looks: int = 3) -> None:
        """Look after the pool so many times."""
        for _ in range(looks):
            await self.filling.look()
            self.network.settle()
            self.network._hand_over(C)
            self.network.clock.advance(250_000)
        await self.filling.look()

    async def drawn(self, units: int = PART) -> None:
        """SAEs take units of the pool, and it is filled again."""
        pool = await self.group.call(lambda store: store.begin_pool(A, C))
        await self.group.apply(Reserve(pool, "alice", ("bob",), units, 256, 0, held=True))
        await self.filled()

    async def ready(self) -> int:
        """How many units A has ready for C."""
        return await self.group.call(lambda store: store.count(store.begin_pool(A, C)).ready)

    async def check(self) -> None:
        """Whatever A has ready, C has under the same number."""
        pool = await self.group.call(lambda store: store.begin_pool(A, C))
        ready = self.place.disk.ready[pool.tag]
        at_far = {
            one.first + index: unit.reveal()
            for one in self.network.deposits[C].values()
            for index, unit in enumerate(one.units)
        }
        assert ready
        assert {number: at_far[number] for number in ready} == ready

    def ways(self) -> list[tuple[PartyId, ...]]:
        """The way of each batch that arrived at C, in their order, as everybody on it signed it."""
        found = []
        with self.network.desk(C) as km:
            for name in sorted(self.network.deposits[C], key=lambda name: self.network.deposits[C][name].first):
                told = examine(self.network.deposits[C][name].provenance, km.desk.peer)
                assert told.failure == "", told.failure
                (chain,) = told.chains
                found.append(tuple(one.statement.party for one in chain))
        return found

    def failed(self) -> list[str]:
        """The codes of A's supplies that failed."""
        with self.network.desk(A) as km:
            return [one.code for one in km_pool.batches(km.desk).values() if one.code]


@asynccontextmanager
async def ring(network: Network) -> AsyncIterator[Ring]:
    """Open a ring whose pool from A to C is empty."""
    network.takes_in = False
    place = Place()
    group = Group(lambda: MemoryKeyStore(place), 1000)
    routes = Routes(A, {link_of(*pair): pair for pair in network.shape}, ready_keys=READY_KEYS)
    supply = Supply(routes, network.clock)
    async with AsyncExitStack() as stack:
        await group.start()
        stack.push_async_callback(group.stop)
        filling = Filling(A, (C,), READY_KEYS, group, DirectWorker(network.nodes[A]), supply)
        yield Ring(network, group, filling, routes, place)
