"""Every message of the two figures, one frozen type each, in the order of the figures.

A type's docstring says what the message proves or asks. Fields are the "carries" column of `docs/paper-map.md`; the
common envelope (procedure, step, parties, window of validity, nonce, the message it answers) is added by `wire`. A
field named `…_signed` holds another party's message byte for byte, so that the receiver can verify its author without
trusting the bearer.
"""

from __future__ import annotations

import msgspec

from qsotn.domain import KeyId, LineId, PartyId, QualityOfService, Secret
from qsotn.keynetwork.inquest import Testimony
from qsotn.keynetwork.relay import Mode, UnitRange

Chain = tuple[bytes, ...]
"""DER certificates, leaf first."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every message type is: immutable, and without room for fields nobody declared."""


# --- Figure 3: initialisation of a CPE ------------------------------------------------------------------------------


class InitializationRequest(Message, frozen=True):
    """1, POMP→PMP: bring this device into service; the challenge is echoed by the device itself in step 3."""

    cpe: PartyId
    serial_number: str
    home_qssp: PartyId
    work_order: str
    challenge: bytes
    suite: int


class InitializationDispatch(Message, frozen=True):
    """2, PMP→CPE: the POMP's request as it was signed."""

    request_signed: bytes


class InitializationResponse(Message, frozen=True):
    """3, CPE→PMP: the device's own statement. Its signature is what PMP, POMP and QSSP each verify for themselves."""

    cpe: PartyId
    serial_number: str
    certificates: Chain
    certificate_request: bytes
    firmware: str
    suites: tuple[int, ...]
    challenge: bytes


class RegistrationReport(Message, frozen=True):
    """4, PMP→POMP: the device's statement, with the PMP's word that it registered this device."""

    cpe: PartyId
    statement_signed: bytes


class BindingRequest(Message, frozen=True):
    """5, POMP→QSSP: bind this device and reserve its quantum key file."""

    cpe: PartyId
    serial_number: str
    challenge: bytes
    statement_signed: bytes
    suite: int
    key_file_entries: int


class BindingResponse(Message, frozen=True):
    """6, QSSP→POMP: the device is authenticated and bound, its key file is reserved but not released."""

    cpe: PartyId
    binding_id: str
    binding_nonce: bytes
    key_file_id: str
    manifest_commitment: bytes


class BindingConfirmation(Message, frozen=True):
    """7, POMP→QSSP: the voucher. It binds device, QSSP and both nonces; it gates step 8."""

    cpe: PartyId
    serial_number: str
    qssp: PartyId
    qssp_certificate_hash: bytes
    binding_id: str
    challenge: bytes
    binding_nonce: bytes
    transcript: bytes


class VoucherCopy(Message, frozen=True):
    """7, QSSP→PMP: the voucher as the POMP signed it; it opens the PMP's gate between this device and its QSSP."""

    cpe: PartyId
    voucher_signed: bytes
    qssp_certificates: Chain


class VoucherDelivery(Message, frozen=True):
    """7, PMP→CPE: the voucher reaches the device, which then begins step 8."""

    voucher_signed: bytes
    qssp_certificates: Chain


class KeyFileRequest(Message, frozen=True):
    """8, CPE→QSSP: send the key file under this fresh key-encapsulation key."""

    cpe: PartyId
    qssp: PartyId
    suite: int
    binding_id: str
    counter: int
    device_nonce: bytes
    binding_nonce: bytes
    encapsulation_key: bytes
    ppk_id: str
    previous_file: str


class KeyFileResponse(Message, frozen=True):
    """9, QSSP→CPE: the key file, encrypted; the header is the associated data of everything in it."""

    header: bytes
    encapsulation: bytes
    encrypted_file: bytes
    confirmation: bytes


class KeyFileConfirmation(Message, frozen=True):
    """10, CPE→QSSP: installed and durable; the MAC proves possession of the file's keys."""

    key_file_id: str
    installed_entries: int
    confirmation: bytes


class InitializationResult(Message, frozen=True):
    """10, QSSP→POMP: the device is READY (our extension: the paper lets the POMP never learn it)."""

    cpe: PartyId
    binding_id: str
    key_file_id: str
    installed_entries: int


