"""Random work on two replicas of one store, held against a model at every answer.

Each transaction is cut short at random, has parts that are undone at random, and may find that the other replica wrote
while it was open. Then exactly one of the two is refused, or neither, and the refused one has left no trace.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from tests.adapters.storage.model import Model, Waiting
from tests.adapters.storage.places import Place, row, taken

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.errors import StoreConflict
from qsotn.ports import Store, Transaction

COLLECTIONS = ("lines", "line", "lines-2")
KEYS = ("%", "1", "10", "1\U0010ffff", "2", "_", "a", "a/b", "é", "\U0010ffff")
PROCEDURES = ("a", "a-b", "b", "courier")
SEATS = ("cpe-a", "cpe-b", "pmp")
SUBJECTS = ("line-1", "line-2")
HOPS = ("cpe/jinan-1", "pmp/shandong", "qssp/jinan")
TRANSACTIONS = 80


class Aborted(Exception):
    """Ends a transaction, or a part, that is to leave no trace."""


class Worker:
    """Does one random thing after another to a transaction and its model, and compares what they answer."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def _time(self) -> int:
        return self.chance.randrange(40)

    def _limit(self) -> int | None:
        return self.chance.choice((None, 1, 3))

    def _bytes(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((0, 8, 3000)))

    def read_records(self, transaction: Transaction, model: Model) -> None:
        place = (self.chance.choice(COLLECTIONS), self.chance.choice(KEYS))
        assert transaction.get(*place) == model.get(*place)
        prefix, after = self.chance.choice(("", "1", "a", "%", "\U0010ffff")), self.chance.choice(("", *KEYS))
        limit = self._limit()
        found = list(transaction.scan(place[0], prefix, after=after, limit=limit))
        assert found == model.scan(place[0], prefix, after, limit)

    def write_record(self, transaction: Transaction, model: Model) -> None:
        place = (self.chance.choice(COLLECTIONS), self.chance.choice(KEYS))
        value = self._bytes()
        for store in (transaction, model):
            if value:
                store.put(*place, value)
            else:
                store.delete(*place)

    def take_records(self, transaction: Transaction, model: Model) -> None:
        collection, bounds = self.chance.choice(COLLECTIONS), sorted(self.chance.sample(KEYS, 2))
        assert list(transaction.take(collection, *bounds)) == model.take(collection, *bounds)

    def read_rows(self, transaction: Transaction, model: Model) -> None:
        procedure, seat = self.chance.choice(PROCEDURES), self.chance.choice(SEATS)
        assert transaction.row(procedure, seat) == model.row(procedure, seat)  # type: ignore[arg-type]  # a name
        assert transaction.rows_of(procedure) == model.rows_of(procedure)  # type: ignore[arg-type]
        subject, now = self.chance.choice(SUBJECTS), self._time()
        assert transaction.rows_about(subject) == model.rows_about(subject)
        assert transaction.late_rows(now, 3) == model.late_rows(now, 3)
        after, limit = self.chance.choice(("", f"{procedure}/{seat}")), self._limit()
        assert transaction.rows(after=after, limit=limit) == model.rows(after, limit)

    def write_row(self, transaction: Transaction, model: Model) -> None:
        place = (self.chance.choice(PROCEDURES), self.chance.choice(SEATS))
        subject, running = self.chance.choice(SUBJECTS), self.chance.random() < 0.7
        written = row(*place, subject=subject, running=running, deadline=self._time())
        transaction.put_row(written)
        model.put_row(written)

    def post(self, transaction: Transaction, model: Model) -> None:
        procedure, hop = self.chance.choice(PROCEDURES), self.chance.choice(HOPS)
        waiting = Waiting(
            procedure, hop, self._bytes(), b"digest-%d" % self.chance.randrange(3), self._time(), self._time(),
            collected=self.chance.random() < 0.5,
        )  # fmt: skip
        number = transaction.post(
            procedure, hop, waiting.datagram, waiting.answers,  # type: ignore[arg-type]  # names
            expires_at=waiting.expires_at, due=waiting.due, collected=waiting.collected,
        )  # fmt: skip
        assert number > max(model.outbox, default=0)
        model.outbox[number] = waiting

    def answer(self, transaction: Transaction, model: Model) -> None:
        procedure, answers = self.chance.choice(PROCEDURES), b"digest-%d" % self.chance.randrange(3)
        assert transaction.is_posted(procedure, answers) == model.is_posted(procedure, answers)  # type: ignore[arg-type]
        transaction.post_again(procedure, answers)  # type: ignore[arg-type]
        model.post_again(procedure, answers)

    def acknowledge(self, transaction: Transaction, model: Model) -> None:
        numbers = self.chance.sample(sorted(model.outbox), min(3, len(model.outbox)))
        hop = self.chance.choice((None, *HOPS))
        transaction.delivered(numbers, hop)  # type: ignore[arg-type]  # a name
        model.delivered(numbers, hop)

    def postpone(self, transaction: Transaction, model: Model) -> None:
        for number in self.chance.sample(sorted(model.outbox), min(1, len(model.outbox))):
            due = self._time()
            transaction.postpone(number, due)
            model.postpone(number, due)

    def count(self, transaction: Transaction, model: Model) -> None:
        now = self._time()
        assert transaction.undelivered(now) == model.undelivered(now)

    def prune(self, transaction: Transaction, model: Model) -> None:
        now = self.chance.randrange(10)
        assert transaction.prune(now, 1000) == model.prune(now)

    def lease(self, transaction: Transaction, model: Model) -> None:
        now, limit, collector = self._time(), self.chance.choice((1, 2, 100)), self.chance.choice((None, HOPS[0]))
        loans = transaction.lease(now, now + 5, limit, collector)  # type: ignore[arg-type]  # a name
        assert loans == model.lease(now, now + 5, limit, collector)

    def note(self, transaction: Transaction, model: Model) -> None:
        step = taken(self.chance.choice(PROCEDURES), self.chance.randrange(100))
        transaction.journal(step)
        model.journal(step)
        assert transaction.taken(step.procedure) == model.taken(step.procedure)

    def work(self, transaction: Transaction, model: Model, doings: list[Callable[..., None]]) -> None:
        """Do some of these things, some of them in parts, some of which are undone."""
        for _ in range(self.chance.randrange(1, 6)):
            if self.chance.random() < 0.3:
                self._part(transaction, model, doings)
            else:
                self.chance.choice(doings)(transaction, model)

    def _part(self, transaction: Transaction, model: Model, doings: list[Callable[..., None]]) -> None:
        before = model.copy()
        with suppress(Aborted), transaction.part():
            self.work(transaction, model, doings)
            if self.chance.random() < 0.5:
                model.__dict__.update(before.__dict__)
                raise Aborted

    @property
    def of_the_outbox(self) -> list[Callable[..., None]]:
        return [self.lease, self.acknowledge, self.postpone, self.count, self.prune]

    @property
    def of_all(self) -> list[Callable[..., None]]:
        reads = [self.read_records, self.read_rows]
        writes = [self.write_record, self.write_record, self.take_records]
        return [*reads, *writes, self.write_row, self.post, self.answer, self.note, *self.of_the_outbox[1:]]


