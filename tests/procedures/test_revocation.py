"""A device out of service for good: nothing reaches it any more, whatever was on its way; nothing brings it back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from tests.procedures.liars import Lie, lie_before, refuse_everything, retold
from tests.world import LIFETIME_US, Faults, Sent, World, Worlds

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, HOMES, LINE, PARTIES, PMP, POMP, QSSP_A, QSSP_B, SERIALS
from qsotn.app.report import steps_taken
from qsotn.domain import PartyId, ProcedureId, Role
from qsotn.errors import LineError, OutOfOrder, Refusal, WrongParty
from qsotn.interfaces import IAQ
from qsotn.messages import (
    BindingConfirmation,
    BindingRevocation,
    BindingRevoked,
    DeviceRevocation,
    DeviceRevoked,
    EncKeysResponse,
    InitializationResponse,
    KeyFileConfirmation,
    KeyFileRequest,
    Message,
    VoucherCopy,
)
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.parties.qssp import BindingState
from qsotn.procedures import deletion, leased_line
from qsotn.procedures.catalogue import LADDERS
from qsotn.procedures.turn import State

STEPS = """
1 DeviceRevocation  pomp/shandong pmp/shandong
2 DeviceRevoked     pmp/shandong  pomp/shandong
3 BindingRevocation pomp/shandong qssp/jinan
4 BindingRevoked    qssp/jinan    pomp/shandong
"""
SERIAL = SERIALS[CPE_A]


def ends(world: World, procedure: ProcedureId) -> set[str]:
    """How each party's part of a procedure stands."""
    rows = [row for party in PARTIES for row in world.rows(party) if row.procedure == procedure]
    return {row.failure if row.state is State.FAILED else row.state.value for row in rows}


def run(world: World, rounds: int = 40) -> None:
    """Let everybody speak; what the gate refuses is tried again until its time is over."""
    for _ in range(rounds):
        world.pump()


def _time_out(world: World) -> None:
    world.clock.advance(LIFETIME_US)
    for node in world.nodes.values():
        node.tick()
    run(world, 10)


def check_out_of_service(world: World, cpe: PartyId = CPE_A) -> None:
    """The facts that make a device revoked, at each party."""
    assert world.device_state(cpe) is DeviceState.REVOKED
    with world.desk(PMP) as pmp:
        known = pmp.registrations.get(cpe)
        assert known is None or not known.gate_open
        assert pmp.revoked.get(f"{cpe}/{SERIALS[cpe]}") is not None
    with world.desk(HOMES[cpe]) as qssp:
        assert [file for file in qssp.key_files.values() if file.cpe == cpe] == []
        binding = qssp.bindings.get(cpe)
        assert binding is None or binding.state in (BindingState.REVOKED, BindingState.DESTROYED)
        for key, service in qssp.services.items():
            assert service.cpe != cpe or not service.confirmed, key


# --- well -------------------------------------------------------------------------------------------------------------


def test_all_four_steps_are_taken_and_each_party_does_its_part(ready: World) -> None:
    with ready.desk(QSSP_A) as qssp:
        file = qssp.bindings.require(CPE_A).key_file_id
    procedure = ready.revoke(CPE_A, "stolen from its rack")
    assert ready.device_state(CPE_A) is DeviceState.REVOKED  # nothing new begins from this moment on
    ready.settle()
    taken = [
        f"{step.n} {part.message} {part.sender} {part.receiver}".split()
        for step in steps_taken(ready.province, procedure)
        for part in step.parts
    ]
    assert taken == [line.split() for line in STEPS.strip().splitlines()]
    assert ends(ready, procedure) == {"COMPLETED"}
    check_out_of_service(ready)
    with ready.desk(POMP) as pomp:
        device = pomp.devices.require(CPE_A)
    assert (device.failure, device.key_file_id) == ("stolen from its rack", file)
    assert ready.device_state(CPE_B) is DeviceState.READY


def test_a_device_that_is_revoked_again_is_what_it_was_and_everybody_is_told_again(ready: World) -> None:
    procedures = []
    for _ in range(2):
        procedures.append(ready.revoke(CPE_A))
        ready.settle()
        check_out_of_service(ready)
    assert [ends(ready, procedure) for procedure in procedures] == [{"COMPLETED"}] * 2
    with ready.desk(POMP) as pomp:
        assert pomp.devices.require(CPE_A).key_file_id != ""


def test_a_device_that_was_never_ordered_cannot_be_revoked(open_world: Callable[..., World]) -> None:
    world = open_world("provisioned")
    before = world.dump(POMP)
    with pytest.raises(Refusal, match="UNKNOWN_CPE"):
        world.revoke(CPE_A)
    assert world.dump(POMP) == before


@pytest.mark.parametrize("seed", range(2))
def test_a_revocation_ends_well_whatever_is_lost_doubled_reordered_or_killed(
    open_world: Callable[..., World], seed: int
) -> None:
    stormy = Faults(loss=0.25, receipt_loss=0.2, duplicate=0.2, delay=0.2, crash=0.1)
    world = open_world("ready", seed=seed, faults=stormy)
    procedure = world.revoke(CPE_A)
    while ends(world, procedure) != {"COMPLETED"}:
        world.pump()
    world.wire.faults = Faults()
    world.settle()
    check_out_of_service(world)
    assert set().union(*(node.rejections for node in world.nodes.values())) <= {"OutOfOrder"}


