"""The checker finds what it is there to find: each fault is planted into a good history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.adapters.keystore.history import History
from tests.adapters.keystore.places import HERE, MASTER, OTHER, SLAVE, collect, ids, reserve, unit

from qsotn.domain import Secret
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import Applied, Deposit, Operation, Pool, PoolCount, ReadyKey, Void, key_id

POOL = Pool(HERE, HERE, 1)
STANDS = PoolCount(ready=6, waiting=1, delivered=3, voided=0, expired=0, burned=0)


def key(number: int, units: int = 1) -> ReadyKey:
    material = b"".join(unit(number + at).reveal() for at in range(units))
    return ReadyKey(key_id(POOL.tag, number), Secret(material))


def good() -> tuple[History, PoolCount]:
    """Ten units: one key of two units and one of one were collected, one waits."""
    history = History(POOL)
    deposit = Deposit(POOL, "b", 0, tuple(unit(number) for number in range(10)))
    operations: list[Operation] = [deposit, reserve(POOL, size=512), reserve(POOL, 2)]
    history.offered(operations)
    history.answered(operations, Applied({0: (), 1: (key(0, 2),), 2: (key(2), key(3))}))
    took = [collect([key(0)]), collect([key(2)])]
    history.answered(took, Applied({0: (key(0, 2),), 1: (key(2),)}))
    history.answered(took, Applied({0: (key(0, 2),), 1: (key(2),)}))
    return history, STANDS


def test_a_good_history_has_no_faults() -> None:
    history, count = good()
    assert history.violations(count) == []


def reserved_twice(history: History) -> None:
    history.reserved.append((reserve(POOL), (key(1),)))


def handed_to_a_stranger(history: History) -> None:
    history.collected.append((collect([key(3)], OTHER), (key(3),)))


def handed_out_twice(history: History) -> None:
    both = [key(2), key(3)]
    history.collected.append((collect(both), tuple(both)))


def handed_out_though_void(history: History) -> None:
    history.offered([Void(ids([key(2)]), "test")])


def another_key_for_the_master(history: History) -> None:
    history.reserved.append((reserve(POOL), (ReadyKey(key(4).key_id, key(5).key),)))


def another_key_for_the_slave(history: History) -> None:
    history.collected.append((collect([key(3)]), (ReadyKey(key(3).key_id, key(2).key),)))


def a_key_of_nowhere(history: History) -> None:
    history.collected.append((collect([key(77)]), (key(77),)))


def refused_what_waits(history: History) -> None:
    history.answered([collect([key(3)])], Applied({}, {0: Refusal("KEYS_NOT_FOUND", "gone")}))


PLANTED: dict[Callable[[History], None], str] = {
    reserved_twice: "unit 1 was reserved 2 times",
    handed_to_a_stranger: f"was handed to {OTHER}, which was not named",
    handed_out_twice: f"was handed to {SLAVE} by 2 requests",
    handed_out_though_void: "though it was void",
    another_key_for_the_master: "is not what was deposited",
    another_key_for_the_slave: "is another key at its slave",
    a_key_of_nowhere: "was never deposited",
    refused_what_waits: f"{SLAVE} was refused",
}


@pytest.mark.parametrize("plant", PLANTED, ids=[plant.__name__ for plant in PLANTED])
def test_a_planted_fault_is_found(plant: Callable[[History], None]) -> None:
    history, count = good()
    plant(history)
    assert any(PLANTED[plant] in found for found in history.violations(count)), history.violations(count)


@pytest.mark.parametrize(
    "count",
    [
        replace(STANDS, ready=5),
        replace(STANDS, ready=7),
        replace(STANDS, ready=5, waiting=2),
        replace(STANDS, ready=7, waiting=0),
    ],
)
def test_units_that_nobody_accounts_for_are_found(count: PoolCount) -> None:
    history, _ = good()
    assert history.violations(count)


def test_what_was_not_answered_may_have_been_done_or_not() -> None:
    history, count = good()
    history.unanswered([reserve(POOL, 2), collect([key(3)])])
    assert history.violations(count) == []
    assert history.violations(replace(count, ready=4, waiting=3)) == []
    assert history.violations(replace(count, ready=3, waiting=4))
    refused_what_waits(history)
    assert history.violations(count) == [], "the first answer, which was lost, may have been the keys"
    assert MASTER != SLAVE
