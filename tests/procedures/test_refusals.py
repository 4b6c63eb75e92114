"""Every considered no: its code reaches whoever ordered, everybody undoes their part, and nothing else is touched.

Each case is one fault in one party (a record changed behind its back, at the start or just before one message), and
the code that must come of it. A fault is put in the store: the message that trips over it is an honest one.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.world import BEGINS_US, LIFETIME_US, QUALITY, Chance, Sent, World, Worlds, deposit, drain

from qsotn.app.province import (
    CPE_A,
    CPE_B,
    HOMES,
    KM_A,
    KM_B,
    KM_RELAY,
    LINE,
    LINK_A,
    LINK_B,
    LINKS,
    PARTIES,
    PMP,
    POMP,
    QKMP,
    QSSP_A,
    QSSP_B,
    SERIALS,
    VALIDITY,
)
from qsotn.crypto.identity import Identity
from qsotn.domain import End, LineId, PartyId, ProcedureId, QualityOfService, Secret
from qsotn.errors import LineError, Refusal
from qsotn.messages import (
    DecKeysRequest,
    KeyFileConfirmation,
    KeyFileRequest,
    KeyFileResponse,
    KeyServiceConfirmation,
    KeyServiceRequest,
    RekeyDispatch,
    ServiceConfirmation,
    ServiceResponse,
    SessionKeyDelivery,
    SessionKeyReceipt,
    SynchronisationReport,
)
from qsotn.parties import cpe as cpe_records
from qsotn.parties.cpe import CpeLine
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.parties.qssp import BindingState, LineService
from qsotn.procedures import deletion, leased_line
from qsotn.procedures.turn import State

Fault = Callable[[World], None]
replace = msgspec.structs.replace
LINE_2 = LineId("line-2")


def _change(world: World, party: PartyId, collection: str, key: str, **values: Any) -> None:
    """Change some fields of one record behind its party's back."""
    with world.desk(party) as desk:
        records = getattr(desk, collection)
        records.put(key, replace(records.require(key), **values))


def _wrong_secret(world: World, party: PartyId, context: str) -> bytes:
    with world.desk(party) as desk:
        return desk.desk.vault.wrap(Secret(world.entropy(32)), context.encode())  # type: ignore[no-any-return]


def _codes(world: World, procedure: ProcedureId) -> set[str]:
    """How each party's part of a procedure ended."""
    rows = [row for party in PARTIES for row in world.rows(party) if row.procedure == procedure]
    return {row.failure if row.state is State.FAILED else row.state for row in rows}


# --- what the operator is told at once --------------------------------------------------------------------------------


def _quality(**changed: Any) -> QualityOfService:
    return replace(QUALITY, **changed)


def test_a_line_for_a_device_that_was_never_ordered_is_refused_at_once(open_world: Callable[..., World]) -> None:
    world = open_world("provisioned")
    before = world.dump(POMP)
    with pytest.raises(Refusal, match="UNKNOWN_CPE"):
        world.order_line()
    assert world.dump(POMP) == before


def test_a_line_for_a_device_that_is_not_ready_is_refused_at_once(open_world: Callable[..., World]) -> None:
    world = open_world("provisioned")
    for cpe in (CPE_A, CPE_B):
        world.initialize(cpe)
    before = world.dump(POMP)
    with pytest.raises(Refusal, match="NOT_READY"):
        world.order_line()
    assert world.dump(POMP) == before


def test_a_line_without_an_account_and_one_ordered_twice_are_refused_at_once(encrypted: World) -> None:
    before = encrypted.dump_all()
    with pytest.raises(Refusal, match="UNKNOWN_ACCOUNT"):
        encrypted.begin(
            POMP,
            partial(
                leased_line.begin,
                line=LINE_2,
                account="nobody",
                ends=(CPE_A, CPE_B),
                quality=QUALITY,
                pmp=PMP,
                lifetime_us=LIFETIME_US,
            ),
        )
    with pytest.raises(Refusal, match="LINE_EXISTS"):
        encrypted.order_line()
    assert encrypted.dump_all() == before


