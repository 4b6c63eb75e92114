"""A key manager of somebody else as a source of bits for one of our links, through ETSI GS QKD 014 at both ends.

At one end we are the master SAE and draw new keys, at the other the slave SAE and collect the same ones by their IDs.
What both ends were given, and is the same at both, becomes one block.

Keys are used at both ends or at neither. Before keys are asked for, and again when their IDs are known, an *account*
says so on disk; what was drawn by it and never handed over is counted as lost and is not asked for again, whatever
ended the process. The account holds counts and key IDs, no key.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from qsotn.domain import KeyId, Secret
from qsotn.errors import BadProof, KeyShortage, LineError, PeerError, Refusal, StoreError
from qsotn.keynetwork.delivery import ReadyKey

ATTEMPTS: Final = 3
"""How often the slave's end is asked: what it gave and we did not get may be had again for a moment."""
PAUSE_S: Final = 1.0
SETTLE_S: Final = 0.2
"""How long the two ends are left to compare a block, before it is asked whether more is wanted."""
REMEMBERED: Final = 100_000
"""IDs of earlier keys, by which a key manager is noticed that gives a key twice."""
_log = structlog.get_logger("foreign")


class Drawing(Protocol):
    """The master's end, as `etsi014.Etsi014Client` is one."""

    async def enc_keys(self, slave: str, number: int, size: int) -> Sequence[ReadyKey]:
        """Return new keys. Raises `Refusal`, `PeerError`, `LineError`."""


class Collecting(Protocol):
    """The slave's end."""

    async def dec_keys(self, master: str, key_ids: Sequence[KeyId], size: int) -> Sequence[ReadyKey]:
        """Return the keys with these IDs, in their order. Raises `Refusal`, `PeerError`, `LineError`."""


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys since the account was begun. `underway` are drawn, or may be, and not handed over; `key_ids` if known."""

    drawn: int = 0
    handed_over: int = 0
    lost: int = 0
    underway: int = 0
    key_ids: tuple[str, ...] = ()


class Account:
    """What became of all keys of one source, in one file that is replaced as a whole, each time durably."""

    def __init__(self, path: Path) -> None:
        """Read it, or begin one; what an earlier process left under way is lost. Raises `StoreError`."""
        self._path = path
        self.totals = _read(path)
        if self.totals.underway:
            _log.warning("keys of an earlier process are lost", keys=self.totals.underway)
            self.lose()

    def begin(self, number: int) -> None:
        """So many keys are about to be asked for."""
        self._write(msgspec.structs.replace(self.totals, drawn=self.totals.drawn + number, underway=number))

    def name(self, key_ids: Sequence[KeyId]) -> None:
        """These are the keys that were drawn."""
        self._write(msgspec.structs.replace(self.totals, key_ids=tuple(key_ids)))

    def hand_over(self) -> None:
        """Both ends have what was under way."""
        done = self.totals.handed_over + self.totals.underway
        self._write(msgspec.structs.replace(self.totals, handed_over=done, underway=0, key_ids=()))

    def lose(self) -> None:
        """What was under way is used at no end."""
        lost = self.totals.lost + self.totals.underway
        self._write(msgspec.structs.replace(self.totals, lost=lost, underway=0, key_ids=()))

    def _write(self, totals: Totals) -> None:
        written = self._path.with_name(f".{self._path.name}.part")
        try:
            with written.open("wb") as file:
                file.write(msgspec.json.encode(totals))
                file.flush()
                os.fsync(file.fileno())
            written.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
        self.totals = totals


@dataclass(frozen=True, slots=True)
class Drawn:
    """The same keys as each end was given them, put together in the order of their IDs."""

    key_ids: tuple[KeyId, ...]
    at_master: Secret
    at_slave: Secret


class ForeignSource:
    """One link's keys from two key managers of somebody else."""

    def __init__(
        self, master: tuple[str, Drawing], slave: tuple[str, Collecting], account: Account, size: int = 256
    ) -> None:
        """`master` and `slave` are the SAE IDs we have at each end, and the client there; `size` is in bits."""
        self._master, self._drawing = master
        self._slave, self._collecting = slave
        self._account, self._size = account, size
        self._seen: OrderedDict[KeyId, None] = OrderedDict()

    async def run(self, wanted: Callable[[], Awaitable[int]], take: Callable[[Drawn], Awaitable[object]]) -> None:
        """Draw as many keys as are wanted, and hand them over, until it is cancelled.

        `wanted` returns how many; `take` brings each end its own. Whatever fails is logged, and tried anew with other
        keys. Raises `StoreError` if the account cannot be kept.
        """
        while True:
            try:
                if number := await wanted():
                    await self.once(number, take)
                    await asyncio.sleep(SETTLE_S)
                    continue
            except (LineError, PeerError, Refusal, KeyShortage) as error:
                _log.warning("nothing drawn", source=self._master, reason=str(error))
            await asyncio.sleep(PAUSE_S)

    async def once(self, number: int, take: Callable[[Drawn], Awaitable[object]]) -> None:
        """Draw so many keys once, and hand them over; if anything fails, they are lost.

        Raises `Refusal`, `PeerError` (`BadProof` for ends that were given different keys), `LineError`, `StoreError`.
        """
        self._account.begin(number)
        try:
            await take(await self._draw(number))
        except BaseException:
            self._account.lose()
            raise
        self._account.hand_over()

    async def _draw(self, number: int) -> Drawn:
        drawn = await self._drawing.enc_keys(self._slave, number, self._size)
        key_ids = tuple(key.key_id for key in drawn)
        self._account.name(key_ids)
        self._check_new(key_ids)
        collected = await self._collect(key_ids)
        if [key.key_id for key in collected] != list(key_ids) or not _same(drawn, collected):
            raise BadProof(f"the key managers of {self._master} and {self._slave} gave different keys under one ID")
        return Drawn(key_ids, _joined(drawn), _joined(collected))

    def _check_new(self, key_ids: Sequence[KeyId]) -> None:
        again = [key_id for key_id in key_ids if key_id in self._seen]
        if again:
            raise BadProof(f"the key manager of {self._master} gave key {again[0]} a second time")
        self._seen.update(dict.fromkeys(key_ids))
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    async def _collect(self, key_ids: Sequence[KeyId]) -> Sequence[ReadyKey]:
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._collecting.dec_keys(self._master, key_ids, self._size)
            except LineError:
                if not left:
                    raise
                await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")


def _same(one: Sequence[ReadyKey], other: Sequence[ReadyKey]) -> bool:
    """Compare in constant time; `Secret` does."""
    return _joined(one) == _joined(other)


def _joined(keys: Sequence[ReadyKey]) -> Secret:
    return Secret(b"".join(key.key.reveal() for key in keys))


def _read(path: Path) -> Totals:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Totals)
    except FileNotFoundError:
        return Totals()
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path} is no account of a key source: {error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
