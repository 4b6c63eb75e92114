"""A line whose ends lost keys, each at its own moment, is encrypted again as soon as both ends are there.

In one process and without a clock: restarts, key changes, cut fibres and late deliveries in any order. What is looked
for is the order that leaves each end waiting for the other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from tests.world import LIFETIME_US, Sent, World

from qsotn import wire
from qsotn.app import traffic
from qsotn.app.province import CPE_A, CPE_B, LINE
from qsotn.domain import Direction, PartyId
from qsotn.errors import LineError, Refusal
from qsotn.procedures import leased_line

PATIENCE_TURNS = 12
"""A little more than what it takes to prove keys: the next ones are asked for soon."""
CHANGES = 10
"""How many key changes a line may need to come back."""


@dataclass
class Trouble:
    """What happens to one line, drawn from a seed."""

    world: World
    chance: random.Random
    unreached: set[PartyId] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world.wire.before = self._deliver

    def _deliver(self, sent: Sent) -> None:
        if wire.unpack(sent.data).receiver in self.unreached:
            raise LineError("the device is not reached")

    def happen(self) -> None:
        """Something happens."""
        act: Callable[[], None] = self.chance.choice(
            (self.restart, self.rekey, self.run, self.cut, self.hold, self.end)
        )
        self.told.append(act.__name__)
        act()

    def restart(self) -> None:
        self.world.restart(self.chance.choice((CPE_A, CPE_B)))

    def rekey(self) -> None:
        with suppress(Refusal):
            self.world.begin(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US))

    def run(self) -> None:
        for _ in range(self.chance.choice((1, 2, 4, 8, 15, PATIENCE_TURNS + 5))):
            self.world.turn()

    def cut(self) -> None:
        self.world.fibre.cut(self.chance.choice(list(Direction)))

    def hold(self) -> None:
        self.unreached.add(self.chance.choice((CPE_A, CPE_B)))

    def end(self) -> None:
        """Everybody is reached again."""
        self.unreached.clear()
        for direction in Direction:
            self.world.fibre.impair(direction, None)

    def is_encrypted(self) -> bool:
        """Whether both ends encrypt, and are understood."""
        line = self.world.line
        assert line is not None
        ends = (line.a, line.b)
        before = [end.authentic_multiframes for end in ends]
        for _ in range(3):
            self.world.turn()
        heard = [end.authentic_multiframes > count for end, count in zip(ends, before, strict=True)]
        return all(heard) and all(end.encrypting for end in ends)


@pytest.mark.parametrize("seed", [*range(12), 58])
def test_whatever_happened_to_its_keys_a_line_is_encrypted_again(
    encrypted: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "PATIENCE_TURNS", PATIENCE_TURNS)
    trouble = Trouble(encrypted, random.Random(seed))
    for _ in range(trouble.chance.randint(3, 14)):
        trouble.happen()
    trouble.end()
    turns = range(CHANGES * PATIENCE_TURNS // 3)
    assert any(trouble.is_encrypted() for _ in turns), f"the line stays dark after {', '.join(trouble.told)}"