def test_a_line_that_is_not_in_service_cannot_be_deleted(ready: World) -> None:
    order = partial(deletion.begin, line=LINE, pmp=PMP, lifetime_us=LIFETIME_US)
    for _ in range(2):  # never ordered, then ordered and not encrypted
        with pytest.raises(Refusal, match="NOT_CONFIRMED"):
            ready.begin(POMP, order)
        if ready.line_state() is None:
            ready.order_line()


# --- Figure 3 ---------------------------------------------------------------------------------------------------------


def _drain_first_link(world: World) -> None:
    drain(world, KM_A, LINK_A)


def _old_counter(world: World) -> None:
    world.when(KeyFileRequest, lambda: _change(world, QSSP_A, "bindings", CPE_A, last_counter=99))


def _other_binding(world: World) -> None:
    world.when(KeyFileRequest, lambda: _change(world, QSSP_A, "bindings", CPE_A, binding_id="another"))


def _other_kem_key(world: World) -> None:
    def act() -> None:
        with world.desk(CPE_A) as device:
            seed = device.desk.vault.wrap(Secret(world.entropy(32)), b"key-file-request")
        _change(world, CPE_A, "binding", "own", kem_seed=seed)

    world.when(KeyFileResponse, act)


def _other_transcript(world: World) -> None:
    def act() -> None:
        with world.desk(QSSP_A) as qssp:
            (file,) = [one for one in qssp.key_files.values() if one.cpe == CPE_A]
        _change(world, QSSP_A, "key_files", file.key_file_id, transcript=bytes(48))

    world.when(KeyFileConfirmation, act)


def _unsupported_suite(world: World) -> None:
    with world.desk(CPE_A) as device:
        configuration = replace(device.configuration, suites=(2,))
        device.desk.collection("configuration", type(configuration)).put("cpe", configuration)


INITIALIZATION_FAULTS: dict[str, tuple[str, Fault]] = {
    "the device has no common suite": ("UNSUPPORTED", _unsupported_suite),
    "no keys left": ("KEY_SHORTAGE", _drain_first_link),
    "a key file request that counts backwards": ("REPLAYED", _old_counter),
    "a key file request under another binding": ("NOT_BOUND", _other_binding),
    "the device lost its KEM key": ("BAD_TAG", _other_kem_key),
    "the device's proof does not hold": ("INJECT_FAILED", _other_transcript),
}


@pytest.fixture
def one_ready(open_world: Callable[..., World]) -> World:
    """The device in Qingdao is READY, the one in Jinan not yet ordered."""
    world: World = open_world("provisioned")
    world.initialize(CPE_B)
    world.settle()
    return world


@pytest.mark.parametrize("name", INITIALIZATION_FAULTS)
def test_an_initialization_that_is_refused_leaves_nothing_half_active(one_ready: World, name: str) -> None:
    world, (code, fault) = one_ready, INITIALIZATION_FAULTS[name]
    untouched = {party: world.dump(party) for party in (CPE_B, QSSP_B)}
    fault(world)
    procedure = world.initialize(CPE_A)
    world.settle()
    assert _codes(world, procedure) == {code}
    _check_initialization_undone(world, code)
    assert {party: world.dump(party) for party in (CPE_B, QSSP_B)} == untouched
    assert world.device_state(CPE_B) is DeviceState.READY


def _check_initialization_undone(world: World, code: str) -> None:
    with world.desk(POMP) as pomp:
        device = pomp.devices.require(CPE_A)
    assert (device.state, device.failure) == (DeviceState.FAILED, code)
    with world.desk(QSSP_A) as qssp:
        binding = qssp.bindings.get(CPE_A)
        assert binding is None or binding.state is BindingState.DESTROYED
        assert list(qssp.key_files.values()) == []
    with world.desk(CPE_A) as own:
        held = own.binding.get("own")
        assert held is None or (held.state, held.kem_seed) == (cpe_records.BindingState.FAILED, b"")
        assert list(own.key_files.values()) == []
    assert not world.running()


