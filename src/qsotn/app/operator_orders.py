"""What an operator orders and looks up: devices, lines and accounts, by the names that people type."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from qsotn.app.operator import Operator, together
from qsotn.app.record import PKI, load_plan
from qsotn.app.renewal import revoke_certificate
from qsotn.domain import Entropy, LineId, PartyId, Role
from qsotn.errors import LineError, UsageError
from qsotn.parties.pomp import Account, LineState, UsageRecord
from qsotn.service.http.operations_cpe import BindingStatus, EndStatus
from qsotn.service.http.operations_lines import LineOrder, LineStatus
from qsotn.service.http.operations_pomp import AccountOrder, DeviceOrder, DeviceStatus
from qsotn.service.http.procedures import Procedure

T = TypeVar("T")

DEFAULT_ACCOUNT: Final = "default"
OVER: Final = (LineState.DELETED, LineState.FAILED)
"""A line in one of these states holds no device any more."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,56}")


def party_named(name: str, role: Role) -> PartyId:
    """Return `role/name` for either that or the name alone. Raises `UsageError`."""
    bare = name.removeprefix(f"{role}/")
    if not _NAME.fullmatch(bare):
        raise UsageError(f"{name!r} names no {role}: expected a name as jinan-1, or {role}/jinan-1")
    return PartyId(f"{role}/{bare}")


def line_named(name: str) -> LineId:
    """Return a line's identifier. Raises `UsageError`."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} names no line: expected letters, digits, dots, hyphens or underscores")
    return LineId(name)


# --- devices --------------------------------------------------------------------------------------------------------


def device_order(state: Path, name: str, serial_number: str | None, home: str | None) -> DeviceOrder:
    """Return the order of one device; what is not given stands in the province file, if the device does.

    Raises `UsageError`.
    """
    cpe = party_named(name, Role.CPE)
    qssp = None if home is None else party_named(home, Role.QSSP)
    if serial_number is None or qssp is None:
        plan = load_plan(state)
        if cpe not in plan.cpes:
            raise UsageError(f"{cpe} does not stand in the province file of {state}; give its --serial and its --home")
        serial_number, qssp = serial_number or plan.serial_numbers[cpe], qssp or plan.homes[cpe]
    return DeviceOrder(cpe, serial_number, qssp)


async def order_device(operator: Operator, order: DeviceOrder) -> Procedure:
    """Order a device into service. Raises `Refusal`."""
    return await operator.order("POST", "/cpes", order, Procedure)


async def devices(operator: Operator) -> list[DeviceStatus]:
    """Return the devices that were ever ordered."""
    return await operator.every(operator.pomp, "/cpes", DeviceStatus)


async def device(operator: Operator, cpe: PartyId) -> DeviceStatus:
    """Return one device. Raises `Declined` for one that was never ordered."""
    return await operator.read(operator.pomp, f"/cpes/{_bare(cpe)}", DeviceStatus)


class DeviceView(msgspec.Struct, frozen=True):
    """A device as the POMP knows it and as it tells itself; `unreached` says why it could not be asked."""

    device: DeviceStatus
    binding: BindingStatus | None
    unreached: str


async def device_view(operator: Operator, cpe: PartyId) -> DeviceView:
    """Return all there is to know of a device. Raises `Declined` for one that was never ordered."""
    known = await device(operator, cpe)
    binding, unreached = await _told_by(operator, cpe, "/binding", BindingStatus)
    return DeviceView(known, binding, unreached)


def revoke_device_certificate(state: Path, cpe: PartyId, entropy: Entropy, now: dt.datetime) -> bool:
    """Put a device's certificates on the revocation list; False where the folder does not hold the province's roots.

    Raises `UsageError` for a device that has no certificate.
    """
    if not (state / PKI).is_dir():
        return False
    revoke_certificate(state, cpe, entropy, now)
    return True


async def revoke_device(operator: Operator, cpe: PartyId, reason: str) -> Procedure:
    """Order a device out of service for good. Raises `Refusal`, and `Declined` for one that was never ordered."""
    return await operator.order("DELETE", f"/cpes/{_bare(cpe)}?reason={quote(reason, safe='')}", None, Procedure)


# --- accounts -------------------------------------------------------------------------------------------------------


async def open_account(operator: Operator, name: str) -> Account:
    """Open a customer's account; one that is open stays as it is."""
    return await operator.order("POST", "/accounts", AccountOrder(name), Account)


