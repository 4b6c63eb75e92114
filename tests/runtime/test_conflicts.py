"""Another replica is faster, at whatever call: nothing was done, in the store or in memory; it may be done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.runtime.held import gather, outbox
from tests.world import World

from qsotn.app.province import CPE_A, LINE, PMP, POMP
from qsotn.domain import PartyId
from qsotn.errors import StoreConflict
from qsotn.messages import ServiceDispatch, ServiceResponse
from qsotn.ports import Posted
from qsotn.procedures import rekey_order
from qsotn.runtime import Node

BEGIN, COMMIT = "begin", "commit"


class ContestedStore:
    """A store that gives way to another replica at one chosen call: the first, the second, and so on, or at its end."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.at: int | None = None
        self.calls = 0
        self.conflicts = 0

    def called(self, what: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.conflicts += 1
            raise StoreConflict(f"another replica was faster at call {self.calls}, {what}")

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self.called(BEGIN)
        with self.inner.transaction() as transaction:
            yield ContestedTransaction(self, transaction)
            self.called(COMMIT)

    def close(self) -> None:
        self.inner.close()


class ContestedTransaction:
    def __init__(self, store: ContestedStore, inner: Any) -> None:
        self._store, self._inner = store, inner

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)

        def contested(*arguments: Any, **named: Any) -> Any:
            self._store.called(name)
            return call(*arguments, **named)

        return contested


def memory(node: Node) -> tuple[Any, ...]:
    """What a node keeps outside its store."""
    return dict(node.rejections), node.changes, list(node._posted), set(node._mail), list(node._receipts)


def repeat(world: World, party: PartyId, act: Callable[[Node], object]) -> int:
    """Do something against a conflict at its first call, its second, and so on, until it goes through untroubled."""
    node = world.nodes[party]
    store = ContestedStore(node._store)
    node._store = store
    while True:
        store.at, store.calls = store.conflicts + 1, 0
        before, remembered = world.dump(party), memory(node)
        try:
            act(node)
        except StoreConflict:
            assert (world.dump(party), memory(node)) == (before, remembered)
        else:
            break
    node._store = store.inner
    return store.conflicts


def test_a_batch_is_repeated_whole_and_answers_once(ready: World) -> None:
    ready.order_line()
    answers = gather(ready, PMP, ServiceResponse)
    node = ready.nodes[PMP]
    node._lease = 1_000_000
    before = len(outbox(ready, PMP))
    conflicts = repeat(ready, PMP, lambda node: node.receive_all([*((data, None) for data in answers), (b"", None)]))
    assert conflicts > 12
    assert len(outbox(ready, PMP)) == before + 1
    assert [posted.next_hop for posted in node.posted()] == [POMP]
    assert node.posted() == []
    assert node.rejections == {"MalformedMessage": 1}


def test_a_refusal_inside_a_batch_is_repeated_with_it(ready: World) -> None:
    """The device's port is busy by the time it is asked: its step decides no in the very transaction that collides."""
    ready.order_line()
    (dispatch,) = gather(ready, CPE_A, ServiceDispatch)
    with ready.desk(CPE_A) as cpe:
        configuration = cpe.configuration
        worse = type(configuration)(configuration.serial_number, configuration.suites, ("ODU0",))
        cpe.desk.collection("configuration", type(configuration)).put("cpe", worse)
    assert repeat(ready, CPE_A, lambda node: node.receive(dispatch)) > 10
    (row,) = [row for row in ready.rows(CPE_A) if row.ladder == "leased-line"]
    assert (row.failure, row.version) == ("QOS_INFEASIBLE", 1)
    assert [name for _, name in outbox(ready, CPE_A)][-1:] == ["ProcedureRefusal"]


def test_an_order_a_clock_and_the_line_itself_are_repeated(encrypted: World) -> None:
    begun: list[str] = []

    def order(node: Node) -> None:
        begun.append(node.begin(lambda pomp, work: rekey_order.begin(pomp, work, LINE, PMP, 1_000_000)))

    assert repeat(encrypted, POMP, order) > 4
    rows = [row.procedure for row in encrypted.rows(POMP) if row.ladder == "rekey-order"]
    assert rows == [begun[-1]]
    encrypted.settle()
    armed_at = encrypted.clock()
    assert repeat(encrypted, CPE_A, lambda node: node.line_encrypted(LINE, 2, armed_at)) > 8
    assert [name for _, name in outbox(encrypted, CPE_A)].count("RekeyResponse") == 1
    encrypted.clock.advance(1_000_000)
    assert repeat(encrypted, POMP, lambda node: node.tick()) > 4
    assert encrypted.row(POMP, rows[0]).failure == "TIMEOUT"


def test_receipts_leases_and_delays_are_repeated_and_none_is_lost(ready: World) -> None:
    ready.order_line()
    node = ready.nodes[POMP]
    leased: list[Posted] = []
    assert repeat(ready, POMP, lambda node: leased.extend(node.lease(8))) == 3
    (posted,) = leased
    assert repeat(ready, POMP, lambda node: node.postpone([posted])) == 3
    node.acknowledge([posted.number])
    assert repeat(ready, POMP, lambda node: node.settle()) == 4  # begin, the receipt, the count, commit
    assert (node._receipts, node.settle()) == ([], 0)
    assert repeat(ready, PMP, lambda node: node.collected([1], CPE_A)) == 3
    assert repeat(ready, PMP, lambda node: node.mail_for([CPE_A])) == 3
