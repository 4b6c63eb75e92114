"""The checker of delivered keys by itself: nothing in a good run, and whatever is planted is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final

import pytest
from tests.faults.delivered_keys import Delivered, Draw, Ended, Pickup, PoolEnd, Value, value_of, violations

from qsotn.domain import PartyId, Secret
from qsotn.keynetwork.delivery import Pool, PoolCount, ReadyKey, key_id

SECOND: Final = 1_000_000
A, B = PartyId("km/a"), PartyId("km/b")
POOL: Final = Pool(A, B, 1)
HOMES: Final = {"alice": A, "bob": B, "bert": B}


def key(number: int, size: int = 256) -> Value:
    bits = b"".join(sha256(b"%d" % (number + at)).digest() for at in range(-(-size // 256)))[: size // 8]
    return value_of(ReadyKey(key_id(POOL.tag, number), Secret(bits)))


def draw(*numbers: int, size: int = 256, at: int = 0, slaves: tuple[str, ...] = ("bob",)) -> Draw:
    keys = tuple(key(number, size) for number in numbers)
    return Draw("alice", slaves, len(keys), size, at * SECOND, at * SECOND + 5, Ended.GIVEN, keys)


def pickup(*numbers: int, size: int = 256, at: int = 1, slave: str = "bob", outcome: Ended = Ended.GIVEN) -> Pickup:
    keys = tuple(key(number, size) for number in numbers)
    given = keys if outcome is Ended.GIVEN else ()
    ids = tuple(one.key_id for one in keys)
    return Pickup(slave, "alice", ids, at * SECOND, at * SECOND + 5, outcome, given)


def count(**units: int) -> PoolCount:
    return PoolCount(**{"ready": 0, "waiting": 0, "delivered": 0, "voided": 0, "expired": 0, "burned": 0, **units})


BATCHES: Final = {"batch-1": (0, 9), "batch-2": (20, 29)}
GOOD: Final = Delivered(
    window=5 * SECOND,
    homes=HOMES,
    draws=(
        draw(0, 1),
        draw(2, size=512),
        draw(4, slaves=("bob", "bert")),
        draw(5),
        Draw("alice", ("bob",), 1, 256, 0, 9, Ended.UNKNOWN),
        Draw("alice", ("bob",), 1, 256, 0, 9, Ended.REFUSED),
    ),
    pickups=(
        pickup(0, 1),
        pickup(0, 1, at=3),
        pickup(0, 1, at=7, outcome=Ended.REFUSED),
        pickup(0, at=4, outcome=Ended.REFUSED),
        pickup(2, size=512),
        pickup(4),
        pickup(4, slave="bert"),
        pickup(5, outcome=Ended.UNKNOWN),
        pickup(5, at=7, outcome=Ended.REFUSED),
    ),
    ends=(
        PoolEnd(A, POOL, count(ready=10, delivered=6, voided=4), BATCHES),
        PoolEnd(B, POOL, count(ready=11, waiting=1, delivered=5, voided=3), BATCHES),
    ),
)
Plant = Callable[[Delivered], Delivered]


def drawn(*more: Draw) -> Plant:
    return lambda run: replace(run, draws=(*run.draws, *more))


def picked(*more: Pickup) -> Plant:
    return lambda run: replace(run, pickups=(*run.pickups, *more))


def end(at: int, batches: Any = BATCHES, **units: int) -> Plant:
    def plant(run: Delivered) -> Delivered:
        ends = list(run.ends)
        ends[at] = replace(ends[at], count=count(**units), batches=batches)
        return replace(run, ends=tuple(ends))

    return plant


def otherwise(pickup: Pickup, number: int) -> Pickup:
    """The bits of another key under the same ID."""
    (value,) = pickup.keys
    return replace(pickup, keys=(replace(key(number), key_id=value.key_id),))


PLANTED: Final[dict[str, tuple[Plant, str]]] = {
    "a slave has other bits than its master": (picked(otherwise(pickup(5, at=2), 77)), "has two values"),
    "a key under another ID": (
        drawn(replace(draw(30), keys=(replace(key(5), key_id=key(30).key_id),))),
        "unit 0 of",
    ),
    "a longer key that begins with another one's second unit": (drawn(draw(3, size=512)), "is unit 1 of"),
    "one key to two masters' requests": (drawn(draw(5, at=3)), "was drawn 2 times"),
    "a key to a slave that was not named": (picked(pickup(5, slave="bert")), "was given to bert"),
    "a key to two requests of one slave": (picked(pickup(0, at=2)), "by two requests"),
    "a key again after the window": (picked(pickup(4, at=9)), "again after 8.0 s"),
    "a slave that never gets its key": (
        lambda run: picked(pickup(7, outcome=Ended.REFUSED))(drawn(draw(7))(run)),
        "and it never had it",
    ),
    "a slave whose answer was lost, refused within the window": (
        picked(pickup(5, at=3, outcome=Ended.REFUSED)),
        "and it never had it",
    ),
    "a unit that is nowhere": (end(0, ready=9, delivered=6, voided=4), "19 units are accounted for"),
    "a unit too many": (end(1, ready=12, waiting=1, delivered=5, voided=3), "21 units are accounted for"),
    "a batch at the origin alone": (end(1, {"batch-1": (0, 9)}, ready=1, waiting=1, delivered=5, voided=3), "batch-2"),
    "units that the target has lost": (end(1, ready=9, waiting=1, delivered=5, voided=5), "can be given, and 9"),
    "keys that never came to their slaves": (end(1, ready=15, delivered=4, voided=1), "and 4 came to their slaves"),
    "keys that wait though nobody was given them": (
        end(1, ready=10, waiting=3, delivered=6, voided=1),
        "9 units can be collected",
    ),
    "more than was asked for": (end(0, ready=7, delivered=9, voided=4), "km/a has given 9 units"),
    "less than was given": (end(0, ready=14, delivered=2, voided=4), "km/a has given 2 units"),
    "less than was given, as in an older copy": (end(0, delivered=2, voided=4, burned=14), "km/a has given 2 units"),
    "an older copy that nobody put back": (end(1, ready=10, waiting=1, delivered=5, burned=4), "4 units were burned"),
}


def test_nothing_is_found_in_a_good_run() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_planted_is_found_and_named(planted: str) -> None:
    plant, named = PLANTED[planted]
    found = violations(plant(GOOD))
    assert any(named in one for one in found), found


def test_a_restore_excuses_what_waited_before_it_and_nothing_after_it() -> None:
    refused = pickup(7, outcome=Ended.REFUSED)
    run = replace(GOOD, restored=frozenset({B}), restored_at=3 * SECOND)
    before, after = picked(refused)(drawn(draw(7))(run)), picked(refused)(drawn(draw(7, at=4))(run))
    assert not any("never had it" in one for one in violations(before))
    assert any("never had it" in one for one in violations(after))


def test_a_restored_key_manager_still_gives_no_key_twice() -> None:
    run = replace(GOOD, restored=frozenset({A, B}), restored_at=3 * SECOND)
    assert any("was drawn 2 times" in one for one in violations(drawn(draw(5, at=9))(run)))
    assert any("again after" in one for one in violations(picked(pickup(4, at=9))(run)))
