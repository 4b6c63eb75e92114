"""A province of real processes, made from its files: `qsotn serve` for every party, and houses of further devices.

Every process ends with the test: it is ended when the province is left, and the kernel kills it if the thread that
started it ends in any other way. Start and stop processes from one thread, which stays: the test's.
"""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.live.stores import Place, Stores, stock, unrest

from qsotn.app.installation import create_installation
from qsotn.app.plan import Plan
from qsotn.app.processes import is_ready
from qsotn.app.programs import TWIN_NAME, programs
from qsotn.app.record import LOG, ProvinceRecord, load_plan, load_record, party_place
from qsotn.domain import PartyId

ROOT: Final = Path(__file__).resolve().parents[2]
TIED: Final = "/usr/bin/setpriv"
"""Of util-linux: the kernel kills what it runs when the thread that started it ends."""
READY_S, STOP_S = 90.0, 20.0
CITIES: Final = ("jinan", "qingdao")
HOUSES: Final = "houses"
PROVINCE: Final = """\
name = "live"

[[city]]
name = "jinan"

[[city]]
name = "qingdao"

[[relay]]
name = "weifang"

[[link]]
name = "jinan-weifang"
ends = ["jinan", "weifang"]

[[link]]
name = "weifang-qingdao"
ends = ["weifang", "qingdao"]

[listen]
first_port = 0
"""
PAIR: Final = """
[[cpe]]
name = "jinan-{number}"
city = "jinan"
serial_number = "LIVE-A-{number:04}"

[[cpe]]
name = "qingdao-{number}"
city = "qingdao"
serial_number = "LIVE-B-{number:04}"

[[fibre]]
ends = ["jinan-{number}", "qingdao-{number}"]
"""


@dataclass(frozen=True)
class Shape:
    """What a province consists of."""

    pairs: int = 2
    """Pairs of devices with a fibre between them; each device is a process."""
    houses: int = 2
    """Processes with further devices in them (`tests.live.house`)."""
    replicas: int = 1
    """Processes for each POMP, PMP, QSSP and key manager; more than one needs PostgreSQL."""
    keys_an_end: int = 3072
    program: str = "qsotn"
    """The module that a party's process runs."""
    limits: dict[str, int] = field(default_factory=dict)
    """By role: how much may wait at its desk."""

    def toml(self, url: str) -> str:
        """The province file."""
        pairs = "".join(PAIR.format(number=number) for number in range(self.pairs))
        replicas = "".join(f"{role} = {self.replicas}\n" for role in ("pomp", "pmp", "qssp", "km"))
        return f'{PROVINCE}\n[store]\nurl = "{url}"\n\n[replicas]\n{replicas}{pairs}'


