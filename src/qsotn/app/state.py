"""The state folder: one per run, of one version, used by one process at a time.

What lies in it:

    state.json      what was begun, written first; it says whether the province stands
    lock            held while a process uses the folder
    parties/        a folder per party: its store, and the key-encryption key of its embedded module
    generated       the file that is carried when none was given
    received        what came out of the line's far end
    report.json     the finished run's report
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from qsotn.errors import UsageError

STATE_VERSION = 1
JSON = ("state.json", "report.json")
KNOWN = {"lock", "parties", "generated", "received", *(f"{name}{new}" for name in JSON for new in ("", ".new"))}
MARK = b"qsotn state folder\n"
"""What the lock file says in a folder that is ours."""


class RunState(msgspec.Struct, frozen=True):
    """What one run of the demo was begun with, and how far its file came."""

    version: int
    file: str
    size: int
    generated: bool
    provisioned: bool = False
    """The province stands: every party's store is whole."""
    confirmed_bytes: int = 0
    """Bytes durably received at the far end."""
    earlier_seconds: float = 0.0
    """Seconds of traffic before the last interruption."""


class StateFolder:
    """One run's folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def parties(self) -> Path:
        """Where the parties' stores are."""
        return self.path / "parties"

    @property
    def generated(self) -> Path:
        """The file that is carried when none was given."""
        return self.path / "generated"

    @property
    def received(self) -> Path:
        """Where the far end writes what it receives."""
        return self.path / "received"

    @property
    def report(self) -> Path:
        """The finished run's report."""
        return self.path / "report.json"

    @contextmanager
    def locked(self) -> Iterator[StateFolder]:
        """Use the folder alone. Raises `UsageError` if another process does, or if it cannot be written."""
        if self.path.is_dir():
            self._refuse_strangers()
        handle = self._open_lock()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(
                f"the state folder {self.path} is in use by another qsotn process; wait for it, or choose --state DIR"
            ) from None
        try:
            self._refuse_strangers()
            os.pwrite(handle, MARK, 0)
            yield self
        finally:
            os.close(handle)

    def _open_lock(self) -> int:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            reason = error.strerror
            raise UsageError(f"the state folder {self.path} cannot be used: {reason}; choose --state DIR") from error

    def load(self) -> RunState | None:
        """Return what was begun here, or None. Raises `UsageError` for a folder of another version or make."""
        path = self.path / "state.json"
        if not path.exists():
            self._refuse_strangers()
            return None
        try:
            version = msgspec.json.decode(path.read_bytes(), type=dict)["version"]
            if version != STATE_VERSION:
                raise UsageError(
                    f"the state folder {self.path} is of version {version}, this release reads {STATE_VERSION}; "
                    "choose another with --state DIR, or begin anew with --fresh"
                )
            return msgspec.json.decode(path.read_bytes(), type=RunState)
        except (msgspec.DecodeError, KeyError, OSError) as error:
            raise UsageError(f"{path} is not a state of qsotn ({error}); choose another with --state DIR") from error

    def _refuse_strangers(self) -> None:
        ours = KNOWN if self._marked() or (self.path / "state.json").exists() else {"lock"}
        strangers = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
        if strangers:
            raise UsageError(f"{self.path} holds {strangers[0]!r} and no qsotn state; choose an empty --state DIR")

    def _marked(self) -> bool:
        """Whether a run of ours made this folder its own; names alone prove nothing."""
        lock = self.path / "lock"
        return lock.is_file() and lock.read_bytes() == MARK

    def save(self, state: RunState) -> None:
        """Write what was begun, durably and at once."""
        self._write("state.json", msgspec.json.encode(state))

    def save_report(self, report: bytes) -> None:
        """Write the finished run's report, durably and at once."""
        self._write("report.json", report)

    def _write(self, name: str, content: bytes) -> None:
        fresh = self.path / f"{name}.new"
        with fresh.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        fresh.replace(self.path / name)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def clear(self) -> None:
        """Forget the run: `state.json` first, so that an interrupted clearing leaves a folder that holds nothing.

        Raises `UsageError` for a folder that holds anything else: what is not ours is not ours to delete.
        """
        self._refuse_strangers()
        for name in (*JSON, *(f"{name}.new" for name in JSON), "generated", "received"):
            (self.path / name).unlink(missing_ok=True)
        self.clear_parties()

    def clear_parties(self) -> None:
        """Remove a province, whole or half made."""
        if self.parties.exists():
            shutil.rmtree(self.parties)
