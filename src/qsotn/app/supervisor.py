"""All processes of a province, started, watched, and stopped by one that does nothing else.

The supervisor has one thread and waits for signals (`sigtimedwait`), so that it notices the end of a child, and the
wish to stop, at once, and needs no handler. Whatever ends it ends its children too (`qsotn.app.processes`).
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import msgspec

from qsotn.app.processes import Child, Program
from qsotn.errors import QsotnError

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_POLL_S: Final = 0.1
_ASK_S: Final = 1.0


@dataclass(frozen=True)
class Patience:
    """How long things may take, in seconds."""

    ready: float = 120.0
    """From the first start until all are ready."""
    stop: float = 10.0
    """From SIGTERM to SIGKILL, for each process."""
    first_delay: float = 0.5
    """Before a process that died is started again; doubled with each further early death."""
    longest_delay: float = 30.0
    settled: float = 60.0
    """A life longer than this is no early death."""
    pulse: float = 1.0
    """Between two looks at processes that are not ready, and at chores."""


STARTS: Final = 3
"""How often a process may die before it was ready, when a province starts, until that is given up."""


class Status(msgspec.Struct, frozen=True):
    """What one process is at the moment."""

    party: str
    url: str
    monitoring: str
    pid: int | None
    store: str
    state: str
    log: str


@dataclass
class Chore:
    """Something to be done now and then while a province runs; seconds."""

    every: float
    do: Callable[[], None]
    due: float = 0.0


class Supervisor:
    """Starts programs in order, and stops them by stages, the last first. A context: leaving it stops them all."""

    def __init__(
        self, programs: Sequence[Program], tell: Callable[[str], None], patience: Patience | None = None
    ) -> None:
        self._children = [Child(program) for program in programs]
        self._tell = tell
        self._patience = patience or Patience()
        self._stops = 0

    def __enter__(self) -> Self:
        # Who started it may have had one of them ignored (nohup); blocked signals are delivered all the same.
        self._stopping = {number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._stopping, signal.SIGCHLD})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    @property
    def stopping(self) -> bool:
        """Whether somebody wants it to stop."""
        return self._stops > 0

    def status(self) -> list[Status]:
        """Return what each process is at the moment, in the order of their start."""
        return [_status(child) for child in self._children]

    # --- start ------------------------------------------------------------------------------------------------------

    def start(self, show: Callable[[int, int], None]) -> bool:
        """Start all and wait until all are ready; `show(ready, all)` is told how far that is.

        Returns False if somebody wanted it to stop before. Raises `QsotnError`, with the last lines of a log, if a
        process dies again and again or is not ready in time.
        """
        deadline = time.monotonic() + self._patience.ready
        for child in self._children:
            child.start(time.monotonic())
        while not self.stopping:
            self._attend()
            ready = sum(child.ready or child.ask(_ASK_S) for child in self._children)
            show(ready, len(self._children))
            if ready == len(self._children):
                return True
            self._give_up(deadline)
            self._wait(_POLL_S)
        return False

    def _give_up(self, deadline: float) -> None:
        for child in self._children:
            if child.failures >= STARTS:
                raise QsotnError(f"{child.program.name} does not start: {_last_words(child)}")
        late = [child for child in self._children if not child.ready]
        if time.monotonic() > deadline:
            names = ", ".join(child.program.name for child in late)
            raise QsotnError(f"not ready within {self._patience.ready:g} s: {names}; {_last_words(late[0])}")

    # --- watch ------------------------------------------------------------------------------------------------------

    def watch(self, chores: Sequence[Chore] = ()) -> None:
        """Start again what dies, and do the chores, until somebody wants it to stop."""
        for chore in chores:
            chore.due = time.monotonic() + chore.every
        while not self.stopping:
            self._attend()
            for child in self._children:
                if child.pid and not child.ready and child.ask(_ASK_S):
                    self._tell(f"{child.program.name} is ready again (process {child.pid})")
            self._do(chores)
            self._wait(self._next_look())

    def _do(self, chores: Sequence[Chore]) -> None:
        for chore in chores:
            if chore.due <= time.monotonic():
                try:
                    chore.do()
                except QsotnError as error:
                    self._tell(f"{error}; the next attempt is in {chore.every:g} s")
                chore.due = time.monotonic() + chore.every

    def _next_look(self) -> float:
        soonest = min((child.due for child in self._children if child.due is not None), default=float("inf"))
        return max(0.0, min(self._patience.pulse, soonest - time.monotonic()))

    def _attend(self) -> None:
        """Notice who has died, and start those again whose time has come."""
        now = time.monotonic()
        for child in self._children:
            if (end := child.ended(now)) is not None:
                self._bury(child, *end)
            if child.due is not None and child.due <= now:
                child.start(now)

    def _bury(self, child: Child, status: int, lived: float) -> None:
        child.failures = 1 if lived > self._patience.settled else child.failures + 1
        delay = min(self._patience.first_delay * 2 ** (child.failures - 1), self._patience.longest_delay)
        child.due = time.monotonic() + delay
        self._tell(
            f"{child.program.name} {_how_it_ended(status)} after {lived:.1f} s and starts again in {delay:g} s; "
            f"{_last_words(child)}"
        )

    # --- stop -------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop all, the last stage first: SIGTERM, and SIGKILL for who does not go, or if somebody asks once more."""
        asked = self._stops
        for stage in sorted({child.program.stage for child in self._children}, reverse=True):
            self._stop_stage([child for child in self._children if child.program.stage == stage], asked)

    def _stop_stage(self, children: list[Child], asked: int) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + self._patience.stop
        while any(map(self._runs, children)) and time.monotonic() < deadline and self._stops == asked:
            self._wait(_POLL_S)
        for child in filter(self._runs, children):
            self._tell(f"{child.program.name} did not stop and was killed")
            child.signal(signal.SIGKILL)
            while self._runs(child):
                self._wait(_POLL_S)

    def _runs(self, child: Child) -> bool:
        return child.ended(time.monotonic()) is None and child.pid is not None

    def _wait(self, seconds: float) -> None:
        """Wait for a signal, no longer than that."""
        caught = signal.sigtimedwait({*self._stopping, signal.SIGCHLD}, seconds)
        if caught is not None and caught.si_signo in self._stopping:
            self._stops += 1


def _status(child: Child) -> Status:
    program = child.program
    return Status(
        program.name, program.url, program.monitoring, child.pid, program.store, child.state, str(program.log)
    )


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with exit code {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def _last_words(child: Child) -> str:
    lines = child.tail()
    return f"the last lines of {child.program.log}:\n  " + "\n  ".join(lines or ["(none)"])