class Province:
    """A province, and its processes by name: `pomp/live`, its second replica `pomp/live.2`, `house-1`."""

    def __init__(self, folder: Path, stores: Stores, shape: Shape) -> None:
        self.state, self.stores, self.shape = folder / "province", stores, shape
        self.state.parent.joinpath("live.toml").write_text(shape.toml(stores.url))
        create_installation(folder / "live.toml", self.state, os.urandom, dt.datetime.now(dt.UTC))
        self.plan: Plan = load_plan(self.state)
        for role, waiting in shape.limits.items():
            self.edit(f"{role}-*/service*.toml", "waiting = 1024", f"waiting = {waiting}")
        stock(self.state, self.plan, stores, shape.keys_an_end)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def edit(self, pattern: str, old: str, new: str) -> None:
        """Replace a text in the configurations of some parties."""
        for file in self.state.glob(f"parties/{pattern}"):
            file.write_text(file.read_text().replace(old, new))

    @property
    def record(self) -> ProvinceRecord:
        """What runs where."""
        return load_record(self.state)

    @property
    def commands(self) -> dict[str, tuple[str, ...]]:
        """What each process runs."""
        made = programs(self.state, self.record, self.plan)
        found = {
            one.name: (*one.command[:2], self.shape.program, *one.command[3:]) for one in made if one.name != TWIN_NAME
        }
        for name in self.houses:
            found[name] = (sys.executable, "-m", "tests.live.house", str(self.state), str(self.house(name)))
        return found

    @property
    def platform(self) -> list[str]:
        """The names of the processes that are no devices."""
        return [name for name in self.commands if not name.startswith(("cpe/", "house-"))]

    @property
    def replicated(self) -> list[PartyId]:
        """The parties that have more than one process."""
        return [PartyId(name.removesuffix(".2")) for name in self.platform if name.endswith(".2")]

    @property
    def houses(self) -> list[str]:
        """The names of the houses."""
        return [f"house-{number}" for number in range(1, self.shape.houses + 1)]

    def house(self, name: str) -> Path:
        """Where a house is told whom to run: a file for each device."""
        return self.state / HOUSES / name

    def pairs(self) -> list[tuple[PartyId, PartyId]]:
        """The devices at both ends of each fibre."""
        return list(self.plan.lines)

    def places(self) -> list[Place]:
        """The store of every party, the devices' among them."""
        own = [Place(party, self.state / party_place(party), self.stores) for party in self.plan.parties]
        housed = sorted((self.state / "devices").glob("cpe-*/store.db"))
        devices = [(PartyId(path.parent.name.replace("-", "/", 1)), path.parent) for path in housed]
        return own + [Place(party, folder, self.stores) for party, folder in devices]

    # --- processes ----------------------------------------------------------------------------------------------------

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start one process; it need not be ready when this returns."""
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                (TIED, "--pdeathsig", "KILL", *self.commands[name]),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.processes[name]

    def log(self, name: str) -> Path:
        """What a process prints."""
        return self.state / LOG / f"{name.replace('/', '-')}.log"

    def begin(self) -> None:
        """Start all, and wait until all are ready."""
        for name in self.houses:
            self.house(name).mkdir(parents=True, exist_ok=True)
        for name in self.commands:
            self.start(name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until all are ready. Raises `AssertionError` for one that died, or is not ready in time."""
        end = time.monotonic() + READY_S
        while waiting := self.unready():
            dead = [name for name in waiting if self.processes[name].poll() is not None]
            assert not dead, f"{dead[0]} does not start:\n{self.tail(dead[0])}"
            assert time.monotonic() < end, f"{waiting} are not ready:\n{self.tail(waiting[0])}"
            time.sleep(0.1)

    def tail(self, name: str, lines: int = 12) -> str:
        """The last words of a process."""
        return "\n".join(self.printed(name)[-lines:])

    def printed(self, name: str) -> list[str]:
        """Everything a process has said, in all its lives."""
        return self.log(name).read_text(errors="replace").splitlines()

    def revive(self) -> Counter[str]:
        """Start again whoever died by itself, as a supervisor does, until all are ready; return who died how often."""
        died: Counter[str] = Counter()
        end = time.monotonic() + READY_S
        while (
            dead := [name for name, process in self.processes.items() if process.poll() is not None] or self.unready()
        ):
            assert time.monotonic() < end, f"{dead} are not ready:\n{self.tail(dead[0])}"
            for name in dead:
                if self.processes[name].poll() is not None:
                    died[name] += 1
                    self.start(name)
            time.sleep(0.2)
        return died

    def unready(self) -> list[str]:
        """The services that do not say that they are ready."""
        monitoring = {one.name: one.monitoring for one in programs(self.state, self.record, self.plan)}
        return [name for name in self.processes if name in monitoring and not is_ready(monitoring[name], 2.0)]

    def stop(self, names: Iterable[str]) -> None:
        """Stop processes as an operator does. Raises `AssertionError` for one that does not stop, or not in order."""
        stopping = {name: self.processes.pop(name) for name in list(names) if name in self.processes}
        for process in stopping.values():
            process.terminate()
        end = time.monotonic() + STOP_S
        for name, process in stopping.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            ended = process.poll()
            process.kill()
            process.wait()
            assert ended == 0, f"{name} did not stop in order ({ended}):\n{self.tail(name)}"

    def memory(self, name: str) -> int:
        """How much memory a process has, in bytes (proc(5), VmRSS)."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return int(resident) * 1024

    def descriptors(self, name: str) -> int:
        """How many files and connections a process has open."""
        return len(list(Path(f"/proc/{self.processes[name].pid}/fd").iterdir()))

    def signal(self, number: signal.Signals) -> None:
        """Send every process a signal."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    def freeze(self) -> None:
        """Stop every process dead, where it is. When this returns, none of their threads runs."""
        self.signal(signal.SIGSTOP)
        end = time.monotonic() + STOP_S
        while any(_runs(process.pid) for process in self.processes.values()):
            assert time.monotonic() < end, "a process does not stop"
            time.sleep(0.01)

    def kill(self, names: Iterable[str] | None = None) -> None:
        """Kill processes: all, if none are named."""
        killed = [self.processes.pop(name) for name in list(self.processes if names is None else names)]
        for process in killed:
            process.kill()
        for process in killed:
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(self.told())
        self.kill()

    def told(self) -> str:
        """What is not at an end, and the last words of every process: for who reads a failure."""
        said = [f"--- {name}\n{self.tail(name)}" for name in self.processes]
        with suppress(Exception):  # there is a failure to be told already, and a store may be what failed
            said += unrest(self.places())
        return "\n\n".join(said)


def _runs(pid: int) -> bool:
    """Say whether a thread of a process is anything but stopped (proc(5): the state follows the name)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return any(task.read_text().rpartition(")")[2].split()[0] not in "Tt" for task in tasks)