def _more_bits(world: World) -> None:
    """Two key files are as much as a link begins with, and a part of that is kept for ready pools."""
    for link in LINKS:
        deposit(world, link, 2)
    world.settle()


def test_after_a_refused_initialization_the_device_can_be_ordered_again(one_ready: World) -> None:
    _more_bits(one_ready)
    _other_transcript(one_ready)
    one_ready.initialize(CPE_A)
    one_ready.settle()
    assert one_ready.device_state(CPE_A) is DeviceState.FAILED
    one_ready.initialize(CPE_A)
    one_ready.settle()
    assert one_ready.device_state(CPE_A) is DeviceState.READY


def test_an_older_order_that_times_out_takes_nothing_away_from_a_newer_one(one_ready: World) -> None:
    """The first order of a device hangs at its QSSP's answer; a second one brings the device into service."""
    _more_bits(one_ready)
    world, first = one_ready, one_ready.initialize(CPE_A)

    def hang(sent: Sent) -> None:
        if (sent.sender, sent.hop) == (QSSP_A, POMP) and world.opened(sent.data).envelope.procedure == first:
            raise LineError("lost")

    world.wire.before = hang
    for _ in range(20):
        world.pump()
    assert "5c:km" in world.row(QSSP_A, first).heard
    world.clock.advance(LIFETIME_US // 2)
    world.initialize(CPE_A)
    for _ in range(30):
        world.pump()
    assert world.device_state(CPE_A) is DeviceState.READY
    world.clock.advance(LIFETIME_US // 2)
    world.wire.before = lambda _: None
    _tick(world)
    assert _codes(world, first) == {"TIMEOUT"}
    assert world.device_state(CPE_A) is DeviceState.READY
    with world.desk(QSSP_A) as qssp, world.desk(CPE_A) as device:
        assert qssp.bindings.require(CPE_A).state is BindingState.ACTIVE
        assert device.own_binding().state is cpe_records.BindingState.READY
        file = device.key_files.require(device.own_binding().key_file_id)
        assert len(qssp.key_files.require(file.key_file_id).entries) == len(file.entries)


@pytest.mark.parametrize("forgetful", [(POMP,), (POMP, CPE_A)], ids=["refused by the device", "refused by the QSSP"])
def test_a_device_that_is_bound_stays_bound_when_the_operator_orders_it_again(
    ready: World, forgetful: tuple[PartyId, ...]
) -> None:
    """A POMP (and a device) that lost its records cannot take the binding away from the others."""
    with ready.desk(POMP) as pomp:
        pomp.devices.delete(CPE_A)
    if CPE_A in forgetful:
        with ready.desk(CPE_A) as device:
            device.binding.delete("own")
    with ready.desk(QSSP_A) as qssp:
        binding, files = qssp.bindings.require(CPE_A), list(qssp.key_files.values())
    with ready.desk(CPE_A) as device:
        own = list(device.key_files.values())
    procedure = ready.initialize(CPE_A)
    ready.settle()
    assert _codes(ready, procedure) == {"ALREADY_BOUND"}
    with ready.desk(QSSP_A) as qssp:
        assert (qssp.bindings.require(CPE_A), list(qssp.key_files.values())) == (binding, files)
        assert binding.state is BindingState.ACTIVE
    with ready.desk(CPE_A) as device:
        assert list(device.key_files.values()) == own


def _become(world: World, identity: Identity) -> None:
    """Let another device sit where CPE A sat."""
    node = world.nodes[CPE_A]
    node.identity, node._poster = identity, dataclasses.replace(node._poster, identity=identity)


def _certified(worlds: Worlds, serial: str, keys: Identity | None = None) -> Identity:
    """A certificate of the device's own manufacturer, for another serial number, or for the same keys again."""
    now = dt.datetime.fromtimestamp(BEGINS_US / 1e6, dt.UTC)
    window = (now - dt.timedelta(minutes=5), now + VALIDITY)
    if keys is None:
        return Identity.create(CPE_A, worlds.manufacturer, *window, Chance("clone"), serial)
    public = keys.signing_key.public_key().public_bytes_raw()
    leaf = worlds.manufacturer.issue(CPE_A, public, keys.kem.public, *window, serial)
    return Identity(CPE_A, (leaf,), keys.suite, keys.signing_key, keys.kem)


def test_a_device_with_another_serial_number_is_not_what_was_ordered(one_ready: World, worlds: Worlds) -> None:
    _become(one_ready, _certified(worlds, "QS-2026-999999"))
    procedure = one_ready.initialize(CPE_A)
    one_ready.settle()
    assert _codes(one_ready, procedure) == {"AUTH_FAILED"}
    _check_initialization_undone(one_ready, "AUTH_FAILED")


def test_a_registered_device_that_shows_another_certificate_is_suspected_a_clone(ready: World, worlds: Worlds) -> None:
    with ready.desk(POMP) as pomp, ready.desk(CPE_A) as device:
        pomp.devices.delete(CPE_A)
        device.binding.delete("own")
    with ready.desk(PMP) as pmp:
        registered = pmp.registrations.require(CPE_A)
    _become(ready, _certified(worlds, SERIALS[CPE_A], ready.nodes[CPE_A].identity))
    procedure = ready.initialize(CPE_A)
    ready.settle()
    assert _codes(ready, procedure) == {"CLONE_SUSPECTED"}
    with ready.desk(PMP) as pmp:
        assert pmp.registrations.require(CPE_A) == registered
    with ready.desk(QSSP_A) as qssp:
        assert qssp.bindings.require(CPE_A).state is BindingState.ACTIVE


def test_a_clone_with_keys_of_its_own_is_not_even_heard(ready: World, worlds: Worlds) -> None:
    with ready.desk(POMP) as pomp, ready.desk(CPE_A) as device:
        pomp.devices.delete(CPE_A)
        device.binding.delete("own")
    _become(ready, _certified(worlds, SERIALS[CPE_A]))
    procedure = ready.initialize(CPE_A)
    for _ in range(20):
        ready.pump()
    assert ready.nodes[PMP].rejections["BadSignature"] > 0
    assert ready.row(PMP, procedure).heard.keys() == {"1:pomp"}


# --- Figure 4 ---------------------------------------------------------------------------------------------------------


def _stale_line(world: World) -> None:
    held = CpeLine(
        LineId("line-0"),
        End.B,
        CPE_A,
        "somebody",
        QUALITY,
        "1",
        ProcedureId("older"),
        cpe_records.LineState.PREPARED,
    )
    with world.desk(CPE_B) as device:
        device.lines.put("line-0", held)


def _unknown_at_pmp(world: World) -> None:
    with world.desk(PMP) as pmp:
        pmp.registrations.delete(CPE_B)


def _revoked_at_pmp(world: World) -> None:
    with world.desk(PMP) as pmp:
        pmp.revoke(CPE_B, SERIALS[CPE_B])


def _revoked_at_its_qssp(world: World) -> None:
    def act() -> None:
        with world.desk(QSSP_B) as qssp:
            qssp.revoke(CPE_B)

    world.when(KeyServiceConfirmation, act)


def _other_tokens(world: World) -> None:
    def act() -> None:
        with world.desk(PMP) as pmp:
            held = pmp.reservations.require(LINE)
            pmp.reservations.put(LINE, replace(held, token_a=held.token_b))

    world.when(ServiceConfirmation, act)


def _other_quality(world: World) -> None:
    worse = _quality(max_latency_us=1)
    world.when(ServiceConfirmation, lambda: _change(world, PMP, "reservations", LINE, quality=worse))


def _slower_offer(world: World) -> None:
    """The POMP itself holds both ends' offers against the order."""

    def act() -> None:
        _change(world, POMP, "lines", LINE, quality=_quality(max_latency_us=1))

    world.when(ServiceResponse, act)


def _not_home(world: World) -> None:
    with world.desk(QSSP_B) as qssp:
        qssp.bindings.delete(CPE_B)


def _inactive_binding(world: World) -> None:
    _change(world, QSSP_B, "bindings", CPE_B, state=BindingState.RELEASED)


def _used_up(world: World) -> None:
    with world.desk(QSSP_B) as qssp:
        (file,) = qssp.key_files.values()
        qssp.key_files.put(file.key_file_id, replace(file, next_entry=64))


def _served_already(world: World) -> None:
    def act() -> None:
        with world.desk(QSSP_A) as qssp:
            older = LineService(LINE, CPE_A, End.A, CPE_B, QSSP_B, 60, ProcedureId("older"))
            qssp.services.put(f"{LINE}/a", older)

    world.when(KeyServiceRequest, act)


def _reused_id(world: World) -> None:
    def act() -> None:
        with world.desk(QSSP_A) as qssp:
            kept = list(qssp.generations.values())[-1]
        with world.desk(QKMP) as qkmp:
            qkmp.seen.put(kept.key_id_a_to_b, "line-0/7")

    world.when(SynchronisationReport, act)


def _drain_relay(world: World) -> None:
    drain(world, KM_RELAY, LINK_B)


def _keys_gone(world: World) -> None:
    def act() -> None:
        with world.desk(KM_B) as km:
            for key_id, _ in list(km.stored.items()):
                km.stored.delete(key_id)

    world.when(DecKeysRequest, act)


def _other_key_at_far_end(world: World) -> None:
    def act() -> None:
        with world.desk(KM_B) as km:
            key_id, stored = next(iter(km.stored.items()))
            wrapped = km.desk.vault.wrap(Secret(bytes(range(32))), f"stored/{key_id}".encode())
            km.stored.put(key_id, replace(stored, wrapped=wrapped))

    world.when(DecKeysRequest, act)


def _other_entry(world: World) -> None:
    def act() -> None:
        with world.desk(CPE_A) as device:
            (file,) = device.key_files.values()
        index = file.burned_below
        wrong = _wrong_secret(world, CPE_A, f"key-file/{file.key_file_id}/{index}")
        entries = (*file.entries[:index], wrong, *file.entries[index + 1 :])
        _change(world, CPE_A, "key_files", file.key_file_id, entries=entries)

    world.when(SessionKeyDelivery, act)


def _burned_entry(world: World) -> None:
    def act() -> None:
        with world.desk(CPE_A) as device:
            (file,) = device.key_files.values()
        _change(world, CPE_A, "key_files", file.key_file_id, burned_below=64)

    world.when(SessionKeyDelivery, act)


def _other_session_keys(world: World) -> None:
    """The QSSP's copy is not what it delivered, so the device's receipt does not hold."""

    def act() -> None:
        with world.desk(QSSP_A) as qssp:
            key, kept = list(qssp.generations.items())[-1]
            ids = (kept.key_id_a_to_b, kept.key_id_b_to_a)
            places = [f"session/{LINE}/a/{kept.generation}/{key_id}" for key_id in ids]
        wrong = tuple(_wrong_secret(world, QSSP_A, place) for place in places)
        _change(world, QSSP_A, "generations", key, wrapped=wrong)

    world.when(SessionKeyReceipt, act)


def _unconfirmed(world: World) -> None:
    _change(world, QSSP_A, "services", f"{LINE}/a", confirmed=False)


def _counted_further(world: World) -> None:
    _change(world, QSSP_A, "bindings", CPE_A, last_key_counter=99)


def _generation_further(world: World) -> None:
    _change(world, QSSP_B, "services", f"{LINE}/b", generation=99)


KEY_FAULTS: dict[str, tuple[str, Fault]] = {
    "no keys at the near key manager": ("KEY_SHORTAGE", _drain_first_link),
    "no pad at the relay": ("KEY_SHORTAGE", _drain_relay),
    "the far key manager lost the keys": ("KEYS_NOT_FOUND", _keys_gone),
    "the far key manager has other keys": ("DESYNC", _other_key_at_far_end),
    "a key ID that served before": ("KEY_REUSED", _reused_id),
    "the device has another key-file entry": ("BAD_TAG", _other_entry),
    "the device burned that entry": ("KEY_REUSED", _burned_entry),
    "the device's receipt does not hold": ("ONE_SIDED", _other_session_keys),
}
LINE_FAULTS: dict[str, tuple[str, Fault]] = {
    "the far device's port is busy": ("PORT_BUSY", _stale_line),
    "a device the PMP does not know": ("UNKNOWN_CPE", _unknown_at_pmp),
    "a device the PMP has revoked": ("DEVICE_REVOKED", _revoked_at_pmp),
    "a device its city revoked after it was admitted": ("DEVICE_REVOKED", _revoked_at_its_qssp),
    "confirmed with other tokens": ("TOKEN_MISMATCH", _other_tokens),
    "confirmed with another quality": ("QOS_INFEASIBLE", _other_quality),
    "an end that offers less": ("QOS_INFEASIBLE", _slower_offer),
    "a device of no city": ("NOT_HOME", _not_home),
    "a key file that is not active": ("NOT_READY", _inactive_binding),
    "a key file that is used up": ("KEY_RATE_INSUFFICIENT", _used_up),
    "a line that is served already": ("LINE_EXISTS", _served_already),
    **KEY_FAULTS,
}


@pytest.mark.parametrize("name", LINE_FAULTS)
def test_a_line_that_is_refused_is_undone_at_both_ends(ready: World, name: str) -> None:
    code, fault = LINE_FAULTS[name]
    fault(ready)
    procedure = ready.order_line()
    ready.settle()
    assert _codes(ready, procedure) == {code}
    _check_line_undone(ready, code)
    assert [ready.device_state(cpe) for cpe in (CPE_A, CPE_B)] == [DeviceState.READY] * 2


@pytest.mark.parametrize(
    "quality",
    [
        _quality(odu="ODU9"),
        _quality(odu="ODU1"),
        _quality(rekey_interval_s=0),
        _quality(max_latency_us=0),
    ],
    ids=["no such ODU", "an ODU the devices lack", "no rekey interval", "no latency"],
)
def test_a_line_of_a_quality_nobody_can_give_is_refused(ready: World, quality: QualityOfService) -> None:
    procedure = ready.order_line(quality=quality)
    ready.settle()
    assert _codes(ready, procedure) == {"QOS_INFEASIBLE"}
    _check_line_undone(ready, "QOS_INFEASIBLE")


def _check_line_undone(world: World, code: str) -> None:
    with world.desk(POMP) as pomp:
        line = pomp.lines.require(LINE)
    assert (line.state, line.failure) == (LineState.FAILED, code)
    with world.desk(PMP) as pmp:
        assert pmp.reservations.get(LINE) is None
    for cpe in (CPE_A, CPE_B):
        with world.desk(cpe) as device:
            held = device.lines.get(LINE)
            assert held is None or held.state is cpe_records.LineState.STOPPED
            assert all(kept.wrapped == () for kept in device.generations.values())
    for qssp in (QSSP_A, QSSP_B):
        with world.desk(qssp) as desk:
            left = [service for service in desk.services.values() if service.procedure != "older"]
            assert left == []
            assert all(kept.wrapped == () for kept in desk.generations.values())
    assert not world.running()


def test_a_second_line_over_the_same_ports_leaves_the_first_as_it_was(encrypted: World) -> None:
    assert encrypted.line is not None
    before = _line_records(encrypted)
    procedure = encrypted.order_line(LINE_2)
    encrypted.settle()
    assert _codes(encrypted, procedure) == {"PORT_BUSY"}
    assert encrypted.line_state(LINE_2) is LineState.FAILED
    assert not any(row.procedure == procedure for cpe in (CPE_A, CPE_B) for row in encrypted.rows(cpe))
    assert _line_records(encrypted) == before
    assert _still_carries(encrypted)


def _line_records(world: World) -> list[Any]:
    """Everything anybody holds of the first line, its devices and their key files."""
    records: list[Any] = [world.line_state()]
    with world.desk(PMP) as pmp:
        records.append(pmp.reservations.require(LINE))
    for cpe in (CPE_A, CPE_B):
        with world.desk(cpe) as device:
            records += [device.lines.require(LINE), *device.generations.values(), *device.key_files.values()]
        with world.desk(HOMES[cpe]) as qssp:
            records += [*qssp.services.values(), *qssp.bindings.values(), *qssp.key_files.values()]
    return records


def _still_carries(world: World) -> bool:
    assert world.line is not None
    frame, arrived = world.entropy(300), []
    assert world.line.a.terminal.offer(frame)
    for _ in range(20):
        world.turn()
        arrived += world.line.b.terminal.deliver()
    return arrived == [frame]


REKEY_FAULTS: dict[str, tuple[str, Fault]] = {
    "a line that is not confirmed": ("NOT_CONFIRMED", _unconfirmed),
    "a key request that counts backwards": ("REPLAYED", _counted_further),
    "a generation the other city had before": ("REPLAYED", _generation_further),
    **KEY_FAULTS,
}


@pytest.mark.parametrize("name", REKEY_FAULTS)
def test_a_rekey_that_is_refused_leaves_the_line_encrypted_under_its_old_keys(encrypted: World, name: str) -> None:
    code, fault = REKEY_FAULTS[name]
    fault(encrypted)
    procedures: list[ProcedureId] = []
    encrypted.begin(CPE_A, lambda cpe, work: procedures.append(leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US)))
    encrypted.settle()
    assert _codes(encrypted, procedures[0]) == {code}
    assert encrypted.line_state() is LineState.ENCRYPTED
    for cpe in (CPE_A, CPE_B):
        with encrypted.desk(cpe) as device:
            held = device.lines.require(LINE)
            assert (held.state, held.active) == (cpe_records.LineState.ENCRYPTED, 1)
    for qssp in (QSSP_A, QSSP_B):
        with encrypted.desk(qssp) as desk:
            assert len(list(desk.services.values())) == 1
            assert all(kept.wrapped == () for kept in desk.generations.values())
    assert _still_carries(encrypted)


def _unreserved(world: World) -> None:
    with world.desk(PMP) as pmp:
        pmp.reservations.delete(LINE)


def _stopped(world: World) -> None:
    _change(world, CPE_A, "lines", LINE, state=cpe_records.LineState.STOPPED)


def _asked_by_itself(world: World) -> None:
    """The device's own request for keys comes just before the order to ask for them."""
    ask = partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US)
    world.when(RekeyDispatch, lambda: world.begin(CPE_A, ask))


