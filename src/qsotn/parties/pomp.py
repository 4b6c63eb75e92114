"""The provincial operation management platform: accounts, orders, tokens, bills.

It orders work and keeps its results. It never sees key material: its messages carry identities, nonces and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from qsotn.crypto.identity import Verified
from qsotn.domain import LineId, PartyId, ProcedureId, QualityOfService
from qsotn.errors import BadProof, Refusal
from qsotn.messages import DeletionResponse, InitializationResponse, KeyUsageReport
from qsotn.parties import token
from qsotn.parties.desk import Collection, Desk

TOKEN_LIFETIME_US = 24 * 3600 * 1_000_000


class DeviceState(StrEnum):
    """How far a CPE's initialisation has come."""

    ORDERED = "ORDERED"
    REGISTERED = "REGISTERED"
    BOUND = "BOUND"
    READY = "READY"
    FAILED = "FAILED"
    REVOKED = "REVOKED"


class LineState(StrEnum):
    """How far a leased line has come, and how it ended."""

    REQUESTED = "REQUESTED"
    CONFIRMED = "CONFIRMED"
    ADMITTED = "ADMITTED"
    ENCRYPTED = "ENCRYPTED"
    DELETING = "DELETING"
    DELETED = "DELETED"
    FAILED = "FAILED"


class Account(msgspec.Struct, frozen=True):
    """A customer."""

    name: str
    opened_at: int


class Device(msgspec.Struct, frozen=True):
    """A CPE as the POMP knows it. `challenge` is fresh for each work order."""

    cpe: PartyId
    serial_number: str
    home_qssp: PartyId
    challenge: bytes
    work_order: ProcedureId
    state: DeviceState
    statement: bytes = b""
    binding_id: str = ""
    key_file_id: str = ""
    failure: str = ""


class Line(msgspec.Struct, frozen=True):
    """A leased line as it was ordered, and where it stands."""

    line: LineId
    account: str
    cpe_a: PartyId
    cpe_b: PartyId
    qssp_a: PartyId
    qssp_b: PartyId
    quality: QualityOfService
    token_a: bytes
    token_b: bytes
    procedure: ProcedureId
    state: LineState
    encrypted_at: int = 0
    failure: str = ""
    generation: int = 1
    """The newest generation of session keys the POMP was told of."""


class UsageRecord(msgspec.Struct, frozen=True):
    """What one line used: the two ends' own counts (Ioa) and the two cities' key counts (Ioq). It is what is billed."""

    line: LineId
    account: str
    odu: str
    encrypted_at: int
    ended_at: int
    end_a: DeletionResponse
    end_b: DeletionResponse
    key_usage: tuple[KeyUsageReport, ...] = ()


class Pomp:
    """The POMP at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def accounts(self) -> Collection[Account]:
        """Customers by account name."""
        return self.desk.collection("accounts", Account)

    @property
    def devices(self) -> Collection[Device]:
        """CPEs by identifier."""
        return self.desk.collection("devices", Device)

    @property
    def lines(self) -> Collection[Line]:
        """Leased lines by identifier."""
        return self.desk.collection("lines", Line)

    @property
    def usage(self) -> Collection[UsageRecord]:
        """Usage records by line."""
        return self.desk.collection("usage", UsageRecord)

    def open_account(self, name: str) -> None:
        """Open a customer's account; opening it again changes nothing."""
        if self.accounts.get(name) is None:
            self.accounts.put(name, Account(name, self.desk.now))

    def check_statement(self, device: Device, statement: InitializationResponse, verified: Verified) -> None:
        """Check a device's statement of step 3 against the order. Raises `Refusal` REG_REJECTED."""
        if (statement.cpe, verified.serial) != (device.cpe, device.serial_number):
            raise Refusal("REG_REJECTED", f"{device.cpe} was ordered with serial {device.serial_number}")
        if statement.challenge != device.challenge:
            raise Refusal("REG_REJECTED", f"{device.cpe} did not answer this work order's challenge")

    def device_in_work(self, cpe: str) -> Device:
        """Return a device that is being brought into service. Raises `Refusal` DEVICE_REVOKED for one revoked since."""
        device = self.devices.require(cpe)
        if device.state is DeviceState.REVOKED:
            raise Refusal("DEVICE_REVOKED", f"{cpe} was revoked while it came into service: {device.failure}")
        return device

    def ready_device(self, cpe: PartyId) -> Device:
        """Return a device that may serve a line. Raises `Refusal` UNKNOWN_CPE or NOT_READY."""
        device = self.devices.get(cpe)
        if device is None:
            raise Refusal("UNKNOWN_CPE", f"{cpe} was never ordered")
        if device.state is not DeviceState.READY:
            raise Refusal("NOT_READY", f"{cpe} is {device.state}; a line needs both devices READY")
        return device

    def check_account(self, name: str) -> None:
        """Check that an order comes from a customer. Raises `Refusal` UNKNOWN_ACCOUNT."""
        if self.accounts.get(name) is None:
            raise Refusal("UNKNOWN_ACCOUNT", f"no account {name!r}")

    def issue_token(self, account: str, line: LineId, cpe: PartyId) -> bytes:
        """Issue the token that lets one CPE take part in one line."""
        content = token.Token(account, line, cpe, self.desk.now + TOKEN_LIFETIME_US, self.desk.entropy(16))
        return token.issue(self.desk.identity, content)

    def check_offers(self, line: Line, offers: Sequence[QualityOfService]) -> None:
        """Check both ends' offers against the order (step 5). Raises `Refusal` QOS_INFEASIBLE."""
        for offered in offers:
            worse = offered.max_latency_us > line.quality.max_latency_us
            if worse or (offered.odu, offered.rekey_interval_s) != (line.quality.odu, line.quality.rekey_interval_s):
                raise Refusal("QOS_INFEASIBLE", f"{line.line} was ordered as {line.quality}, offered is {offered}")

    def check_token_proofs(self, line: Line, proof_a: bytes, proof_b: bytes) -> None:
        """Check both devices' proofs of their tokens. Raises `BadProof`."""
        if (proof_a, proof_b) != (token.digest(line.token_a), token.digest(line.token_b)):
            raise BadProof(f"a device of {line.line} proved another token than the one it was issued")
