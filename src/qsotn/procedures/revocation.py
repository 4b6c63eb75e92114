"""A device is put out of service for good: ours, since the paper lets devices only come.

The POMP's own record changes first, so that nothing new begins with the device. The PMP then closes its gate, and the
home QSSP destroys the device's key file: from there no session key reaches it, whatever it still holds. The device
itself is not asked; what it holds dies with the lines it serves. Its certificate is revoked by its issuer's list, apart
from this.
"""

from __future__ import annotations

import msgspec

from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import Refusal, WrongParty
from qsotn.interfaces import IOA, IOQ, Seat
from qsotn.messages import BindingRevocation, BindingRevoked, DeviceRevocation, DeviceRevoked
from qsotn.parties.pmp import Pmp
from qsotn.parties.pomp import Device, DeviceState, Pomp
from qsotn.parties.qssp import Qssp
from qsotn.procedures.ladder import Ladder
from qsotn.procedures.names import new_procedure
from qsotn.procedures.turn import Row, Turn, Work

REVOCATION = Ladder("revocation", "ours: a device out of service for good")


def begin(pomp: Pomp, work: Work, cpe: PartyId, reason: str, pmp: PartyId, lifetime_us: int) -> ProcedureId:
    """Revoke a device: the POMP's own act before step 1. Revoking it again tells everybody again.

    Raises `Refusal` UNKNOWN_CPE for a device that was never ordered.
    """
    device = pomp.devices.get(cpe)
    if device is None:
        raise Refusal("UNKNOWN_CPE", f"{cpe} was never ordered")
    procedure, now = new_procedure(pomp.desk), pomp.desk.now
    pomp.devices.put(cpe, msgspec.structs.replace(device, state=DeviceState.REVOKED, failure=reason))
    seats = {Seat.POMP: pomp.desk.party, Seat.PMP: pmp, Seat.QSSP: device.home_qssp}
    row = work.add(Row(procedure, REVOCATION.name, Seat.POMP, cpe, seats, now + lifetime_us, now))
    revocation = DeviceRevocation(cpe, device.serial_number, reason)
    Turn(work, row, None, pomp.desk.party, Seat.POMP).send(Seat.PMP, revocation)
    return procedure


@REVOCATION.step("1", Seat.POMP, Seat.PMP, IOA, DeviceRevocation)
def close_gate(pmp: Pmp, turn: Turn[DeviceRevocation]) -> None:
    """The PMP carries nothing for this device any more, and will not register it again."""
    told = turn.message
    turn.row.subject = told.cpe
    pmp.check_operator(told.cpe, turn.sender)
    pmp.revoke(told.cpe, told.serial_number)
    turn.send(Seat.POMP, DeviceRevoked(told.cpe))


@REVOCATION.step("2", Seat.PMP, Seat.POMP, IOA, DeviceRevoked, answers="1")
def revoke_binding(pomp: Pomp, turn: Turn[DeviceRevoked]) -> None:
    """The gate is closed: the POMP has the key file destroyed."""
    device = _revoked(pomp, turn, turn.message.cpe)
    turn.send(Seat.QSSP, BindingRevocation(device.cpe))


@REVOCATION.step("3", Seat.POMP, Seat.QSSP, IOQ, BindingRevocation)
def destroy_binding(qssp: Qssp, turn: Turn[BindingRevocation]) -> None:
    """The QSSP destroys the device's key file and every key that waits for it."""
    cpe = turn.message.cpe
    turn.row.subject = cpe
    qssp.check_operator(cpe, turn.sender)
    destroyed = qssp.revoke(cpe)
    turn.send(Seat.POMP, BindingRevoked(cpe, destroyed))


@REVOCATION.step("4", Seat.QSSP, Seat.POMP, IOQ, BindingRevoked, answers="3")
def record_revocation(pomp: Pomp, turn: Turn[BindingRevoked]) -> None:
    """The POMP records which key file is gone."""
    device = _revoked(pomp, turn, turn.message.cpe)
    pomp.devices.put(device.cpe, msgspec.structs.replace(device, key_file_id=turn.message.key_file_id))


def _revoked(pomp: Pomp, turn: Turn[DeviceRevoked] | Turn[BindingRevoked], told: PartyId) -> Device:
    """Return the device that was to be revoked. Raises `WrongParty` for an answer about another."""
    device = pomp.devices.require(turn.subject)
    if told != device.cpe:
        raise WrongParty(f"{turn.sender} reports {told} out of service, asked was {device.cpe}")
    return device


REVOCATION.revocable = {Seat.POMP: ()}
REVOCATION.sealed()
