"""Deletion of a leased line: steps 1 to 8 of Figure 4 mirrored. The paper names deletion (Table 2) and draws no figure.

The devices stop and zeroise first, and report what the line used; then the cities forget it and report which keys it
took. Both reports together are the usage record that is billed.
"""

from __future__ import annotations

import msgspec

from qsotn.domain import LineId, PartyId, ProcedureId
from qsotn.errors import Refusal, WrongParty
from qsotn.interfaces import AX, IOA, IOQ, Seat
from qsotn.messages import (
    DeletionConfirmation,
    DeletionDispatch,
    DeletionReport,
    DeletionRequest,
    DeletionResponse,
    KeyServiceDeletion,
    KeyUsageConfirmation,
    KeyUsageReport,
    ProcedureRefusal,
)
from qsotn.parties.cpe import Cpe
from qsotn.parties.pmp import Pmp
from qsotn.parties.pomp import LineState, Pomp, UsageRecord
from qsotn.parties.qssp import Qssp
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.leased_line import BOTH_CPES, BOTH_QSSPS, end_of
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

DELETION = Ladder("deletion", "Figure 4, steps 1 to 8 mirrored")


def begin(pomp: Pomp, work: Work, line: LineId, pmp: PartyId, lifetime_us: int) -> ProcedureId:
    """Order a line out of service: the POMP's own act before step 1. Raises `Refusal` unless it is in service."""
    held = pomp.lines.get(line)
    if held is None or held.state is not LineState.ENCRYPTED:
        raise Refusal("NOT_CONFIRMED", f"{line} is not in service: {'never ordered' if held is None else held.state}")
    parties = (pomp.desk.party, pmp, held.cpe_a, held.cpe_b, held.qssp_a, held.qssp_b)
    seats = dict(zip((Seat.POMP, Seat.PMP, *BOTH_CPES, *BOTH_QSSPS), parties, strict=True))
    procedure, now = new_procedure(pomp.desk), pomp.desk.now
    row = work.add(Row(procedure, DELETION.name, Seat.POMP, line, seats, now + lifetime_us, now))
    pomp.lines.put(line, msgspec.structs.replace(held, state=LineState.DELETING))
    Turn(work, row, None, pomp.desk.party, Seat.POMP).send(Seat.PMP, DeletionRequest(line))
    return procedure


@DELETION.step("1", Seat.POMP, Seat.PMP, IOA, DeletionRequest)
def dispatch_stop(pmp: Pmp, turn: Turn[DeletionRequest]) -> None:
    """The PMP tells both devices to stop, in the POMP's own words."""
    held = pmp.reservations.get(turn.message.line)
    if held is None:
        raise Refusal("UNKNOWN_LINE", f"{pmp.desk.party} holds no reservation for {turn.message.line}")
    pmp.check_operator(held.cpe_a, turn.sender)
    turn.row.subject = held.line
    for seat, cpe in zip(BOTH_CPES, (held.cpe_a, held.cpe_b), strict=True):
        turn.seat(seat, cpe)
        turn.send(seat, DeletionDispatch(turn.signed))


@DELETION.step("2", Seat.PMP, BOTH_CPES, AX, DeletionDispatch)
def stop_and_report(cpe: Cpe, turn: Turn[DeletionDispatch]) -> None:
    """Each device verifies that the POMP asked, stops, zeroises the line's keys, and reports its usage."""
    cpe.check_manager(turn.sender)
    asked = turn.evidence(DeletionRequest, turn.message.request_signed, cpe.own_binding().pomp).message
    line = cpe.lines.get(asked.line)
    if line is None or line.end is not end_of(turn.row):
        raise Refusal("UNKNOWN_LINE", f"{cpe.desk.party} is not end {end_of(turn.row)} of {asked.line}")
    turn.row.subject = asked.line
    turn.send(Seat.PMP, cpe.stop(asked.line))


@DELETION.step("3", BOTH_CPES, Seat.PMP, AX, DeletionResponse, answers="2")
def gather_usage(pmp: Pmp, turn: Turn[DeletionResponse]) -> None:
    """When both devices have stopped, the PMP passes their signed usage on (Ioa: billing)."""
    held = pmp.answered(LineId(turn.subject), turn.sender, turn.signed)
    if turn.complete:
        report = DeletionReport(held.line, held.responses[held.cpe_a], held.responses[held.cpe_b])
        turn.send(Seat.POMP, report)


