"""Every considered no: its code reaches the POMP, the others undo their part, and what stood before stands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.runtime.conftest import MakeWorld
from tests.runtime.province import LIFETIME_US, QUALITY, World

from qsotn.app.province import ACCOUNT, CPE_A, CPE_B, HOMES, KM_A, LINE, PMP, POMP, QSSP_A, QSSP_B, SERIALS
from qsotn.domain import End, LineId, PartyId, ProcedureId, QualityOfService
from qsotn.errors import KeyShortage, Refusal
from qsotn.parties import cpe as cpe_records
from qsotn.parties import qssp as qssp_records
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.procedures import initialization, leased_line
from qsotn.procedures.turn import Row, State


def change(world: World, party: PartyId, collection: str, key: str, **fields: Any) -> None:
    """Change one record behind the party's back: how a test brings about what it wants refused."""
    with world.nodes[party].desk() as desk:
        records = getattr(desk, collection)
        records.put(key, msgspec.structs.replace(records.require(key), **fields))


def failed(world: World) -> Row:
    """Wait until the POMP's newest procedure failed, and everybody has heard of it."""
    world.until(lambda: any(row.state is State.FAILED for row in world.rows(POMP)))
    world.quiet()
    (row,) = [row for row in world.rows(POMP) if row.state is State.FAILED]
    return row


def test_a_device_with_another_serial_is_refused(world: World) -> None:
    world.order(
        POMP,
        lambda pomp, work: initialization.begin(pomp, work, CPE_A, "QS-WRONG", HOMES[CPE_A], PMP, LIFETIME_US),
    )
    for _ in range(200):
        world.round()
    assert world.device_state(CPE_A) is DeviceState.ORDERED
    assert world.nodes[CPE_A].rejections["WrongParty"] > 0


def test_a_device_that_lacks_the_suite_is_refused(world: World) -> None:
    with world.nodes[CPE_A].desk() as cpe:
        own = cpe.configuration
        configuration = cpe.desk.collection("configuration", cpe_records.DeviceConfiguration)
        configuration.put("cpe", msgspec.structs.replace(own, suites=(3,)))
    world.begin_initialization(CPE_A)
    assert failed(world).failure == "UNSUPPORTED"
    assert world.device_state(CPE_A) is DeviceState.FAILED


def test_a_clone_is_suspected(world: World) -> None:
    from qsotn.parties.pmp import Registration

    with world.nodes[PMP].desk() as pmp:
        pmp.registrations.put(CPE_A, Registration(CPE_A, SERIALS[CPE_A], bytes(48), QSSP_A))
    world.begin_initialization(CPE_A)
    assert failed(world).failure == "CLONE_SUSPECTED"


def test_without_keys_there_is_no_key_file(make_world: MakeWorld) -> None:
    world = make_world()
    world.begin_initialization(CPE_A)
    assert failed(world).failure == "KEY_SHORTAGE"
    binding = world.read(QSSP_A, lambda qssp: qssp.bindings.require(CPE_A))
    assert binding.state is qssp_records.BindingState.DESTROYED
    assert world.read(QSSP_A, lambda qssp: list(qssp.key_files.values())) == []
    assert world.device_state(CPE_A) is DeviceState.FAILED


def test_a_ready_device_is_not_initialised_again_and_stays_ready(world: World) -> None:
    world.initialize(CPE_A)
    with pytest.raises(Refusal, match="ALREADY_BOUND"):
        world.begin_initialization(CPE_A)
    change(world, POMP, "devices", CPE_A, state=DeviceState.FAILED)
    world.begin_initialization(CPE_A)
    assert failed(world).failure == "ALREADY_BOUND"
    assert world.read(CPE_A, lambda cpe: cpe.own_binding().state) is cpe_records.BindingState.READY
    binding = world.read(QSSP_A, lambda qssp: qssp.bindings.require(CPE_A))
    assert binding.state is qssp_records.BindingState.ACTIVE
    assert world.read(QSSP_A, lambda qssp: qssp.key_files.get(binding.key_file_id)) is not None


@pytest.mark.parametrize(
    ("quality", "code"),
    [
        (QualityOfService("ODU9", 60, 5_000), "QOS_INFEASIBLE"),
        (QualityOfService("ODU2", 0, 5_000), "QOS_INFEASIBLE"),
        (QualityOfService("ODU4", 60, 5_000), "QOS_INFEASIBLE"),
    ],
)
def test_a_quality_nobody_has_is_refused(world: World, quality: QualityOfService, code: str) -> None:
    world.initialize(CPE_A, CPE_B)
    world.begin_line(quality)
    assert failed(world).failure == code
    assert world.line_state() is LineState.FAILED
    assert world.read(PMP, lambda pmp: pmp.reservations.get(LINE)) is None


