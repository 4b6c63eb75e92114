"""Figure 4: the establishment of a quantum OTN leased line, twelve steps; and its rekey, which is steps 9 to 12 again.

Each function does what the receiver of its message does. Steps 1 to 5 agree the service with both devices, 6 to 8
with both cities' QSSPs, 9 to 11 bring the same two session keys to both ends, and 12 is the encrypted line itself.
End A asks for keys; its QSSP is master, B's the responder.
"""

from __future__ import annotations

import msgspec

from qsotn.crypto.envelope import digest
from qsotn.domain import End, LineId, PartyId, ProcedureId, QualityOfService
from qsotn.errors import BadProof, Refusal, WrongParty
from qsotn.interfaces import AK, AX, IAQ, IOA, IOQ, IQQ, IQSSP, LINE, Seat
from qsotn.messages import (
    ActivationReport,
    DecKeysRequest,
    DecKeysResponse,
    EncKeysRequest,
    EncKeysResponse,
    EncryptedLine,
    EncryptionReport,
    KeyServiceConfirmation,
    KeyServiceConfirmationCopy,
    KeyServiceRequest,
    KeyServiceResponse,
    KeyServiceResponseCopy,
    ProcedureRefusal,
    RekeyResponse,
    ServiceConfirmation,
    ServiceDispatch,
    ServiceGrant,
    ServiceReport,
    ServiceRequest,
    ServiceResponse,
    SessionKeyAgreement,
    SessionKeyDelivery,
    SessionKeyNotice,
    SessionKeyReceipt,
    SessionKeyRequest,
    SynchronisationReport,
)
from qsotn.parties import cpe as cpe_records
from qsotn.parties import token
from qsotn.parties.agreement import prove_generation, verify_generation
from qsotn.parties.cpe import Cpe, CpeLine
from qsotn.parties.km import Km
from qsotn.parties.pmp import LINE_PORT, Pmp, Reservation, ReservationState
from qsotn.parties.pomp import Line, LineState, Pomp
from qsotn.parties.qkmp import Qkmp
from qsotn.parties.qssp import ENTRY_BITS, KEYS_PER_GENERATION, Generation, Qssp
from qsotn.procedures import key_supply
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

LEASED_LINE = Ladder("leased-line", "Figure 4")
BOTH_CPES = (Seat.CPE_A, Seat.CPE_B)
BOTH_QSSPS = (Seat.QSSP_A, Seat.QSSP_B)
_QSSP = {End.A: Seat.QSSP_A, End.B: Seat.QSSP_B}
_CPE = {End.A: Seat.CPE_A, End.B: Seat.CPE_B}


def end_of(row: Row) -> End:
    """The end of the line a row's seat stands at."""
    if row.seat.end is None:
        raise WrongParty(f"{row.seat} stands at no end of a line")
    return row.seat.end


def begin(
    pomp: Pomp,
    work: Work,
    line: LineId,
    account: str,
    ends: tuple[PartyId, PartyId],
    quality: QualityOfService,
    pmp: PartyId,
    lifetime_us: int,
) -> ProcedureId:
    """Order a line between two READY devices: the POMP's own act before step 1. Raises `Refusal`."""
    pomp.check_account(account)
    if pomp.lines.get(line) is not None:
        raise Refusal("LINE_EXISTS", f"{line} was ordered before")
    device_a, device_b = (pomp.ready_device(cpe) for cpe in ends)
    tokens = (pomp.issue_token(account, line, ends[0]), pomp.issue_token(account, line, ends[1]))
    qssps = (device_a.home_qssp, device_b.home_qssp)
    procedure, now = new_procedure(pomp.desk), pomp.desk.now
    ordered = Line(line, account, *ends, *qssps, quality, *tokens, procedure, LineState.REQUESTED)
    pomp.lines.put(line, ordered)
    parties = (pomp.desk.party, pmp, *ends, *qssps)
    seats = dict(zip((Seat.POMP, Seat.PMP, *BOTH_CPES, *BOTH_QSSPS), parties, strict=True))
    row = work.add(Row(procedure, LEASED_LINE.name, Seat.POMP, line, seats, now + lifetime_us, now))
    request = ServiceRequest(line, account, *ends, *qssps, quality, *tokens)
    Turn(work, row, None, pomp.desk.party, Seat.POMP).send(Seat.PMP, request)
    return procedure