@pytest.mark.parametrize("silent", [PMP, QSSP_A])
def test_a_party_that_falls_silent_leaves_the_device_revoked_and_the_order_can_be_given_again(
    ready: World, silent: PartyId
) -> None:
    def mute(sent: Sent) -> None:
        if silent in (sent.sender, sent.hop):
            raise LineError("silence")

    ready.wire.before = mute
    procedure = ready.revoke(CPE_A)
    run(ready, 10)
    ready.clock.advance(LIFETIME_US)
    ready.wire.before = lambda _: None
    for node in ready.nodes.values():
        node.tick()
    ready.settle()
    assert "TIMEOUT" in ends(ready, procedure)
    assert ready.device_state(CPE_A) is DeviceState.REVOKED
    again = ready.revoke(CPE_A)
    ready.settle()
    assert ends(ready, again) == {"COMPLETED"}
    check_out_of_service(ready)


# --- what was on its way ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [step.message for step in LADDERS["initialization"]], ids=lambda m: m.__name__)
def test_a_device_that_is_revoked_while_it_comes_into_service_does_not_come(
    open_world: Callable[..., World], message: type[Message]
) -> None:
    """At whatever step: nobody's answer, late as it may be, makes it READY, opens its gate or gives it a key file."""
    world = open_world("provisioned")
    world.when(message, lambda: world.revoke(CPE_A))
    world.initialize(CPE_A)
    run(world)
    check_out_of_service(world)
    _time_out(world)
    check_out_of_service(world)
    assert not world.running()
    with pytest.raises(Refusal, match="DEVICE_REVOKED"):
        world.initialize(CPE_A)


def _at_the_pmp(world: World) -> None:
    with world.desk(PMP) as pmp:
        pmp.revoke(CPE_A, SERIAL)


def _at_its_qssp(world: World) -> None:
    with world.desk(QSSP_A) as qssp:
        qssp.revoke(CPE_A)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (_at_the_pmp, InitializationResponse),
        (_at_the_pmp, VoucherCopy),
        (_at_its_qssp, EncKeysResponse),
        (_at_its_qssp, BindingConfirmation),
        (_at_its_qssp, KeyFileRequest),
        (_at_its_qssp, KeyFileConfirmation),
    ],
)
def test_each_party_that_knows_of_a_revocation_refuses_by_itself(
    open_world: Callable[..., World], told: Callable[[World], None], message: type[Message]
) -> None:
    """The POMP, here, has not heard of it."""
    world = open_world("provisioned")
    world.when(message, lambda: told(world))
    procedure = world.initialize(CPE_A)
    run(world)
    assert ends(world, procedure) == {"DEVICE_REVOKED"}
    with world.desk(QSSP_A) as qssp:
        assert list(qssp.key_files.values()) == []
        binding = qssp.bindings.get(CPE_A)
        assert told is _at_the_pmp or (binding is not None and binding.state is BindingState.REVOKED)


# --- no way back ------------------------------------------------------------------------------------------------------


@pytest.fixture
def revoked(ready: World) -> World:
    """CPE A is out of service for good."""
    ready.revoke(CPE_A)
    ready.settle()
    return ready


def _forget(world: World, *parties: PartyId) -> None:
    """Let parties lose what they know of the device."""
    for party in parties:
        with world.desk(party) as desk:
            match party:
                case "pomp/shandong":
                    desk.devices.delete(CPE_A)
                case "pmp/shandong":
                    desk.revoked.delete(f"{CPE_A}/{SERIAL}")
                case "cpe/jinan-1":
                    desk.binding.delete("own")


@pytest.mark.parametrize("forgetful", [(), (POMP, CPE_A), (POMP, CPE_A, PMP)], ids=["POMP", "PMP", "QSSP"])
def test_the_same_serial_number_is_refused_by_each_of_the_three_that_know_it(
    revoked: World, forgetful: tuple[PartyId, ...]
) -> None:
    _forget(revoked, *forgetful)
    if not forgetful:
        with pytest.raises(Refusal, match="DEVICE_REVOKED"):
            revoked.initialize(CPE_A)
        return
    procedure = revoked.initialize(CPE_A)
    revoked.settle()
    assert ends(revoked, procedure) == {"DEVICE_REVOKED"}
    with revoked.desk(QSSP_A) as qssp:
        assert list(qssp.key_files.values()) == []
        assert qssp.bindings.require(CPE_A).state is BindingState.REVOKED


def test_no_line_is_ordered_for_it(revoked: World) -> None:
    before = revoked.dump(POMP)
    with pytest.raises(Refusal, match="NOT_READY"):
        revoked.order_line()
    assert revoked.dump(POMP) == before


