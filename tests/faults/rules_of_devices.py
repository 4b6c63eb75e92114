"""A device is READY at every party or nowhere, and one that was revoked stays out of service."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.facts import History, Seated, rule
from tests.faults.snapshots import CpeSnapshot, PmpSnapshot, PompSnapshot, QsspSnapshot

from qsotn.domain import PartyId
from qsotn.interfaces import Seat
from qsotn.parties import cpe, pomp, qssp
from qsotn.procedures.initialization import INITIALIZATION
from qsotn.procedures.revocation import REVOCATION
from qsotn.procedures.turn import State

LIVE = (qssp.BindingState.BOUND, qssp.BindingState.RELEASED, qssp.BindingState.ACTIVE)
"""States of a binding that has a key file."""


@rule
def a_completed_initialization_made_its_device_ready(history: History) -> Iterator[str]:
    """The POMP's record says READY, until the device is revoked or ordered anew."""
    for begun in history.ended(INITIALIZATION.name, State.COMPLETED):
        device = history.at(begun.party, PompSnapshot).devices.get(begun.row.subject)
        if device is None:
            yield f"{begun}, and {begun.party} has no device {begun.row.subject}"
        elif device.work_order == begun.row.procedure:
            if device.state is not pomp.DeviceState.READY and not history.is_revoked(device.cpe):
                yield f"{begun}, but {device.cpe} is {device.state} at {begun.party}"
        elif not _ordered_later(history, begun, device):
            yield f"{begun}, but {device.cpe} at {begun.party} names {device.work_order}, which was not ordered later"


def _ordered_later(history: History, begun: Seated, device: pomp.Device) -> bool:
    orders = history.begun[INITIALIZATION.name, device.cpe]
    return any(one.row.procedure == device.work_order and one.row.started >= begun.row.started for one in orders)


def _ready(history: History) -> Iterator[tuple[PartyId, pomp.Device, PartyId]]:
    """Yield each READY device, at which POMP, and its PMP."""
    for platform in history.all(PompSnapshot):
        for device in platform.devices.values():
            order = history.procedures.get(device.work_order, {}).get(Seat.POMP)
            if device.state is pomp.DeviceState.READY and order is not None:
                yield platform.party, device, order.row.seats[Seat.PMP]


@rule
def a_ready_device_has_an_order(history: History) -> Iterator[str]:
    """A READY device is what a completed initialisation made it."""
    for platform in history.all(PompSnapshot):
        for device in platform.devices.values():
            order = history.procedures.get(device.work_order, {}).get(Seat.POMP)
            made = order is not None and order.row.state is State.COMPLETED
            if device.state is pomp.DeviceState.READY and not made:
                yield f"{device.cpe} is READY at {platform.party} by {device.work_order}, which completed nothing"


@rule
def a_ready_device_is_registered(history: History) -> Iterator[str]:
    """The PMP carries for it, to its home QSSP."""
    for _, device, pmp in _ready(history):
        known = history.at(pmp, PmpSnapshot).registrations.get(device.cpe)
        if known is None or (known.home_qssp, known.gate_open) != (device.home_qssp, True):
            yield f"{device.cpe} is READY by {device.work_order}, but {pmp} carries nothing between it and its QSSP"


@rule
def a_ready_device_is_bound(history: History) -> Iterator[str]:
    """Its home QSSP has the same binding, ACTIVE, with the key file it names."""
    for _, device, _ in _ready(history):
        city = history.at(device.home_qssp, QsspSnapshot)
        binding, file = city.bindings.get(device.cpe), city.key_files.get(device.key_file_id)
        if binding is None or binding.state is not qssp.BindingState.ACTIVE or _names(binding) != _ordered(device):
            yield f"{device.cpe} is READY by {device.work_order}, but not ACTIVE so at {city.party}"
        elif file is None or file.cpe != device.cpe or len(file.entries) != binding.entries:
            yield f"{device.cpe} is READY by {device.work_order}; {city.party} lacks key file {device.key_file_id}"


def _names(binding: qssp.Binding | cpe.Binding) -> tuple[str, ...]:
    return binding.procedure, binding.binding_id, binding.key_file_id


def _ordered(device: pomp.Device) -> tuple[str, ...]:
    return device.work_order, device.binding_id, device.key_file_id