@LEASED_LINE.step("1", Seat.POMP, Seat.PMP, IOA, ServiceRequest)
def reserve_ports(pmp: Pmp, turn: Turn[ServiceRequest]) -> None:
    """The PMP checks quality, tokens and ports, reserves both ends, and notifies both devices."""
    asked = turn.message
    turn.row.subject = asked.line
    if pmp.reservations.get(asked.line) is not None:
        raise Refusal("LINE_EXISTS", f"{asked.line} holds a reservation already")
    parties = (asked.cpe_a, asked.cpe_b, asked.qssp_a, asked.qssp_b)
    for seat, party in zip((*BOTH_CPES, *BOTH_QSSPS), parties, strict=True):
        turn.seat(seat, party)
    pmp.check_quality(asked.quality)
    issuer = pmp.desk.peer(turn.sender)
    for cpe, signed in ((asked.cpe_a, asked.token_a), (asked.cpe_b, asked.token_b)):
        pmp.check_operator(cpe, turn.sender)
        token.verify(signed, issuer, asked.line, cpe, turn.now)
        pmp.check_free(cpe)
    held = Reservation(
        asked.line,
        asked.cpe_a,
        asked.cpe_b,
        asked.quality,
        asked.token_a,
        asked.token_b,
        turn.procedure,
        ReservationState.RESERVED,
    )
    pmp.reserve(held)
    for seat in BOTH_CPES:
        turn.send(seat, ServiceDispatch(turn.signed, LINE_PORT))


@LEASED_LINE.step("2", Seat.PMP, BOTH_CPES, AX, ServiceDispatch)
def prepare_port(cpe: Cpe, turn: Turn[ServiceDispatch]) -> None:
    """Each device verifies the POMP's request and its own token, and prepares its port."""
    binding = cpe.own_binding()
    cpe.check_manager(turn.sender)
    asked = turn.evidence(ServiceRequest, turn.message.request_signed, binding.pomp).message
    end = end_of(turn.row)
    own, peer = (asked.cpe_a, asked.cpe_b) if end is End.A else (asked.cpe_b, asked.cpe_a)
    own_token, qssp = (asked.token_a, asked.qssp_a) if end is End.A else (asked.token_b, asked.qssp_b)
    if (own, qssp) != (cpe.desk.party, binding.qssp):
        raise WrongParty(f"{cpe.desk.party} of {binding.qssp} was asked to stand in for {own} of {qssp}")
    turn.row.subject = asked.line
    turn.seat(_QSSP[end], qssp)
    turn.seat(_CPE[end.other], peer)
    token.verify(own_token, cpe.desk.peer(binding.pomp), asked.line, own, turn.now)
    cpe.check_offer(asked.quality)
    prepared = CpeLine(
        line=asked.line,
        end=end,
        peer=peer,
        account=asked.account,
        quality=asked.quality,
        port=turn.message.port,
        procedure=turn.procedure,
        state=cpe_records.LineState.PREPARED,
    )
    cpe.lines.put(asked.line, prepared)
    turn.send(Seat.PMP, ServiceResponse(asked.line, asked.quality, token.digest(own_token)))


@LEASED_LINE.step("3", BOTH_CPES, Seat.PMP, AX, ServiceResponse, answers="2")
def gather_responses(pmp: Pmp, turn: Turn[ServiceResponse]) -> None:
    """A barrier: the POMP hears only when both devices have answered."""
    held = pmp.answered(LineId(turn.subject), turn.sender, turn.signed)
    proof = token.digest(held.token_a if turn.sender == held.cpe_a else held.token_b)
    if turn.message.token_digest != proof:
        raise BadProof(f"{turn.sender} did not prove its token for {held.line}")
    if turn.complete:
        report = ServiceReport(held.line, held.responses[held.cpe_a], held.responses[held.cpe_b])
        turn.send(Seat.POMP, report)


