"""Faults in procedures, in what clients were told, in devices and in lines, each with the rule that must find it."""

from __future__ import annotations

from tests.faults.facts import Operation, Outcome
from tests.faults.good_history import GOOD, file_of
from tests.faults.planting import Plant, Planted, added, both, changed, dropped, lost, no_row, one_more_row, row, told
from tests.faults.scribe import CPE_A, CPE_B, CPE_C, CPE_D, KM_B, KM_R, PMP, POMP, QKMP, QSSP_A, QSSP_B
from tests.faults.snapshots import PmpSnapshot, QsspSnapshot

from qsotn.domain import LineId, PartyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.parties import cpe, pmp, pomp, qssp
from qsotn.parties.cpe import GenerationState
from qsotn.procedures.turn import State

DEVICES, LINES, FILES = "devices", "lines", "key_files"


def ordered(kind: str, subject: str, procedure: str, request: str = "request-9", party: PartyId = POMP) -> Plant:
    """A client that was told that its request made this procedure."""
    return told(Operation(kind, subject, party, request, 2000, 2001, Outcome.OK, ProcedureId(procedure)))


PROCEDURES = [
    Planted("every_procedure_ended", row("order-3", Seat.PMP, state=State.RUNNING), (PMP, "order-3", "RUNNING")),
    Planted(  # it awaits a datagram, so it was not overtaken
        "every_procedure_ended", row("rekey-3", Seat.CPE_B, heard={}), (CPE_B, "rekey-3")
    ),
    Planted(  # it awaits nothing, and runs
        "every_procedure_ended",
        row("rekey-3", Seat.CPE_A, heard={"11a:qssp-a": b"digest", "12a:cpe-b": b"line"}),
        (CPE_A, "rekey-3"),
    ),
    Planted(
        "a_completed_procedure_is_complete_at_every_seat",
        row("init-a", Seat.QSSP, state=State.FAILED, failure="TIMEOUT"),
        (POMP, "init-a", QSSP_A, "FAILED TIMEOUT"),
    ),
    Planted("a_completed_procedure_is_complete_at_every_seat", no_row("order-2", Seat.QKMP), (POMP, "order-2", "qkmp")),
    Planted(
        "a_failed_procedure_failed_at_every_seat",
        row("init-c", Seat.CPE, state=State.COMPLETED),
        (POMP, "init-c", CPE_C, "COMPLETED"),
    ),
    Planted(
        "a_failed_procedure_failed_at_every_seat",
        row("hop-15", Seat.KM_FAR, state=State.COMPLETED),
        (KM_R, "hop-15", KM_B),
    ),
    Planted(
        "nobody_knows_a_procedure_that_its_beginner_does_not",
        no_row("order-3", Seat.POMP),
        ("order-3", "line-3", "pomp"),
    ),
    Planted("nobody_knows_a_procedure_that_its_beginner_does_not", lost(CPE_A), (QKMP, "rekey-2", "cpe-a")),
]

CLIENTS = [
    Planted(
        "an_acknowledged_order_is_never_lost",
        ordered("initialization", CPE_D, "init-e"),
        (POMP, CPE_D, "init-e", "request-9", "does not have it"),
    ),
    Planted(
        "an_acknowledged_order_is_never_lost",
        ordered("leased-line", "line-1", "order-2"),
        (POMP, "line-1", "order-2", "another one"),
    ),
    Planted(
        "an_acknowledged_order_is_never_lost",
        row("order-2", Seat.POMP, state=State.RUNNING),
        (POMP, "line-2", "order-2", "request-4", "did not end"),
    ),
    Planted(
        "a_repeated_order_is_one_procedure",
        ordered("leased-line", "line-3", "order-3", "request-4"),
        ("request-4", "order-2 and order-3"),
    ),
    Planted(
        "a_repeated_order_is_one_procedure",
        ordered("leased-line", "line-2", "order-2", "request-9"),
        ("request-4 and request-9", "order-2"),
    ),
    Planted(
        "nothing_was_done_that_nobody_ordered",
        one_more_row("init-c", Seat.POMP, procedure="init-c2"),
        (POMP, "init-c, init-c2", CPE_C, "2 of initialization for 1"),
    ),
    Planted(
        "nothing_was_done_that_nobody_ordered",
        told(Operation("initialization", CPE_B, POMP, "request-9", 2000, 2001, Outcome.REFUSED)),
        (POMP, "init-b", CPE_B, "1 of initialization for 0"),
    ),
]

