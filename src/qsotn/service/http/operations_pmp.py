"""What an operator reads at a PMP: the devices that registered, and the ports it holds for lines."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from qsotn.domain import LineId, PartyId, ProcedureId, QualityOfService
from qsotn.parties.pmp import Pmp, Registration, Reservation, ReservationState
from qsotn.service.http.declaring import listing
from qsotn.service.http.operation import Call
from qsotn.service.http.paging import Page, Window, page


class RegistrationStatus(msgspec.Struct, frozen=True):
    """A device that proved itself; `gate_open` says whether its sealed datagrams are carried.

    `certificate_sha384` is the hash of its certificate (DER), in hexadecimal digits.
    """

    cpe: PartyId
    serial_number: str
    home_qssp: PartyId
    gate_open: bool
    certificate_sha384: str


class ReservationStatus(msgspec.Struct, frozen=True):
    """Ports held for a line at both ends; `answered` and `admitted` say who has spoken for it so far."""

    line: LineId
    cpe_a: PartyId
    cpe_b: PartyId
    quality: QualityOfService
    procedure: ProcedureId
    state: ReservationState
    answered: tuple[str, ...]
    admitted: tuple[PartyId, ...]


@listing(
    "/registrations",
    tag="pmp",
    item=RegistrationStatus,
    example=RegistrationStatus(PartyId("cpe/jinan-1"), "QS-2026-000001", PartyId("qssp/jinan"), True, "3f" * 48),
)
def list_registrations(pmp: Pmp, call: Call[Any, Window, None]) -> Page[RegistrationStatus]:
    """The devices that proved themselves here, by identifier."""
    return page("registrations", call.query, pmp.registrations.items, _registration)


def _registration(held: Registration) -> RegistrationStatus:
    certificate = held.certificate_sha384.hex()
    return RegistrationStatus(held.cpe, held.serial_number, held.home_qssp, held.gate_open, certificate)


@listing(
    "/reservations",
    tag="pmp",
    item=ReservationStatus,
    example=ReservationStatus(
        line=LineId("line-1"),
        cpe_a=PartyId("cpe/jinan-1"),
        cpe_b=PartyId("cpe/qingdao-1"),
        quality=QualityOfService("ODU2", 3600, 5000),
        procedure=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
        state=ReservationState.GRANTED,
        answered=("cpe/jinan-1", "cpe/qingdao-1"),
        admitted=(PartyId("qssp/jinan"), PartyId("qssp/qingdao")),
    ),
)
def list_reservations(pmp: Pmp, call: Call[Any, Window, None]) -> Page[ReservationStatus]:
    """The lines that hold ports, by line."""
    return page("reservations", call.query, pmp.reservations.items, _reservation)


def _reservation(held: Reservation) -> ReservationStatus:
    return ReservationStatus(
        line=held.line,
        cpe_a=held.cpe_a,
        cpe_b=held.cpe_b,
        quality=held.quality,
        procedure=held.procedure,
        state=held.state,
        answered=tuple(sorted(held.responses)),
        admitted=held.admitted,
    )


OPERATIONS: Final = (list_registrations, list_reservations)