@LEASED_LINE.step("4", Seat.PMP, Seat.POMP, IOA, ServiceReport, answers="1")
def confirm_service(pomp: Pomp, turn: Turn[ServiceReport]) -> None:
    """The POMP authenticates both devices, verifies quality and tokens, and confirms to the PMP."""
    line = pomp.lines.require(turn.subject)
    answer_a = turn.evidence(ServiceResponse, turn.message.response_a_signed, line.cpe_a).message
    answer_b = turn.evidence(ServiceResponse, turn.message.response_b_signed, line.cpe_b).message
    pomp.check_offers(line, (answer_a.accepted, answer_b.accepted))
    pomp.check_token_proofs(line, answer_a.token_digest, answer_b.token_digest)
    pomp.lines.put(line.line, msgspec.structs.replace(line, state=LineState.CONFIRMED))
    turn.send(
        Seat.PMP,
        ServiceConfirmation(line.line, line.quality, answer_a.token_digest, answer_b.token_digest),
    )
    for seat, cpe in zip(BOTH_QSSPS, (line.cpe_a, line.cpe_b), strict=True):
        turn.send(seat, _key_service(line, cpe))


def _key_service(line: Line, cpe: PartyId) -> KeyServiceRequest:
    return KeyServiceRequest(
        line.line,
        cpe,
        line.cpe_a,
        line.cpe_b,
        line.qssp_a,
        line.qssp_b,
        line.quality.rekey_interval_s,
        KEYS_PER_GENERATION,
    )


@LEASED_LINE.step("5", Seat.POMP, Seat.PMP, IOA, ServiceConfirmation, answers="4")
def commit_reservation(pmp: Pmp, turn: Turn[ServiceConfirmation]) -> None:
    """The PMP holds the confirmation against its reservation, and commits it."""
    held, agreed = pmp.reservations.require(turn.subject), turn.message
    proofs = (token.digest(held.token_a), token.digest(held.token_b))
    if (agreed.token_digest_a, agreed.token_digest_b) != proofs:
        raise Refusal("TOKEN_MISMATCH", f"{held.line} was confirmed with other tokens than it was requested with")
    if agreed.agreed != held.quality:
        raise Refusal("QOS_INFEASIBLE", f"{held.line} was reserved as {held.quality}, confirmed is {agreed.agreed}")
    pmp.reservations.put(held.line, msgspec.structs.replace(held, state=ReservationState.COMMITTED))


@LEASED_LINE.step("6", Seat.POMP, BOTH_QSSPS, IOQ, KeyServiceRequest)
def admit_line(qssp: Qssp, turn: Turn[KeyServiceRequest]) -> None:
    """Each home QSSP checks that the device is its own and that keys suffice, and says so to POMP and PMP."""
    asked, end = turn.message, end_of(turn.row)
    own = asked.cpe_a if end is End.A else asked.cpe_b
    home = asked.qssp_a if end is End.A else asked.qssp_b
    if (asked.cpe, home) != (own, qssp.desk.party):
        raise Refusal("NOT_HOME", f"{qssp.desk.party} does not serve {asked.cpe} at end {end}")
    qssp.check_operator(asked.cpe, turn.sender)
    turn.row.subject = asked.line
    turn.seat(Seat.PMP, qssp.configuration.pmp)
    _seat_key_parties(qssp, turn, end, asked)
    admitted = qssp.admit(asked, end, turn.procedure)
    turn.send(Seat.POMP, KeyServiceResponse(asked.line, asked.cpe, admitted))
    turn.send(Seat.PMP, KeyServiceResponseCopy(asked.line, asked.cpe, admitted))


def _seat_key_parties(qssp: Qssp, turn: Turn[KeyServiceRequest], end: End, asked: KeyServiceRequest) -> None:
    turn.seat(_CPE[end], asked.cpe)
    turn.seat(_QSSP[end.other], asked.qssp_b if end is End.A else asked.qssp_a)
    turn.seat(Seat.KM_A if end is End.A else Seat.KM_B, qssp.configuration.km)
    turn.seat(Seat.QKMP, qssp.configuration.qkmp)