ORDER_FAULTS: dict[str, tuple[str, Fault]] = {
    "a line the PMP has no ports for": ("UNKNOWN_LINE", _unreserved),
    "a line the device has stopped": ("NOT_CONFIRMED", _stopped),
    "keys are on their way already": ("REKEY_UNDER_WAY", _asked_by_itself),
}
ORDERED_REKEY_FAULTS = (
    "a line that is not confirmed",
    "a key request that counts backwards",
    "no keys at the near key manager",
    "the far key manager has other keys",
    "the device burned that entry",
)


@pytest.mark.parametrize("name", ORDER_FAULTS)
def test_an_order_for_new_keys_that_is_refused_begins_no_rekey(encrypted: World, name: str) -> None:
    code, fault = ORDER_FAULTS[name]
    fault(encrypted)
    before = len(_of_ladder(encrypted, "rekey"))
    procedure = encrypted.order_rekey()
    encrypted.settle()
    assert _codes(encrypted, procedure) == {code}
    assert len(_of_ladder(encrypted, "rekey")) == before + (fault is _asked_by_itself)
    with encrypted.desk(POMP) as pomp:
        assert pomp.lines.require(LINE).generation == 1


@pytest.mark.parametrize("name", ORDERED_REKEY_FAULTS)
def test_a_rekey_that_is_refused_fails_the_order_it_was_to_carry_out(encrypted: World, name: str) -> None:
    code, fault = REKEY_FAULTS[name]
    fault(encrypted)
    procedure = encrypted.order_rekey()
    encrypted.settle()
    (rekey,) = _of_ladder(encrypted, "rekey")
    assert _codes(encrypted, procedure) == _codes(encrypted, rekey) == {code}
    assert encrypted.line_state() is LineState.ENCRYPTED
    with encrypted.desk(CPE_A) as device:
        assert list(device.rekey_orders.values()) == []
        assert device.lines.require(LINE).active == 1
    assert _still_carries(encrypted)


