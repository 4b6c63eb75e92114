"""Randomised schedules: whatever is asked in whatever order, every unit is accounted for and no key goes astray."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.adapters.keystore.history import History
from tests.adapters.keystore.places import HERE, OTHER, SECOND, SLAVE, TIMES, KeyPlace, collect, ids, reserve

from qsotn.adapters.keystore import KeyLedger, Times
from qsotn.domain import Secret
from qsotn.keynetwork.delivery import Confirm, Deposit, Operation, Pool, ReadyKey, Reserve, Sweep, Void

STEPS = 60
BRIEF = Times(window=4 * SECOND, held=5 * SECOND, waiting=8 * SECOND, retention=32 * SECOND)
"""So that accounts go while the batches that they are of may come again."""
SIZES = (256, 256, 256, 128, 512, 2000)


@dataclass
class Schedule:
    """Asks a store for this and that, and keeps its history."""

    place: KeyPlace
    chance: random.Random
    times: Times = TIMES
    store: KeyLedger = field(init=False)
    pool: Pool = field(init=False)
    history: History = field(init=False)
    now: int = SECOND
    fresh: list[tuple[Reserve, tuple[ReadyKey, ...]]] = field(default_factory=list)
    asked: list[Operation] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.store = self.place.open(times=self.times)
        self.pool = self.store.begin_pool(HERE, HERE)
        self.history = History(self.pool)

    def step(self) -> None:
        """One batch of operations, then perhaps a new beginning."""
        operations = [self._operation() for _ in range(self.chance.randint(1, 12))]
        self.history.offered(operations)
        applied = self.store.apply(operations)
        self.history.answered(operations, applied)
        for index, operation in enumerate(operations):
            if isinstance(operation, Reserve) and index in applied.done:
                self.fresh.append((operation, applied.done[index]))
        self.asked += operations
        self.now += self.chance.choice((0, 1, SECOND, 8 * SECOND))
        if self.chance.random() < 0.05:
            self.store = self.place.again(self.times)

    def _operation(self) -> Operation:
        return self.chance.choice(
            (self._deposit, self._reserve, self._reserve, self._reserve, self._collect, self._collect, self._collect,
             self._confirm, self._void, self._sweep, self._again)
        )()  # fmt: skip

    def _deposit(self) -> Operation:
        number = next(self._numbers)
        units = tuple(Secret(os.urandom(32)) for _ in range(self.chance.randint(1, 40)))
        return Deposit(self.pool, f"batch {number}", number * 50, units)

    def _reserve(self) -> Operation:
        slaves = self.chance.choice(((SLAVE,), (SLAVE,), (OTHER,), (SLAVE, OTHER)))
        held, size = self.chance.random() < 0.2, self.chance.choice(SIZES)
        return reserve(self.pool, self.chance.randint(1, 4), *slaves, size=size, held=held, now=self.now)

    def _some(self, held: bool) -> tuple[Reserve, tuple[ReadyKey, ...]] | None:
        found = [one for one in self.fresh[-40:] if one[0].held == held]
        return self.chance.choice(found) if found else None

    def _collect(self) -> Operation:
        some = self._some(self.chance.random() < 0.05)
        if some is None:
            return self._sweep()
        keys = some[1] if self.chance.random() < 0.7 else some[1][:1]
        return collect(keys, self.chance.choice((*some[0].slaves, SLAVE, OTHER)), self.now)

    def _confirm(self) -> Operation:
        some = self._some(held=True)
        return Confirm(ids(some[1])) if some else self._sweep()

    def _void(self) -> Operation:
        some = self._some(held=True)
        return Void(ids(some[1]), "test") if some else self._sweep()

    def _sweep(self) -> Operation:
        return Sweep(self.now)

    def _again(self) -> Operation:
        return self.chance.choice(self.asked) if self.asked else self._sweep()


@pytest.mark.parametrize("times", [TIMES, BRIEF], ids=["accounts are kept", "accounts go"])
def test_every_unit_is_accounted_for_and_no_key_goes_astray(place: KeyPlace, times: Times) -> None:
    for seed in range(4 if place.server is None else 2):
        schedule = Schedule(place, random.Random(seed), times)
        forgotten = 0
        for _ in range(STEPS):
            schedule.step()
            forgotten += schedule.store.forget(schedule.now).batches if times is BRIEF else 0
            count = schedule.store.count(schedule.pool)
            total = count.ready + count.waiting + count.delivered + count.voided + count.expired + count.burned
            assert total == len(schedule.history.deposited)
        violations = schedule.history.violations(schedule.store.count(schedule.pool))
        # Within brief times keys expire before their slave comes.
        expired = [one for one in violations if times is BRIEF and one.partition(": ")[2].startswith("KEYS_NOT_FOUND")]
        assert [one for one in violations if one not in expired] == []
        assert len(schedule.history.collected) > 15
        assert bool(forgotten) == (times is BRIEF)
        place.close()
        place.wipe()