@LEASED_LINE.step("7a", BOTH_QSSPS, Seat.POMP, IOQ, KeyServiceResponse, answers="6")
def confirm_keys(pomp: Pomp, turn: Turn[KeyServiceResponse]) -> None:
    """When both cities have admitted the line, the POMP confirms the service to both."""
    line = pomp.lines.require(turn.subject)
    if turn.message.admitted_intervals < 1:
        raise Refusal("KEY_RATE_INSUFFICIENT", f"{turn.sender} admits no key for {line.line}")
    if turn.complete:
        pomp.lines.put(line.line, msgspec.structs.replace(line, state=LineState.ADMITTED))
        transcript = digest(*(turn.row.heard[f"7a:{seat}"] for seat in BOTH_QSSPS))
        for seat in BOTH_QSSPS:
            turn.send(seat, KeyServiceConfirmation(line.line, transcript))


@LEASED_LINE.step("7b", BOTH_QSSPS, Seat.PMP, IQSSP, KeyServiceResponseCopy)
def note_admission(pmp: Pmp, turn: Turn[KeyServiceResponseCopy]) -> None:
    """The PMP notes which cities will give this line keys."""
    held = pmp.reservations.require(turn.subject)
    expected = held.cpe_a if turn.sender_seat is Seat.QSSP_A else held.cpe_b
    if turn.message.cpe != expected:
        raise WrongParty(f"{turn.sender} admits {turn.message.cpe}, reserved is {expected}")
    noted = msgspec.structs.replace(held, admitted=(*held.admitted, turn.sender))
    pmp.reservations.put(held.line, noted)


@LEASED_LINE.step("8a", Seat.POMP, BOTH_QSSPS, IOQ, KeyServiceConfirmation, answers="7a")
def confirm_line(qssp: Qssp, turn: Turn[KeyServiceConfirmation]) -> None:
    """Each QSSP will serve keys from now on, and lets the PMP tell its device."""
    key = f"{turn.subject}/{end_of(turn.row)}"
    service = qssp.services.require(key)
    qssp.standing_binding(service.cpe)
    qssp.services.put(key, msgspec.structs.replace(service, confirmed=True))
    turn.send(Seat.PMP, KeyServiceConfirmationCopy(service.line, turn.signed))


@LEASED_LINE.step("8b", BOTH_QSSPS, Seat.PMP, IQSSP, KeyServiceConfirmationCopy)
def grant_line(pmp: Pmp, turn: Turn[KeyServiceConfirmationCopy]) -> None:
    """When both cities have been confirmed, the PMP passes the POMP's word on to both devices."""
    held = pmp.reservations.require(turn.subject)
    signed = turn.message.confirmation_signed
    turn.evidence(KeyServiceConfirmation, signed, turn.row.seats[Seat.POMP])
    held = pmp.answered(held.line, turn.sender, signed)
    if not turn.complete:
        return
    pmp.reservations.put(held.line, msgspec.structs.replace(held, state=ReservationState.GRANTED))
    for cpe, qssp in zip(BOTH_CPES, BOTH_QSSPS, strict=True):
        turn.send(cpe, ServiceGrant(held.line, held.responses[turn.row.seats[qssp]]))


@LEASED_LINE.step("8c", Seat.PMP, BOTH_CPES, AX, ServiceGrant)
def accept_grant(cpe: Cpe, turn: Turn[ServiceGrant]) -> None:
    """Each device verifies that the POMP confirmed the line; the device at end A asks for the first keys."""
    line = cpe.lines.require(turn.subject)
    granted = turn.evidence(KeyServiceConfirmation, turn.message.confirmation_signed, cpe.own_binding().pomp)
    if granted.message.line != line.line:
        raise WrongParty(f"the grant for {granted.message.line} was shown for {line.line}")
    cpe.lines.put(line.line, msgspec.structs.replace(line, state=cpe_records.LineState.GRANTED))
    if line.end is End.A:
        _ask_for_keys(cpe, turn)


