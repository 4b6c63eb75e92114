"""Figure 3 told as a story: two devices come into service, and what each party holds at every moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.world import LIFETIME_US, Sent, World, rows_of

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, HOMES, KM_A, PMP, POMP, QSSP_A, SERIALS
from qsotn.app.report import steps_taken
from qsotn.errors import KeyShortage, LineError, OutOfOrder, PeerError, Refusal, WrongParty
from qsotn.interfaces import IAQ
from qsotn.parties import cpe as cpe_records
from qsotn.parties.pomp import DeviceState
from qsotn.parties.qssp import BindingState
from qsotn.procedures.turn import State

# Every message in the order of the figure: step, message, from, to.
STEPS = """
1   InitializationRequest   pomp/shandong  pmp/shandong
2   InitializationDispatch  pmp/shandong   cpe/jinan-1
3   InitializationResponse  cpe/jinan-1    pmp/shandong
4   RegistrationReport      pmp/shandong   pomp/shandong
5a  BindingRequest          pomp/shandong  qssp/jinan
5b  EncKeysRequest          qssp/jinan     km/jinan
5c  EncKeysResponse         km/jinan       qssp/jinan
6   BindingResponse         qssp/jinan     pomp/shandong
7a  BindingConfirmation     pomp/shandong  qssp/jinan
7b  VoucherCopy             qssp/jinan     pmp/shandong
7c  VoucherDelivery         pmp/shandong   cpe/jinan-1
8   KeyFileRequest          cpe/jinan-1    qssp/jinan
9   KeyFileResponse         qssp/jinan     cpe/jinan-1
10a KeyFileConfirmation     cpe/jinan-1    qssp/jinan
10b InitializationResult    qssp/jinan     pomp/shandong
"""


@pytest.fixture
def fresh(open_world: Callable[..., World]) -> World:
    return open_world("provisioned")


def test_all_ten_steps_are_taken_in_order_by_the_parties_of_the_figure(fresh: World) -> None:
    procedure = fresh.initialize(CPE_A)
    fresh.settle()
    taken = [
        f"{step.n}{part.part}  {part.message}  {part.sender}  {part.receiver}".split()
        for step in steps_taken(fresh.province, procedure)
        for part in step.parts
    ]
    assert taken == [line.split() for line in STEPS.strip().splitlines()]


def test_the_device_is_ready_on_both_sides_and_every_row_is_completed(fresh: World) -> None:
    for cpe in (CPE_A, CPE_B):
        fresh.initialize(cpe)
    fresh.settle()
    assert [fresh.device_state(cpe) for cpe in (CPE_A, CPE_B)] == [DeviceState.READY] * 2
    for cpe in (CPE_A, CPE_B):
        with fresh.desk(cpe) as device, fresh.desk(HOMES[cpe]) as qssp:
            assert device.own_binding().state is cpe_records.BindingState.READY
            assert device.own_binding().kem_seed == b""
            assert qssp.bindings.require(cpe).state is BindingState.ACTIVE
    assert not fresh.running()
    assert set(fresh.states().values()) == {"COMPLETED"}
    assert not any(node.rejections for node in fresh.nodes.values())


def test_device_and_qssp_hold_the_same_key_file_and_the_key_manager_holds_it_no_more(fresh: World) -> None:
    fresh.initialize(CPE_A)
    fresh.settle()
    with fresh.desk(CPE_A) as device, fresh.desk(QSSP_A) as qssp:
        (near,), (far,) = device.key_files.values(), qssp.key_files.values()
        assert near.key_file_id == far.key_file_id
        contexts = [f"key-file/{near.key_file_id}/{n}".encode() for n in range(64)]
        here = [device.desk.vault.unwrap(*both).reveal() for both in zip(near.entries, contexts, strict=True)]
        there = [qssp.desk.vault.unwrap(*both).reveal() for both in zip(far.entries, contexts, strict=True)]
    assert here == there
    assert len(set(here)) == 64
    assert len(set(far.key_ids)) == 64
    with fresh.desk(KM_A) as km:
        assert list(km.stored.values()) == []


def test_the_key_file_becomes_active_only_when_the_device_has_proved_that_it_holds_it(fresh: World) -> None:
    """Before step 10a nothing of the file can be used, whatever has been exchanged by then."""
    seen: list[tuple[bool, BindingState]] = []

    def look(_: Sent) -> None:
        with fresh.desk(QSSP_A) as qssp:
            binding = qssp.bindings.get(CPE_A)
            if binding is None:
                return
            heard = [key for row in rows_of(qssp) for key in row.heard]
            seen.append(("10a:cpe" in heard, binding.state))
            if binding.state is not BindingState.ACTIVE:
                with pytest.raises(KeyShortage, match="no active key file"):
                    qssp.burn_entry(CPE_A, "too early")

    fresh.wire.before = look
    fresh.initialize(CPE_A)
    fresh.settle()
    assert all(proved is (state is BindingState.ACTIVE) for proved, state in seen)
    in_order = list(dict.fromkeys(state for _, state in seen))
    assert in_order == [BindingState.RESERVED, BindingState.BOUND, BindingState.RELEASED, BindingState.ACTIVE]


def test_the_gate_between_device_and_qssp_opens_only_with_the_voucher(fresh: World) -> None:
    opened: list[tuple[bool, bool]] = []

    def look(_: Sent) -> None:
        with fresh.desk(PMP) as pmp:
            registration = pmp.registrations.get(CPE_A)
            heard = [key for row in rows_of(pmp) for key in row.heard]
            if registration is not None:
                opened.append(("7b:qssp" in heard, registration.gate_open))

    fresh.wire.before = look
    fresh.initialize(CPE_A)
    fresh.settle()
    assert set(opened) == {(False, False), (True, True)}


def test_before_the_voucher_the_pmp_carries_nothing_between_device_and_qssp(fresh: World) -> None:
    """The courier cannot read what it is shown; it knows that no voucher has come."""
    shown = wire.encode(wire.Datagram(IAQ.name, CPE_A, QSSP_A, b"sealed, for all a courier can tell"))
    refused: list[type[PeerError]] = []

    def show(_: Sent) -> None:
        before = fresh.dump(PMP)
        with fresh.desk(PMP) as pmp:
            registration = pmp.registrations.get(CPE_A)
        if registration is None or not registration.gate_open:
            with pytest.raises(PeerError) as caught:
                fresh.nodes[PMP].receive(shown)
            refused.append(type(caught.value))
            assert fresh.dump(PMP) == before

    fresh.wire.before = show
    fresh.initialize(CPE_A)
    fresh.settle()
    assert list(dict.fromkeys(refused)) == [WrongParty, OutOfOrder]  # not registered yet; then without a voucher
    fresh.nodes[PMP].receive(shown)
    with pytest.raises(LineError, match=r"qssp/jinan gave no receipt: the .* sealed bytes do not open"):
        fresh.wire.send(PMP, QSSP_A, shown)


def test_a_device_that_is_ready_is_not_ordered_again(ready: World) -> None:
    before = ready.dump_all()
    with pytest.raises(Refusal, match="ALREADY_BOUND"):
        ready.initialize(CPE_A)
    assert ready.dump_all() == before


def test_a_device_that_failed_may_be_ordered_again_and_becomes_ready(fresh: World) -> None:
    first = fresh.initialize(CPE_A)
    fresh.clock.advance(LIFETIME_US)
    for node in fresh.nodes.values():
        node.tick()
    assert fresh.device_state(CPE_A) is DeviceState.FAILED
    second = fresh.initialize(CPE_A)
    fresh.settle()
    assert fresh.device_state(CPE_A) is DeviceState.READY
    assert fresh.row(POMP, first).state is State.FAILED
    assert fresh.row(POMP, second).state is State.COMPLETED
    with fresh.desk(POMP) as pomp:
        assert pomp.devices.require(CPE_A).serial_number == SERIALS[CPE_A]