DEVICE_PLANTS = [
    Planted("a_completed_initialization_made_its_device_ready", dropped(POMP, DEVICES, CPE_A), (POMP, "init-a", CPE_A)),
    Planted(
        "a_completed_initialization_made_its_device_ready",
        changed(POMP, DEVICES, CPE_A, state=pomp.DeviceState.BOUND),
        (POMP, "init-a", CPE_A, "BOUND"),
    ),
    Planted(
        "a_completed_initialization_made_its_device_ready",
        changed(POMP, DEVICES, CPE_A, work_order=ProcedureId("init-z")),
        (POMP, "init-a", CPE_A, "init-z"),
    ),
    Planted(
        "a_ready_device_has_an_order",
        changed(POMP, DEVICES, CPE_C, state=pomp.DeviceState.READY),
        (POMP, CPE_C, "init-c"),
    ),
    Planted(
        "a_ready_device_is_registered", changed(PMP, "registrations", CPE_A, gate_open=False), (PMP, CPE_A, "init-a")
    ),
    Planted(
        "a_ready_device_is_bound",
        changed(QSSP_A, "bindings", CPE_A, state=qssp.BindingState.RELEASED),
        (QSSP_A, CPE_A, "init-a"),
    ),
    Planted(
        "a_ready_device_is_bound", changed(QSSP_A, "bindings", CPE_A, binding_id="binding-z"), (QSSP_A, CPE_A, "init-a")
    ),
    Planted(
        "a_ready_device_is_bound", dropped(QSSP_A, FILES, file_of(CPE_A)), (QSSP_A, CPE_A, "init-a", file_of(CPE_A))
    ),
    Planted(
        "a_ready_device_holds_its_key_file",
        changed(CPE_B, "binding", "own", state=cpe.BindingState.VOUCHED),
        (CPE_B, "init-b"),
    ),
    Planted(
        "a_ready_device_holds_its_key_file",
        changed(CPE_B, FILES, file_of(CPE_B), entries=(b"", b"", b"", b"")),
        (CPE_B, "init-b", file_of(CPE_B)),
    ),
    Planted(
        "a_failed_initialization_left_nothing",
        changed(POMP, DEVICES, CPE_C, state=pomp.DeviceState.REGISTERED),
        (POMP, "init-c", CPE_C, "REGISTERED"),
    ),
    Planted(
        "a_failed_initialization_left_nothing",
        changed(QSSP_A, "bindings", CPE_C, state=qssp.BindingState.ACTIVE),
        (QSSP_A, "init-c", CPE_C, "binding-of-cpe/c", "ACTIVE"),
    ),
    Planted(
        "a_failed_initialization_left_nothing",
        changed(CPE_C, "binding", "own", kem_seed=b"wrapped"),
        ("init-c", CPE_C, "with the key"),
    ),
    Planted(
        "a_key_file_belongs_to_a_binding",
        added(QSSP_A, FILES, "file-z", qssp.KeyFile("file-z", CPE_A, (), (), ())),
        (QSSP_A, CPE_A, "file-z"),
    ),
    Planted(
        "a_key_file_belongs_to_a_binding",
        added(CPE_C, FILES, file_of(CPE_C), cpe.KeyFile(file_of(CPE_C), (b"wrapped",))),
        (CPE_C, file_of(CPE_C)),
    ),
    Planted(
        "a_revoked_device_is_out_of_service",
        changed(POMP, DEVICES, CPE_D, state=pomp.DeviceState.READY),
        (POMP, "revoke-d", CPE_D, "READY"),
    ),
    Planted(
        "a_revoked_device_is_out_of_service",
        changed(PMP, "registrations", CPE_D, gate_open=True),
        (PMP, "revoke-d", CPE_D),
    ),
    Planted(
        "a_revoked_device_is_out_of_service",
        changed(QSSP_A, "bindings", CPE_D, state=qssp.BindingState.BOUND),
        (QSSP_A, "revoke-d", CPE_D, "binding-of-cpe/d", "BOUND"),
    ),
]

