"""Who runs a province: one supervisor at a time, which says so in the folder, and can be asked to stop."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from qsotn.errors import QsotnError, UsageError

LOCK: Final = "running"
"""The lock file: locked while a supervisor runs, which has written its process number into it."""
_POLL_S: Final = 0.05


@contextmanager
def claimed(state: Path) -> Iterator[None]:
    """Be the one who runs this province. Raises `UsageError` if somebody does already."""
    handle = os.open(state / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _lock(handle):
            raise UsageError(
                f"{state} runs already, as process {_read(handle)}; stop it with: qsotn down --state {state}"
            )
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def stop_running(state: Path, patience: float) -> int:
    """Ask the supervisor of this folder to stop, wait until it has, and return its process number.

    Raises `UsageError` if none runs, `QsotnError` if it still runs after so many seconds.
    """
    deadline = time.monotonic() + patience
    try:
        handle = os.open(state / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        raise UsageError(f"{state} does not run: nobody ever started it there") from None
    try:
        if _lock(handle):
            raise UsageError(f"{state} does not run; start it with: qsotn up --state {state}")
        pid = _read(handle)
        # The lock is held, so the number is that of its holder and of nobody who came later.
        os.kill(pid, signal.SIGTERM)
        while not _lock(handle):
            if time.monotonic() > deadline:
                raise QsotnError(f"{state} still runs after {patience:g} s, as process {pid}")
            time.sleep(_POLL_S)
        return pid
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(handle: int) -> int:
    """Return the holder's process number; it writes it right after it has locked."""
    for _ in range(100):
        if text := os.pread(handle, 32, 0):
            return int(text)
        time.sleep(_POLL_S)
    raise QsotnError("the province is locked by a process that does not say which")
