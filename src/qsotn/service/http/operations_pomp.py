"""What an operator reads and orders at a POMP: customers' accounts and devices. Lines are in `operations_lines`."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from qsotn.domain import PartyId, ProcedureId
from qsotn.parties.pomp import Account, Device, DeviceState, Pomp
from qsotn.procedures.turn import Work
from qsotn.service import orders
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.declaring import (
    IDEMPOTENCY_KEY,
    WRITING,
    absent,
    idempotent,
    listing,
    ordering,
    reading,
    terms_of,
)
from qsotn.service.http.names import END, AccountName, CpeId, CpePath, QsspId, SerialNumber
from qsotn.service.http.operation import OPERATORS, PREFIX, Call, Content, Success, operation
from qsotn.service.http.paging import Page, Window, page

_ACCOUNTS: Final = "accounts"
_CPES: Final = "cpes"


class AccountOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A customer's account to be opened."""

    name: AccountName


class DeviceOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device to be brought into service (Figure 3)."""

    cpe: CpeId
    serial_number: SerialNumber
    home_qssp: QsspId


class Revocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a device goes out of service for good."""

    reason: Annotated[
        str, msgspec.Meta(pattern=f"^[ -~]{{1,200}}{END}", description="For people; it is kept with the device.")
    ]


class DeviceStatus(msgspec.Struct, frozen=True):
    """A device as the POMP knows it; `failure` is a refusal's code, or why it was revoked."""

    cpe: PartyId
    serial_number: str
    home_qssp: PartyId
    state: DeviceState
    work_order: ProcedureId
    binding_id: str
    key_file_id: str
    failure: str


ACCOUNT_EXAMPLE: Final = Account("bank-of-shandong", 1_780_000_000_000_000)
DEVICE_EXAMPLE: Final = DeviceStatus(
    cpe=PartyId("cpe/jinan-1"),
    serial_number="QS-2026-000001",
    home_qssp=PartyId("qssp/jinan"),
    state=DeviceState.READY,
    work_order=ProcedureId("8c9e6679-7425-40de-944b-e07fc1f90ae7"),
    binding_id="0b7f1b8e-3f0e-4c43-9d0e-5a9d0a1c2b3d",
    key_file_id="5d0c9f0a-7e0b-4a5c-8f5e-0f6c1d2e3a4b",
    failure="",
)


def _device_view(device: Device) -> DeviceStatus:
    return DeviceStatus(
        cpe=device.cpe,
        serial_number=device.serial_number,
        home_qssp=device.home_qssp,
        state=device.state,
        work_order=device.work_order,
        binding_id=device.binding_id,
        key_file_id=device.key_file_id,
        failure=device.failure,
    )


# --- accounts -------------------------------------------------------------------------------------------------------


def open_account(pomp: Pomp, _: Work, call: Call[Any, Any, AccountOrder]) -> Answer:
    """Open a customer's account: 201 if it is new, 200 if it was open before."""
    account, new = orders.open_account(pomp, call.body.name)
    return json_answer(201 if new else 200, account)


_ACCOUNT: Final = Content(Account, ACCOUNT_EXAMPLE)
post_account: Final = operation(
    "POST",
    f"{PREFIX}/accounts",
    tag=_ACCOUNTS,
    roles=OPERATORS,
    headers=(IDEMPOTENCY_KEY,),
    body=Content(AccountOrder, AccountOrder("bank-of-shandong")),
    successes=(Success(200, "It was open before.", _ACCOUNT), Success(201, "It is open.", _ACCOUNT)),
    problems=WRITING,
    words=open_account,
)(idempotent(open_account))


@listing("/accounts", tag=_ACCOUNTS, item=Account, example=ACCOUNT_EXAMPLE)
def list_accounts(pomp: Pomp, call: Call[Any, Window, None]) -> Page[Account]:
    """The customers, by account name."""
    return page("accounts", call.query, pomp.accounts.items, lambda account: account)


# --- devices --------------------------------------------------------------------------------------------------------


@listing("/cpes", tag=_CPES, item=DeviceStatus, example=DEVICE_EXAMPLE)
def list_cpes(pomp: Pomp, call: Call[Any, Window, None]) -> Page[DeviceStatus]:
    """The devices, by identifier."""
    return page("cpes", call.query, pomp.devices.items, _device_view)


def _read_device(pomp: Pomp, call: Call[CpePath, Any, None]) -> DeviceStatus:
    device = pomp.devices.get(f"cpe/{call.path.name}")
    if device is None:
        raise absent("device", f"cpe/{call.path.name}")
    return _device_view(device)


@reading("/cpes/{name}", tag=_CPES, result=DeviceStatus, example=DEVICE_EXAMPLE, path_type=CpePath)
def read_cpe(pomp: Pomp, call: Call[CpePath, Any, None]) -> DeviceStatus:
    """One device: how far its initialisation has come, and what it is bound to."""
    return _read_device(pomp, call)


_DEVICE_ORDER: Final = DeviceOrder("cpe/jinan-1", "QS-2026-000001", "qssp/jinan")


@ordering("POST", "/cpes", tag=_CPES, body=Content(DeviceOrder, _DEVICE_ORDER))
def order_cpe(pomp: Pomp, work: Work, call: Call[Any, Any, DeviceOrder]) -> ProcedureId:
    """Order a device into service (Figure 3)."""
    asked = call.body
    cpe, qssp = PartyId(asked.cpe), PartyId(asked.home_qssp)
    return orders.order_device(pomp, work, cpe, asked.serial_number, qssp, terms_of(call))


@ordering("DELETE", "/cpes/{name}", tag=_CPES, path_type=CpePath, query_type=Revocation, resource=_read_device)
def revoke_cpe(pomp: Pomp, work: Work, call: Call[CpePath, Revocation, None]) -> ProcedureId:
    """Put a device out of service for good.

    Its gate at the PMP is closed and its key file at its QSSP destroyed. Its certificate is revoked by its issuer.
    """
    return orders.order_revocation(pomp, work, PartyId(f"cpe/{call.path.name}"), call.query.reason, terms_of(call))


OPERATIONS: Final = (list_accounts, post_account, list_cpes, order_cpe, read_cpe, revoke_cpe)