LINE_PLANTS = [
    Planted(
        "a_completed_order_made_its_line",
        changed(POMP, LINES, "line-2", state=pomp.LineState.ADMITTED),
        (POMP, "order-2", "line-2", "ADMITTED"),
    ),
    Planted("a_completed_order_made_its_line", dropped(POMP, LINES, "line-2"), (POMP, "order-2")),
    Planted(
        "a_line_in_service_is_reserved",
        changed(PMP, "reservations", "line-2", state=pmp.ReservationState.COMMITTED),
        (PMP, "order-2", "line-2"),
    ),
    Planted("a_line_in_service_gets_keys", dropped(QSSP_B, "services", "line-2/b"), (QSSP_B, "order-2", "line-2")),
    Planted(
        "a_line_in_service_gets_keys",
        changed(QSSP_A, "services", "line-2/a", confirmed=False),
        (QSSP_A, "order-2", "line-2", "not confirmed"),
    ),
    Planted(
        "a_line_in_service_is_encrypted",
        changed(CPE_A, LINES, "line-2", state=cpe.LineState.GRANTED),
        (CPE_A, "order-2", "line-2", "GRANTED"),
    ),
    Planted("a_line_in_service_is_encrypted", dropped(CPE_B, LINES, "line-2"), (CPE_B, "order-2", "line-2")),
    Planted(
        "a_failed_order_left_no_line",
        changed(POMP, LINES, "line-3", state=pomp.LineState.CONFIRMED),
        (POMP, "order-3", "line-3", "CONFIRMED"),
    ),
    Planted(
        "a_failed_order_left_no_line",
        added(PMP, "reservations", "line-3", GOOD.at(PMP, PmpSnapshot).reservations["line-2"]),
        (PMP, "order-3", "line-3"),
    ),
    Planted(
        "a_failed_order_left_no_line",
        changed(CPE_B, LINES, "line-3", state=cpe.LineState.PREPARED),
        (CPE_B, "order-3", "line-3", "PREPARED"),
    ),
    Planted(
        "a_deleted_line_left_nothing",
        changed(POMP, LINES, "line-1", state=pomp.LineState.DELETING),
        (POMP, "delete-1", "line-1", "DELETING"),
    ),
    Planted(
        "a_deleted_line_left_nothing",
        changed(POMP, "usage", "line-1", key_usage=()),
        (POMP, "delete-1", "line-1", "usage"),
    ),
    Planted(
        "a_deleted_line_left_nothing",
        added(QSSP_A, "services", "line-1/a", GOOD.at(QSSP_A, QsspSnapshot).services["line-2/a"]),
        (QSSP_A, "delete-1", "line-1"),
    ),
    Planted(
        "a_deleted_line_left_nothing",
        changed(CPE_A, LINES, "line-1", state=cpe.LineState.ENCRYPTED),
        (CPE_A, "delete-1", "line-1", "ENCRYPTED"),
    ),
    Planted(
        "a_deleted_line_left_nothing",
        changed(CPE_A, "generations", "line-1/00000001", state=GenerationState.INSTALLED),
        (CPE_A, "delete-1", "line-1", "INSTALLED", "key-15"),
    ),
    Planted(
        "a_failed_deletion_may_be_ordered_again",
        both(
            row("delete-1", Seat.POMP, state=State.FAILED),
            changed(POMP, LINES, "line-1", state=pomp.LineState.DELETING),
        ),
        (POMP, "delete-1", "line-1", "DELETING"),
    ),
    Planted(
        "what_is_held_is_held_for_a_line",
        changed(PMP, "reservations", "line-2", procedure=ProcedureId("order-z")),
        (PMP, "line-2", "order-z"),
    ),
    Planted(
        "what_is_held_is_held_for_a_line",
        changed(QSSP_B, "services", "line-2/b", line=LineId("line-1")),
        (QSSP_B, "line-2/b", "order-2"),
    ),
    Planted("a_port_is_held_by_its_reservation", added(PMP, "ports", CPE_C, LineId("line-3")), (PMP, CPE_C, "line-3")),
    Planted("a_port_is_held_by_its_reservation", dropped(PMP, "ports", CPE_A), (PMP, CPE_A, "line-2")),
]

ALL = [*PROCEDURES, *CLIENTS, *DEVICE_PLANTS, *LINE_PLANTS]
