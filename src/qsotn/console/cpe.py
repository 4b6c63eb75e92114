"""`qsotn cpe` as a person sees it: devices into service, out of service, and as they are."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

import msgspec

from qsotn.app.operator import Operator
from qsotn.app.operator_orders import (
    DeviceView,
    device,
    device_order,
    device_view,
    devices,
    order_device,
    party_named,
    revoke_device,
    revoke_device_certificate,
)
from qsotn.console.operator import begun_line, carried_out, operate, write_json, write_lines, write_table
from qsotn.domain import Role
from qsotn.parties.pomp import DeviceState
from qsotn.procedures.turn import State
from qsotn.service.http.operations_pomp import DeviceStatus
from qsotn.service.http.procedures import Procedure


class DeviceOrdered(msgspec.Struct, frozen=True):
    """What `--json` prints of an order about a device: the procedure, and the device after it."""

    procedure: Procedure
    device: DeviceStatus


class DeviceRevoked(msgspec.Struct, frozen=True):
    """What `qsotn cpe revoke --json` prints: also whether the device's certificates were put on the list here."""

    procedure: Procedure
    device: DeviceStatus
    certificate_revoked: bool


def add_device(
    state: Path, name: str, serial_number: str | None, home: str | None, patience_s: float | None, *, as_json: bool
) -> None:
    """Order a device into service, and wait until it is READY."""
    order = device_order(state, name, serial_number, home)
    cpe = party_named(name, Role.CPE)

    async def act(operator: Operator) -> DeviceOrdered:
        ended = await carried_out(operator, await order_device(operator, order), patience_s)
        return DeviceOrdered(ended, await device(operator, cpe))

    done = operate(state, act)
    if as_json:
        write_json(done)
    elif done.procedure.state is State.RUNNING:
        write_lines([begun_line(done.procedure, f"qsotn cpe show {name} --state {state}")])
    else:
        shown = done.device
        write_lines([f"{shown.cpe} is {shown.state}, bound to {shown.home_qssp}; its key file is {shown.key_file_id}."])


def list_devices(state: Path, *, as_json: bool) -> None:
    """List the devices that were ever ordered."""
    found = operate(state, devices)
    if as_json:
        write_json(found)
        return
    heading = ("cpe", "serial number", "home", "state", "failure")
    rows = [(one.cpe, one.serial_number, one.home_qssp, one.state, one.failure) for one in found]
    write_table(heading, rows, f"No device was ordered yet; order one with: qsotn cpe add CPE --state {state}")


def show_device(state: Path, name: str, *, as_json: bool) -> None:
    """Show one device: as the POMP knows it, and what it says of itself."""
    cpe = party_named(name, Role.CPE)
    found = operate(state, lambda operator: device_view(operator, cpe))
    if as_json:
        write_json(found)
    else:
        write_lines(_device_lines(found))


def _device_lines(found: DeviceView) -> list[str]:
    known, held = found.device, found.binding
    lines = [
        f"{known.cpe} is {known.state}{f': {known.failure}' if known.failure else ''}",
        f"  serial number  {known.serial_number}",
        f"  home           {known.home_qssp}",
        f"  work order     {known.work_order}",
    ]
    if known.binding_id:
        lines.append(f"  binding        {known.binding_id}")
    if held is not None:
        lines.append(
            f"  key file       {held.key_file_id}: {held.left} of {held.entries} entries left, by its own count"
        )
    if found.unreached:
        lines.append(f"  itself         {found.unreached}")
    return lines


def revoke(state: Path, name: str, reason: str, patience_s: float | None, *, as_json: bool) -> None:
    """Put a device out of service for good: its certificates first, then its gate and its key file."""
    cpe = party_named(name, Role.CPE)
    listed = revoke_device_certificate(state, cpe, os.urandom, dt.datetime.now(dt.UTC))
    _tell_of_certificate(state, cpe, listed)

    async def act(operator: Operator) -> DeviceRevoked:
        ended = await carried_out(operator, await revoke_device(operator, cpe, reason), patience_s)
        return DeviceRevoked(ended, await device(operator, cpe), listed)

    done = operate(state, act)
    if as_json:
        write_json(done)
    elif done.procedure.state is State.RUNNING:
        write_lines([begun_line(done.procedure, f"qsotn cpe show {name} --state {state}")])
    else:
        write_lines([f"{cpe} is {DeviceState.REVOKED}: its gate is closed and its key file is destroyed."])


def _tell_of_certificate(state: Path, cpe: str, listed: bool) -> None:
    """On standard error, at once: it holds whatever becomes of the rest."""
    if listed:
        text = f"The certificates of {cpe} are on the revocation list, which every service takes up."
    else:
        text = f"{state} does not hold the province's roots: have whoever issued the certificate of {cpe} revoke it."
    sys.stderr.write(text + "\n")