@DELETION.step("4", Seat.PMP, Seat.POMP, IOA, DeletionReport, answers="1")
def record_usage(pomp: Pomp, turn: Turn[DeletionReport]) -> None:
    """The POMP verifies and records what both ends counted, and has ports and keys released."""
    line = pomp.lines.require(turn.subject)
    ends = [
        turn.evidence(DeletionResponse, signed, cpe).message
        for signed, cpe in (
            (turn.message.response_a_signed, line.cpe_a),
            (turn.message.response_b_signed, line.cpe_b),
        )
    ]
    if any(end.line != line.line for end in ends):
        raise WrongParty(f"a device reports another line than {line.line}")
    record = UsageRecord(line.line, line.account, line.quality.odu, line.encrypted_at, turn.now, ends[0], ends[1])
    pomp.usage.put(line.line, record)
    turn.send(Seat.PMP, DeletionConfirmation(line.line))
    for seat in BOTH_QSSPS:
        turn.send(seat, KeyServiceDeletion(line.line))


@DELETION.step("5", Seat.POMP, Seat.PMP, IOA, DeletionConfirmation, answers="4")
def release_reservation(pmp: Pmp, turn: Turn[DeletionConfirmation]) -> None:
    """The ports are free."""
    held = pmp.reservations.get(turn.subject)
    if held is not None:
        pmp.release(held)


@DELETION.step("6", Seat.POMP, BOTH_QSSPS, IOQ, KeyServiceDeletion)
def report_key_usage(qssp: Qssp, turn: Turn[KeyServiceDeletion]) -> None:
    """Each QSSP stops serving the line and reports the keys it took (Ioq: key-usage record)."""
    end = end_of(turn.row)
    service = qssp.services.get(f"{turn.message.line}/{end}")
    if service is None:
        raise Refusal("UNKNOWN_LINE", f"{qssp.desk.party} does not serve end {end} of {turn.message.line}")
    qssp.check_operator(service.cpe, turn.sender)
    turn.row.subject = service.line
    qssp.services.put(f"{service.line}/{end}", msgspec.structs.replace(service, confirmed=False))
    qssp.forget_keys(service.line)
    report = KeyUsageReport(
        service.line, service.cpe, service.keys_drawn, service.keys_delivered, service.entries_burned
    )
    turn.send(Seat.POMP, report)


@DELETION.step("7", BOTH_QSSPS, Seat.POMP, IOQ, KeyUsageReport, answers="6")
def close_record(pomp: Pomp, turn: Turn[KeyUsageReport]) -> None:
    """The POMP completes the usage record; when both cities have reported, the line is DELETED."""
    line, record = pomp.lines.require(turn.subject), pomp.usage.require(turn.subject)
    record = msgspec.structs.replace(record, key_usage=(*record.key_usage, turn.message))
    pomp.usage.put(line.line, record)
    turn.send(turn.sender_seat, KeyUsageConfirmation(line.line))
    if turn.complete:
        pomp.lines.put(line.line, msgspec.structs.replace(line, state=LineState.DELETED))


@DELETION.step("8", Seat.POMP, BOTH_QSSPS, IOQ, KeyUsageConfirmation, answers="7")
def forget_line(qssp: Qssp, turn: Turn[KeyUsageConfirmation]) -> None:
    """The QSSP forgets the line; what its keys were named stays, for the trace of a key."""
    qssp.services.delete(f"{turn.subject}/{end_of(turn.row)}")


@DELETION.compensate(Seat.POMP.role)
def keep_line(pomp: Pomp, turn: Turn[ProcedureRefusal]) -> None:
    """A deletion that failed may be ordered again."""
    line = pomp.lines.get(turn.subject)
    if line is not None and line.state is LineState.DELETING:
        pomp.lines.put(line.line, msgspec.structs.replace(line, state=LineState.ENCRYPTED))


DELETION.revocable = {Seat.POMP: ()}
DELETION.sealed()
