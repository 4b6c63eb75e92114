"""The main job: from one photon to one encrypted OPUk frame, in one process.

Every phase asks the stores how far things have come, and goes on from there; a run that was killed at any moment is
therefore finished by running it again. Nothing is remembered outside the stores but the file and how much of it has
arrived.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from qsotn.app import links, report
from qsotn.app.client import ReceivingHost, SendingHost
from qsotn.app.province import (
    ACCOUNT,
    CPE_A,
    CPE_B,
    HOMES,
    LINE,
    PMP,
    POMP,
    SERIALS,
    Province,
    make_province,
    open_province,
    utc,
)
from qsotn.app.report_form import Report, compose
from qsotn.app.state import STATE_VERSION, RunState, StateFolder
from qsotn.app.traffic import LeasedLine, Transfer
from qsotn.dataplane.line import Fibre
from qsotn.domain import Entropy, PartyId, QualityOfService
from qsotn.errors import QsotnError, UsageError
from qsotn.parties.pomp import DeviceState, LineState, Pomp
from qsotn.procedures import deletion, initialization, leased_line
from qsotn.procedures.turn import State, Work
from qsotn.service.equipment import Equipment

GENERATED_BYTES = 64 << 20
LIFETIME_US = 12 * 3600 * 1_000_000
"""How long an interrupted procedure may be resumed."""
KEY_BITS_PER_END = 24 * 1024
"""What each end of a link can allocate before the first order: one key file, and keys for sixteen generations."""
PATIENCE_US = 60 * 1_000_000
QUALITY = QualityOfService(odu="ODU2", rekey_interval_s=60, max_latency_us=5_000)


class Watcher(Protocol):
    """Who is told how the run goes."""

    def phase(self, name: str) -> None:
        """A phase begins."""

    def advance(self, detail: str, part: float) -> None:
        """How far the phase is, 0 to 1."""


@dataclass(frozen=True)
class Environment:
    """What the run takes from the machine."""

    entropy: Entropy
    clock: Callable[[], int]
    sleep: Callable[[float], None] = time.sleep


def plan(folder: StateFolder, file: Path | None, *, resume: bool, fresh: bool, size: int) -> RunState | None:
    """Decide what this call does: return the run to work on, or None if a finished run is there to be shown again.

    Raises `UsageError` for a FILE that cannot be read, and for a folder whose unfinished run was not mentioned.
    """
    begun = None if fresh else folder.load()
    if begun is not None and resume:
        _check_same_file(begun, file)
        if folder.report.exists():
            return None
        _check_unchanged(folder, begun)
        return begun
    if begun is not None and not folder.report.exists():
        raise UsageError(
            f"{folder.path} holds an unfinished run of {begun.file}: "
            "finish it with --resume, or discard it with --fresh"
        )
    return begin_anew(folder, file, size)


def begin_anew(folder: StateFolder, file: Path | None, size: int) -> RunState:
    """Clear a folder for a run that carries this file, or one of that size to be generated. Raises `UsageError`."""
    wanted = _new_run(folder, file, size)
    folder.clear()
    return wanted


def _check_readable(file: Path) -> None:
    """Check that a file can be carried, without opening what might block (a pipe)."""
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UsageError(f"{file} is not a regular file; give a file to carry, or none")
        with file.open("rb") as handle:
            handle.read(1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}; give a file to carry, or none") from error


def _check_same_file(begun: RunState, file: Path | None) -> None:
    if file is not None and str(file.resolve()) != begun.file:
        raise UsageError(f"the unfinished run carries {begun.file}, not {file}; --resume takes no other file")


def _check_unchanged(folder: StateFolder, begun: RunState) -> None:
    """Check that what an unfinished run carries is still there. What changed within is found by the digests."""
    if begun.generated and not begun.provisioned:
        return
    source = Path(begun.file)
    _check_readable(source)
    size = source.stat().st_size
    if size != begun.size:
        raise UsageError(f"{source} had {begun.size} bytes when the run began and has {size} now; use --fresh")
    received = folder.received.stat().st_size if folder.received.exists() else 0
    if not 0 <= begun.confirmed_bytes <= min(begun.size, received):
        raise UsageError(
            f"{folder.path} claims {begun.confirmed_bytes} bytes received and holds {received}; use --fresh"
        )


def _new_run(folder: StateFolder, file: Path | None, size: int) -> RunState:
    if file is None:
        return RunState(STATE_VERSION, str(folder.generated), size, generated=True)
    if file.resolve().is_relative_to(folder.path.resolve()):
        raise UsageError(f"{file} lies in the state folder {folder.path}, which a new run clears; copy it elsewhere")
    _check_readable(file)
    return RunState(STATE_VERSION, str(file.resolve()), file.stat().st_size, generated=False)


def run(folder: StateFolder, begun: RunState, watcher: Watcher, environment: Environment) -> Report:
    """Do, or finish, the whole run, and return its report. The folder is locked by the caller."""
    if not begun.provisioned:
        watcher.phase("province")
        folder.save(begun)
        folder.clear_parties()
        generate(folder, begun, environment.entropy)
        make_province(folder.parties, environment.entropy, utc(environment.clock))
        begun = msgspec.structs.replace(begun, provisioned=True)
        folder.save(begun)
    with open_province(folder.parties, environment.entropy, environment.clock) as province:
        demo = Demo(folder, begun, province, watcher, environment)
        finished = demo.run()
    folder.save_report(msgspec.json.encode(finished))
    return finished


def generate(folder: StateFolder, begun: RunState, entropy: Entropy) -> None:
    """Make the file that is carried, if none was given."""
    if begun.generated:
        with folder.generated.open("wb") as handle:
            for start in range(0, begun.size, 1 << 20):
                handle.write(entropy(min(1 << 20, begun.size - start)))


def _order_device(cpe: PartyId, pomp: Pomp, work: Work) -> None:
    initialization.begin(pomp, work, cpe, SERIALS[cpe], HOMES[cpe], PMP, LIFETIME_US)


class Demo:
    """One run, phase by phase."""

    def __init__(
        self, folder: StateFolder, begun: RunState, province: Province, watcher: Watcher, environment: Environment
    ) -> None:
        self._folder = folder
        self._begun = begun
        self._province = province
        self._watcher = watcher
        self._environment = environment
        self._pomp = province.nodes[POMP]
        self._fibre = Fibre()

    def run(self) -> Report:
        """All phases, each going on from where the stores are."""
        for node in self._province.nodes.values():
            node.tick()  # what an interruption let pass its deadline has failed, and says so below
        self._distil()
        self._onboard()
        line = self._establish()
        self._carry(line)
        self._delete(line)
        return compose(report.gather(self._province), self._begun, self._folder.received)

    # --- phases -----------------------------------------------------------------------------------------------------

    def _distil(self) -> None:
        self._watcher.phase("quantum keys")
        links.install_links(self._province, self._environment.entropy)
        if self._line_state() is None:
            links.fill_links(self._province, KEY_BITS_PER_END, self._environment.entropy, self._watcher.advance)

    def _onboard(self) -> None:
        self._watcher.phase("initialisation")
        for cpe in (CPE_A, CPE_B):
            if self._device_state(cpe) is None:
                self._pomp.begin(partial(_order_device, cpe))
        self._until(
            lambda: all(self._device_state(cpe) is DeviceState.READY for cpe in (CPE_A, CPE_B)), "READY devices"
        )

    def _establish(self) -> LeasedLine:
        self._watcher.phase("leased line")
        if self._line_state() is None:
            self._pomp.begin(self._order_line)
        self._until(self._prepared, "prepared ports")
        ends = [Equipment(self._province.nodes[cpe], LINE) for cpe in (CPE_A, CPE_B)]
        line = LeasedLine(self._province, ends[0], ends[1], self._fibre, LIFETIME_US)
        in_service = (LineState.ENCRYPTED, LineState.DELETING, LineState.DELETED)
        self._until(lambda: self._line_state() in in_service, "an encrypted line", line)
        return line

    def _order_line(self, pomp: Pomp, work: Work) -> None:
        pomp.open_account(ACCOUNT)
        leased_line.begin(pomp, work, LINE, ACCOUNT, (CPE_A, CPE_B), QUALITY, PMP, LIFETIME_US)

    def _carry(self, line: LeasedLine) -> None:
        self._watcher.phase("traffic")
        if self._line_state() is not LineState.ENCRYPTED:
            return
        started, earlier = self._environment.clock(), self._begun.earlier_seconds

        def checkpoint(confirmed: int) -> None:
            seconds = earlier + (self._environment.clock() - started) / 1e6
            self._begun = msgspec.structs.replace(self._begun, confirmed_bytes=confirmed, earlier_seconds=seconds)
            self._folder.save(self._begun)

        sender = SendingHost(Path(self._begun.file), self._begun.size, self._begun.confirmed_bytes)
        receiver = ReceivingHost(self._folder.received, self._begun.confirmed_bytes)
        try:
            self._transfer(line, sender, receiver, checkpoint).run()
        finally:
            sender.close()
            receiver.close()

    def _transfer(
        self, line: LeasedLine, sender: SendingHost, receiver: ReceivingHost, checkpoint: Callable[[int], None]
    ) -> Transfer:
        size = self._begun.size

        def show(received: int, rekeys: int) -> None:
            self._watcher.advance(f"{received >> 20} of {size >> 20} MiB, {rekeys} key changes", received / (size or 1))

        interval = QUALITY.rekey_interval_s * 1_000_000
        return Transfer(line, sender, receiver, interval, self._environment.clock, checkpoint, show)

    def _delete(self, line: LeasedLine) -> None:
        self._watcher.phase("deletion and usage")
        if self._line_state() is LineState.ENCRYPTED:
            self._pomp.begin(lambda pomp, work: deletion.begin(pomp, work, LINE, PMP, LIFETIME_US))
        self._until(lambda: self._line_state() is LineState.DELETED, "a deleted line")
        for end in (line.a, line.b):
            end.erase()
        self._until(self._settled, "receipts for every datagram")

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _until(self, reached: Callable[[], bool], what: str, line: LeasedLine | None = None) -> None:
        """Pump until something holds. Raises `QsotnError` if a procedure failed or nothing can move any more."""
        deadline = self._environment.clock() + PATIENCE_US
        while not reached():
            if line is not None:
                line.turn()
            elif not self._province.pump():
                self._environment.sleep(0.002)
            self._check_failures()
            if self._environment.clock() > deadline:
                raise QsotnError(f"no {what} within {PATIENCE_US // 1_000_000} s; try again with --resume")

    def _check_failures(self) -> None:
        with self._pomp.rows() as rows:
            failed = [row for row in rows if row.state is State.FAILED]
        if failed:
            row = failed[0]
            raise QsotnError(f"{row.ladder} of {row.subject} failed: {row.failure}; begin anew with --fresh")

    def _prepared(self) -> bool:
        for cpe in (CPE_A, CPE_B):
            with self._province.nodes[cpe].desk() as desk:
                if desk.lines.get(LINE) is None:
                    return False
        return True

    def _settled(self) -> bool:
        return all(node.settle() == 0 for node in self._province.nodes.values())

    def _device_state(self, cpe: PartyId) -> DeviceState | None:
        with self._pomp.desk() as pomp:
            device = pomp.devices.get(cpe)
            return None if device is None else device.state

    def _line_state(self) -> LineState | None:
        with self._pomp.desk() as pomp:
            line = pomp.lines.get(LINE)
            return None if line is None else line.state
