"""Figure 4 told as a story: a line comes into service, carries frames, changes its keys, and is taken out."""

from __future__ import annotations

from functools import partial

import pytest
from tests.world import LIFETIME_US, Sent, World

from qsotn.app.province import CPE_A, CPE_B, KM_A, KM_B, KM_RELAY, LINE, PMP, POMP, QKMP, QSSP_A, QSSP_B
from qsotn.app.report import steps_taken
from qsotn.dataplane.keyslots import SlotState
from qsotn.domain import End, LineId, PartyId
from qsotn.errors import LineError, Refusal
from qsotn.messages import SessionKeyDelivery
from qsotn.parties import cpe as cpe_records
from qsotn.parties.cpe import GenerationState
from qsotn.parties.pmp import ReservationState
from qsotn.parties.pomp import LineState
from qsotn.parties.qssp import BindingState
from qsotn.procedures import leased_line

# Every message in the order of the figure: step, message, and who sends it to whom.
STEPS = """
1   ServiceRequest              pomp/shandong>pmp/shandong
2   ServiceDispatch             pmp/shandong>cpe/jinan-1    pmp/shandong>cpe/qingdao-1
3   ServiceResponse             cpe/jinan-1>pmp/shandong    cpe/qingdao-1>pmp/shandong
4   ServiceReport               pmp/shandong>pomp/shandong
5   ServiceConfirmation         pomp/shandong>pmp/shandong
6   KeyServiceRequest           pomp/shandong>qssp/jinan    pomp/shandong>qssp/qingdao
7a  KeyServiceResponse          qssp/jinan>pomp/shandong    qssp/qingdao>pomp/shandong
7b  KeyServiceResponseCopy      qssp/jinan>pmp/shandong     qssp/qingdao>pmp/shandong
8a  KeyServiceConfirmation      pomp/shandong>qssp/jinan    pomp/shandong>qssp/qingdao
8b  KeyServiceConfirmationCopy  qssp/jinan>pmp/shandong     qssp/qingdao>pmp/shandong
8c  ServiceGrant                pmp/shandong>cpe/jinan-1    pmp/shandong>cpe/qingdao-1
9   SessionKeyRequest           cpe/jinan-1>qssp/jinan
10a EncKeysRequest              qssp/jinan>km/jinan
10b EncKeysResponse             km/jinan>qssp/jinan
10c SessionKeyNotice            qssp/jinan>qssp/qingdao
10d DecKeysRequest              qssp/qingdao>km/qingdao
10e DecKeysResponse             km/qingdao>qssp/qingdao
10f SessionKeyAgreement         qssp/qingdao>qssp/jinan
10g SynchronisationReport       qssp/jinan>qkmp/shandong
11a SessionKeyDelivery          qssp/jinan>cpe/jinan-1      qssp/qingdao>cpe/qingdao-1
11b SessionKeyReceipt           cpe/jinan-1>qssp/jinan      cpe/qingdao-1>qssp/qingdao
12a EncryptedLine               cpe/jinan-1>cpe/qingdao-1   cpe/qingdao-1>cpe/jinan-1
12b EncryptionReport            cpe/jinan-1>pmp/shandong    cpe/qingdao-1>pmp/shandong
12c ActivationReport            pmp/shandong>pomp/shandong
"""


def _rows(table: str) -> list[tuple[str, str, set[str]]]:
    return [(label, message, set(edges)) for label, message, *edges in map(str.split, table.strip().splitlines())]


def _taken(world: World, procedure: object) -> list[tuple[str, str, set[str]]]:
    found: dict[tuple[str, str], set[str]] = {}
    for step in steps_taken(world.province, procedure):  # type: ignore[arg-type]
        for part in step.parts:
            found.setdefault((f"{step.n}{part.part}", part.message), set()).add(f"{part.sender}>{part.receiver}")
    return [(label, message, edges) for (label, message), edges in found.items()]


def test_all_twelve_steps_are_taken_by_the_parties_of_the_figure(ready: World) -> None:
    procedure = ready.order_line()
    ready.settle()
    ready.connect()
    ready.encrypt()
    assert _taken(ready, procedure) == _rows(STEPS)
    assert not ready.running()
    assert not any(node.rejections for node in ready.nodes.values())


def test_without_the_line_itself_the_service_is_granted_and_not_encrypted(ready: World) -> None:
    """Step 12 is what the OTN line proves; no datagram takes its place."""
    ready.order_line()
    ready.settle()
    assert ready.line_state() is LineState.ADMITTED
    for cpe in (CPE_A, CPE_B):
        with ready.desk(cpe) as device:
            assert device.lines.require(LINE).state is cpe_records.LineState.GRANTED
            assert [kept.state for kept in device.generations.values()] == [GenerationState.ARMED]


