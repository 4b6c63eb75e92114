"""A small run as the stores tell it when all went well, or failed well, written by hand: what planted faults disturb.

Two cities, a and b, and a relay r between them. Devices `cpe/a` and `cpe/b` come into service, `cpe/c` fails to,
`cpe/d` does and is revoked. `line-1` is served and deleted, `line-2` is in service, `line-3` failed. The keys of
`line-2` are changed twice; the second change was overtaken on the line. Two more changes failed: one because the relay
never took the keys, one because the last receipt came too late.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs
from tests.faults.facts import History, Operation, Outcome
from tests.faults.scribe import (
    CPE_A,
    CPE_B,
    CPE_C,
    CPE_D,
    KEY_SEATS,
    KM_A,
    KM_B,
    KM_R,
    LINE_SEATS,
    PLATFORM_SEATS,
    PMP,
    POMP,
    QKMP,
    QSSP_A,
    QSSP_B,
    QUALITY,
    REKEY_SEATS,
    Scribe,
)

from qsotn.domain import End, KeyId, LineId, PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.messages import DeletionResponse, KeyUsageReport
from qsotn.parties import cpe, km, pmp, pomp, qkmp, qssp
from qsotn.procedures.key_supply import Hop
from qsotn.procedures.turn import State

# --- keys -------------------------------------------------------------------------------------------------------------


def file_keys(scribe: Scribe, home: PartyId, number: int, at: int) -> tuple[KeyId, ...]:
    """Keys that stay in their city: the relay takes the same units and discards them."""
    own, link = (KM_A, "a-r") if home == QSSP_A else (KM_B, "b-r")
    scribe.hop(own, KM_R, at)
    ids = scribe.key_ids(number)
    for key_id in ids:
        first = scribe.allocate(own, link, 1)
        for party, role in ((own, "origin"), (KM_R, "discarded")):
            taken = scribe.take(party, link, first, 1)
            scribe.record(party, km.KeyRecord(key_id, role, taken, None, (own, KM_R), home, home, at))
    return ids


def line_keys(scribe: Scribe, at: int, failure: str = "", *, heard: bool = True) -> tuple[KeyId, KeyId]:
    """Two keys from city a to city b, over the relay. Of a supply that failed, the relay may not even have heard."""
    hop, (one, other) = scribe.hop(KM_A, KM_R, at, failure), scribe.key_ids(2)
    onward = scribe.hop(KM_R, KM_B, at, failure) if heard else None
    for key_id in (one, other):
        first = scribe.allocate(KM_A, "a-r", 1)
        record = km.KeyRecord(key_id, "origin", scribe.take(KM_A, "a-r", first, 1), None, (KM_A,), QSSP_A, QSSP_B, at)
        scribe.record(KM_A, record)
        if onward is not None:
            _relay(scribe, record, first, 0 if failure else at)
    if onward is not None:
        scribe.put(KM_R, "hops", hop, Hop((one, other), onward))
        scribe.put(KM_B, "hops", onward, Hop((one, other)))
    return one, other


def _relay(scribe: Scribe, origin: km.KeyRecord, first: int, delivered_at: int) -> None:
    pad = scribe.allocate(KM_R, "b-r", 1)
    taken, padded = scribe.take(KM_R, "a-r", first, 1), scribe.take(KM_R, "b-r", pad, 1)
    scribe.record(KM_R, structs.replace(origin, role="relay", taken=taken, pad=padded))
    last = structs.replace(
        origin, role="destination", taken=scribe.take(KM_B, "b-r", pad, 1), delivered_at=delivered_at
    )
    scribe.record(KM_B, last)


def file_of(device: PartyId) -> str:
    """How a device's key file is named here."""
    return f"file-of-{device}"


# --- devices ----------------------------------------------------------------------------------------------------------


def initialize(scribe: Scribe, name: str, device: PartyId, home: PartyId, entries: int, failure: str = "") -> None:
    """Bring a device into service, or fail to after its key file was drawn."""
    key_manager = KM_A if home == QSSP_A else KM_B
    seats = PLATFORM_SEATS | {Seat.QSSP: home, Seat.KM: key_manager, Seat.CPE: device}
    at = scribe.procedure(name, "initialization", device, seats, failure=failure)
    keys, file = file_keys(scribe, home, entries, at), file_of(device)
    procedure, binding, serial = ProcedureId(name), f"binding-of-{device}", f"serial-of-{device}"
    state = pomp.DeviceState.FAILED if failure else pomp.DeviceState.READY
    order = pomp.Device(device, serial, home, b"", procedure, state, b"", binding, file, failure)
    scribe.put(POMP, "devices", device, order)
    scribe.put(PMP, "registrations", device, pmp.Registration(device, serial, b"", home, gate_open=True))
    bound = qssp.BindingState.DESTROYED if failure else qssp.BindingState.ACTIVE
    city = qssp.Binding(device, serial, POMP, 1, entries, b"", bound, binding, b"", file, procedure)
    scribe.put(home, "bindings", device, city)
    vouched = cpe.BindingState.FAILED if failure else cpe.BindingState.READY
    own = cpe.Binding(POMP, PMP, home, 1, b"", procedure, vouched, binding, b"", b"", file)
    scribe.put(device, "binding", "own", own)
    if not failure:
        wrapped = (b"wrapped",) * entries
        scribe.put(home, "key_files", file, qssp.KeyFile(file, device, keys, ("",) * entries, wrapped))
        scribe.put(device, "key_files", file, cpe.KeyFile(file, wrapped))


