"""The OTN management platform: registers devices, reserves their ports, and carries what it cannot read.

On Ax, Ioa and Iqssp it is a party. On Iaq it is a courier with a gate: it passes sealed datagrams between a device
and that device's own QSSP, after the voucher (Figure 3, step 7) has opened the way, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from qsotn.domain import LineId, PartyId, ProcedureId, QualityOfService
from qsotn.errors import OutOfOrder, Refusal, WrongParty
from qsotn.messages import InitializationResponse
from qsotn.parties.desk import Collection, Desk


class WorkOrder(msgspec.Struct, frozen=True):
    """A device the POMP wants in service."""

    cpe: PartyId
    serial_number: str
    home_qssp: PartyId
    pomp: PartyId
    challenge: bytes


class Registration(msgspec.Struct, frozen=True):
    """A device that proved itself; `gate_open` once its voucher passed."""

    cpe: PartyId
    serial_number: str
    certificate_sha384: bytes
    home_qssp: PartyId
    gate_open: bool = False


class ReservationState(StrEnum):
    """Where a line's reservation stands."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"
    GRANTED = "GRANTED"


class Reservation(msgspec.Struct, frozen=True):
    """Ports held for a line at both ends, and what each device answered (its signed bytes, by CPE)."""

    line: LineId
    cpe_a: PartyId
    cpe_b: PartyId
    quality: QualityOfService
    token_a: bytes
    token_b: bytes
    procedure: ProcedureId
    state: ReservationState
    responses: dict[str, bytes] = {}
    admitted: tuple[PartyId, ...] = ()


ODU_TYPES = frozenset({"ODU0", "ODU1", "ODU2", "ODU2e", "ODU3", "ODU4"})
LINE_PORT = "line-1/1"
SHORTEST_REKEY_S = 1