@rule
def a_ready_device_holds_its_key_file(history: History) -> Iterator[str]:
    """The device has the same binding, READY, and every entry that its QSSP prepared."""
    for _, device, _ in _ready(history):
        own = history.at(device.cpe, CpeSnapshot)
        binding, file = own.binding.get("own"), own.key_files.get(device.key_file_id)
        prepared = history.at(device.home_qssp, QsspSnapshot).key_files.get(device.key_file_id)
        if binding is None or binding.state is not cpe.BindingState.READY or _names(binding) != _ordered(device):
            yield f"{device.cpe} is READY by {device.work_order} at its POMP, but not to itself"
        elif file is None or (prepared is not None and len(file.entries) != len(prepared.entries)):
            yield f"{device.cpe} is READY by {device.work_order}, but does not hold key file {device.key_file_id}"


@rule
def a_failed_initialization_left_nothing(history: History) -> Iterator[str]:
    """No record of it is further than FAILED, and no key of its request is left at the device."""
    for begun in history.ended(INITIALIZATION.name, State.FAILED):
        yield from (f"{begun}, but {left}" for left in _left_of(history, begun))


def _left_of(history: History, begun: Seated) -> Iterator[str]:
    procedure, subject = begun.row.procedure, begun.row.subject
    device = history.at(begun.party, PompSnapshot).devices.get(subject)
    over = (pomp.DeviceState.FAILED, pomp.DeviceState.REVOKED)
    if device is not None and device.work_order == procedure and device.state not in over:
        yield f"{subject} is {device.state} at {begun.party}"
    for city in history.all(QsspSnapshot):
        bound = city.bindings.get(subject)
        gone = (qssp.BindingState.DESTROYED, qssp.BindingState.REVOKED)
        if bound is not None and bound.procedure == procedure and bound.state not in gone:
            yield f"binding {bound.binding_id} of {subject} is {bound.state} at {city.party}"
    own = history.at(PartyId(subject), CpeSnapshot).binding.get("own")
    if own is None or own.procedure != procedure or history.is_revoked(subject):
        return
    if own.state is not cpe.BindingState.FAILED or own.kem_seed:
        kept = "with" if own.kem_seed else "without"
        yield f"{subject} is {own.state} to itself, {kept} the key of its request"


@rule
def a_key_file_belongs_to_a_binding(history: History) -> Iterator[str]:
    """Of a binding that is no more, no key file is left, at the QSSP or at the device."""
    for city in history.all(QsspSnapshot):
        for file in city.key_files.values():
            bound = city.bindings.get(file.cpe)
            if bound is None or bound.key_file_id != file.key_file_id or bound.state not in LIVE:
                yield f"key file {file.key_file_id} of {file.cpe} at {city.party} belongs to no binding"
    for device in history.all(CpeSnapshot):
        own = device.binding.get("own")
        ready = own is not None and own.state is cpe.BindingState.READY
        for file_id in device.key_files:
            if own is None or own.key_file_id != file_id or not ready:
                yield f"key file {file_id} at {device.party} belongs to no binding"


@rule
def a_revoked_device_is_out_of_service(history: History) -> Iterator[str]:
    """POMP, PMP and QSSP all say so, unless the device was ordered anew since."""
    for begun in history.ended(REVOCATION.name, State.COMPLETED):
        orders = history.begun.get((INITIALIZATION.name, begun.row.subject), [])
        if not any(one.row.started >= begun.row.started for one in orders):
            yield from (f"{begun}, but {serving}" for serving in _serving(history, begun))


def _serving(history: History, begun: Seated) -> Iterator[str]:
    subject, seats = begun.row.subject, begun.row.seats
    device = history.at(begun.party, PompSnapshot).devices.get(subject)
    if device is None or device.state is not pomp.DeviceState.REVOKED:
        yield f"{subject} is {device.state if device else 'unknown'} at {begun.party}"
    known = history.at(seats[Seat.PMP], PmpSnapshot).registrations.get(subject)
    if known is not None and known.gate_open:
        yield f"{seats[Seat.PMP]} carries for {subject}"
    bound = history.at(seats[Seat.QSSP], QsspSnapshot).bindings.get(subject)
    if bound is not None and bound.state is not qssp.BindingState.REVOKED:
        yield f"binding {bound.binding_id} of {subject} is {bound.state} at {seats[Seat.QSSP]}"