@pytest.mark.parametrize(("sender", "receiver"), [(CPE_A, QSSP_A), (QSSP_A, CPE_A)])
def test_its_gate_is_shut_in_both_directions_and_its_neighbours_is_not(
    revoked: World, sender: PartyId, receiver: PartyId
) -> None:
    before = revoked.dump(PMP)
    with pytest.raises(OutOfOrder):
        revoked.nodes[PMP].receive(wire.encode(wire.Datagram(IAQ.name, sender, receiver, b"sealed")))
    assert revoked.dump(PMP) == before
    revoked.nodes[PMP].receive(wire.encode(wire.Datagram(IAQ.name, CPE_B, QSSP_B, b"sealed")))


# --- its line ---------------------------------------------------------------------------------------------------------


def _keys_of(world: World) -> list[int]:
    with world.desk(CPE_A) as near, world.desk(CPE_B) as far:
        return [kept.generation for device in (near, far) for kept in device.generations.values()]


def _carries(world: World) -> bool:
    assert world.line is not None
    frame, arrived = world.entropy(300), []
    assert world.line.a.terminal.offer(frame)
    for _ in range(20):
        world.turn()
        arrived += world.line.b.terminal.deliver()
    return arrived == [frame]


def order_deletion(world: World) -> None:
    world.begin(POMP, partial(deletion.begin, line=LINE, pmp=PMP, lifetime_us=LIFETIME_US))


@pytest.mark.parametrize("cpe", [CPE_A, CPE_B])
def test_a_line_gets_no_more_keys_when_either_end_is_revoked_and_can_be_deleted(encrypted: World, cpe: PartyId) -> None:
    encrypted.revoke(cpe)
    encrypted.settle()
    check_out_of_service(encrypted, cpe)
    before = _keys_of(encrypted)
    order = encrypted.order_rekey()
    run(encrypted)
    _time_out(encrypted)
    assert ends(encrypted, order) <= {"TIMEOUT", "NOT_CONFIRMED"}
    assert _keys_of(encrypted) == before
    assert _carries(encrypted)  # what a device holds, it holds: the operator deletes its line
    order_deletion(encrypted)
    run(encrypted, 20)
    assert encrypted.line_state() is LineState.DELETED


def test_a_pmp_that_keeps_the_gate_open_brings_a_revoked_device_no_keys(encrypted: World) -> None:
    encrypted.revoke(CPE_A)
    encrypted.settle()
    with encrypted.desk(PMP) as pmp:
        pmp.registrations.put(CPE_A, msgspec.structs.replace(pmp.registrations.require(CPE_A), gate_open=True))
    before = _keys_of(encrypted)
    encrypted.begin(CPE_A, partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US))
    encrypted.settle()
    (row,) = [row for row in encrypted.rows(QSSP_A) if row.ladder == "rekey"]
    assert (row.state, row.failure) == (State.FAILED, "NOT_CONFIRMED")
    assert _keys_of(encrypted) == before


@pytest.mark.parametrize("message", [step.message for step in LADDERS["rekey"] if not step.on_line][1::3])
def test_a_device_that_is_revoked_while_its_keys_change_gets_none_after_its_qssp_was_told(
    encrypted: World, message: type[Message]
) -> None:
    encrypted.when(message, lambda: encrypted.revoke(CPE_A))
    encrypted.begin(CPE_A, partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US))
    run(encrypted)
    check_out_of_service(encrypted)
    before = _keys_of(encrypted)
    _time_out(encrypted)
    encrypted.begin(CPE_A, partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US))
    run(encrypted)
    assert _keys_of(encrypted) == before
    with encrypted.desk(QSSP_A) as qssp:
        assert {kept.wrapped for kept in qssp.generations.values()} == {()}


# --- who lies ---------------------------------------------------------------------------------------------------------


def test_another_pomp_revokes_nothing(ready: World, worlds: Worlds) -> None:
    stranger = worlds.impostors.identities[Role.POMP]
    fresh = ProcedureId("00000000-0000-4000-8000-000000000001")

    def lies(sent: Sent) -> list[Lie]:
        return [Lie(retold(ready, sent, author=stranger, procedure=fresh), WrongParty)]

    for message in (DeviceRevocation, BindingRevocation):
        tried = lie_before(ready, message, lies)
        ready.revoke(CPE_A)
        ready.settle()
        assert len(tried) == 1


@pytest.mark.parametrize("message", [DeviceRevoked, BindingRevoked])
def test_an_answer_about_another_device_is_none(ready: World, message: type[Message]) -> None:
    tried = lie_before(ready, message, lambda sent: [Lie(retold(ready, sent, body={"cpe": CPE_B}), WrongParty)])
    procedure = ready.revoke(CPE_A)
    ready.settle()
    assert len(tried) == 1
    assert ends(ready, procedure) == {"COMPLETED"}
    assert ready.device_state(CPE_B) is DeviceState.READY


@pytest.mark.parametrize("party", [PMP, QSSP_A, CPE_A])
def test_a_party_that_refuses_everything_afterwards_brings_the_device_back_nowhere(
    revoked: World, party: PartyId
) -> None:
    refuse_everything(revoked, party)
    run(revoked, 10)
    check_out_of_service(revoked)
    with pytest.raises(Refusal, match="DEVICE_REVOKED"):
        revoked.initialize(CPE_A)
