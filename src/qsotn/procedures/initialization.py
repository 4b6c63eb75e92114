"""Figure 3: the initialisation of an OTN CPE, ten steps.

Each function does what the receiver of its message does. Steps 1 to 4 authenticate the device by its manufacturer's
certificate; 5 to 7 bind it to its home QSSP; 8 to 10 inject the quantum key file under a fresh hybrid KEM key. The
file becomes usable on the QSSP only in step 10a, after the device proved that it holds it. `docs/divergences.md` says
where a letter behind a number closes a gap of the paper.
"""

from __future__ import annotations

import msgspec

from qsotn import wire
from qsotn.crypto import cbor, keyfile
from qsotn.crypto.envelope import digest
from qsotn.crypto.identity import Verified, certificate_request
from qsotn.crypto.suites import suite
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import BadProof, Refusal, WrongParty
from qsotn.interfaces import AK, AX, IAQ, IOA, IOQ, IQSSP, Seat
from qsotn.messages import (
    BindingConfirmation,
    BindingRequest,
    BindingResponse,
    EncKeysRequest,
    EncKeysResponse,
    InitializationDispatch,
    InitializationRequest,
    InitializationResponse,
    InitializationResult,
    KeyFileConfirmation,
    KeyFileRequest,
    KeyFileResponse,
    ProcedureRefusal,
    RegistrationReport,
    VoucherCopy,
    VoucherDelivery,
)
from qsotn.parties import cpe as cpe_records
from qsotn.parties import qssp as qssp_records
from qsotn.parties.cpe import Cpe
from qsotn.parties.km import Km
from qsotn.parties.pmp import Pmp, WorkOrder
from qsotn.parties.pomp import Device, DeviceState, Pomp
from qsotn.parties.qssp import ENTRY_BITS, Qssp
from qsotn.procedures import key_supply
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import M, Row, Turn, Work

INITIALIZATION = Ladder("initialization", "Figure 3")
DEFAULT_SUITE = 1
DEFAULT_ENTRIES = 64
INSTALLED = b"installed"


def begin(
    pomp: Pomp, work: Work, cpe: PartyId, serial_number: str, home_qssp: PartyId, pmp: PartyId, lifetime_us: int
) -> ProcedureId:
    """Order a device into service: the POMP's own act before step 1. Returns the procedure's identifier.

    Raises `Refusal` ALREADY_BOUND for a device that is READY, DEVICE_REVOKED for one that is out of service for good.
    """
    known = pomp.devices.get(cpe)
    if known is not None and known.state is DeviceState.REVOKED and known.serial_number == serial_number:
        raise Refusal("DEVICE_REVOKED", f"{cpe} serial {serial_number} was revoked: {known.failure}")
    if known is not None and known.state is DeviceState.READY:
        raise Refusal("ALREADY_BOUND", f"{cpe} is READY under binding {known.binding_id}")
    procedure = new_procedure(pomp.desk)
    device = Device(cpe, serial_number, home_qssp, pomp.desk.entropy(32), procedure, DeviceState.ORDERED)
    pomp.devices.put(cpe, device)
    seats = {Seat.POMP: pomp.desk.party, Seat.PMP: pmp, Seat.QSSP: home_qssp, Seat.CPE: cpe}
    now = pomp.desk.now
    row = work.add(Row(procedure, INITIALIZATION.name, Seat.POMP, cpe, seats, now + lifetime_us, now))
    request = InitializationRequest(cpe, serial_number, home_qssp, procedure, device.challenge, DEFAULT_SUITE)
    Turn(work, row, None, pomp.desk.party, Seat.POMP).send(Seat.PMP, request)
    return procedure


@INITIALIZATION.step("1", Seat.POMP, Seat.PMP, IOA, InitializationRequest)
def dispatch_request(pmp: Pmp, turn: Turn[InitializationRequest]) -> None:
    """The PMP notes the work order and passes the request on as the POMP signed it."""
    asked = turn.message
    turn.row.subject = asked.cpe
    turn.seat(Seat.CPE, asked.cpe)
    pmp.check_operator(asked.cpe, turn.sender)
    order = WorkOrder(asked.cpe, asked.serial_number, asked.home_qssp, turn.sender, asked.challenge)
    pmp.work_orders.put(asked.cpe, order)
    turn.send(Seat.CPE, InitializationDispatch(turn.signed))