def _of_ladder(world: World, ladder: str) -> set[ProcedureId]:
    return {row.procedure for row in world.rows(CPE_A) if row.ladder == ladder}


def test_after_a_refused_rekey_the_next_one_succeeds(encrypted: World) -> None:
    """Also when only one of the two devices got keys of the generation that failed."""
    _other_key_at_far_end(encrypted)
    encrypted.begin(CPE_A, partial(leased_line.begin_rekey, line=LINE, lifetime_us=LIFETIME_US))
    encrypted.settle()
    with encrypted.desk(CPE_B) as device:
        assert len(list(device.generations.values())) == 2
    encrypted.wire.before = lambda _: None
    encrypted.rekey()
    assert _still_carries(encrypted)


# --- what is wrong is not refused but not heard; then time ends it ----------------------------------------------------


def _time_out(world: World) -> None:
    world.clock.advance(LIFETIME_US)
    _tick(world)


def _tick(world: World) -> None:
    for node in world.nodes.values():
        node.tick()
    world.settle()


def test_a_device_that_proves_another_token_is_not_heard_and_the_order_times_out(ready: World) -> None:
    def act() -> None:
        with ready.desk(PMP) as pmp:
            held = pmp.reservations.require(LINE)
            pmp.reservations.put(LINE, replace(held, token_a=held.token_b))

    ready.when(ServiceResponse, act)
    procedure = ready.order_line()
    for _ in range(30):
        ready.pump()
    assert ready.nodes[PMP].rejections["BadProof"] > 0
    assert ready.row(PMP, procedure).heard.keys() <= {"1:pomp", "3:cpe-b"}
    _time_out(ready)
    assert _codes(ready, procedure) == {"TIMEOUT"}
    _check_line_undone(ready, "TIMEOUT")


