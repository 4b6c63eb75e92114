"""A line is served by everybody or by nobody, and what is held is held for a line in service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.faults.facts import History, Seated, rule
from tests.faults.snapshots import CpeSnapshot, PmpSnapshot, PompSnapshot, QsspSnapshot

from qsotn.domain import End, PartyId
from qsotn.interfaces import Seat
from qsotn.parties import cpe, pomp
from qsotn.parties.cpe import GenerationState
from qsotn.parties.pmp import ReservationState
from qsotn.procedures.deletion import DELETION
from qsotn.procedures.leased_line import LEASED_LINE
from qsotn.procedures.turn import State

OVER = (pomp.LineState.FAILED, pomp.LineState.DELETED)


class Side(NamedTuple):
    """One end of a line: where it is, and who serves it."""

    end: End
    cpe: PartyId
    qssp: PartyId


def sides(line: pomp.Line) -> tuple[Side, Side]:
    """Both ends of a line."""
    return Side(End.A, line.cpe_a, line.qssp_a), Side(End.B, line.cpe_b, line.qssp_b)


def _ordered(history: History, state: State) -> Iterator[tuple[Seated, pomp.Line | None, str]]:
    """Yield each order of a line that ended like this, the line's record, and how its deletion stands."""
    for begun in history.ended(LEASED_LINE.name, state):
        line = history.at(begun.party, PompSnapshot).lines.get(begun.row.subject)
        deletions = [one.row.state for one in history.begun.get((DELETION.name, begun.row.subject), [])]
        yield begun, line, "deleted" if State.COMPLETED in deletions else "half" if deletions else "never"


@rule
def a_completed_order_made_its_line(history: History) -> Iterator[str]:
    """The POMP has the line, ENCRYPTED since some time; its state follows its deletions alone."""
    for begun, line, deletion in _ordered(history, State.COMPLETED):
        expected = pomp.LineState.DELETED if deletion == "deleted" else pomp.LineState.ENCRYPTED
        if line is None or line.procedure != begun.row.procedure:
            yield f"{begun}, and {begun.party} has no line of this order"
        elif line.state is not expected or not line.encrypted_at:
            yield f"{begun}, but {line.line} is {line.state} at {begun.party}, expected {expected}"


@rule
def a_line_in_service_is_reserved(history: History) -> Iterator[str]:
    """The PMP granted it."""
    for begun, line, deletion in _ordered(history, State.COMPLETED):
        if line is not None and deletion == "never":
            pmp = begun.row.seats[Seat.PMP]
            held = history.at(pmp, PmpSnapshot).reservations.get(line.line)
            if held is None or (held.procedure, held.state) != (line.procedure, ReservationState.GRANTED):
                yield f"{begun}, but {pmp} has not granted {line.line}"


@rule
def a_line_in_service_gets_keys(history: History) -> Iterator[str]:
    """Both cities serve it, confirmed, unless the device was revoked."""
    for begun, line, deletion in _ordered(history, State.COMPLETED):
        for side in () if line is None or deletion != "never" else sides(line):
            service = history.at(side.qssp, QsspSnapshot).services.get(f"{begun.row.subject}/{side.end}")
            if service is None or (service.procedure, service.cpe) != (begun.row.procedure, side.cpe):
                yield f"{begun}, but {side.qssp} does not serve end {side.end} of {begun.row.subject} for {side.cpe}"
            elif not service.confirmed and not history.is_revoked(side.cpe):
                yield f"{begun}, but end {side.end} of {begun.row.subject} is not confirmed at {side.qssp}"


@rule
def a_line_in_service_is_encrypted(history: History) -> Iterator[str]:
    """Both devices say ENCRYPTED."""
    for begun, line, deletion in _ordered(history, State.COMPLETED):
        for side in () if line is None or deletion != "never" else sides(line):
            own = history.at(side.cpe, CpeSnapshot).lines.get(begun.row.subject)
            if own is None or (own.procedure, own.end) != (begun.row.procedure, side.end):
                yield f"{begun}, but {side.cpe} is not end {side.end} of {begun.row.subject}"
            elif own.state is not cpe.LineState.ENCRYPTED:
                yield f"{begun}, but {begun.row.subject} is {own.state} at {side.cpe}"


