"""A value that lives in files, replaced as a whole when they change and what they then hold fits together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from qsotn.errors import BadProof, UsageError

T = TypeVar("T")
Failed = Callable[[str], None]
"""Takes one sentence for the log: why changed files were not taken over."""


class FromFiles(Generic[T]):
    """What `read` made of the files when it last succeeded.

    `read` gets the value that would be replaced (None at first) and raises `UsageError` or `BadProof` for files that
    cannot be used; at construction this is raised on.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[T | None], T], failed: Failed) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._failed = failed
        self._seen = self._state()
        self.value: T = read(None)

    def reload_if_changed(self) -> bool:
        """Read the files again if any of them changed; say whether there is a new value.

        Files that do not fit together (a new certificate whose key is not written yet) leave the old value in force
        and are told to `failed`, once for each state they are found in.
        """
        # Looked at before reading: a change in between is then seen as one by the next call.
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            self.value = self._read(self.value)
        except (UsageError, BadProof) as error:
            self._failed(f"{', '.join(map(str, self._paths))}: the changed files are not taken over: {error}")
            return False
        return True

    def _state(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_state_of(path) for path in self._paths)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None  # reading it says why
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_file(path: Path) -> bytes:
    """Return a file's bytes; raises `UsageError` with its name."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