@INITIALIZATION.step("2", Seat.PMP, Seat.CPE, AX, InitializationDispatch, introduces=True)
def state_identity(cpe: Cpe, turn: Turn[InitializationDispatch]) -> None:
    """The device verifies that the POMP itself asked, and states who it is."""
    signed = turn.message.request_signed
    ordered = _ordered_by_a_pomp(turn, signed)
    asked, own = ordered.message, cpe.configuration
    if ordered.envelope.receiver != turn.sender:
        raise WrongParty(f"the order for {asked.cpe} was given to {ordered.envelope.receiver}, not to {turn.sender}")
    if (asked.cpe, asked.serial_number) != (cpe.desk.party, own.serial_number):
        raise WrongParty(f"{cpe.desk.party} serial {own.serial_number} was addressed as {asked.cpe}")
    held = cpe.binding.get("own")
    if held is not None and held.state is cpe_records.BindingState.READY:
        raise Refusal("ALREADY_BOUND", f"{cpe.desk.party} is bound to {held.qssp} under {held.binding_id}")
    if asked.suite not in own.suites:
        raise Refusal("UNSUPPORTED", f"{cpe.desk.party} supports suites {own.suites}, not {asked.suite}")
    turn.row.subject = asked.cpe
    turn.seat(Seat.QSSP, asked.home_qssp)
    binding = cpe_records.Binding(
        pomp=wire.claimed_author(signed),
        pmp=turn.sender,
        qssp=asked.home_qssp,
        suite=asked.suite,
        challenge=asked.challenge,
        procedure=turn.procedure,
        state=cpe_records.BindingState.STATED,
    )
    cpe.binding.put("own", binding)
    turn.send(Seat.PMP, _statement(cpe, asked))


def _ordered_by_a_pomp(turn: Turn[InitializationDispatch], signed: bytes) -> wire.Received[InitializationRequest]:
    author = wire.claimed_author(signed)
    if not author.startswith(f"{Seat.POMP.role}/"):
        raise WrongParty(f"{author} is no POMP and cannot ask for an initialisation")
    return turn.evidence(InitializationRequest, signed, author)


def _statement(cpe: Cpe, asked: InitializationRequest) -> InitializationResponse:
    identity, own = cpe.desk.identity, cpe.configuration
    return InitializationResponse(
        cpe=cpe.desk.party,
        serial_number=own.serial_number,
        certificates=identity.chain,
        certificate_request=certificate_request(identity),
        firmware=cpe_records.FIRMWARE,
        suites=own.suites,
        challenge=asked.challenge,
    )


@INITIALIZATION.step("3", Seat.CPE, Seat.PMP, AX, InitializationResponse, answers="2", introduces=True)
def register_device(pmp: Pmp, turn: Turn[InitializationResponse]) -> None:
    """The PMP authenticates the device, registers it, and vouches for that towards the POMP."""
    pmp.register(pmp.work_orders.require(turn.subject), turn.message)
    turn.send(Seat.POMP, RegistrationReport(PartyId(turn.subject), turn.signed))


@INITIALIZATION.step("4", Seat.PMP, Seat.POMP, IOA, RegistrationReport, answers="1")
def order_binding(pomp: Pomp, turn: Turn[RegistrationReport]) -> None:
    """The POMP verifies the device's own statement, registers it, and orders its binding."""
    device = pomp.device_in_work(turn.subject)
    signed = turn.message.statement_signed
    statement = _verified_statement(turn, signed, device.cpe)
    verified = pomp.desk.remember(statement.certificates)
    pomp.check_statement(device, statement, verified)
    pomp.devices.put(
        device.cpe, msgspec.structs.replace(device, state=DeviceState.REGISTERED, statement=digest(signed))
    )
    request = BindingRequest(device.cpe, device.serial_number, device.challenge, signed, DEFAULT_SUITE, DEFAULT_ENTRIES)
    turn.send(Seat.QSSP, request)