async def accounts(operator: Operator) -> list[Account]:
    """Return all customers' accounts."""
    return await operator.every(operator.pomp, "/accounts", Account)


# --- lines ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LineWishes:
    """A line as it was typed: no name is the next free one, no account the default one, which is opened for it."""

    name: str | None
    ends: tuple[str, str]
    account: str | None
    odu: str
    rekey_interval_s: int
    max_latency_us: int


def line_order(wishes: LineWishes) -> LineOrder:
    """Return the order of a line; one without a name is `line-1` in it. Raises `UsageError`."""
    cpe_a, cpe_b = (party_named(name, Role.CPE) for name in wishes.ends)
    order = {
        "line": line_named(wishes.name or "line-1"),
        "account": wishes.account or DEFAULT_ACCOUNT,
        "cpe_a": cpe_a,
        "cpe_b": cpe_b,
        "odu": wishes.odu,
        "rekey_interval_s": wishes.rekey_interval_s,
        "max_latency_us": wishes.max_latency_us,
    }
    try:
        return msgspec.convert(order, LineOrder)
    except msgspec.ValidationError as error:
        raise UsageError(f"such a line cannot be ordered: {error}; see: qsotn line create --help") from None


async def free_line_name(operator: Operator) -> LineId:
    """Return the first of line-1, line-2, … that was never ordered."""
    taken = {line.line for line in await lines(operator)}
    return next(name for number in itertools.count(1) if (name := LineId(f"line-{number}")) not in taken)


async def order_line(operator: Operator, order: LineOrder) -> Procedure:
    """Order a line between two devices. Raises `Refusal`."""
    return await operator.order("POST", "/lines", order, Procedure)


async def rekey_line(operator: Operator, line: LineId) -> Procedure:
    """Order new keys for a line. Raises `Refusal`."""
    return await operator.order("POST", f"/lines/{line}/rekeys", None, Procedure)


async def delete_line(operator: Operator, line: LineId) -> Procedure:
    """Order a line out of service. Raises `Refusal`."""
    return await operator.order("DELETE", f"/lines/{line}", None, Procedure)


async def lines(operator: Operator) -> list[LineStatus]:
    """Return all lines, those of the past among them."""
    return await operator.every(operator.pomp, "/lines", LineStatus)


async def line_status(operator: Operator, line: LineId) -> LineStatus:
    """Return one line. Raises `Declined` for one that was never ordered."""
    return await operator.read(operator.pomp, f"/lines/{line}", LineStatus)


async def usage(operator: Operator, line: LineId) -> UsageRecord | None:
    """Return what a line used, once it was deleted."""
    return await operator.find(operator.pomp, f"/usage/{line}", UsageRecord)


class EndView(msgspec.Struct, frozen=True):
    """One end of a line as its device tells it; `unreached` says why it could not be asked."""

    cpe: PartyId
    status: EndStatus | None
    unreached: str


class LineView(msgspec.Struct, frozen=True):
    """A line as the POMP knows it, both ends as they tell themselves, and what it used once it is deleted."""

    line: LineStatus
    ends: tuple[EndView, ...]
    usage: UsageRecord | None


async def line_view(operator: Operator, line: LineId) -> LineView:
    """Return all there is to know of a line. Raises `Declined` for one that was never ordered."""
    known = await line_status(operator, line)
    if known.state in OVER:
        return LineView(known, (), await usage(operator, line))
    ends = await together(*(_end(operator, cpe, line) for cpe in (known.cpe_a, known.cpe_b)))
    return LineView(known, tuple(ends), None)


async def _end(operator: Operator, cpe: PartyId, line: LineId) -> EndView:
    status, unreached = await _told_by(operator, cpe, "/line", EndStatus)
    own = status if status is not None and status.line == line else None
    return EndView(cpe, own, unreached)


async def _told_by(operator: Operator, party: PartyId, path: str, kind: type[T]) -> tuple[T | None, str]:
    """Return what a device tells itself, or why it could not be asked: what the POMP knows is shown all the same."""
    if party not in operator.parties:
        return None, f"{party} is no device of this province's folder"
    try:
        return await operator.find(party, path, kind), ""
    except LineError as error:
        return None, str(error)


def _bare(party: PartyId) -> str:
    return party.partition("/")[2]
