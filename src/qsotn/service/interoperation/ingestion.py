"""Blocks that a QKD device leaves as files, one folder at each end of a link: each taken once, by both ends, or never.

A device writes under a name that begins with a dot, and renames the file when it is complete: that is the moment it is
there. A block is taken when the file of that name is in both folders. What is in order is brought to both key managers
(`link_feed`), and the files are then overwritten and removed; what is not goes to the folder `refused`, with the reason
in a file beside it.

Before anything of a block is deposited, a *register* has its fingerprint, durably. A block that is in the register is
never brought again, whoever exports it again under whatever name: after a kill in between, its bits are lost, not used
twice. Of such a block only the reason is kept, for its bits may be in use.

A device that can push instead speaks Kq itself (`service.http.quantum_modules`): `PUT /kq/v1/links/{link}/first-keys`
once, then for each block `POST …/exchanges` and `POST …/blocks`.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
import structlog

from qsotn.domain import Secret
from qsotn.errors import KeyShortage, LineError, MalformedMessage, StoreError
from qsotn.service.interoperation.device_files import LARGEST_FILE, NAME, DeviceBlock, read_block
from qsotn.service.interoperation.link_feed import HalfBrought

REFUSED: Final = "refused"
REASON: Final = ".reason"
TAKEN: Final = "this block was taken before, or was being taken when a process ended; its bits are not used again"
LOOK_S: Final = 1.0
_log = structlog.get_logger("ingestion")

Bring = Callable[[Sequence[Secret], Callable[[], None]], Awaitable[int]]
"""Bring each end its copy; return the exchange (`link_feed.bring`, for one link)."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A line of the register: a block that is about to be brought, or that was, by which exchange."""

    fingerprint: str
    name: str
    bits: int
    exchange: int = 0


class Register:
    """Every block that was ever begun to be brought, in a file that only grows."""

    def __init__(self, path: Path) -> None:
        """Read it, or begin one. A last line that a power cut tore off is cut off. Raises `StoreError`."""
        self._path = path
        self._entries: dict[str, Entry] = {}
        try:
            content = path.read_bytes() if path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            for line in whole.splitlines():
                entry = msgspec.json.decode(line, type=Entry)
                self._entries[entry.fingerprint] = entry
            if whole != content:
                os.truncate(path, len(whole))
        except (OSError, msgspec.DecodeError) as error:
            raise StoreError(f"{path} is no register of blocks: {error}") from error

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._entries

    @property
    def lost_bits(self) -> int:
        """Bits of blocks that were begun to be brought and, as far as is known, reached not both ends."""
        return sum(entry.bits for entry in self._entries.values() if not entry.exchange)

    @property
    def brought_bits(self) -> int:
        """Bits of blocks that reached both ends."""
        return sum(entry.bits for entry in self._entries.values() if entry.exchange)

    def note(self, entry: Entry) -> None:
        """Write an entry durably. Raises `StoreError`."""
        try:
            new = not self._path.exists()
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync_folder(self._path.parent)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
        self._entries[entry.fingerprint] = entry