def _verified_statement(
    turn: Turn[RegistrationReport] | Turn[BindingRequest], signed: bytes, cpe: PartyId
) -> InitializationResponse:
    received = turn.introduced(InitializationResponse, signed, cpe, lambda statement: statement.certificates)
    return received.message


@INITIALIZATION.step("5a", Seat.POMP, Seat.QSSP, IOQ, BindingRequest)
def reserve_binding(qssp: Qssp, turn: Turn[BindingRequest]) -> None:
    """The QSSP authenticates the device by its own statement and draws the key file it will reserve."""
    asked = turn.message
    turn.row.subject = asked.cpe
    turn.seat(Seat.CPE, asked.cpe)
    turn.seat(Seat.KM, qssp.configuration.km)
    statement = _verified_statement(turn, asked.statement_signed, asked.cpe)
    verified = qssp.desk.remember(statement.certificates)
    if (verified.serial, statement.challenge) != (asked.serial_number, asked.challenge):
        raise Refusal("AUTH_FAILED", f"the statement of {asked.cpe} answers another order")
    _check_unbound(qssp, turn)
    qssp.check_entries(asked.key_file_entries)
    qssp.bindings.put(asked.cpe, _new_binding(qssp, turn))
    turn.send(Seat.KM, EncKeysRequest(qssp.desk.party, asked.key_file_entries, ENTRY_BITS))


def _check_unbound(qssp: Qssp, turn: Turn[BindingRequest]) -> None:
    known = qssp.bindings.get(turn.message.cpe)
    if known is None:
        return
    if known.serial_number == turn.message.serial_number:
        qssp.standing_binding(known.cpe)
    if known.state is qssp_records.BindingState.ACTIVE:
        raise Refusal("ALREADY_BOUND", f"{known.cpe} is bound under {known.binding_id}")
    qssp.key_files.delete(known.key_file_id)  # an earlier order's, which nobody could use or destroy any more


def _own_binding(qssp: Qssp, turn: Turn[M]) -> qssp_records.Binding:
    """Return the binding that this procedure made. Raises `Refusal` SUPERSEDED if a newer order made another."""
    binding = qssp.standing_binding(PartyId(turn.subject))
    if binding.procedure != turn.procedure:
        raise Refusal("SUPERSEDED", f"{binding.cpe} is being bound by a newer order, under {binding.binding_id}")
    return binding


def _new_binding(qssp: Qssp, turn: Turn[BindingRequest]) -> qssp_records.Binding:
    asked, desk = turn.message, qssp.desk
    return qssp_records.Binding(
        cpe=asked.cpe,
        serial_number=asked.serial_number,
        pomp=turn.sender,
        suite=asked.suite,
        entries=asked.key_file_entries,
        challenge=asked.challenge,
        state=qssp_records.BindingState.RESERVED,
        binding_id=new_procedure(desk),
        binding_nonce=desk.entropy(32),
        key_file_id=new_procedure(desk),
        procedure=turn.procedure,
    )


@INITIALIZATION.step("5b", Seat.QSSP, Seat.KM, AK, EncKeysRequest)
def supply_key_file(km: Km, turn: Turn[EncKeysRequest]) -> None:
    """The key manager supplies the file's keys from its link; the QSSP is their only user (master and slave SAE)."""
    turn.row.subject = turn.sender
    key_supply.start(km, turn, Seat.QSSP)


@INITIALIZATION.step("5c", Seat.KM, Seat.QSSP, AK, EncKeysResponse, answers="5b")
def reserve_key_file(qssp: Qssp, turn: Turn[EncKeysResponse]) -> None:
    """The key file is reserved, not released: it waits for the voucher."""
    binding = _own_binding(qssp, turn)
    manifest = qssp.reserve_key_file(binding, turn.message.keys)
    commitment = digest(manifest)
    bound = msgspec.structs.replace(binding, state=qssp_records.BindingState.BOUND, manifest=commitment)
    qssp.bindings.put(binding.cpe, bound)
    response = BindingResponse(binding.cpe, binding.binding_id, binding.binding_nonce, binding.key_file_id, commitment)
    turn.send(Seat.POMP, response)