def test_the_line_ends_encrypted_at_every_party(encrypted: World) -> None:
    assert encrypted.line_state() is LineState.ENCRYPTED
    with encrypted.desk(PMP) as pmp:
        assert pmp.reservations.require(LINE).state is ReservationState.GRANTED
    for cpe in (CPE_A, CPE_B):
        with encrypted.desk(cpe) as device:
            held = device.lines.require(LINE)
            assert (held.state, held.generation, held.active) == (cpe_records.LineState.ENCRYPTED, 1, 1)


def _key_ids(world: World, generation: int) -> list[tuple[str, str]]:
    """The generation's key IDs as each party that knows them has them."""
    known = []
    for cpe in (CPE_A, CPE_B):
        with world.desk(cpe) as device:
            known.append(device.generations.require(f"{LINE}/{generation:08}").key_ids)
    for qssp, end in ((QSSP_A, End.A), (QSSP_B, End.B)):
        with world.desk(qssp) as desk:
            kept = desk.generations.require(f"{LINE}/{end}/{generation:08}")
            known.append((kept.key_id_a_to_b, kept.key_id_b_to_a))
    with world.desk(QKMP) as qkmp:
        known.append(qkmp.synchronisations.require(f"{LINE}/{generation:08}").key_ids)
    return known


def test_both_ends_hold_the_same_two_keys_and_everybody_between_has_forgotten_them(encrypted: World) -> None:
    known = _key_ids(encrypted, 1)
    assert len(set(known)) == 1
    assert known[0][0] != known[0][1]
    for qssp, end in ((QSSP_A, End.A), (QSSP_B, End.B)):
        with encrypted.desk(qssp) as desk:
            kept = desk.generations.require(f"{LINE}/{end}/00000001")
            assert kept.wrapped == ()
            assert kept.armed_at > 0
    for party in (KM_A, KM_RELAY, KM_B):
        with encrypted.desk(party) as km:
            assert list(km.stored.values()) == []
            assert list(km.desk.collection("supplies", object).values()) == []
    for cpe in (CPE_A, CPE_B):
        with encrypted.desk(cpe) as device:
            kept = device.generations.require(f"{LINE}/00000001")
            assert (kept.state, kept.wrapped) == (GenerationState.INSTALLED, ())


def _carry(world: World, frames: list[bytes]) -> list[bytes]:
    """What end B's client port gives out of these frames offered at end A."""
    assert world.line is not None
    for frame in frames:
        assert world.line.a.terminal.offer(frame)
    arrived: list[bytes] = []
    for _ in range(30):
        world.turn()
        arrived += world.line.b.terminal.deliver()
    return arrived


def test_client_frames_cross_an_encrypted_line(encrypted: World) -> None:
    frames = [bytes([n]) * 500 for n in range(40)]
    assert _carry(encrypted, frames) == frames


def test_a_granted_line_whose_keys_came_to_one_end_only_carries_nothing(ready: World) -> None:
    def lose(sent: Sent) -> None:
        if sent.hop == CPE_B and isinstance(ready.opened(sent.data).message, SessionKeyDelivery):
            raise LineError("lost")

    ready.wire.before = lose
    ready.order_line()
    for _ in range(30):
        ready.pump()
    ready.connect()
    assert ready.line is not None
    assert _carry(ready, [b"\x55" * 500]) == []
    assert ready.line.a.terminal.slot(1) is SlotState.ARMED
    assert ready.line.b.terminal.slot(1) is SlotState.EMPTY


def test_a_rekey_gives_new_keys_and_erases_the_old(encrypted: World) -> None:
    assert encrypted.line is not None
    first = set(_key_ids(encrypted, 1)[0])
    encrypted.rekey()
    second = _key_ids(encrypted, 2)
    assert len(set(second)) == 1
    assert not first & set(second[0])
    for _ in range(30):
        encrypted.turn()
    for cpe, terminal in ((CPE_A, encrypted.line.a.terminal), (CPE_B, encrypted.line.b.terminal)):
        with encrypted.desk(cpe) as device:
            old, new = device.generations.values()
            assert (old.state, new.state) == (GenerationState.ERASED, GenerationState.INSTALLED)
            assert device.lines.require(LINE).active == 2
        assert (terminal.slot(0), terminal.slot(1)) == (SlotState.ACTIVE, SlotState.EMPTY)
    assert _carry(encrypted, [b"\x77" * 100]) == [b"\x77" * 100]