def test_a_busy_port_at_one_end_releases_the_other(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    other = cpe_records.CpeLine(
        line=LineId("line-0"),
        end=End.B,
        peer=CPE_A,
        account=ACCOUNT,
        quality=QUALITY,
        port="line-1/1",
        procedure=ProcedureId("another"),
        state=cpe_records.LineState.GRANTED,
    )
    with world.nodes[CPE_B].desk() as cpe:
        cpe.lines.put(LineId("line-0"), other)
    world.begin_line()
    assert failed(world).failure == "PORT_BUSY"
    assert world.read(CPE_A, lambda cpe: cpe.lines.require(LINE).state) is cpe_records.LineState.STOPPED
    assert world.read(CPE_B, lambda cpe: cpe.lines.require("line-0").state) is cpe_records.LineState.GRANTED
    assert world.read(PMP, lambda pmp: pmp.reservations.get(LINE)) is None


def test_a_line_needs_two_ready_devices_and_an_account(world: World) -> None:
    world.initialize(CPE_A)
    with pytest.raises(Refusal, match="UNKNOWN_CPE"):
        world.begin_line()
    with pytest.raises(Refusal, match="UNKNOWN_ACCOUNT"):
        world.order(
            POMP,
            lambda pomp, work: leased_line.begin(pomp, work, LINE, "nobody", (CPE_A, CPE_B), QUALITY, PMP, LIFETIME_US),
        )
    assert world.line_state() is None


def test_a_line_is_ordered_once(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    world.establish()
    with pytest.raises(Refusal, match="LINE_EXISTS"):
        world.begin_line()
    assert world.line_state() is LineState.ENCRYPTED


def test_a_qssp_without_the_device_is_not_its_home(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    with world.nodes[QSSP_B].desk() as qssp:
        qssp.bindings.delete(CPE_B)
    world.begin_line()
    assert failed(world).failure == "NOT_HOME"
    assert world.read(QSSP_A, lambda qssp: list(qssp.services.values())) == []
    for cpe in (CPE_A, CPE_B):
        assert world.read(cpe, lambda desk: desk.lines.require(LINE).state) is cpe_records.LineState.STOPPED


def test_a_spent_key_file_admits_no_line(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    file_id = world.read(QSSP_A, lambda qssp: qssp.bindings.require(CPE_A).key_file_id)
    change(world, QSSP_A, "key_files", file_id, next_entry=initialization.DEFAULT_ENTRIES)
    world.begin_line()
    assert failed(world).failure == "KEY_RATE_INSUFFICIENT"


def test_an_exhausted_key_file_stops_the_rekey_and_not_the_line(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    line = world.establish()
    file_id = world.read(QSSP_A, lambda qssp: qssp.bindings.require(CPE_A).key_file_id)
    change(world, QSSP_A, "key_files", file_id, next_entry=initialization.DEFAULT_ENTRIES)
    world.order(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US))
    world.until(lambda: any(row.failure == "KEY_SHORTAGE" for row in world.rows(CPE_A)))
    world.quiet()
    assert line.a.encrypting
    assert line.b.encrypting
    assert world.read(CPE_A, lambda cpe: cpe.lines.require(LINE).state) is cpe_records.LineState.ENCRYPTED
    kept = world.read(QSSP_A, lambda qssp: list(qssp.generations.values()))
    assert all(not one.wrapped for one in kept)


def test_an_empty_link_stops_the_rekey(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    world.establish()
    with world.nodes[KM_A].desk() as km:
        left = km.available_bits("jinan-weifang") // 256
        for _ in range(left):
            km.allocate("jinan-weifang", 1, 256)
        with pytest.raises(KeyShortage):
            km.allocate("jinan-weifang", 1, 256)
    world.order(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US))
    world.until(lambda: any(row.failure == "KEY_SHORTAGE" for row in world.rows(CPE_A)))


def test_a_rekey_before_the_line_is_granted_is_refused(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    with pytest.raises(Refusal, match="NOT_CONFIRMED"):
        world.order(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US))


def test_silence_ends_in_a_timeout_and_releases_the_other_end(world: World) -> None:
    world.initialize(CPE_A, CPE_B)
    world.unreachable.add(CPE_B)
    world.begin_line()
    world.until(lambda: world.read(CPE_A, lambda cpe: cpe.lines.get(LINE)) is not None)
    for _ in range(20):
        world.round()
    world.now += 2 * LIFETIME_US
    for node in world.nodes.values():
        node.tick()
    for _ in range(20):
        world.round()
    rows = [row for row in world.rows(POMP) if row.ladder == "leased-line"]
    assert [row.failure for row in rows] == ["TIMEOUT"]
    assert world.line_state() is LineState.FAILED
    assert world.read(PMP, lambda pmp: pmp.reservations.get(LINE)) is None
    assert world.read(CPE_A, lambda cpe: cpe.lines.require(LINE).state) is cpe_records.LineState.STOPPED


def test_blocks_that_differ_are_discarded_at_both_ends(make_world: MakeWorld) -> None:
    from qsotn.app.province import KM_RELAY
    from qsotn.domain import Secret
    from qsotn.parties.km import BlockState
    from qsotn.procedures import key_supply

    world = make_world()
    for party in (KM_A, KM_RELAY):
        with world.nodes[party].desk() as km:
            km.deposit("jinan-weifang", 1, Secret(world.entropy(1024)), {})
    world.nodes[KM_A].begin(lambda km, work: key_supply.announce(km, work, "jinan-weifang", 1))
    world.quiet()
    for party in (KM_A, KM_RELAY):
        assert world.read(party, lambda km: km.block("jinan-weifang", 1).state) is BlockState.DISCARDED
        assert world.read(party, lambda km: km.available_bits("jinan-weifang")) == 0
        assert world.read(party, lambda km: list(km.desk.transaction.scan("key-units"))) == []