def revoke(scribe: Scribe, name: str, device: PartyId, home: PartyId) -> None:
    """Put a device out of service for good."""
    scribe.procedure(name, "revocation", device, PLATFORM_SEATS | {Seat.QSSP: home})
    change(scribe, POMP, "devices", device, state=pomp.DeviceState.REVOKED)
    change(scribe, PMP, "registrations", device, gate_open=False)
    change(scribe, home, "bindings", device, state=qssp.BindingState.REVOKED)
    scribe.drop(home, "key_files", file_of(device))


def change(scribe: Scribe, party: PartyId, collection: str, key: str, **fields: Any) -> None:
    scribe.put(party, collection, key, structs.replace(scribe.get(party, collection, key), **fields))


# --- lines ------------------------------------------------------------------------------------------------------------


def order_line(scribe: Scribe, name: str, line: LineId, failure: str = "") -> None:
    """Serve a line from its order to its first keys, or fail to before any."""
    seats = LINE_SEATS if failure else LINE_SEATS | KEY_SEATS
    at = scribe.procedure(name, "leased-line", line, seats, failure=failure, generation=0 if failure else 1)
    procedure, state = ProcedureId(name), pomp.LineState.FAILED if failure else pomp.LineState.ENCRYPTED
    ordered = pomp.Line(
        line, "bank", CPE_A, CPE_B, QSSP_A, QSSP_B, QUALITY, b"", b"", procedure, state, 0 if failure else at, failure
    )
    scribe.put(POMP, "lines", line, ordered)
    stopped = cpe.LineState.STOPPED if failure else cpe.LineState.ENCRYPTED
    for end, device, peer in ((End.A, CPE_A, CPE_B), (End.B, CPE_B, CPE_A)):
        own = cpe.CpeLine(line, end, peer, "bank", QUALITY, "1", procedure, stopped, 0 if failure else 1)
        scribe.put(device, "lines", line, own)
    if not failure:
        granted = pmp.ReservationState.GRANTED
        reservation = pmp.Reservation(line, CPE_A, CPE_B, QUALITY, b"", b"", procedure, granted)
        scribe.put(PMP, "reservations", line, reservation)
        for end, device, home, other in ((End.A, CPE_A, QSSP_A, QSSP_B), (End.B, CPE_B, QSSP_B, QSSP_A)):
            peer = CPE_B if end is End.A else CPE_A
            service = qssp.LineService(line, device, end, peer, other, 60, procedure, confirmed=True, generation=1)
            scribe.put(home, "services", f"{line}/{end}", service)
            scribe.put(PMP, "ports", device, line)
        change_keys(scribe, line, 1, at)


def rekey(scribe: Scribe, name: str, line: LineId, generation: int) -> None:
    """Change a line's keys."""
    at = scribe.procedure(name, "rekey", line, REKEY_SEATS, generation=generation)
    change_keys(scribe, line, generation, at)


def change_keys(scribe: Scribe, line: LineId, generation: int, at: int) -> None:
    """Draw a generation, deliver it to both devices, and let the QKMP know."""
    keys = line_keys(scribe, at)
    for end, device, home in ((End.A, CPE_A, QSSP_A), (End.B, CPE_B, QSSP_B)):
        file, entry = burn(scribe, device, home, f"{line}/{generation}")
        drawn = qssp.Generation(line, generation, *keys, (), (), at, file, entry, at, at)
        scribe.put(home, "generations", f"{line}/{end}/{generation:08}", drawn)
        armed = cpe.SessionKeys(line, generation, *keys, file, entry, cpe.GenerationState.INSTALLED, at)
        scribe.put(device, "generations", f"{line}/{generation:08}", armed)
    seen = qkmp.Synchronisation(line, generation, QSSP_A, QSSP_B, keys, at)
    scribe.put(QKMP, "synchronisations", f"{line}/{generation:08}", seen)


