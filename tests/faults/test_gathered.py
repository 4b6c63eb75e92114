"""The checker over real stores: what the parties really write is read whole, and judged good when it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import msgspec
from tests.faults.history import History, Operation, Outcome, check, gather
from tests.faults.snapshots import CpeSnapshot, KmSnapshot, PmpSnapshot, PompSnapshot, QkmpSnapshot, QsspSnapshot
from tests.world import Sent, World, whole_story

from qsotn.app.province import CPE_A, KM_A, KM_B, LINE, PARTIES, POMP, QSSP_A
from qsotn.domain import KeyId
from qsotn.errors import LineError
from qsotn.keynetwork.delivery import Pool
from qsotn.messages import KeyRelay
from qsotn.parties.km import StoredKey
from qsotn.procedures import leased_line
from qsotn.procedures.pool_supply import begin_pool_supply
from qsotn.procedures.turn import State


def gathered(world: World, *operations: Operation) -> History:
    return History(tuple(gather(world.province.stores[party], party) for party in PARTIES), operations)


def test_a_whole_story_leaves_a_good_history(open_world: Callable[..., World]) -> None:
    world = open_world("provisioned")
    whole_story(world)
    history = gathered(world)
    (begun,) = history.begun["initialization", CPE_A]
    order = Operation("initialization", CPE_A, POMP, "request", 1, 2, Outcome.OK, begun.row.procedure)
    assert check(gathered(world, order)) == []


def test_a_supply_that_failed_leaves_a_good_history(encrypted: World) -> None:
    def lose(sent: Sent) -> None:
        if isinstance(encrypted.opened(sent.data).message, KeyRelay):
            raise LineError("lost")

    pool = Pool(KM_A, KM_B, 1)
    encrypted.begin(KM_A, lambda km, work: begin_pool_supply(km, work, pool, "batch", 0, 4))
    encrypted.settle()
    encrypted.wire.before = lose
    encrypted.begin(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, 1_000_000))
    for _ in range(20):
        encrypted.pump()
    encrypted.clock.advance(1_000_000)
    for node in encrypted.nodes.values():
        node.tick()
    encrypted.wire.before = lambda _: None
    encrypted.settle()
    history = gathered(encrypted)
    assert {one.row.state for one in history.begun["rekey", LINE]} == {State.FAILED}
    assert check(history) == []
    assert _never_read(history) == {"PompSnapshot.usage", "KmSnapshot.stored", "KmSnapshot.supplies"}


def _never_read(history: History) -> set[str]:
    """The collections that are empty at every party of their kind."""
    kinds = (PompSnapshot, PmpSnapshot, QsspSnapshot, KmSnapshot, QkmpSnapshot, CpeSnapshot)
    names = ((kind, field.name) for kind in kinds for field in fields(kind))
    return {
        f"{kind.__name__}.{name}"
        for kind, name in names
        if not any(getattr(snapshot, name) for snapshot in history.all(kind))
    }


def test_a_key_that_is_put_into_a_real_store_is_found(ready: World) -> None:
    stray = StoredKey(KeyId("stray"), b"wrapped", QSSP_A, QSSP_A, ())
    with ready.province.stores[KM_B].transaction() as transaction:
        transaction.put("stored-keys", "stray", msgspec.json.encode(stray))
    (found,) = check(gathered(ready))
    assert (found.rule, "key stray" in found.detail) == ("a_key_is_handed_over_once", True)