def _ask_for_keys(cpe: Cpe, turn: Turn[ServiceGrant] | Turn[None]) -> None:
    line = cpe.lines.require(turn.subject)
    asked = msgspec.structs.replace(line, generation=line.next_generation())
    cpe.lines.put(line.line, asked)
    counter = cpe.next_count("session-key-requests")
    turn.send(Seat.QSSP_A, SessionKeyRequest(line.line, asked.generation, counter))


@LEASED_LINE.step("9", Seat.CPE_A, Seat.QSSP_A, IAQ, SessionKeyRequest)
def draw_keys(qssp: Qssp, turn: Turn[SessionKeyRequest]) -> None:
    """QSSP A authenticates the device and draws two keys that it will share with the other city's QSSP."""
    asked = turn.message
    turn.row.subject = asked.line
    service = qssp.confirmed_service(asked.line, End.A)
    if service.cpe != turn.sender:
        raise WrongParty(f"{turn.sender} is not end A of {asked.line}")
    qssp.check_counter(turn.sender, asked.counter)
    qssp.check_entry_left(service.cpe)
    qssp.next_generation(service, asked.generation)
    turn.row.generation = asked.generation
    turn.seat(Seat.QSSP_B, service.peer_qssp)
    turn.seat(Seat.KM_A, qssp.configuration.km)
    turn.seat(Seat.QKMP, qssp.configuration.qkmp)
    turn.send(Seat.KM_A, EncKeysRequest(service.peer_qssp, KEYS_PER_GENERATION, ENTRY_BITS))


@LEASED_LINE.step("10a", Seat.QSSP_A, Seat.KM_A, AK, EncKeysRequest)
def supply_keys(km: Km, turn: Turn[EncKeysRequest]) -> None:
    """The key manager brings the keys to the other city's key manager before it answers."""
    turn.row.subject = turn.sender
    key_supply.start(km, turn, Seat.QSSP_A)


@LEASED_LINE.step("10b", Seat.KM_A, Seat.QSSP_A, AK, EncKeysResponse, answers="10a")
def notify_peer(qssp: Qssp, turn: Turn[EncKeysResponse]) -> None:
    """QSSP A keeps the keys and tells the other city their IDs, never the keys."""
    service = qssp.confirmed_service(LineId(turn.subject), End.A)
    kept = qssp.keep_generation(service.line, End.A, turn.row.generation, turn.message.keys)
    notice = SessionKeyNotice(kept.line, kept.generation, kept.key_id_a_to_b, kept.key_id_b_to_a)
    turn.send(Seat.QSSP_B, notice)


@LEASED_LINE.step("10c", Seat.QSSP_A, Seat.QSSP_B, IQQ, SessionKeyNotice)
def draw_same_keys(qssp: Qssp, turn: Turn[SessionKeyNotice]) -> None:
    """QSSP B draws the same keys by their IDs from its own key manager."""
    told = turn.message
    turn.row.subject = told.line
    service = qssp.confirmed_service(told.line, End.B)
    if service.peer_qssp != turn.sender:
        raise WrongParty(f"{turn.sender} is not master of {told.line}")
    qssp.check_entry_left(service.cpe)
    qssp.next_generation(service, told.generation)
    turn.row.generation = told.generation
    qssp.announce(told.line, End.B, told.generation, (told.key_id_a_to_b, told.key_id_b_to_a))
    turn.seat(Seat.KM_B, qssp.configuration.km)
    turn.seat(Seat.CPE_B, service.cpe)
    turn.send(Seat.KM_B, DecKeysRequest(turn.sender, (told.key_id_a_to_b, told.key_id_b_to_a)))


@LEASED_LINE.step("10d", Seat.QSSP_B, Seat.KM_B, AK, DecKeysRequest)
def hand_over_keys(km: Km, turn: Turn[DecKeysRequest]) -> None:
    """The far key manager hands the named keys over, once."""
    turn.row.subject = turn.sender
    key_supply.answer_dec_keys(km, turn, Seat.QSSP_B)