@pytest.mark.parametrize("silent", [CPE_A, CPE_B, PMP, QSSP_A, QSSP_B, KM_A, KM_RELAY, KM_B])
def test_a_party_that_falls_silent_ends_the_line_in_time_and_everybody_undoes_their_part(
    ready: World, silent: PartyId
) -> None:
    def mute(sent: Sent) -> None:
        if silent in (sent.sender, sent.hop):
            raise LineError("silence")

    ready.wire.before = mute
    procedure = ready.order_line()
    for _ in range(40):
        ready.pump()
    ready.wire.before = lambda _: None
    _time_out(ready)
    assert _codes(ready, procedure) == {"TIMEOUT"}
    _check_line_undone(ready, "TIMEOUT")


def test_before_its_deadline_nothing_times_out(ready: World) -> None:
    ready.order_line()
    ready.clock.advance(LIFETIME_US - 1)
    before = ready.dump_all()
    for node in ready.nodes.values():
        node.tick()
    assert ready.dump_all() == before


def test_a_line_that_is_granted_but_never_lit_times_out(ready: World) -> None:
    """Step 12 never comes: the devices stop, the cities withdraw, the ports are free."""
    ready.order_line()
    ready.settle()
    assert ready.line_state() is LineState.ADMITTED
    _time_out(ready)
    _check_line_undone(ready, "TIMEOUT")


def test_a_procedure_that_is_over_does_not_time_out(encrypted: World) -> None:
    _time_out(encrypted)
    assert encrypted.line_state() is LineState.ENCRYPTED
    assert not [row for row in encrypted.states().values() if "TIMEOUT" in row]