# --- AK: ETSI GS QKD 014, inside step 5 of Figure 3 and step 10 of Figure 4 -----------------------------------------


class EncKeysRequest(Message, frozen=True):
    """QSSP→KM: `enc_keys` of ETSI GS QKD 014 V1.1.1 clause 5.2. Size in bits."""

    slave_sae: PartyId
    number: int
    size: int


class SuppliedKey(Message, frozen=True):
    """One key of a key container (clause 6.3): its ID, its bits, and where they came from."""

    key_id: KeyId
    key: Secret
    source: str


class EncKeysResponse(Message, frozen=True):
    """KM→QSSP: the key container. Sent only after the far key manager has confirmed the same keys."""

    keys: tuple[SuppliedKey, ...]


class DecKeysRequest(Message, frozen=True):
    """QSSP→KM: `dec_keys` of clause 5.3: the keys that the master SAE named."""

    master_sae: PartyId
    key_ids: tuple[KeyId, ...]


class DecKeysResponse(Message, frozen=True):
    """KM→QSSP: the same keys, once."""

    keys: tuple[SuppliedKey, ...]


# --- Kx: inside the QKDN --------------------------------------------------------------------------------------------


class BlockAnnouncement(Message, frozen=True):
    """KM→KM: I hold this freshly distilled block; the proof is a MAC under a key derived from it."""

    link: str
    block: int
    units: int
    possession: bytes


class BlockAgreement(Message, frozen=True):
    """KM→KM: I hold the same block; both ends may allocate from it now."""

    link: str
    block: int
    possession: bytes


class BlockWithdrawal(Message, frozen=True):
    """KM→KM: I wrote this block off, and name the reason; whatever you have of it is of no use."""

    link: str
    block: int
    reason: str


class BlockWithdrawn(Message, frozen=True):
    """KM→KM: nobody will use it here any more."""

    link: str
    block: int


class KeyRelay(Message, frozen=True):
    """KM→KM: one hop of a supply.

    Without `ciphertext` the keys *are* the named units of the link; with it they are encrypted by a one-time pad of the
    named units. `target` is the key manager where the keys end; if that is the sender itself, it asks the far end only
    to discard its copy. `path` is who has handled the keys so far, `way` the key managers that the origin chose, all of
    them from itself to the target; without it each hop finds the next by its own table.
    """

    link: str
    block: int
    unit: int
    size: int
    key_ids: tuple[KeyId, ...]
    ciphertext: bytes
    master: PartyId
    slave: PartyId
    target: PartyId
    path: tuple[PartyId, ...]
    way: tuple[PartyId, ...] = ()


class RelayReceipt(Message, frozen=True):
    """KM→KM: every key manager further on holds the keys durably; `path` is who they are, the target last."""

    key_ids: tuple[KeyId, ...]
    path: tuple[PartyId, ...]


class PoolRelay(Message, frozen=True):
    """KM→KM: one hop of one share of a batch of units for a pool.

    `chain` are the statements of all who had it so far, each as its author signed it: the first is the origin's and
    holds the order. `pieces` of the link are the units themselves on the first hop, and what they are encrypted under
    on every further one. `mode` says how: "aes-wrapped" is computational.
    """

    batch: str
    share: int
    mode: Mode
    link: str
    pieces: tuple[UnitRange, ...]
    ciphertext: bytes
    chain: tuple[bytes, ...]


class PoolReceipt(Message, frozen=True):
    """KM→KM: the last key manager has the share durably; `chain` is everybody's statements, to the last."""

    batch: str
    share: int
    chain: tuple[bytes, ...]


class BatchConfirmation(Message, frozen=True):
    """KM→KM, origin to target: every share arrived. The proof is a MAC under a key derived from the units."""

    batch: str
    proof: bytes


class BatchAcceptance(Message, frozen=True):
    """KM→KM, target to origin: here are the same units, and they may be used; the same proof, in the target's name."""

    batch: str
    proof: bytes


class InquestRequest(Message, frozen=True):
    """KM→KM, origin to whoever relayed: this share failed and its units are burnt; say what became of it."""

    batch: str
    share: int


