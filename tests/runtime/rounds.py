"""The wire between parties in rounds: what is due everywhere is handed over together, in batches cut by chance.

In the place of `World.pump` and `Province.pump`. A meddler may put anything between the honest datagrams of a batch.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from tests.world import ROUND_US, World

from qsotn import wire
from qsotn.app.province import Province
from qsotn.domain import PartyId
from qsotn.ports import Posted
from qsotn.runtime.admission import Bearer

Item = tuple[bytes, Bearer]
Meddler = Callable[[PartyId, Sequence[Item]], list[Item]]


@dataclass(frozen=True)
class Handed:
    """One honest datagram, on its way from its sender, or its courier, to its hop."""

    sender: PartyId
    posted: Posted

    @property
    def item(self) -> Item:
        data = self.posted.datagram
        return data, Bearer(self.sender, wire.interface_of(data))


@dataclass
class Rounds:
    """Hands over in batches of at most `largest`; `meddled` counts what the meddler put in between."""

    world: World
    largest: int
    chance: random.Random
    meddler: Meddler = lambda _, __: []
    meddled: int = 0
    batches: list[int] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.world, "pump", self.pump)
        monkeypatch.setattr(Province, "pump", lambda _: self.pump())

    def pump(self) -> int:
        self.world.clock.advance(ROUND_US)
        inboxes: dict[PartyId, list[Handed]] = defaultdict(list)
        for party, node in self.world.nodes.items():
            for posted in node.lease(64):
                inboxes[posted.next_hop].append(Handed(party, posted))
        return sum(self._hand_over(hop, handed) for hop, handed in inboxes.items())

    def _hand_over(self, hop: PartyId, handed: list[Handed]) -> int:
        taken = 0
        while handed:
            size = self.chance.randint(1, self.largest)
            taken += self._batch(hop, handed[:size])
            del handed[:size]
        return taken

    def _batch(self, hop: PartyId, handed: list[Handed]) -> int:
        honest: list[Item] = [one.item for one in handed]
        mixed: list[tuple[Item, Handed | None]] = list(zip(honest, handed, strict=True))
        for item in self.meddler(hop, honest):
            mixed.insert(self.chance.randint(0, len(mixed)), (item, None))
            self.meddled += 1
        intake = self.world.nodes[hop].receive_all([item for item, _ in mixed])
        self.batches.append(len(mixed))
        done = [one for at, (_, one) in enumerate(mixed) if one is not None and at in intake.taken]
        late = [one for at, (_, one) in enumerate(mixed) if one is not None and at in intake.refused]
        for one in done:
            self.world.nodes[one.sender].acknowledge([one.posted.number])
        for one in late:
            self.world.nodes[one.sender].postpone([one.posted])
        return len(done)
