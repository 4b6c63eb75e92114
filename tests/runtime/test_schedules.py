"""Randomised schedules: everything a wire and a power socket can do, while a whole run goes through.

Every seed is one schedule of lost, late, doubled and overtaking datagrams, lost receipts, and parties killed just
before or just after a COMMIT. Whatever happens, the run ends as if nothing had, and no key served twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.invariants import check_no_key_twice
from tests.world import LIFETIME_US, Faults, World

from qsotn.app.province import CPE_A, CPE_B, HOMES, LINE, PARTIES, PMP, POMP
from qsotn.domain import PartyId
from qsotn.parties import cpe as cpe_records
from qsotn.parties import qssp as qssp_records
from qsotn.parties.cpe import GenerationState
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.procedures import deletion, leased_line
from qsotn.procedures.turn import State

STORMY = Faults(loss=0.15, receipt_loss=0.1, duplicate=0.1, delay=0.1, crash=0.04)
CRASHES = Faults(crash=0.12)
DEAF = Faults(loss=0.3, receipt_loss=0.3)
SEEDS = [*[(seed, STORMY) for seed in range(4)], *[(seed, CRASHES) for seed in range(2)], (0, DEAF)]


class Story:
    """A whole run in a world full of faults: orders are given once, and whatever is under way is waited for."""

    def __init__(self, world: World) -> None:
        self.world = world

    def tell(self) -> None:
        world = self.world
        for cpe in (CPE_A, CPE_B):
            world.initialize(cpe)
        self._pump(lambda: all(world.device_state(cpe) is DeviceState.READY for cpe in (CPE_A, CPE_B)))
        world.order_line()
        self._pump(self._prepared)
        world.connect()
        self._turn(lambda: world.line_state() is LineState.ENCRYPTED)
        self._rekey()
        world.begin(POMP, lambda pomp, work: deletion.begin(pomp, work, LINE, PMP, LIFETIME_US))
        self._pump(lambda: world.line_state() is LineState.DELETED)
        world.wire.faults = Faults()
        world.settle()

    def _rekey(self) -> None:
        before = self.world.completed("rekey", CPE_A)
        self.world.begin(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US))
        self._turn(lambda: self.world.completed("rekey", CPE_A) > before and not self.world.running())

    def _pump(self, until: Callable[[], bool]) -> None:
        for _ in range(3000):
            if until():
                return
            self.world.pump()
        raise AssertionError(self.world.states())

    def _turn(self, until: Callable[[], bool]) -> None:
        for _ in range(6000):
            if until():
                return
            self.world.turn()
        raise AssertionError(self.world.states())

    def _prepared(self) -> bool:
        return all(self._has_line(cpe) for cpe in (CPE_A, CPE_B))

    def _has_line(self, cpe: PartyId) -> bool:
        with self.world.desk(cpe) as device:
            return device.lines.get(LINE) is not None


@pytest.mark.parametrize(("seed", "faults"), SEEDS)
def test_a_run_ends_well_whatever_is_lost_doubled_reordered_or_killed(
    open_world: Callable[..., World], seed: int, faults: Faults
) -> None:
    world = open_world("provisioned", seed=seed, faults=faults)
    Story(world).tell()
    check_ended(world)
    check_no_key_twice(world.province)
    assert bool(world.crashes) is bool(faults.crash)
    assert set().union(*(node.rejections for node in world.nodes.values())) <= {"OutOfOrder"}


# --- what must hold at the end ----------------------------------------------------------------------------------------


def check_ended(world: World) -> None:
    """Both ends, both cities and the platform say the same."""
    failed = [row for party in PARTIES for row in world.rows(party) if row.state is State.FAILED]
    assert failed == []
    over = [row for row in world.running() if not _overtaken(world, row)]
    assert over == []
    assert world.line_state() is LineState.DELETED
    for cpe in (CPE_A, CPE_B):
        with world.desk(cpe) as device:
            assert device.lines.require(LINE).state is cpe_records.LineState.STOPPED
            assert {kept.state for kept in device.generations.values()} == {GenerationState.ERASED}
            assert all(kept.wrapped == () for kept in device.generations.values())
            assert device.own_binding().state is cpe_records.BindingState.READY
        with world.desk(HOMES[cpe]) as qssp:
            assert [one.state for one in qssp.bindings.values()] == [qssp_records.BindingState.ACTIVE]
            assert list(qssp.services.values()) == []
    with world.desk(PMP) as pmp:
        assert list(pmp.reservations.values()) == []
    with world.desk(POMP) as pomp:
        assert {use.cpe for use in pomp.usage.require(LINE).key_usage} == {CPE_A, CPE_B}


def _overtaken(world: World, row: Any) -> bool:
    """A rekey whose step 12 never comes: its device crashed with the keys, and a later generation took their place."""
    return row.ladder == "rekey" and str(row.seat) in ("cpe-a", "cpe-b") and not _awaits_datagram(row)


def _awaits_datagram(row: Any) -> bool:
    return any(not step.on_line for step, _ in leased_line.REKEY.awaited(row.seat, row.heard))