@INITIALIZATION.step("6", Seat.QSSP, Seat.POMP, IOQ, BindingResponse, answers="5a")
def confirm_binding(pomp: Pomp, turn: Turn[BindingResponse]) -> None:
    """The POMP records authentication and binding, and signs the voucher that says so."""
    answer = turn.message
    device = pomp.device_in_work(turn.subject)
    if answer.cpe != device.cpe:
        raise WrongParty(f"{turn.sender} bound {answer.cpe}, asked was {device.cpe}")
    pomp.devices.put(
        device.cpe,
        msgspec.structs.replace(
            device, state=DeviceState.BOUND, binding_id=answer.binding_id, key_file_id=answer.key_file_id
        ),
    )
    turn.send(Seat.QSSP, _voucher(pomp, device, turn))


def _voucher(pomp: Pomp, device: Device, turn: Turn[BindingResponse]) -> BindingConfirmation:
    return BindingConfirmation(
        cpe=device.cpe,
        serial_number=device.serial_number,
        qssp=turn.sender,
        qssp_certificate_hash=pomp.desk.peer(turn.sender).certificate_sha384,
        binding_id=turn.message.binding_id,
        challenge=device.challenge,
        binding_nonce=turn.message.binding_nonce,
        transcript=digest(device.statement, turn.digest),
    )


@INITIALIZATION.step("7a", Seat.POMP, Seat.QSSP, IOQ, BindingConfirmation, answers="6")
def release_key_file(qssp: Qssp, turn: Turn[BindingConfirmation]) -> None:
    """The QSSP checks the voucher against its binding, releases the key file, and sends the voucher on its way."""
    voucher, binding = turn.message, _own_binding(qssp, turn)
    own = qssp.desk.identity
    named = (voucher.cpe, voucher.qssp, voucher.binding_id, voucher.challenge, voucher.binding_nonce)
    bound = (binding.cpe, own.party, binding.binding_id, binding.challenge, binding.binding_nonce)
    if named != bound or voucher.qssp_certificate_hash != own.certificate_sha384:
        raise Refusal("NOT_BOUND", f"the voucher for {voucher.cpe} does not name the binding made in step 5")
    released = msgspec.structs.replace(binding, state=qssp_records.BindingState.RELEASED)
    qssp.bindings.put(binding.cpe, released)
    turn.seat(Seat.PMP, qssp.configuration.pmp)
    turn.send(Seat.PMP, VoucherCopy(binding.cpe, turn.signed, own.chain))


@INITIALIZATION.step("7b", Seat.QSSP, Seat.PMP, IQSSP, VoucherCopy)
def open_gate(pmp: Pmp, turn: Turn[VoucherCopy]) -> None:
    """The PMP verifies the voucher and opens its gate between this device and this QSSP, for sealed datagrams only."""
    order = pmp.work_orders.require(turn.subject)
    voucher = turn.evidence(BindingConfirmation, turn.message.voucher_signed, order.pomp).message
    if (voucher.cpe, voucher.qssp, voucher.challenge) != (order.cpe, turn.sender, order.challenge):
        raise WrongParty(f"{turn.sender} showed a voucher that is not for {order.cpe} and this work order")
    pmp.unlock_gate(order.cpe)
    turn.send(Seat.CPE, VoucherDelivery(turn.message.voucher_signed, turn.message.qssp_certificates))


@INITIALIZATION.step("7c", Seat.PMP, Seat.CPE, AX, VoucherDelivery)
def request_key_file(cpe: Cpe, turn: Turn[VoucherDelivery]) -> None:
    """The device verifies the voucher and asks its QSSP for the key file under a fresh KEM key."""
    binding = cpe.own_binding()
    voucher = turn.evidence(BindingConfirmation, turn.message.voucher_signed, binding.pomp).message
    qssp = cpe.desk.remember(turn.message.qssp_certificates)
    _check_voucher(cpe, binding, voucher, qssp)
    chosen = suite(binding.suite)
    kem = keyfile.request_keys(chosen, cpe.desk.entropy)
    request = KeyFileRequest(
        cpe=cpe.desk.party,
        qssp=binding.qssp,
        suite=binding.suite,
        binding_id=voucher.binding_id,
        counter=cpe.next_count("key-file-requests"),
        device_nonce=cpe.desk.entropy(32),
        binding_nonce=voucher.binding_nonce,
        encapsulation_key=kem.public,
        ppk_id="",
        previous_file="",
    )
    seed = cpe.desk.vault.wrap(kem.seed, b"key-file-request")
    vouched = msgspec.structs.replace(
        binding, state=cpe_records.BindingState.VOUCHED, binding_id=voucher.binding_id, kem_seed=seed
    )
    cpe.binding.put("own", vouched)
    turn.send(Seat.QSSP, request)


