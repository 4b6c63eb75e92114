"""`qsotn up` and `qsotn down` as a person sees them: progress, a table of what runs where, and what happens to it."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from qsotn.app.addresses import check_free
from qsotn.app.installation import ensure_installation
from qsotn.app.plan import Plan
from qsotn.app.programs import programs
from qsotn.app.record import LOG, PKI, ProvinceRecord, load_plan, load_record
from qsotn.app.renewal import renew
from qsotn.app.running import claimed, stop_running
from qsotn.app.supervisor import Chore, Status, Supervisor
from qsotn.console.columns import aligned
from qsotn.console.pki import renewal_lines
from qsotn.domain import PartyId

DOWN_PATIENCE_S: Final = 120.0
_LONGEST_RENEWAL_PERIOD_S: Final = 3600.0
_SHORTEST_RENEWAL_PERIOD_S: Final = 1.0


class Up(msgspec.Struct, frozen=True):
    """What `qsotn up --json` prints, on one line, when everything is ready."""

    province: str
    state: str
    supervisor: int
    processes: tuple[Status, ...]
    client_ports: dict[PartyId, str]
    delivery: dict[PartyId, tuple[str, ...]] = {}
    """Where SAEs get keys (ETSI GS QKD 014): the URLs of each key manager that has some."""


def run_up(province: Path | None, state: Path, *, as_json: bool) -> None:
    """Make the province if the folder is empty, run every party of it, and stop them all when asked to.

    Raises `UsageError` if it runs already or a port is in use, `QsotnError` if a party does not start.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    record, made = ensure_installation(province, state, os.urandom, dt.datetime.now(dt.UTC))
    if made:
        console.print(f"Made the province {record.name} in {state}.")
    with claimed(state):
        check_free(_tcp_addresses(record))
        plan = load_plan(state)
        chores = _chores(state, plan, console)
        with Supervisor(programs(state, record, plan), lambda line: _tell(console, line)) as supervisor:
            with _progress(console) as show:
                ready = supervisor.start(show)
            if ready:
                _announce(record, state, supervisor.status(), as_json=as_json)
                supervisor.watch(chores)
    console.print(f"The province {record.name} is down.")


def run_down(state: Path, *, as_json: bool) -> None:
    """Ask the supervisor of a province to stop, and wait until it has. Raises `UsageError` if none runs."""
    record = load_record(state)
    pid = stop_running(state, DOWN_PATIENCE_S)
    if as_json:
        sys.stdout.write(msgspec.json.encode({"province": record.name, "supervisor": pid}).decode() + "\n")
    else:
        sys.stdout.write(f"The province {record.name} is down; process {pid} has ended.\n")


def _tcp_addresses(record: ProvinceRecord) -> list[str]:
    urls = [url for one in record.services for url in (one.url, one.delivery, one.streams, one.border) if url]
    services = [url.removeprefix("https://") for url in urls] + [one.monitoring for one in record.services]
    return [*services, record.twin.monitoring]


def _chores(state: Path, plan: Plan, console: Console) -> list[Chore]:
    """Renew what is due now, and return what is to be done while the province runs."""
    if not (state / PKI).is_dir():
        _tell(console, f"{state / PKI} is not here, so no certificate is renewed: lay renewed ones into the folders.")
        return []
    _renew(state, console)
    return [Chore(_renewal_period(plan), lambda: _renew(state, console))]


def _renewal_period(plan: Plan) -> float:
    """Seconds between two looks at the certificates: several in the last third of their life."""
    wanted = plan.lifetime.total_seconds() / 12
    return min(max(wanted, _SHORTEST_RENEWAL_PERIOD_S), _LONGEST_RENEWAL_PERIOD_S)


def _renew(state: Path, console: Console) -> None:
    renewed = renew(state, os.urandom, dt.datetime.now(dt.UTC))
    if renewed.transport or renewed.identities or renewed.revocation_lists:
        for line in renewal_lines(renewed):
            _tell(console, line)


def _tell(console: Console, line: str) -> None:
    console.print(f"{dt.datetime.now().astimezone():%H:%M:%S} {line}")


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show how many are ready. Drawn from the calling thread alone, since a supervisor must have no other."""
    columns = (TextColumn("starting"), BarColumn(), TextColumn("{task.completed} of {task.total} ready"))
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    with progress:
        task = progress.add_task("", total=None)

        def show(ready: int, of: int) -> None:
            progress.update(task, completed=ready, total=of, refresh=True)

        yield show


def _announce(record: ProvinceRecord, state: Path, processes: list[Status], *, as_json: bool) -> None:
    if as_json:
        up = Up(record.name, str(state), os.getpid(), tuple(processes), record.client_ports, _delivery(record))
        sys.stdout.write(msgspec.json.encode(up).decode() + "\n")
    else:
        _print(record, state, processes)
    sys.stdout.flush()


def _delivery(record: ProvinceRecord) -> dict[PartyId, tuple[str, ...]]:
    serving = [one for one in record.services if one.delivery]
    return {one.party: tuple(other.delivery for other in serving if other.party == one.party) for one in serving}


def _delivery_lines(record: ProvinceRecord) -> list[str]:
    found = _delivery(record)
    if not found:
        return []
    rows = [(km, url) for km, urls in found.items() for url in urls]
    lines = ["SAEs get keys (ETSI GS QKD 014) at:", aligned(rows), ""]
    for heading, further in (
        ("They open streams of key (ETSI GS QKD 004) at:", [(one.party, one.streams) for one in record.services]),
        ("Other operators hand over keys (ETSI GS QKD 020) at:", [(one.party, one.border) for one in record.services]),
    ):
        given = [(km, url) for km, url in further if url]
        lines += [heading, aligned(given), ""] if given else []
    return lines


def _print(record: ProvinceRecord, state: Path, processes: list[Status]) -> None:
    heading = ("party", "url", "pid", "store", "state")
    rows = [(one.party, one.url, str(one.pid), one.store, one.state) for one in processes]
    lines = [
        aligned([heading, *rows]),
        "",
        *_delivery_lines(record),
        f"The province {record.name} is up; its logs are in {state / LOG}. Ctrl-C here stops it. Elsewhere:",
        *(f"  {command} --state {state}" for command in ("qsotn cpe list", "qsotn key status", "qsotn down")),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