@LEASED_LINE.step("10e", Seat.KM_B, Seat.QSSP_B, AK, DecKeysResponse, answers="10d")
def agree_and_deliver(qssp: Qssp, turn: Turn[DecKeysResponse]) -> None:
    """QSSP B proves to A that it holds the same keys, and delivers them to its own device."""
    service = qssp.confirmed_service(LineId(turn.subject), End.B)
    kept = qssp.keep_generation(service.line, End.B, turn.row.generation, turn.message.keys)
    keys = qssp.session_keys(kept, End.B)
    proof = prove_generation(keys, qssp.desk.party, kept.line, kept.generation)
    turn.send(Seat.QSSP_A, SessionKeyAgreement(kept.line, kept.generation, proof))
    _deliver(qssp, turn, kept, End.B)


@LEASED_LINE.step("10f", Seat.QSSP_B, Seat.QSSP_A, IQQ, SessionKeyAgreement, answers="10c")
def verify_agreement(qssp: Qssp, turn: Turn[SessionKeyAgreement]) -> None:
    """QSSP A verifies that both hold the same keys, reports to the QKMP, and delivers to its own device."""
    service = qssp.confirmed_service(LineId(turn.subject), End.A)
    kept = qssp.generations.require(f"{service.line}/{End.A}/{turn.row.generation:08}")
    keys = qssp.session_keys(kept, End.A)
    try:
        verify_generation(keys, turn.message.possession, turn.sender, kept.line, kept.generation)
    except BadProof as error:
        raise Refusal("DESYNC", f"{turn.sender} does not hold the keys of {kept.line}/{kept.generation}") from error
    ids = (kept.key_id_a_to_b, kept.key_id_b_to_a)
    turn.send(Seat.QKMP, SynchronisationReport(kept.line, kept.generation, turn.sender, ids, turn.signed))
    _deliver(qssp, turn, kept, End.A)


def _deliver(qssp: Qssp, turn: Turn[DecKeysResponse] | Turn[SessionKeyAgreement], kept: Generation, end: End) -> None:
    kept, wrapped = qssp.wrap_for_device(kept, qssp.confirmed_service(kept.line, end))
    delivery = SessionKeyDelivery(
        line=kept.line,
        generation=kept.generation,
        key_file_id=kept.key_file_id,
        entry=kept.entry,
        key_id_a_to_b=kept.key_id_a_to_b,
        key_id_b_to_a=kept.key_id_b_to_a,
        wrapped=wrapped,
    )
    turn.send(_CPE[end], delivery)


@LEASED_LINE.step("10g", Seat.QSSP_A, Seat.QKMP, IQQ, SynchronisationReport)
def supervise(qkmp: Qkmp, turn: Turn[SynchronisationReport]) -> None:
    """The QKMP verifies that both cities agreed, and records which keys they share, by their IDs."""
    told = turn.message
    turn.row.subject = told.line
    agreed = turn.evidence(SessionKeyAgreement, told.agreement_signed, told.peer)
    said = (agreed.envelope.procedure, agreed.envelope.receiver, agreed.message.line, agreed.message.generation)
    if said != (turn.procedure, turn.sender, told.line, told.generation):
        raise WrongParty(f"{told.peer} did not agree with {turn.sender} on {told.line}/{told.generation}")
    qkmp.record(turn.sender, told)


@LEASED_LINE.step("11a", BOTH_QSSPS, BOTH_CPES, IAQ, SessionKeyDelivery)
def arm_keys(cpe: Cpe, turn: Turn[SessionKeyDelivery]) -> None:
    """Each device unwraps the keys with the entry that is burned by it, and proves that it holds them."""
    told = turn.message
    line = cpe.lines.get(told.line)
    if line is None or line.state not in (cpe_records.LineState.GRANTED, cpe_records.LineState.ENCRYPTED):
        raise Refusal("NOT_CONFIRMED", f"{cpe.desk.party} takes no keys for {told.line}")
    if turn.sender != cpe.own_binding().qssp or line.end is not end_of(turn.row):
        raise WrongParty(f"{turn.sender} is not the home QSSP of end {end_of(turn.row)} of {told.line}")
    awaited = told.generation == line.generation if line.end is End.A else told.generation > line.generation
    if not awaited:
        raise Refusal("REPLAYED", f"generation {told.generation} of {told.line} is not awaited after {line.generation}")
    turn.row.subject, turn.row.generation = told.line, told.generation
    turn.seat(_CPE[line.end.other], line.peer)
    keys = cpe.arm(told)
    cpe.lines.put(line.line, msgspec.structs.replace(line, generation=told.generation))
    proof = prove_generation(keys, cpe.desk.party, told.line, told.generation)
    turn.send(_QSSP[line.end], SessionKeyReceipt(told.line, told.generation, proof))


