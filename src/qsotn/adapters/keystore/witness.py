"""Witnesses: what a restored backup cannot know, because it is kept outside the database.

Every replica has a file `NAME.witness`, which holds the identity of the store, how many transactions this replica has
committed, and the highest series it knows. It is written after a commit and before anybody hears of it. So the counter
in a database is never below the witness's, unless the database is an older copy of itself.

The file has two slots, written in turn: a write that a power cut tears leaves the other one. Slot: magic (4 bytes) ‖
identity (16) ‖ transactions (8) ‖ series (8) ‖ SHA-256 of all that, cut to 8.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Final

from qsotn.adapters.keystore.epochs import write_durably
from qsotn.errors import StoreError, UsageError

_MAGIC: Final = b"QKW1"
_FIELDS: Final = Struct(">4s16sQQ")
_DIGEST_BYTES: Final = 8
_SLOT_BYTES: Final = 4096
"""Far enough apart that one torn write does not reach the other slot."""
_SUFFIX: Final = ".witness"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a witness says."""

    identity: bytes
    transactions: int
    series: int

    def after(self, transactions: int, series: int) -> Evidence:
        """Return what there is to say after one more commit."""
        return Evidence(self.identity, transactions, max(series, self.series))


class Witness:
    """The witness of one replica. It is locked: no two processes are the same replica."""

    def __init__(self, folder: Path, replica: str, first: Evidence) -> None:
        if not _NAME.fullmatch(replica):
            raise UsageError(f"{replica!r} is no name for a replica: expected letters, digits, '.', '_' and '-'")
        self._path = folder / f"{replica}{_SUFFIX}"
        if not self._path.exists():
            write_durably(self._path, _encode(first).ljust(2 * _SLOT_BYTES, b"\0"))
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_DSYNC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise StoreError(f"{self._path} is in use: another process is replica {replica!r} of this store") from error
        self._slot = 1 - _newest(_slots(self._path))

    def write(self, evidence: Evidence) -> None:
        """Say it; it is on the disk when this returns. Raises `StoreError`."""
        try:
            os.pwrite(self._descriptor, _encode(evidence), self._slot * _SLOT_BYTES)  # and sync: see O_DSYNC
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written, though a transaction was committed: {error}") from error
        self._slot ^= 1

    def close(self) -> None:
        """Let another process be this replica."""
        os.close(self._descriptor)


def evidence_in(folder: Path) -> dict[str, Evidence]:
    """Return what every witness in a folder says, by replica. Raises `StoreError` for one that says nothing."""
    return {path.name.removesuffix(_SUFFIX): _read(path) for path in folder.glob(f"*{_SUFFIX}")}


def _encode(evidence: Evidence) -> bytes:
    fields = _FIELDS.pack(_MAGIC, evidence.identity, evidence.transactions, evidence.series)
    return fields + sha256(fields).digest()[:_DIGEST_BYTES]


def _read(path: Path) -> Evidence:
    slots = _slots(path)
    if (said := slots[_newest(slots)]) is None:
        raise StoreError(f"{path} is damaged: neither of its slots is whole; treat it as lost, and move it away")
    return said


def _slots(path: Path) -> tuple[Evidence | None, Evidence | None]:
    content = path.read_bytes()
    first, second = (_decode(content[at:][: _FIELDS.size + _DIGEST_BYTES]) for at in (0, _SLOT_BYTES))
    return first, second


def _newest(slots: tuple[Evidence | None, Evidence | None]) -> int:
    """Which slot was written last: the other one is written next."""
    first, second = ((-1, -1) if slot is None else (slot.transactions, slot.series) for slot in slots)
    return int(second > first)


def _decode(slot: bytes) -> Evidence | None:
    fields, digest = slot[: _FIELDS.size], slot[_FIELDS.size :]
    if len(fields) != _FIELDS.size or sha256(fields).digest()[:_DIGEST_BYTES] != digest:
        return None
    magic, identity, transactions, series = _FIELDS.unpack(fields)
    return Evidence(identity, transactions, series) if magic == _MAGIC else None
