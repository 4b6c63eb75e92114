"""The operator's word for new keys: ours, since the paper lets only end A of a line ask (Figure 4, step 9).

The POMP's order reaches end A as the POMP signed it; end A begins a rekey, and answers when the line is encrypted with
the new generation, not before. A rekey that fails fails its order.
"""

from __future__ import annotations

import msgspec

from qsotn.domain import LineId, PartyId, ProcedureId
from qsotn.errors import Refusal, WrongParty
from qsotn.interfaces import AX, IOA, Seat
from qsotn.messages import RekeyDispatch, RekeyReport, RekeyRequest, RekeyResponse
from qsotn.parties.cpe import Cpe
from qsotn.parties.pmp import Pmp
from qsotn.parties.pomp import LineState, Pomp
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.leased_line import begin_rekey
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

REKEY_ORDER = Ladder("rekey-order", "ours: the operator asks for a rekey")


def begin(pomp: Pomp, work: Work, line: LineId, pmp: PartyId, lifetime_us: int) -> ProcedureId:
    """Order new keys for a line: the POMP's own act before step 1. Raises `Refusal` unless it is in service."""
    held = pomp.lines.get(line)
    if held is None or held.state is not LineState.ENCRYPTED:
        raise Refusal("NOT_CONFIRMED", f"{line} is not in service: {'never ordered' if held is None else held.state}")
    procedure, now = new_procedure(pomp.desk), pomp.desk.now
    seats = {Seat.POMP: pomp.desk.party, Seat.PMP: pmp, Seat.CPE_A: held.cpe_a}
    row = work.add(Row(procedure, REKEY_ORDER.name, Seat.POMP, line, seats, now + lifetime_us, now))
    Turn(work, row, None, pomp.desk.party, Seat.POMP).send(Seat.PMP, RekeyRequest(line))
    return procedure


@REKEY_ORDER.step("1", Seat.POMP, Seat.PMP, IOA, RekeyRequest)
def dispatch_rekey(pmp: Pmp, turn: Turn[RekeyRequest]) -> None:
    """The PMP passes the order on to end A, in the POMP's own words."""
    held = pmp.reservations.get(turn.message.line)
    if held is None:
        raise Refusal("UNKNOWN_LINE", f"{pmp.desk.party} holds no reservation for {turn.message.line}")
    pmp.check_operator(held.cpe_a, turn.sender)
    turn.row.subject = held.line
    turn.seat(Seat.CPE_A, held.cpe_a)
    turn.send(Seat.CPE_A, RekeyDispatch(turn.signed))


@REKEY_ORDER.step("2", Seat.PMP, Seat.CPE_A, AX, RekeyDispatch)
def begin_ordered_rekey(cpe: Cpe, turn: Turn[RekeyDispatch]) -> None:
    """End A verifies that the POMP asked, and asks its QSSP for the next generation."""
    cpe.check_manager(turn.sender)
    asked = turn.evidence(RekeyRequest, turn.message.request_signed, cpe.own_binding().pomp).message
    turn.row.subject = asked.line
    rekey = begin_rekey(cpe, turn.work, asked.line, turn.row.deadline - turn.now)
    cpe.rekey_orders.put(rekey, turn.procedure)


@REKEY_ORDER.step("3", Seat.CPE_A, Seat.PMP, AX, RekeyResponse, answers="2")
def pass_response(pmp: Pmp, turn: Turn[RekeyResponse]) -> None:
    """The PMP passes on what the device signed."""
    if turn.message.line != turn.subject:
        raise WrongParty(f"{turn.sender} reports {turn.message.line}, asked was {turn.subject}")
    if pmp.reservations.get(turn.subject) is None:
        raise Refusal("UNKNOWN_LINE", f"{turn.subject} was released while its keys changed")
    turn.send(Seat.POMP, RekeyReport(turn.message.line, turn.signed))


@REKEY_ORDER.step("4", Seat.PMP, Seat.POMP, IOA, RekeyReport, answers="1")
def record_rekey(pomp: Pomp, turn: Turn[RekeyReport]) -> None:
    """The POMP verifies the device's own word, and records which generation encrypts the line."""
    line = pomp.lines.require(turn.subject)
    told = turn.evidence(RekeyResponse, turn.message.response_signed, line.cpe_a).message
    if told.line != line.line:
        raise WrongParty(f"{line.cpe_a} reports another line than {line.line}")
    # The answers to two orders may overtake each other.
    newest = max(line.generation, told.generation)
    pomp.lines.put(line.line, msgspec.structs.replace(line, generation=newest))


REKEY_ORDER.revocable = {Seat.POMP: ()}
REKEY_ORDER.sealed()