@LEASED_LINE.step("11b", BOTH_CPES, BOTH_QSSPS, IAQ, SessionKeyReceipt, answers="11a")
def record_armed(qssp: Qssp, turn: Turn[SessionKeyReceipt]) -> None:
    """Each QSSP verifies that its device armed the keys, and forgets them."""
    told, end = turn.message, end_of(turn.row)
    kept = qssp.generations.require(f"{turn.subject}/{end}/{told.generation:08}")
    try:
        verify_generation(qssp.session_keys(kept, end), told.possession, turn.sender, kept.line, kept.generation)
    except BadProof as error:
        raise Refusal("ONE_SIDED", f"{turn.sender} did not arm {kept.line}/{kept.generation}") from error
    qssp.armed(kept.line, end, kept.generation)


@LEASED_LINE.step("12a", BOTH_CPES, (Seat.CPE_B, Seat.CPE_A), LINE, EncryptedLine, on_line=True)
def encrypt_opu_payload(cpe: Cpe, turn: Turn[EncryptedLine]) -> None:
    """Both ends proved the same keys in the GCC, and an authentic multiframe went each way: the line is ENCRYPTED."""
    line = cpe.lines.require(turn.subject)
    if line.state is cpe_records.LineState.STOPPED:
        return  # the line proved it before it heard that it is to stop, and stopped it stays
    active = msgspec.structs.replace(line, state=cpe_records.LineState.ENCRYPTED, active=turn.message.generation)
    cpe.lines.put(line.line, active)
    if turn.row.ladder == LEASED_LINE.name:
        turn.send(Seat.PMP, EncryptionReport(line.line, turn.message.generation))
    elif (order := cpe.rekey_orders.get(turn.procedure)) is not None:
        answer = RekeyResponse(line.line, turn.message.generation)
        turn.resume(ProcedureId(order), Seat.CPE_A).send(Seat.PMP, answer)
        cpe.rekey_orders.delete(turn.procedure)


@LEASED_LINE.step("12b", BOTH_CPES, Seat.PMP, AX, EncryptionReport)
def gather_encrypted(pmp: Pmp, turn: Turn[EncryptionReport]) -> None:
    """When both devices report ENCRYPTED, the PMP tells the POMP."""
    held = pmp.answered(LineId(turn.subject), turn.sender, turn.signed)
    if turn.complete:
        turn.send(Seat.POMP, ActivationReport(held.line, held.responses[held.cpe_a], held.responses[held.cpe_b]))


@LEASED_LINE.step("12c", Seat.PMP, Seat.POMP, IOA, ActivationReport, answers="5")
def begin_billing(pomp: Pomp, turn: Turn[ActivationReport]) -> None:
    """The POMP verifies both devices' own word; from here the line is in service and billed."""
    line, generation = pomp.lines.require(turn.subject), 0
    for signed, cpe in ((turn.message.report_a_signed, line.cpe_a), (turn.message.report_b_signed, line.cpe_b)):
        told = turn.evidence(EncryptionReport, signed, cpe).message
        if told.line != line.line:
            raise WrongParty(f"{cpe} reports another line than {line.line}")
        generation = max(generation, told.generation)
    active = msgspec.structs.replace(line, state=LineState.ENCRYPTED, encrypted_at=turn.now, generation=generation)
    pomp.lines.put(line.line, active)


@LEASED_LINE.compensate(Seat.POMP.role)
def fail_line(pomp: Pomp, turn: Turn[ProcedureRefusal]) -> None:
    """The order fails, with the reason."""
    line = pomp.lines.get(turn.subject)
    if line is not None and line.procedure == turn.procedure:
        pomp.lines.put(line.line, msgspec.structs.replace(line, state=LineState.FAILED, failure=turn.message.code))