class Ingestion:
    """The two folders of one link."""

    def __init__(self, folders: tuple[Path, Path], register: Register, bring: Bring) -> None:
        self._folders, self._register, self._bring = folders, register, bring

    async def run(self) -> None:
        """Take whatever comes until it is cancelled. Raises `StoreError`."""
        self.tidy()
        while True:
            try:
                await self.round()
            except (LineError, KeyShortage) as error:
                _log.warning("nothing brought now", reason=str(error))
            await asyncio.sleep(LOOK_S)

    def tidy(self) -> None:
        """Remove what an earlier process left of blocks that it had taken, or was taking. Raises `StoreError`."""
        for folder in self._folders:
            for path in [one for one in _listed(folder) if NAME.fullmatch(one.name) and one.is_file()]:
                try:
                    known = read_block(path.name, _content(path)).fingerprint in self._register
                except MalformedMessage:
                    continue  # judged when its pair is here
                if known:
                    _refuse(path, TAKEN, keep=False)

    async def round(self) -> int:
        """Take every block that is in both folders, by name; return how many were brought.

        Raises `LineError` or `KeyShortage` if a key manager cannot take one now: the files stay. Raises `StoreError`.
        """
        return sum([await self._take(name) for name in self._names()])

    def _names(self) -> list[str]:
        for folder in self._folders:
            for path in _listed(folder):
                if not path.name.startswith(".") and path.name != REFUSED and not NAME.fullmatch(path.name):
                    _refuse(path, "a name has letters, digits, '.', '_' and '-', 100 at most")
        one, other = ({path.name for path in _listed(folder)} for folder in self._folders)
        return sorted(name for name in one & other if name != REFUSED and not name.startswith("."))

    async def _take(self, name: str) -> bool:
        try:
            one, other = (read_block(name, _content(folder / name)) for folder in self._folders)
            _check_same(one, other)
        except MalformedMessage as error:
            self._refuse(name, str(error))
            return False
        if one.fingerprint in self._register:
            self._refuse(name, TAKEN, keep=False)
            return False
        return await self._brought(Entry(one.fingerprint, name, len(one.material) * 8), [one.material, other.material])

    async def _brought(self, entry: Entry, copies: Sequence[Secret]) -> bool:
        try:
            exchange = await self._bring(copies, lambda: self._register.note(entry))
        except HalfBrought as error:
            self._refuse(entry.name, f"its bits are not used: {error}", keep=False)
            return False
        self._register.note(msgspec.structs.replace(entry, exchange=exchange))
        for folder in self._folders:
            _destroy(folder / entry.name)
        _log.info("block ingested", name=entry.name, exchange=exchange, bits=entry.bits)
        return True

    def _refuse(self, name: str, reason: str, *, keep: bool = True) -> None:
        for folder in self._folders:
            _refuse(folder / name, reason, keep=keep)


def _check_same(one: DeviceBlock, other: DeviceBlock) -> None:
    if one.key_ids != other.key_ids:
        raise MalformedMessage("the two ends name different keys, or in another order")
    if one.material != other.material:
        raise MalformedMessage("the two ends have different bits")


def _listed(folder: Path) -> list[Path]:
    """Return what is in a folder. Raises `StoreError`."""
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise StoreError(f"{folder} cannot be read: {error.strerror}") from error


def _content(path: Path) -> bytes:
    """Return a file's content; of a regular file only, so that no name leads elsewhere. Raises `MalformedMessage`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise MalformedMessage(f"it cannot be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise MalformedMessage("it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(LARGEST_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > LARGEST_FILE:
        raise MalformedMessage(f"it has more than {LARGEST_FILE} bytes")
    return content


def _refuse(path: Path, reason: str, *, keep: bool = True) -> None:
    """Put a file aside, or destroy it, and say why in a file beside it. Raises `StoreError`."""
    aside = path.parent / REFUSED
    try:
        aside.mkdir(mode=0o700, exist_ok=True)
        place = next(free for free in _places(aside, _shown(path.name)) if not _is_there(free))
        place.with_name(place.name + REASON).write_text(f"{reason}\n", encoding="utf-8")
        if keep:
            path.rename(place)
    except OSError as error:
        raise StoreError(f"{path} cannot be put aside: {error.strerror}") from error
    if not keep:
        _destroy(path)
    _log.warning("file refused", name=path.name, reason=reason)


def _shown(name: str) -> str:
    """Return a name that can have a file beside it, whatever a device called its own."""
    return name if NAME.fullmatch(name) else f"unnamed-{sha256(os.fsencode(name)).hexdigest()[:16]}"


def _is_there(path: Path) -> bool:
    return os.path.lexists(path) or os.path.lexists(path.with_name(path.name + REASON))


def _places(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    yield from (folder / f"{name}.{number}" for number in count(2))


def _destroy(path: Path) -> None:
    """Overwrite and remove a file, as far as the file system overwrites in place. Raises `StoreError`."""
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