class Pmp:
    """The PMP at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def work_orders(self) -> Collection[WorkOrder]:
        """Devices to bring into service, by CPE."""
        return self.desk.collection("work-orders", WorkOrder)

    @property
    def registrations(self) -> Collection[Registration]:
        """Devices that proved themselves, by CPE."""
        return self.desk.collection("registrations", Registration)

    @property
    def revoked(self) -> Collection[int]:
        """When devices were put out of service for good, by `cpe/serial number` (microseconds since the epoch)."""
        return self.desk.collection("revoked", int)

    @property
    def reservations(self) -> Collection[Reservation]:
        """Ports held, by line."""
        return self.desk.collection("reservations", Reservation)

    @property
    def ports(self) -> Collection[LineId]:
        """Which line holds a device's port, by CPE."""
        return self.desk.collection("ports", LineId)

    def reserve(self, held: Reservation) -> None:
        """Hold both ends' ports for a line."""
        self.reservations.put(held.line, held)
        for cpe in (held.cpe_a, held.cpe_b):
            self.ports.put(cpe, held.line)

    def release(self, held: Reservation) -> None:
        """Let both ends' ports go."""
        self.reservations.delete(held.line)
        for cpe in (held.cpe_a, held.cpe_b):
            self.ports.delete(cpe)

    def register(self, order: WorkOrder, statement: InitializationResponse) -> None:
        """Authenticate a device by its own certificate and register it (step 3).

        Raises `BadProof` for a certificate that does not verify, `Refusal` AUTH_FAILED, DEVICE_REVOKED or
        CLONE_SUSPECTED.
        """
        verified = self.desk.verify_chain(statement.certificates)
        if (verified.party, verified.serial, statement.challenge) != (order.cpe, order.serial_number, order.challenge):
            raise Refusal("AUTH_FAILED", f"{verified.party} serial {verified.serial} is not what {order.cpe} ordered")
        self.check_not_revoked(order.cpe, order.serial_number)
        known = self.registrations.get(order.cpe)
        if known is not None and known.certificate_sha384 != verified.certificate_sha384:
            raise Refusal("CLONE_SUSPECTED", f"{order.cpe} is registered with another certificate")
        self.desk.remember(statement.certificates)
        gate_open = known is not None and known.gate_open and known.home_qssp == order.home_qssp
        registration = Registration(
            order.cpe, order.serial_number, verified.certificate_sha384, order.home_qssp, gate_open
        )
        self.registrations.put(order.cpe, registration)

    def revoke(self, cpe: PartyId, serial_number: str) -> None:
        """Close the gate of a device for good."""
        known = self.registrations.get(cpe)
        if known is not None:
            self.registrations.put(cpe, msgspec.structs.replace(known, gate_open=False))
        self.revoked.put(f"{cpe}/{serial_number}", self.desk.now)

    def check_not_revoked(self, cpe: PartyId, serial_number: str) -> None:
        """Check that a device was not put out of service. Raises `Refusal` DEVICE_REVOKED."""
        if self.revoked.get(f"{cpe}/{serial_number}") is not None:
            raise Refusal("DEVICE_REVOKED", f"{cpe} serial {serial_number} is out of service for good")

    def check_operator(self, cpe: PartyId, pomp: PartyId) -> None:
        """Check that nobody but the POMP that ordered a device disposes of it. Raises `WrongParty`."""
        order = self.work_orders.get(cpe)
        if order is not None and order.pomp != pomp:
            raise WrongParty(f"{cpe} was ordered by {order.pomp}; {pomp} does not dispose of it")

    def unlock_gate(self, cpe: PartyId) -> None:
        """Let this device and its home QSSP speak on Iaq from now on (step 7). Raises `Refusal` DEVICE_REVOKED."""
        known = self.registrations.require(cpe)
        # A voucher may have been on its way when the device was revoked.
        self.check_not_revoked(cpe, known.serial_number)
        self.registrations.put(cpe, msgspec.structs.replace(known, gate_open=True))

    def open_gate(self, sender: PartyId, receiver: PartyId) -> None:
        """Decide whether to courier a datagram. Raises `WrongParty`, or `OutOfOrder` before the voucher has passed."""
        for cpe, qssp in ((sender, receiver), (receiver, sender)):
            registration = self.registrations.get(cpe)
            if registration is not None and registration.home_qssp == qssp:
                if not registration.gate_open:
                    raise OutOfOrder(f"no voucher has opened the way between {cpe} and {qssp}")
                return
        raise WrongParty(f"{self.desk.party} carries nothing between {sender} and {receiver}")

    def check_quality(self, quality: QualityOfService) -> None:
        """Check that the network can give what is asked (Figure 4, step 1). Raises `Refusal` QOS_INFEASIBLE."""
        if quality.odu not in ODU_TYPES:
            raise Refusal("QOS_INFEASIBLE", f"no ODU type {quality.odu!r}; there are {', '.join(sorted(ODU_TYPES))}")
        if quality.rekey_interval_s < SHORTEST_REKEY_S or quality.max_latency_us <= 0:
            raise Refusal("QOS_INFEASIBLE", f"rekey interval and latency must be positive: {quality}")

    def check_free(self, cpe: PartyId) -> None:
        """Check that a registered device's port carries no line.

        Raises `Refusal` UNKNOWN_CPE, DEVICE_REVOKED or PORT_BUSY.
        """
        known = self.registrations.get(cpe)
        if known is None:
            raise Refusal("UNKNOWN_CPE", f"{cpe} is not registered with {self.desk.party}")
        self.check_not_revoked(cpe, known.serial_number)
        line = self.ports.get(cpe)
        if line is not None:
            raise Refusal("PORT_BUSY", f"{cpe} already carries {line}")

    def answered(self, line: LineId, cpe: PartyId, signed: bytes) -> Reservation:
        """Keep what one device answered, as it signed it."""
        held = self.reservations.require(line)
        held = msgspec.structs.replace(held, responses={**held.responses, cpe: signed})
        self.reservations.put(line, held)
        return held