class InquestTestimony(Message, frozen=True):
    """KM→KM, to the origin: what happened here, with the bits under which it travelled, which nobody will use."""

    batch: str
    share: int
    testimony: Testimony


# --- Figure 4: establishment of a leased line -----------------------------------------------------------------------


class ServiceRequest(Message, frozen=True):
    """1, POMP→PMP: this account orders a line between these two devices; a token per device."""

    line: LineId
    account: str
    cpe_a: PartyId
    cpe_b: PartyId
    qssp_a: PartyId
    qssp_b: PartyId
    quality: QualityOfService
    token_a: bytes
    token_b: bytes


class ServiceDispatch(Message, frozen=True):
    """2, PMP→each CPE: prepare your port; the POMP's request as it was signed."""

    request_signed: bytes
    port: str


class ServiceResponse(Message, frozen=True):
    """3, each CPE→PMP: prepared, with proof of the token."""

    line: LineId
    accepted: QualityOfService
    token_digest: bytes


class ServiceReport(Message, frozen=True):
    """4, PMP→POMP: both responses, as the devices signed them."""

    line: LineId
    response_a_signed: bytes
    response_b_signed: bytes


class ServiceConfirmation(Message, frozen=True):
    """5, POMP→PMP: quality and tokens are agreed; the PMP commits its reservation."""

    line: LineId
    agreed: QualityOfService
    token_digest_a: bytes
    token_digest_b: bytes


class KeyServiceRequest(Message, frozen=True):
    """6, POMP→each QSSP: admit this line; the key budget is in keys per interval."""

    line: LineId
    cpe: PartyId
    cpe_a: PartyId
    cpe_b: PartyId
    qssp_a: PartyId
    qssp_b: PartyId
    rekey_interval_s: int
    keys_per_interval: int


class KeyServiceResponse(Message, frozen=True):
    """7, each QSSP→POMP: admitted; how many more intervals this device's key file and the QSSP can serve."""

    line: LineId
    cpe: PartyId
    admitted_intervals: int


class KeyServiceResponseCopy(Message, frozen=True):
    """7, each QSSP→PMP: the same answer for the PMP, whom the paper names as step 7's receiver."""

    line: LineId
    cpe: PartyId
    admitted_intervals: int


class KeyServiceConfirmation(Message, frozen=True):
    """8, POMP→each QSSP: service agreed by all; the transcript binds what was agreed."""

    line: LineId
    transcript: bytes


class KeyServiceConfirmationCopy(Message, frozen=True):
    """8, each QSSP→PMP: the confirmation as signed (our extension: the paper never tells CPE A to begin step 9)."""

    line: LineId
    confirmation_signed: bytes


class ServiceGrant(Message, frozen=True):
    """8, PMP→each CPE: the line may take keys; the POMP's confirmation to this device's QSSP, as it was signed."""

    line: LineId
    confirmation_signed: bytes


class SessionKeyRequest(Message, frozen=True):
    """9, CPE A→QSSP A: two keys, one per direction, for this generation of this line."""

    line: LineId
    generation: int
    counter: int


class SessionKeyNotice(Message, frozen=True):
    """10, QSSP A→QSSP B: the IDs of the keys just drawn; never key material."""

    line: LineId
    generation: int
    key_id_a_to_b: KeyId
    key_id_b_to_a: KeyId


class SessionKeyAgreement(Message, frozen=True):
    """10, QSSP B→QSSP A: drawn; the proof shows that both hold the same keys without revealing them."""

    line: LineId
    generation: int
    possession: bytes


class SynchronisationReport(Message, frozen=True):
    """10, QSSP A→QKMP: which keys two cities now share; the peer's own agreement, as signed, says so for both."""

    line: LineId
    generation: int
    peer: PartyId
    key_ids: tuple[KeyId, ...]
    agreement_signed: bytes


class SessionKeyDelivery(Message, frozen=True):
    """11, each QSSP→its CPE: both keys of a generation, wrapped under one key-file entry that is burned by it."""

    line: LineId
    generation: int
    key_file_id: str
    entry: int
    key_id_a_to_b: KeyId
    key_id_b_to_a: KeyId
    wrapped: bytes