def burn(scribe: Scribe, device: PartyId, home: PartyId, purpose: str) -> tuple[str, int]:
    """Burn the next entry of a device's key file, on both sides."""
    name = file_of(device)
    file: qssp.KeyFile = scribe.get(home, "key_files", name)
    entry, left = file.next_entry, (b"",) * (file.next_entry + 1) + file.entries[file.next_entry + 1 :]
    burned = {**file.burned, str(entry): purpose}
    change(scribe, home, "key_files", name, entries=left, next_entry=entry + 1, burned=burned)
    change(scribe, device, "key_files", name, entries=left, burned_below=entry + 1)
    return name, entry


def delete_line(scribe: Scribe, name: str, line: LineId) -> None:
    """Take a line out of service."""
    at = scribe.procedure(name, "deletion", line, LINE_SEATS)
    change(scribe, POMP, "lines", line, state=pomp.LineState.DELETED)
    used = DeletionResponse(line, 1, 1, 1, ())
    usage = tuple(KeyUsageReport(line, device, 2, 2, 1) for device in (CPE_A, CPE_B))
    scribe.put(POMP, "usage", line, pomp.UsageRecord(line, "bank", "ODU2", at, at, used, used, usage))
    scribe.drop(PMP, "reservations", line)
    for end, device, home in ((End.A, CPE_A, QSSP_A), (End.B, CPE_B, QSSP_B)):
        scribe.drop(home, "services", f"{line}/{end}")
        scribe.drop(PMP, "ports", device)
        change(scribe, device, "lines", line, state=cpe.LineState.STOPPED)
        change(scribe, device, "generations", f"{line}/00000001", state=cpe.GenerationState.ERASED)


# --- the whole run ----------------------------------------------------------------------------------------------------


def overtake(scribe: Scribe, name: str, line: LineId, generation: int) -> None:
    """Both devices lost the keys of a change before the line had proved them: their rows await the line for ever."""
    for device, seat, other in ((CPE_A, Seat.CPE_A, Seat.QSSP_A), (CPE_B, Seat.CPE_B, Seat.QSSP_B)):
        row = scribe.row(device, name, seat)
        row.state, row.heard = State.RUNNING, {f"11a:{other}": b"digest"}
        change(scribe, device, "generations", f"{line}/{generation:08}", state=cpe.GenerationState.ERASED)


def fail_rekey(scribe: Scribe, name: str, line: LineId, *, heard: bool) -> None:
    """Fail a change of keys in the key network."""
    seats = {seat: REKEY_SEATS[seat] for seat in (Seat.CPE_A, Seat.QSSP_A, Seat.KM_A)}
    at = scribe.procedure(name, "rekey", line, seats, failure="TIMEOUT")
    line_keys(scribe, at, "TIMEOUT", heard=heard)


def good_history() -> History:
    """The run that the head of this file tells."""
    scribe, deleted, served, refused = Scribe(), LineId("line-1"), LineId("line-2"), LineId("line-3")
    initialize(scribe, "init-a", CPE_A, QSSP_A, 5)
    initialize(scribe, "init-b", CPE_B, QSSP_B, 5)
    initialize(scribe, "init-c", CPE_C, QSSP_A, 2, "TIMEOUT")
    initialize(scribe, "init-d", CPE_D, QSSP_A, 2)
    revoke(scribe, "revoke-d", CPE_D, QSSP_A)
    order_line(scribe, "order-1", deleted)
    delete_line(scribe, "delete-1", deleted)
    order_line(scribe, "order-2", served)
    rekey(scribe, "rekey-2", served, 2)
    rekey(scribe, "rekey-3", served, 3)
    overtake(scribe, "rekey-3", served, 3)
    fail_rekey(scribe, "rekey-4", served, heard=False)
    fail_rekey(scribe, "rekey-5", served, heard=True)
    order_line(scribe, "order-3", refused, "PORT_BUSY")
    return scribe.history(_operations())


def _operations() -> tuple[Operation, ...]:
    """What clients saw: an order that was repeated, one without any answer, one that was refused."""
    return (
        Operation("initialization", CPE_A, POMP, "request-1", 900, None, Outcome.UNKNOWN),
        Operation("initialization", CPE_A, POMP, "request-1", 950, 951, Outcome.OK, ProcedureId("init-a")),
        Operation("initialization", CPE_A, POMP, "request-2", 960, 961, Outcome.REFUSED),
        Operation("initialization", CPE_C, POMP, "request-3", 970, None, Outcome.UNKNOWN),
        Operation("leased-line", "line-2", POMP, "request-4", 980, 981, Outcome.OK, ProcedureId("order-2")),
        Operation("leased-line", "line-3", POMP, "request-5", 990, 991, Outcome.OK, ProcedureId("order-3")),
    )


GOOD = good_history()
