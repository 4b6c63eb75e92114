"""Two replicas of one party on one database, each in a thread of its own, as two processes would be."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from tests.adapters.storage.places import DEVICE, HOP, NEVER, Place

from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import StoreConflict
from qsotn.ports import Store, Transaction

T = TypeVar("T")
ONE = ProcedureId("one")
DATAGRAMS = 120


def on_both(place: Place, work: Callable[[Store, int], T]) -> list[T]:
    """Run the same work on two replicas at once; each opens, uses and closes its store in its own thread."""
    start = threading.Barrier(2)

    def run(replica: int) -> T:
        with place.replica() as store:
            start.wait(60)
            return work(store, replica)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, range(2)))


def until_it_succeeds(store: Store, work: Callable[[Transaction], None]) -> int:
    """Repeat a transaction as a whole until it is not in another's way; return how often it was."""
    for conflicts in range(1000):
        try:
            with store.transaction() as transaction:
                work(transaction)
        except StoreConflict:
            continue
        return conflicts
    raise AssertionError("never got through")


def add_one(transaction: Transaction) -> None:
    held = int(transaction.get("counters", "1") or 0)
    transaction.put("counters", "1", str(held + 1).encode())


def test_no_update_is_lost(place: Place) -> None:
    place.open()
    on_both(place, lambda store, _: [until_it_succeeds(store, add_one) for _ in range(50)])
    with place.open().transaction() as transaction:
        assert transaction.get("counters", "1") == b"100"


def test_a_rule_about_two_records_holds_though_each_replica_writes_one(place: Place) -> None:
    """Write skew: each goes off duty only if the other is on duty. Snapshots alone would let both go."""

    def work(store: Store, replica: int) -> int:
        def go_off_duty(transaction: Transaction) -> None:
            on_duty = dict(transaction.scan("duty"))
            if len(on_duty) == 2:
                transaction.delete("duty", str(replica))

        def come_back(transaction: Transaction) -> None:
            assert len(dict(transaction.scan("duty"))) >= 1, "nobody is on duty"
            transaction.put("duty", str(replica), b"")

        return sum(until_it_succeeds(store, step) for _ in range(30) for step in (go_off_duty, come_back))

    with place.open().transaction() as transaction:
        for replica in "01":
            transaction.put("duty", replica, b"")
    on_both(place, work)


def post_many(store: Store, *, collected: bool = False) -> list[int]:
    with store.transaction() as transaction:
        return [
            transaction.post(ONE, DEVICE, b"%d" % number, b"", expires_at=NEVER, collected=collected)
            for number in range(DATAGRAMS)
        ]


@pytest.mark.parametrize("collector", [None, DEVICE])
def test_two_replicas_never_hold_the_same_datagram_and_none_is_refused(place: Place, collector: PartyId | None) -> None:
    posted = post_many(place.open(), collected=collector is not None)
    both_have_some = threading.Barrier(2)

    def work(store: Store, _: int) -> list[int]:
        held = take(store)
        both_have_some.wait(60)
        while loans := take(store):
            held += loans
        return held

    def take(store: Store) -> list[int]:
        with store.transaction() as transaction:
            return [loan.number for loan in transaction.lease(1, 100, 3, collector)]

    first, second = on_both(place, work)
    assert sorted(first + second) == posted


def test_a_loan_that_ended_goes_to_the_other_once(place: Place) -> None:
    """One replica leases and is never heard of again; the others share what it held, and deliver it."""
    dead = place.open()
    posted = post_many(dead)
    with dead.transaction() as transaction:
        assert len(transaction.lease(1, 100, DATAGRAMS)) == DATAGRAMS

    def work(store: Store, _: int) -> list[int]:
        done: list[int] = []
        for now in range(99, 140):
            with store.transaction() as transaction:
                loans = transaction.lease(now, now + 1000, 4)
            assert now >= 100 or not loans, "it was still on loan"
            numbers = [loan.number for loan in loans]
            with store.transaction() as transaction:
                transaction.delivered(numbers)
            done += numbers
        return done

    first, second = on_both(place, work)
    assert sorted(first + second) == posted
    with place.open().transaction() as transaction:
        assert transaction.undelivered(1) == 0


def test_posting_and_delivering_do_not_collide_with_leases(place: Place) -> None:
    """What a busy service does: one replica posts while the other sends. Neither is ever refused."""
    place.open()

    def work(store: Store, replica: int) -> int:
        return send(store) if replica else post(store)

    def post(store: Store) -> int:
        for number in range(DATAGRAMS):
            with store.transaction() as transaction:
                transaction.post(ONE, HOP, b"%d" % number, b"", expires_at=NEVER)
        return 0

    def send(store: Store) -> int:
        sent: list[int] = []
        receipts: list[int] = []
        while len(sent) < DATAGRAMS:
            with store.transaction() as transaction:
                transaction.delivered(receipts)
                receipts = [loan.number for loan in transaction.lease(1, 100, 16)]
            sent += receipts
        assert max(Counter(sent).values()) == 1
        return len(sent)

    assert on_both(place, work) == [0, DATAGRAMS]


def test_busy_replicas_do_not_collide_over_each_others_receipts(place: Place) -> None:
    """Receipts are written in the transactions that handle datagrams, beside what the other replica is posting."""
    place.open()

    def work(store: Store, replica: int) -> int:
        receipts: list[int] = []

        def handle(transaction: Transaction) -> None:
            transaction.delivered(receipts)
            transaction.put("handled", f"{replica}/{len(receipts)}", b"")
            receipts.append(transaction.post(ONE, HOP, b"", b"", expires_at=NEVER))

        return sum(until_it_succeeds(store, handle) for _ in range(40))

    assert on_both(place, work) == [0, 0]


def test_replicas_that_start_together_make_one_store(place: Place) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda replica: _start(place, replica), range(4)))
    with place.open().transaction() as transaction:
        assert [key for key, _ in transaction.scan("started")] == ["0", "1", "2", "3"]


def _start(place: Place, replica: int) -> None:
    with place.replica() as store:
        until_it_succeeds(store, lambda transaction: transaction.put("started", str(replica), b""))
