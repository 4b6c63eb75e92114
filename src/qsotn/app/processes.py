"""One program of a province as a process: started, watched, asked whether it is ready, stopped.

A child leads a session of its own, so that Ctrl-C at a terminal reaches the supervisor alone, which then stops it in
order. And it is tied to its parent by the kernel (`qsotn.service.parent`): if the supervisor is killed, so is every
child, whatever it is doing. A party that is killed loses nothing; that is what its store is for.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qsotn.service.config import split_address
from qsotn.service.parent import end_with

_LOG_TAIL_BYTES: Final = 4096
_LOG_TAIL_LINES: Final = 8


@dataclass(frozen=True)
class Program:
    """One process of a province: what to run, where it logs, and where it says whether it is ready."""

    name: str
    command: tuple[str, ...]
    log: Path
    monitoring: str
    """`host:port` of its plain monitoring listener."""
    url: str = ""
    store: str = ""
    stage: int = 0
    """Programs of one stage are stopped together, those of a higher one before."""


class Child:
    """A program's process, over all its lives. Times are seconds of the supervisor's clock."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ready = False
        self.failures = 0
        """Lives that ended before the program had been up for long."""
        self.due: float | None = None
        """When to start it again, while it is down."""
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    @property
    def pid(self) -> int | None:
        """Its process number, while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def state(self) -> str:
        """One word for people."""
        if self._process is None:
            return "down"
        return "ready" if self.ready else "starting"

    def start(self, now: float) -> None:
        """Begin a life; what it prints is appended to its log."""
        self.ready, self.due, self._started = False, None, now
        self.program.log.parent.mkdir(mode=0o700, exist_ok=True)
        with self.program.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # the project's own program, without a shell
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_tied_to(os.getpid()),  # safe: the supervisor has one thread
            )

    def ended(self, now: float) -> tuple[int, float] | None:
        """Return exit status and length of a life that has ended since this was last asked."""
        if self._process is None or self._process.poll() is None:
            return None
        status, self._process, self.ready = self._process.returncode, None, False
        return status, now - self._started

    def ask(self, patience: float) -> bool:
        """Ask the program whether it is ready, and note the answer."""
        if self._process is not None:
            self.ready = is_ready(self.program.monitoring, patience)
        return self.ready

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def tail(self) -> list[str]:
        """The last lines of its log."""
        try:
            with self.program.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                return log.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        except OSError:
            return []


def is_ready(monitoring: str, patience: float) -> bool:
    """Ask a monitoring listener for `/readyz`; no answer is a no."""
    connection = http.client.HTTPConnection(*split_address(monitoring), timeout=patience)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tied_to(parent: int) -> Callable[[], None]:
    """Return what a child does between fork and exec: tie itself to its parent, and take signals again."""

    def tie() -> None:
        end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    return tie