class SessionKeyReceipt(Message, frozen=True):
    """11, each CPE→its QSSP: unwrapped and armed; the entry is burned here too."""

    line: LineId
    generation: int
    possession: bytes


class EncryptedLine(Message, frozen=True):
    """12, CPE↔CPE over the line: not a datagram but what the GCC and the first authenticated multiframe prove."""

    line: LineId
    generation: int


class EncryptionReport(Message, frozen=True):
    """12, each CPE→PMP: the line is ENCRYPTED at this end."""

    line: LineId
    generation: int


class ActivationReport(Message, frozen=True):
    """12, PMP→POMP: ENCRYPTED at both ends; billing begins."""

    line: LineId
    report_a_signed: bytes
    report_b_signed: bytes


# --- Deletion of a line: the mirror of Figure 4, steps 1 to 8 (the paper only names it) ----------------------------


class DeletionRequest(Message, frozen=True):
    """1, POMP→PMP: take this line out of service."""

    line: LineId


class DeletionDispatch(Message, frozen=True):
    """2, PMP→each CPE: stop, zeroise the line's keys, and report."""

    request_signed: bytes


class KeyFrames(Message, frozen=True):
    """How many OTU frames one key protected in one direction; a lower bound unless `complete`."""

    key_id: KeyId
    direction: str
    frames: int
    complete: bool


class DeletionResponse(Message, frozen=True):
    """3, each CPE→PMP: stopped and zeroised; the line's usage as this end counted it."""

    line: LineId
    client_bytes_in: int
    client_bytes_out: int
    multiframes_sent: int
    keys: tuple[KeyFrames, ...]


class DeletionReport(Message, frozen=True):
    """4, PMP→POMP: both ends' signed usage: what is billed."""

    line: LineId
    response_a_signed: bytes
    response_b_signed: bytes


class DeletionConfirmation(Message, frozen=True):
    """5, POMP→PMP: the reservation is released."""

    line: LineId


class KeyServiceDeletion(Message, frozen=True):
    """6, POMP→each QSSP: this line takes no more keys."""

    line: LineId


class KeyUsageReport(Message, frozen=True):
    """7, each QSSP→POMP: keys drawn and delivered for this line, and key-file entries burned (our extension)."""

    line: LineId
    cpe: PartyId
    keys_drawn: int
    keys_delivered: int
    entries_burned: int


class KeyUsageConfirmation(Message, frozen=True):
    """8, POMP→each QSSP: recorded; the QSSP forgets the line."""

    line: LineId


# --- Our own orders: a rekey that the operator asks for, a device out of service for good --------------------------


class RekeyRequest(Message, frozen=True):
    """1, POMP→PMP: change the keys of this line now."""

    line: LineId


class RekeyDispatch(Message, frozen=True):
    """2, PMP→CPE A: the POMP's request as it was signed."""

    request_signed: bytes


class RekeyResponse(Message, frozen=True):
    """3, CPE A→PMP: the line is encrypted with this generation."""

    line: LineId
    generation: int


class RekeyReport(Message, frozen=True):
    """4, PMP→POMP: the device's word, as it signed it."""

    line: LineId
    response_signed: bytes


class DeviceRevocation(Message, frozen=True):
    """1, POMP→PMP: this device is out of service for good; the reason is for people."""

    cpe: PartyId
    serial_number: str
    reason: str


class DeviceRevoked(Message, frozen=True):
    """2, PMP→POMP: nothing is carried for this device any more."""

    cpe: PartyId


class BindingRevocation(Message, frozen=True):
    """3, POMP→QSSP: destroy what this device's key file still holds."""

    cpe: PartyId


class BindingRevoked(Message, frozen=True):
    """4, QSSP→POMP: destroyed; no session key reaches this device any more."""

    cpe: PartyId
    key_file_id: str


# --- In every procedure ---------------------------------------------------------------------------------------------


class ProcedureRefusal(Message, frozen=True):
    """Any seat→a neighbour: this procedure ended here, for this reason. It travels along the edges already used."""

    code: str
    detail: str