def _check_voucher(cpe: Cpe, binding: cpe_records.Binding, voucher: BindingConfirmation, qssp: Verified) -> None:
    named = (voucher.cpe, voucher.serial_number, voucher.challenge, voucher.qssp)
    if named != (cpe.desk.party, cpe.configuration.serial_number, binding.challenge, binding.qssp):
        raise BadProof(f"the voucher is not for {cpe.desk.party} and the challenge it answered")
    if (qssp.party, qssp.certificate_sha384) != (voucher.qssp, voucher.qssp_certificate_hash):
        raise BadProof(f"the voucher names another certificate of {voucher.qssp} than the one that came with it")


@INITIALIZATION.step("8", Seat.CPE, Seat.QSSP, IAQ, KeyFileRequest)
def send_key_file(qssp: Qssp, turn: Turn[KeyFileRequest]) -> None:
    """The QSSP encrypts the reserved file to the device's fresh key and confirms that it derived the same keys."""
    asked = turn.message
    binding = qssp.released_binding(turn.sender, asked.binding_id, asked.binding_nonce)
    if (asked.qssp, asked.suite) != (qssp.desk.party, binding.suite):
        raise Refusal("UNSUPPORTED", f"{turn.sender} asked {asked.qssp} in suite {asked.suite}")
    if asked.counter <= binding.last_counter:
        raise Refusal("REPLAYED", f"{turn.sender} used key file request counter {asked.counter} before")
    qssp.bindings.put(binding.cpe, msgspec.structs.replace(binding, last_counter=asked.counter))
    file = qssp.key_files.require(binding.key_file_id)
    header = cbor.encode([file.key_file_id, asked.counter, len(file.entries), binding.cpe])
    closed = keyfile.close_key_file(
        suite(binding.suite),
        asked.encapsulation_key,
        turn.digest,
        qssp.file_entries(file),
        None,
        header,
        qssp.desk.entropy,
    )
    confirm = qssp.desk.vault.wrap(closed.keys.confirm_cpe, _confirm_context(file.key_file_id))
    sent = msgspec.structs.replace(file, transcript=closed.transcript, confirm_cpe=confirm)
    qssp.key_files.put(file.key_file_id, sent)
    turn.send(Seat.CPE, KeyFileResponse(header, closed.enc, closed.ciphertext, closed.confirmation))


def _confirm_context(key_file_id: str) -> bytes:
    return f"confirm-cpe/{key_file_id}".encode()


@INITIALIZATION.step("9", Seat.QSSP, Seat.CPE, IAQ, KeyFileResponse, answers="8")
def install_key_file(cpe: Cpe, turn: Turn[KeyFileResponse]) -> None:
    """The device opens the file, makes it durable, and proves that it holds it."""
    sent, binding = turn.message, cpe.own_binding()
    chosen = suite(binding.suite)
    kem = chosen.kem_key(cpe.desk.vault.unwrap(binding.kem_seed, b"key-file-request"))
    request_digest = turn.row.said["8:qssp"]
    try:
        opened = keyfile.open_key_file(
            chosen, kem, request_digest, sent.encapsulation, sent.encrypted_file, sent.confirmation, None, sent.header
        )
    except BadProof as error:
        raise Refusal("BAD_TAG", str(error)) from error
    kem.erase()
    file_id = _file_of(sent.header, cpe.desk.party, len(opened.entries))
    cpe.install_key_file(file_id, opened.entries, opened.keys.next_ppk)
    proof = keyfile.confirm(opened.keys.confirm_cpe, opened.transcript, turn.digest, INSTALLED)
    turn.send(Seat.QSSP, KeyFileConfirmation(file_id, len(opened.entries), proof))