def test_each_generation_burns_one_new_entry_at_both_ends(encrypted: World) -> None:
    for _ in range(3):
        encrypted.rekey()
    for cpe, qssp in ((CPE_A, QSSP_A), (CPE_B, QSSP_B)):
        with encrypted.desk(cpe) as device, encrypted.desk(qssp) as desk:
            near, far = next(device.key_files.values()), next(desk.key_files.values())
            assert (near.burned_below, far.next_entry) == (4, 4)
            assert [bool(entry) for entry in near.entries] == [False] * 4 + [True] * 60
            assert [bool(entry) for entry in far.entries] == [False] * 4 + [True] * 60
            assert far.burned == {str(n): f"{LINE}/{n + 1}" for n in range(4)}
            assert [kept.entry for kept in device.generations.values()] == [0, 1, 2, 3]


def test_end_b_and_a_stranger_cannot_ask_for_keys(encrypted: World) -> None:
    before = encrypted.dump_all()
    for party, line in ((CPE_B, LINE), (CPE_A, LineId("line-9"))):
        ask = partial(leased_line.begin_rekey, line=line, lifetime_us=LIFETIME_US)
        with pytest.raises(Refusal, match="NOT_CONFIRMED"):
            encrypted.begin(party, ask)
    assert encrypted.dump_all() == before


def _deleted(world: World) -> World:
    assert world.line is not None
    frames = [b"\x11" * 1000] * 50
    assert _carry(world, frames) == frames
    world.rekey()
    world.line.a.record()
    world.line.b.record()
    world.delete()
    return world


def test_deletion_ends_in_the_usage_record_of_both_ends_and_both_cities(encrypted: World) -> None:
    _deleted(encrypted)
    assert encrypted.line_state() is LineState.DELETED
    with encrypted.desk(POMP) as pomp:
        record = pomp.usage.require(LINE)
    assert (record.end_a.client_bytes_in, record.end_b.client_bytes_out) == (50_000, 50_000)
    assert (record.end_b.client_bytes_in, record.end_a.client_bytes_out) == (0, 0)
    assert {(use.keys_drawn, use.keys_delivered, use.entries_burned) for use in record.key_usage} == {(4, 4, 2)}
    assert {use.cpe for use in record.key_usage} == {CPE_A, CPE_B}
    assert [use.key_id for use in record.end_a.keys] == [use.key_id for use in record.end_b.keys]
    assert all(use.frames > 0 for use in record.end_a.keys)
    assert record.ended_at > record.encrypted_at > 0


def test_deletion_zeroises_the_keys_and_frees_the_ports(encrypted: World) -> None:
    _deleted(encrypted)
    assert encrypted.line is not None
    for cpe, terminal in ((CPE_A, encrypted.line.a.terminal), (CPE_B, encrypted.line.b.terminal)):
        with encrypted.desk(cpe) as device:
            assert device.lines.require(LINE).state is cpe_records.LineState.STOPPED
            assert {(kept.state, kept.wrapped) for kept in device.generations.values()} == {
                (GenerationState.ERASED, ())
            }
        assert {terminal.slot(0), terminal.slot(1)} == {SlotState.EMPTY}
    with encrypted.desk(PMP) as pmp:
        assert list(pmp.reservations.values()) == []
    for qssp in (QSSP_A, QSSP_B):
        with encrypted.desk(qssp) as desk:
            assert list(desk.services.values()) == []
            assert all(kept.wrapped == () for kept in desk.generations.values())
            assert next(desk.bindings.values()).state is BindingState.ACTIVE
    assert _carry(encrypted, [b"\x99" * 100]) == []


def test_after_deletion_the_same_ports_serve_another_line_with_other_keys(encrypted: World) -> None:
    _deleted(encrypted)
    used = {key_id for generation in (1, 2) for key_id in _key_ids(encrypted, generation)[0]}
    encrypted.line = None
    encrypted.order_line(LineId("line-2"))
    encrypted.settle()
    with encrypted.desk(CPE_A) as device:
        (kept,) = [one for one in device.generations.values() if one.line == "line-2"]
    assert not used & set(kept.key_ids)
    assert kept.entry == 2


@pytest.mark.parametrize("party", [CPE_A, CPE_B])
def test_a_device_that_restarts_never_uses_its_old_keys_and_the_line_gets_new_ones(
    encrypted: World, party: PartyId
) -> None:
    first = set(_key_ids(encrypted, 1)[0])
    encrypted.restart(party)
    with encrypted.desk(party) as device:
        (kept,) = device.generations.values()
        assert (kept.state, kept.wrapped) == (GenerationState.ERASED, ())
    encrypted.run_line(lambda: encrypted.completed("rekey", CPE_A) == 1, turns=600)
    encrypted.settle()
    assert not first & set(_key_ids(encrypted, 2)[0])
    assert _carry(encrypted, [b"\x42" * 100]) == [b"\x42" * 100]
