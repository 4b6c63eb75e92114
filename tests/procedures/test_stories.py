"""The two figures, told end to end over the fake wire, with what must hold at each turn."""

from __future__ import annotations

from functools import partial

import pytest
from tests.world import World

from qsotn.app.province import CPE_A, CPE_B, LINE, PARTIES, PMP, POMP, QKMP, QSSP_A, QSSP_B
from qsotn.domain import End
from qsotn.parties import cpe as cpe_records
from qsotn.parties import qssp as qssp_records
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.initialization import DEFAULT_ENTRIES
from qsotn.procedures.turn import State


def _binding(world: World, qssp: str, cpe: str) -> qssp_records.Binding:
    found: qssp_records.Binding = world.read(qssp, lambda desk: desk.bindings.get(cpe))  # type: ignore[arg-type]
    return found


def _generations(prefix: str, qssp: qssp_records.Qssp) -> list[qssp_records.Generation]:
    return list(qssp.generations.values(prefix))


def test_a_device_becomes_ready_on_both_sides_only_at_the_end(world: World) -> None:
    world.begin_initialization(CPE_A)
    seen = set()
    while world.device_state(CPE_A) is not DeviceState.READY:
        world.round()
        binding = _binding(world, QSSP_A, CPE_A)
        own = world.read(CPE_A, lambda cpe: cpe.binding.get("own"))
        if binding is not None:
            seen.add(binding.state)
            if binding.state is qssp_records.BindingState.ACTIVE:
                assert own.state is cpe_records.BindingState.READY
    assert seen >= {qssp_records.BindingState.RESERVED, qssp_records.BindingState.ACTIVE}
    file_id = _binding(world, QSSP_A, CPE_A).key_file_id
    file = world.read(QSSP_A, lambda qssp: qssp.key_files.require(file_id))
    own_file = world.read(CPE_A, lambda cpe: cpe.key_files.require(cpe.own_binding().key_file_id))
    assert len(file.entries) == len(own_file.entries) == DEFAULT_ENTRIES
    assert len(set(file.key_ids)) == DEFAULT_ENTRIES


def test_both_ends_hold_the_same_key_file(world: World) -> None:
    world.initialize(CPE_A)
    file_id = _binding(world, QSSP_A, CPE_A).key_file_id
    theirs = world.read(QSSP_A, lambda qssp: qssp.file_entries(qssp.key_files.require(file_id)))
    entries = world.read(CPE_A, lambda cpe: [cpe.burn_entry(file_id, n) for n in range(DEFAULT_ENTRIES)])
    assert theirs == entries


def test_a_line_is_encrypted_rekeyed_and_deleted(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    line = world.establish()
    first = world.read(CPE_A, lambda cpe: cpe.lines.require(LINE).active)
    world.rekey()
    second = world.read(CPE_A, lambda cpe: cpe.lines.require(LINE).active)
    assert second == first + 1
    for end in (line.a, line.b):
        end.record()
    world.delete()
    record = world.read(POMP, lambda pomp: pomp.usage.require(LINE))
    assert [usage.keys_drawn for usage in record.key_usage] == [4, 4]
    assert [usage.entries_burned for usage in record.key_usage] == [2, 2]
    assert sum(use.frames for use in record.end_a.keys) > 0
    for cpe in (CPE_A, CPE_B):
        kept = world.read(cpe, lambda desk: list(desk.generations.values()))
        assert all(one.state is cpe_records.GenerationState.ERASED and not one.wrapped for one in kept)
    assert world.read(PMP, lambda pmp: pmp.reservations.get(LINE)) is None


def test_every_procedure_completes_at_every_party(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    world.establish()
    world.rekey()
    world.delete()
    for party in PARTIES:
        assert all(row.state is State.COMPLETED for row in world.rows(party)), world.describe()


def test_the_journal_holds_every_declared_step(world: World) -> None:
    world.initialize(CPE_A)
    (row,) = [row for row in world.rows(POMP) if row.ladder == "initialization"]
    taken = set()
    for store in world.province.stores.values():
        with store.transaction() as transaction:
            taken |= {(one.number, one.part) for one in transaction.taken(row.procedure)}
    assert taken == {(step.number, step.part) for step in LADDERS["initialization"]}


def test_both_cities_and_the_qkmp_agree_on_the_keys_of_each_generation(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    world.establish()
    world.rekey()
    ids = []
    for qssp, end in ((QSSP_A, End.A), (QSSP_B, End.B)):
        prefix = f"{LINE}/{end}/"
        kept = world.read(qssp, partial(_generations, prefix))
        ids.append([(one.generation, one.key_id_a_to_b, one.key_id_b_to_a) for one in kept])
        assert all(not one.wrapped for one in kept)
    assert ids[0] == ids[1]
    seen = world.read(QKMP, lambda qkmp: {shared.key_ids for shared in qkmp.synchronisations.values()})
    assert seen == {(a, b) for _, a, b in ids[0]}


def test_a_restarted_device_never_installs_old_keys_and_asks_for_new_ones(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    line = world.establish()
    old = world.read(CPE_B, lambda cpe: cpe.lines.require(LINE).active)
    world.restart(CPE_B)
    assert line.b.installed == {}
    erased = world.read(CPE_B, lambda cpe: [one.state for one in cpe.generations.values()])
    assert erased == [cpe_records.GenerationState.ERASED]
    world.rekey()
    assert world.read(CPE_B, lambda cpe: cpe.lines.require(LINE).active) > old


@pytest.mark.parametrize("party", [CPE_A, CPE_B])
def test_a_restart_of_either_end_before_the_line_is_encrypted_is_healed(world: World, party: str) -> None:
    world.initialize(CPE_A, CPE_B)
    world.begin_line()
    world.connect()
    world.until(lambda: bool(world.line and world.line.a.installed and world.line.b.installed))
    world.restart(party)  # type: ignore[arg-type]
    world.until(lambda: world.line_state() is LineState.ENCRYPTED)