@LEASED_LINE.compensate(Seat.PMP.role)
def release_ports(pmp: Pmp, turn: Turn[ProcedureRefusal]) -> None:
    """Both ends' ports are released."""
    held = pmp.reservations.get(turn.subject)
    if held is not None and held.procedure == turn.procedure:
        pmp.release(held)


@LEASED_LINE.compensate(Seat.QSSP.role)
def withdraw_service(qssp: Qssp, turn: Turn[ProcedureRefusal]) -> None:
    """No keys for a line that did not come about; those drawn are destroyed."""
    key = f"{turn.subject}/{end_of(turn.row)}"
    service = qssp.services.get(key)
    if service is not None and service.procedure == turn.procedure:
        qssp.forget_keys(service.line)
        qssp.services.delete(key)


@LEASED_LINE.compensate(Seat.CPE.role)
def stop_line(cpe: Cpe, turn: Turn[ProcedureRefusal]) -> None:
    """The port is free again and the line's keys are zeroised."""
    line = cpe.lines.get(turn.subject)
    if line is not None and line.procedure == turn.procedure:
        cpe.stop(line.line)


# Until the POMP has recorded ENCRYPTED the service may have to be withdrawn, by its word or its QSSPs'.
LEASED_LINE.revocable = {
    Seat.POMP: (),
    Seat.PMP: (Seat.POMP,),
    Seat.QSSP_A: (Seat.POMP,),
    Seat.QSSP_B: (Seat.POMP,),
    Seat.CPE_A: (Seat.QSSP_A,),
    Seat.CPE_B: (Seat.QSSP_B,),
}
LEASED_LINE.sealed()

REKEY = LEASED_LINE.excerpt("rekey", "Figure 4, steps 9 to 12", "9", "12a")


def keys_under_way(work: Work, line: LineId) -> Row | None:
    """Return the procedure at end A that will bring the line's next keys, if there is one."""
    for row in work.about(line):
        if row.ladder in (LEASED_LINE.name, REKEY.name) and "11a:qssp-a" not in row.heard:
            return row
    return None


def begin_rekey(cpe: Cpe, work: Work, line: LineId, lifetime_us: int) -> ProcedureId:
    """Ask for the next generation of keys: end A's own act.

    Raises `Refusal` if this is not end A of a granted line, or if keys are on their way already.
    """
    held = cpe.lines.get(line)
    if held is None or held.end is not End.A or held.state is cpe_records.LineState.STOPPED:
        raise Refusal("NOT_CONFIRMED", f"{cpe.desk.party} is not end A of a line {line!r} in service")
    under_way = keys_under_way(work, line)
    if under_way is not None:
        raise Refusal("REKEY_UNDER_WAY", f"keys for {line} are on their way under {under_way.procedure}")
    procedure, now = new_procedure(cpe.desk), cpe.desk.now
    seats = {Seat.CPE_A: cpe.desk.party, Seat.CPE_B: held.peer, Seat.QSSP_A: cpe.own_binding().qssp}
    row = work.add(Row(procedure, REKEY.name, Seat.CPE_A, line, seats, now + lifetime_us, now))
    _ask_for_keys(cpe, Turn(work, row, None, cpe.desk.party, Seat.CPE_A))
    return procedure


@REKEY.compensate(Seat.QSSP.role)
def forget_generation(qssp: Qssp, turn: Turn[ProcedureRefusal]) -> None:
    """A rekey that failed leaves the line as it was; its undelivered keys are destroyed."""
    qssp.forget_generation(LineId(turn.subject), end_of(turn.row), turn.row.generation)


@REKEY.compensate(Seat.CPE.role)
def fail_order(cpe: Cpe, turn: Turn[ProcedureRefusal]) -> None:
    """A rekey that failed leaves the line as it was; an order that asked for it fails too."""
    order = cpe.rekey_orders.get(turn.procedure)
    if order is not None:
        cpe.rekey_orders.delete(turn.procedure)
        turn.fail(ProcedureId(order), Seat.CPE_A, turn.message)


REKEY.sealed()
