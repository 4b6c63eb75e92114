"""`qsotn cpe`, `line`, `key` and `account`: what an operator sees and orders in a running province."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated

import typer

from qsotn.verbs_common import (
    EXIT_FAILED,
    JsonOption,
    ProvinceOption,
    interruptible,
    province_folder,
    sub_verbs,
)

CpeArgument = Annotated[str, typer.Argument(metavar="CPE", help="A device: jinan-1, or cpe/jinan-1.")]
LineArgument = Annotated[str, typer.Argument(metavar="LINE", help="A leased line, as `qsotn line list` names it.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has been carried out.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.0, help="How long to wait; it goes on all the same.")
]

cpe = sub_verbs("cpe", "Customers' devices (OTN-CPE) of a running province.")
line = sub_verbs("line", "Leased lines of a running province.")
key = sub_verbs("key", "Keys of a running province.")
account = sub_verbs("account", "Customers' accounts of a running province.")


def add_to(app: typer.Typer) -> None:
    """Put these verbs on the command line."""
    for verbs in (cpe, line, key, account):
        app.add_typer(verbs)


def _goes_on(look: str) -> AbstractContextManager[None]:
    """Let Ctrl-C end the waiting: the province carries out what it was ordered."""
    return interruptible(f"what was ordered goes on all the same; look with: {look}")


def _patience(wait: bool, timeout: float) -> float | None:
    return timeout if wait else None


# --- cpe ------------------------------------------------------------------------------------------------------------


@cpe.command("add", epilog="Example: qsotn cpe add jinan-1 · qsotn cpe add x-7 --serial QS-7 --home jinan --no-wait")
def add_cpe(
    name: CpeArgument,
    serial: Annotated[
        str | None, typer.Option("--serial", metavar="S", help="Its serial number [default: the province file's].")
    ] = None,
    home: Annotated[
        str | None, typer.Option("--home", metavar="QSSP", help="Its home QSSP [default: the province file's].")
    ] = None,
    wait: WaitOption = True,
    timeout: TimeoutOption = 300.0,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a device into service (the paper's Figure 3): it registers, is bound, and takes its key file."""
    from qsotn.console.cpe import add_device

    folder = province_folder(state)
    with _goes_on(f"qsotn cpe show {name} --state {folder}"):
        add_device(folder, name, serial, home, _patience(wait, timeout), as_json=as_json)


@cpe.command("list", epilog="Example: qsotn cpe list --json")
def list_cpes(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """List the devices that were ever ordered, and how far each has come."""
    from qsotn.console.cpe import list_devices

    list_devices(province_folder(state), as_json=as_json)


@cpe.command("show", epilog="Example: qsotn cpe show jinan-1")
def show_cpe(name: CpeArgument, state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Show one device: as the POMP knows it, and what it says of itself."""
    from qsotn.console.cpe import show_device

    show_device(province_folder(state), name, as_json=as_json)


@cpe.command("revoke", epilog='Example: qsotn cpe revoke jinan-1 --reason "stolen on 3 May"')
def revoke_cpe(
    name: CpeArgument,
    reason: Annotated[str, typer.Option("--reason", metavar="R", help="Why; it is kept with the device.")],
    wait: WaitOption = True,
    timeout: TimeoutOption = 300.0,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a device out of service for good: its certificates are revoked, then its gate closed, its key file destroyed.

    This cannot be undone.
    """
    from qsotn.console.cpe import revoke

    folder = province_folder(state)
    with _goes_on(f"qsotn cpe show {name} --state {folder}"):
        revoke(folder, name, reason, _patience(wait, timeout), as_json=as_json)


# --- line -----------------------------------------------------------------------------------------------------------


@line.command("create", epilog="Example: qsotn line create --from jinan-1 --to qingdao-1 --odu ODU2")
def create_line(
    from_: Annotated[str, typer.Option("--from", metavar="CPE", help="End A, which asks for keys.")],
    to: Annotated[str, typer.Option("--to", metavar="CPE", help="End B.")],
    name: Annotated[
        str | None, typer.Argument(metavar="LINE", help="Its name [default: the next free of line-1, line-2, …].")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option("--account", metavar="A", help="Whose it is [default: the account `default`, opened for it]."),
    ] = None,
    odu: Annotated[
        str, typer.Option("--odu", help="The container (ITU-T G.709): ODU0, ODU1, ODU2, ODU2e, ODU3 or ODU4.")
    ] = "ODU2",
    rekey_interval: Annotated[int, typer.Option("--rekey-interval", help="Seconds between two key changes.")] = 60,
    max_latency_us: Annotated[int, typer.Option("--max-latency-us", help="One way, in microseconds.")] = 5000,
    wait: WaitOption = True,
    timeout: TimeoutOption = 300.0,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Order a leased line between two devices that are READY (the paper's Figure 4), until it is encrypted."""
    from qsotn.app.operator_orders import LineWishes
    from qsotn.console.line import create_line as create

    wishes = LineWishes(name, (from_, to), account, odu, rekey_interval, max_latency_us)
    folder = province_folder(state)
    with _goes_on(f"qsotn line list --state {folder}"):
        create(folder, wishes, _patience(wait, timeout), as_json=as_json)


@line.command("list", epilog="Example: qsotn line list --json")
def list_lines(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """List all leased lines, those of the past among them."""
    from qsotn.console.line import list_lines as show

    show(province_folder(state), as_json=as_json)


@line.command("show", epilog="Example: qsotn line show line-1")
def show_line(name: LineArgument, state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Show one line: as it was ordered, what both ends say of it, and what it used once it is deleted."""
    from qsotn.console.line import show_line as show

    show(province_folder(state), name, as_json=as_json)


@line.command("rekey", epilog="Example: qsotn line rekey line-1")
def rekey_line(
    name: LineArgument,
    wait: WaitOption = True,
    timeout: TimeoutOption = 300.0,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Order new keys for a line, before its rekey interval is over, until they encrypt it."""
    from qsotn.console.line import rekey

    folder = province_folder(state)
    with _goes_on(f"qsotn line show {name} --state {folder}"):
        rekey(folder, name, _patience(wait, timeout), as_json=as_json)


@line.command("delete", epilog="Example: qsotn line delete line-1")
def delete_line(
    name: LineArgument,
    wait: WaitOption = True,
    timeout: TimeoutOption = 300.0,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a line out of service: both devices destroy its keys, and its usage is recorded."""
    from qsotn.console.line import delete

    folder = province_folder(state)
    with _goes_on(f"qsotn line show {name} --state {folder}"):
        delete(folder, name, _patience(wait, timeout), as_json=as_json)


# --- key, account ---------------------------------------------------------------------------------------------------


@key.command("status", epilog="Example: qsotn key status --json")
def key_status(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Show what the QKD links hold, what is left of the devices' key files, and what lines took.

    Exit code 1 if a key manager, a QSSP or the POMP could not be asked.
    """
    from qsotn.console.key import show_key_status

    if not show_key_status(province_folder(state), as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@account.command("open", epilog="Example: qsotn account open bank-of-shandong")
def open_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The customer's account.")],
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Open a customer's account; one that is open stays as it is."""
    from qsotn.console.line import open_customer

    open_customer(province_folder(state), name, as_json=as_json)


@account.command("list", epilog="Example: qsotn account list --json")
def list_accounts(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """List the customers' accounts."""
    from qsotn.console.line import list_accounts as show

    show(province_folder(state), as_json=as_json)