@rule
def a_failed_order_left_no_line(history: History) -> Iterator[str]:
    """The POMP says FAILED and why, nothing is held at PMP and QSSPs, and the devices have stopped."""
    for begun, line, _ in _ordered(history, State.FAILED):
        if line is None or (line.state, bool(line.failure)) != (pomp.LineState.FAILED, True):
            yield f"{begun}, but {begun.row.subject} is {line.state if line else 'unknown'} at {begun.party}"
        if line is not None:
            yield from (f"{begun}, but {left}" for left in _left_of(history, begun, line))


@rule
def a_deleted_line_left_nothing(history: History) -> Iterator[str]:
    """It is DELETED and billed, nothing is held at PMP and QSSPs, and the devices have stopped and erased its keys."""
    for begun in history.ended(DELETION.name, State.COMPLETED):
        platform = history.at(begun.party, PompSnapshot)
        line, usage = platform.lines.get(begun.row.subject), platform.usage.get(begun.row.subject)
        if line is None or line.state is not pomp.LineState.DELETED:
            yield f"{begun}, but {begun.row.subject} is {line.state if line else 'unknown'} at {begun.party}"
            continue
        if usage is None or {use.cpe for use in usage.key_usage} != {line.cpe_a, line.cpe_b}:
            yield f"{begun}, but {begun.party} has no whole usage record of {line.line}"
        yield from (f"{begun}, but {left}" for left in _left_of(history, begun, line))


def _left_of(history: History, begun: Seated, line: pomp.Line) -> Iterator[str]:
    pmp = begun.row.seats[Seat.PMP]
    if line.line in history.at(pmp, PmpSnapshot).reservations:
        yield f"{pmp} holds a reservation of {line.line}"
    for side in sides(line):
        if f"{line.line}/{side.end}" in history.at(side.qssp, QsspSnapshot).services:
            yield f"{side.qssp} serves end {side.end} of {line.line}"
        if not history.is_revoked(side.cpe):
            yield from _left_at(history.at(side.cpe, CpeSnapshot), line)


def _left_at(device: CpeSnapshot, line: pomp.Line) -> Iterator[str]:
    own = device.lines.get(line.line)
    if own is not None and own.state is not cpe.LineState.STOPPED:
        yield f"{line.line} is {own.state} at {device.party}"
    for kept in device.generations.values():
        if kept.line == line.line and kept.state is not GenerationState.ERASED:
            yield f"generation {kept.generation} of {line.line} is {kept.state} at {device.party}: {kept.key_ids}"


@rule
def a_failed_deletion_may_be_ordered_again(history: History) -> Iterator[str]:
    """The line is in service for its POMP, as before."""
    for begun in history.ended(DELETION.name, State.FAILED):
        line = history.at(begun.party, PompSnapshot).lines.get(begun.row.subject)
        if line is None or line.state not in (pomp.LineState.ENCRYPTED, pomp.LineState.DELETED):
            yield f"{begun}, but {begun.row.subject} is {line.state if line else 'unknown'} at {begun.party}"


@rule
def what_is_held_is_held_for_a_line(history: History) -> Iterator[str]:
    """No reservation, port or key service is left of a line that is over, or that nobody ordered."""
    held = {line.line: line for platform in history.all(PompSnapshot) for line in platform.lines.values()}
    in_service = {name: line.procedure for name, line in held.items() if line.state not in OVER}
    for pmp in history.all(PmpSnapshot):
        for name, reservation in pmp.reservations.items():
            if in_service.get(reservation.line) != reservation.procedure:
                yield f"{pmp.party} holds a reservation of {name} by {reservation.procedure}, which is not in service"
    for city in history.all(QsspSnapshot):
        for name, service in city.services.items():
            if in_service.get(service.line) != service.procedure:
                yield f"{city.party} serves {name} by {service.procedure}, which is not in service"


@rule
def a_port_is_held_by_its_reservation(history: History) -> Iterator[str]:
    """The index of ports says what the reservations say."""
    for pmp in history.all(PmpSnapshot):
        reserved = {cpe_id: held.line for held in pmp.reservations.values() for cpe_id in (held.cpe_a, held.cpe_b)}
        for cpe_id in sorted(reserved.keys() | pmp.ports.keys()):
            index, truth = pmp.ports.get(cpe_id), reserved.get(PartyId(cpe_id))
            if index != truth:
                yield f"the port of {cpe_id} is held by {index} at {pmp.party}, reserved for {truth}"