@pytest.mark.parametrize("seed", range(3))
def test_two_replicas_answer_as_the_model_does(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    worker, model = Worker(chance), Model()
    replicas = [place.open(), place.open()]
    ends = {"committed": 0, "aborted": 0}
    for _ in range(TRANSACTIONS):
        changed, end = model.copy(), "aborted"
        with suppress(Aborted), chance.choice(replicas).transaction() as transaction:
            if chance.random() < 0.3:
                worker.lease(transaction, changed)
                worker.work(transaction, changed, worker.of_the_outbox)
            else:
                worker.work(transaction, changed, worker.of_all)
            if chance.random() < 0.3:
                raise Aborted
            end = "committed"
        ends[end] += 1
        model = changed if end == "committed" else model
    assert min(ends.values()) > TRANSACTIONS / 10


@pytest.mark.parametrize("seed", range(3))
def test_of_two_that_collide_at_most_one_is_refused_and_leaves_no_trace(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    worker, model = Worker(chance), Model()
    first, second = place.open(), place.open()
    do_not_wait(second)
    refused = 0
    for _ in range(TRANSACTIONS // 2):
        mine, theirs, key = model.copy(), None, chance.choice(KEYS)
        try:
            with first.transaction() as transaction:
                worker.read_records(transaction, mine)
                worker.read_rows(transaction, mine)
                theirs = written_by_another(second, chance)
                transaction.put("mine", key, b"mine")
                mine.put("mine", key, b"mine")
                # What the other wrote is not seen here: it is as if it had come later.
                worker.read_records(transaction, mine)
        except StoreConflict:
            mine = model.copy()
            refused += 1
        if theirs is None:
            refused += 1
        else:
            mine.put(*theirs)
        model = mine
        with first.transaction() as transaction:
            for collection in (*COLLECTIONS, "mine"):
                assert list(transaction.scan(collection)) == model.scan(collection, "", "", None)
    assert refused > 0


def written_by_another(store: Store, chance: random.Random) -> tuple[str, str, bytes] | None:
    """Write one record in a transaction of another replica; return it, or None if that was refused."""
    written = (chance.choice(COLLECTIONS), chance.choice(KEYS), chance.randbytes(8))
    try:
        with store.transaction() as transaction:
            transaction.get("mine", chance.choice(KEYS))
            transaction.put(*written)
    except StoreConflict:
        return None
    return written


def do_not_wait(store: Store) -> None:
    """Have a transaction that does not get its turn fail at once: in one thread, nobody would make room for it."""
    if isinstance(store, SqliteStore):
        store._connection.execute("PRAGMA busy_timeout=0")
