"""What is completed is not for a neighbour to undo; what failed may be ordered again; two rekeys do not mix."""

from __future__ import annotations

from typing import Any

import pytest
from tests.procedures.liars import refuse_everything
from tests.world import LIFETIME_US, World

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, LINE, PMP, POMP, QSSP_A, QSSP_B
from qsotn.domain import PartyId
from qsotn.errors import OutOfOrder, Refusal
from qsotn.parties import cpe as cpe_records
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.procedures import deletion, leased_line
from qsotn.procedures.turn import Work


@pytest.mark.parametrize("party", [PMP, CPE_B, QSSP_B])
def test_a_party_that_turns_undoes_nothing_that_is_complete_elsewhere(encrypted: World, party: PartyId) -> None:
    refuse_everything(encrypted, party)
    encrypted.settle()
    assert encrypted.line_state() is LineState.ENCRYPTED
    assert encrypted.device_state(CPE_A) is DeviceState.READY
    with encrypted.desk(CPE_A) as cpe:
        assert cpe.own_binding().state is cpe_records.BindingState.READY
        assert cpe.lines.require(LINE).state is cpe_records.LineState.ENCRYPTED
    with encrypted.desk(QSSP_A) as qssp:
        assert qssp.services.get(f"{LINE}/a") is not None
        assert qssp.key_files.get(qssp.bindings.require(CPE_A).key_file_id) is not None
    if party != QSSP_B:  # a device's own QSSP may always stop serving it
        encrypted.rekey()


def test_a_deletion_that_failed_is_ordered_again(encrypted: World) -> None:
    def order(pomp: Any, work: Work) -> None:
        deletion.begin(pomp, work, LINE, PMP, LIFETIME_US)

    encrypted.wire.before = lambda _: None
    encrypted.begin(POMP, order)
    encrypted.clock.advance(LIFETIME_US)
    encrypted.nodes[POMP].tick()
    encrypted.settle()
    assert encrypted.line_state() is LineState.ENCRYPTED
    encrypted.delete()
    assert encrypted.line_state() is LineState.DELETED


def test_a_second_rekey_waits_for_the_first(encrypted: World) -> None:
    def order(cpe: Any, work: Work) -> None:
        leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US)

    encrypted.begin(CPE_A, order)
    with pytest.raises(Refusal, match="REKEY_UNDER_WAY"):
        encrypted.begin(CPE_A, order)
    encrypted.settle()


def test_two_rekeys_of_a_device_that_does_not_wait_keep_their_keys_apart(
    encrypted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of another make may ask twice: each run carries its own generation, and none ends in a defect."""
    from qsotn.procedures.turn import State

    def order(cpe: Any, work: Work) -> None:
        leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US)

    encrypted.begin(CPE_A, order)
    monkeypatch.setattr(leased_line, "keys_under_way", lambda *_: None)
    encrypted.begin(CPE_A, order)
    encrypted.settle()
    rows = [row for row in encrypted.rows(QSSP_A) if row.ladder == "rekey"]
    assert sorted(row.generation for row in rows) == [2, 4]
    assert all(row.state is not State.RUNNING or row.heard for row in rows)


def test_the_gate_shuts_when_a_device_gets_another_home(ready: World) -> None:
    import msgspec

    with ready.desk(PMP) as pmp:
        order = msgspec.structs.replace(pmp.work_orders.require(CPE_A), home_qssp=QSSP_B)
        known = pmp.registrations.require(CPE_A)
        statement = _statement(ready)
        pmp.register(msgspec.structs.replace(order, challenge=statement.challenge), statement)
        assert known.gate_open
        with pytest.raises(OutOfOrder):
            pmp.open_gate(CPE_A, QSSP_B)


def _statement(world: World) -> Any:
    from qsotn.messages import InitializationResponse

    certificates = world.nodes[CPE_A].identity.chain
    serial = "QS-2026-000001"
    return InitializationResponse(CPE_A, serial, certificates, b"", "test", (1,), bytes(32))


def test_the_courier_keeps_a_repeated_datagram_once(ready: World) -> None:
    junk = wire.encode(wire.Datagram("Iaq", CPE_A, QSSP_A, b"junk"))
    for _ in range(50):
        ready.nodes[PMP].receive(junk)
    with ready.province.stores[PMP].transaction() as transaction:
        assert [posted.datagram for posted in transaction.lease(ready.clock(), ready.clock(), 500)].count(junk) == 1


def test_an_old_order_shown_again_prepares_no_port(encrypted: World) -> None:
    """The PMP holds the POMP's signed order; in another run than its own it is no evidence."""
    from qsotn.errors import ReplayedMessage
    from qsotn.interfaces import AX, Seat
    from qsotn.messages import ServiceDispatch

    sent = next(
        received
        for received in (encrypted.opened(one.data) for one in encrypted.wire.sent if one.hop == CPE_A)
        if isinstance(received.message, ServiceDispatch)
    )
    encrypted.delete()
    import msgspec

    again = msgspec.structs.replace(
        sent.envelope,
        procedure="00000000-0000-4000-8000-000000000000",
        issued_at=encrypted.clock(),
        expires_at=encrypted.clock() + LIFETIME_US,
    )
    signed = wire.sign(encrypted.nodes[PMP].identity, again)
    before = encrypted.dump(CPE_A)
    with pytest.raises(ReplayedMessage):
        encrypted.nodes[CPE_A].receive(wire.encode(wire.pack(AX, again, signed, None)))
    assert encrypted.dump(CPE_A) == before
    assert again.receiver_seat is Seat.CPE_A


def test_frames_of_a_device_that_died_are_told_as_a_lower_bound(encrypted: World) -> None:
    encrypted.restart(CPE_A)
    with encrypted.desk(CPE_A) as cpe:
        assert [one.complete for one in cpe.generations.values()] == [False]
    with encrypted.desk(CPE_B) as cpe:
        assert [one.complete for one in cpe.generations.values()] == [True]
