"""Epoch keys: what units are wrapped under, kept in files outside the database, and shredded when their time is over.

A database keeps copies of what it deleted: in its log, in free pages, in backups. An epoch key lies in none of them. It
is one file of a folder, itself wrapped by the party's vault; once that file is overwritten and gone, so is every copy
of every unit of its epoch. What a file system or a disk of its own accord keeps of an overwritten block (snapshots,
wear levelling) is beyond reach; there the vault's key-encryption key still stands before it.

A unit's wrapping: nonce (12 bytes, random) ‖ ciphertext ‖ tag (16), AES-256-GCM, with the pool's tag and the unit's
number authenticated: a row that was moved to another place does not open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, Secret
from qsotn.errors import StoreError

NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
_SUFFIX: Final = ".epoch"
_CONTEXT: Final = Struct(">QQ").pack


class EpochUnreadable(StoreError):
    """An epoch key cannot be had here now. Nothing is wrong with what is wrapped under it, which must not be lost."""


class Epochs:
    """The epoch keys of one store, in one folder. Every file operation that fails is a `StoreError`."""

    def __init__(self, folder: Path, vault: Vault, entropy: Entropy, identity: bytes) -> None:
        self._folder = folder
        self._vault = vault
        self._entropy = entropy
        self._identity = identity
        self._ciphers: dict[int, AESGCM] = {}

    # --- files ------------------------------------------------------------------------------------------------------

    def begin(self, epoch: int) -> None:
        """Draw the key of a new epoch; it is on the disk when this returns, so that a unit may be wrapped under it."""
        if self._path(epoch).exists():
            # No row led to it: it is of a transaction that was never committed, or of a database since replaced.
            self.shred(epoch)
        key = self._entropy(KEY_BYTES)
        try:
            write_durably(self._path(epoch), self._vault.wrap(Secret(key), self._context(epoch)))
        except OSError as error:
            raise StoreError(f"epoch {epoch} cannot be begun in {self._folder}: {error}") from error
        self._ciphers[epoch] = AESGCM(key)

    def shred(self, epoch: int) -> None:
        """Overwrite and unlink the file of an epoch, if there is one, and forget its key."""
        self._ciphers.pop(epoch, None)
        try:
            _overwrite(self._path(epoch))
            self._path(epoch).unlink()
            sync_folder(self._folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"epoch {epoch} cannot be shredded in {self._folder}: {error}") from error

    def files(self) -> set[int]:
        """Return the epochs that have a file."""
        found = (path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return {int(name) for name in found if name.isdecimal()}

    def forget_all_but(self, epochs: Iterable[int]) -> None:
        """Drop keys that another replica has shredded from this process, as far as a process can."""
        for epoch in self._ciphers.keys() - set(epochs):
            del self._ciphers[epoch]

    def _path(self, epoch: int) -> Path:
        return self._folder / f"{epoch}{_SUFFIX}"

    def _context(self, epoch: int) -> bytes:
        return b"key-epoch/%s/%d" % (self._identity.hex().encode(), epoch)

    # --- units ------------------------------------------------------------------------------------------------------

    def wrap(self, epoch: int, tag: int, first: int, units: Sequence[bytes]) -> list[bytes]:
        """Wrap successive units of a pool."""
        encrypt = self._cipher(epoch).encrypt
        nonces = self._entropy(NONCE_BYTES * len(units))
        wrapped = []
        for number, unit in enumerate(units):
            nonce = nonces[NONCE_BYTES * number : NONCE_BYTES * (number + 1)]
            wrapped.append(nonce + encrypt(nonce, unit, _CONTEXT(tag, first + number)))
        return wrapped

    def unwrap(self, epoch: int, tag: int, number: int, wrapped: bytes) -> bytes:
        """Inverse of `wrap` for one unit. Raises `StoreError` for one that does not open, `EpochUnreadable`."""
        cipher = self._ciphers.get(epoch) or self._cipher(epoch)
        try:
            return cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _CONTEXT(tag, number))
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"unit {number} of a pool does not open: another epoch, place, or changed bytes"
            ) from error

    def _cipher(self, epoch: int) -> AESGCM:
        known = self._ciphers.get(epoch)
        if known is None:
            known = self._ciphers[epoch] = AESGCM(self._read(epoch).reveal())
        return known

    def _read(self, epoch: int) -> Secret:
        try:
            blob = self._path(epoch).read_bytes()
        except OSError as error:
            raise EpochUnreadable(
                f"the key of epoch {epoch} cannot be read in {self._folder}, which all replicas share: {error}"
            ) from error
        return self._vault.unwrap(blob, self._context(epoch))


def write_durably(path: Path, content: bytes) -> None:
    """Make a file that nobody else may read, whole or not at all; it is on the disk when this returns."""
    unfinished = path.with_name(f".{path.name}.new")
    descriptor = os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    unfinished.rename(path)
    sync_folder(path.parent)


def _overwrite(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have names that were made or removed in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