def _file_of(header: bytes, cpe: PartyId, entries: int) -> str:
    match cbor.decode(header):
        case [str(file_id), int(), int(count), str(owner)] if (count, owner) == (entries, cpe):
            return file_id
    raise Refusal("BAD_TAG", f"the key file's header does not describe {entries} entries for {cpe}")


@INITIALIZATION.step("10a", Seat.CPE, Seat.QSSP, IAQ, KeyFileConfirmation, answers="9")
def activate_key_file(qssp: Qssp, turn: Turn[KeyFileConfirmation]) -> None:
    """The device proved possession: the file is active on this side too, only now."""
    told, binding = turn.message, _own_binding(qssp, turn)
    file = qssp.key_files.require(binding.key_file_id)
    key = qssp.desk.vault.unwrap(file.confirm_cpe, _confirm_context(file.key_file_id))
    try:
        keyfile.verify_confirmation(key, told.confirmation, file.transcript, turn.row.said["9:cpe"], INSTALLED)
    except BadProof as error:
        raise Refusal("INJECT_FAILED", f"{turn.sender} did not prove that it holds its key file") from error
    if (told.key_file_id, told.installed_entries) != (file.key_file_id, len(file.entries)):
        raise Refusal(
            "INJECT_FAILED", f"{turn.sender} installed {told.installed_entries} of {len(file.entries)} entries"
        )
    qssp.bindings.put(binding.cpe, msgspec.structs.replace(binding, state=qssp_records.BindingState.ACTIVE))
    qssp.key_files.put(file.key_file_id, msgspec.structs.replace(file, confirm_cpe=b""))
    result = InitializationResult(binding.cpe, binding.binding_id, file.key_file_id, told.installed_entries)
    turn.send(Seat.POMP, result)


@INITIALIZATION.step("10b", Seat.QSSP, Seat.POMP, IOQ, InitializationResult)
def record_ready(pomp: Pomp, turn: Turn[InitializationResult]) -> None:
    """The POMP records the device as READY: it may serve lines."""
    device = pomp.device_in_work(turn.subject)
    told = (turn.message.cpe, turn.message.binding_id, turn.message.key_file_id)
    if told != (device.cpe, device.binding_id, device.key_file_id):
        raise WrongParty(f"{turn.sender} reports {told}, bound was {device.binding_id}")
    pomp.devices.put(device.cpe, msgspec.structs.replace(device, state=DeviceState.READY))


@INITIALIZATION.compensate(Seat.POMP.role)
def forget_order(pomp: Pomp, turn: Turn[ProcedureRefusal]) -> None:
    """The device stays out of service, with the reason."""
    device = pomp.devices.get(turn.subject)
    if device is None or device.state is DeviceState.REVOKED:
        return  # out of service for good is more than this
    if device.work_order == turn.procedure:
        failed = msgspec.structs.replace(device, state=DeviceState.FAILED, failure=turn.message.code)
        pomp.devices.put(device.cpe, failed)


@INITIALIZATION.compensate(Seat.QSSP.role)
def destroy_reserved_file(qssp: Qssp, turn: Turn[ProcedureRefusal]) -> None:
    """Nothing half active: the reserved or issued key file is destroyed."""
    qssp.destroy_key_file(PartyId(turn.subject), turn.procedure)


@INITIALIZATION.compensate(Seat.CPE.role)
def destroy_installed_file(cpe: Cpe, turn: Turn[ProcedureRefusal]) -> None:
    """Nothing half active: the installed key file and the request's key are destroyed."""
    cpe.destroy_key_file(turn.procedure)


# Until the POMP has recorded READY the file may have to go; the PMP, a courier here, is never heard about it.
INITIALIZATION.revocable = {
    Seat.POMP: (),
    Seat.PMP: (Seat.POMP,),
    Seat.QSSP: (Seat.POMP,),
    Seat.CPE: (Seat.QSSP,),
}
INITIALIZATION.sealed()
