"""The store of what crosses the border: one SQLite file beside the key store, with one thread of its own.

Keys of other operators have IDs that other operators chose, so they fit into no pool of ready keys
(`keynetwork.delivery`); they lie here until their SAE has them, wrapped under this key manager's own
key-encryption key and bound to their place. What stays of a key for good is its ID, and a keyed digest by which a
repetition is told from another key under the same ID: without the digest's key, which is wrapped too, no key can be
tried against it.

As in the key store: WAL and synchronous=FULL, so that what was acknowledged survives a power cut; `secure_delete`. One
process has it: masters wait in the memory of one gateway for what its courier hears.
"""

from __future__ import annotations

import asyncio
import hmac
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self, TypeVar

from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, Secret
from qsotn.errors import StoreError

T = TypeVar("T")

_VERSION: Final = 1
_DIGEST_KEY_BYTES: Final = 32
_DIGEST_KEY: Final = "border/digest-key"
_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE received (
    operator TEXT NOT NULL, key_id TEXT NOT NULL, initiator TEXT NOT NULL, targets TEXT NOT NULL,
    digest BLOB NOT NULL, wrapped BLOB, expires_at INTEGER NOT NULL, PRIMARY KEY (operator, key_id)) WITHOUT ROWID;
CREATE TABLE received_for (
    operator TEXT NOT NULL, key_id TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL,
    request TEXT NOT NULL, PRIMARY KEY (operator, key_id, target)) WITHOUT ROWID;
CREATE TABLE sent (
    key_id TEXT NOT NULL, target TEXT NOT NULL, operator TEXT NOT NULL, initiator TEXT NOT NULL, wrapped BLOB,
    state TEXT NOT NULL, due INTEGER NOT NULL, attempts INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, target)) WITHOUT ROWID;
CREATE INDEX sent_open ON sent (due) WHERE state IN ('sending', 'voiding');
CREATE TABLE acks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, operator TEXT NOT NULL, path TEXT NOT NULL, content BLOB NOT NULL,
    due INTEGER NOT NULL, attempts INTEGER NOT NULL, expires_at INTEGER NOT NULL);
CREATE INDEX acks_due ON acks (due);
CREATE INDEX received_expiry ON received (expires_at) WHERE wrapped IS NOT NULL;
"""


class BorderStore:
    """The open file. It belongs to one thread; `InThread` gives it one."""

    def __init__(self, path: Path, vault: Vault, entropy: Entropy) -> None:
        """Open or create it. Raises `StoreError` for a file that is none of ours, or of another key-encryption key."""
        self._vault = vault
        self._connection = _connected(path)
        try:
            _install(self._connection, path)
            self._digest_key = self._opened_digest_key(entropy)
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do several things or none; leaving it is the receipt that they are durable. Raises `StoreError`."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise StoreError(f"the border store does not work: {error}") from error
        except BaseException:
            self._undo()
            raise

    def _undo(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def wrap(self, secret: Secret, place: str) -> bytes:
        """Return a secret as it is stored at a place."""
        return self._vault.wrap(secret, place.encode())

    def unwrap(self, wrapped: bytes, place: str) -> Secret:
        """Inverse of `wrap`. Raises `StoreError`."""
        return self._vault.unwrap(wrapped, place.encode())

    def digest(self, key_id: str, value: bytes) -> bytes:
        """Return what tells one value of a key from another, and nothing else to nobody else (HMAC-SHA-256)."""
        return hmac.digest(self._digest_key.reveal(), key_id.encode() + b"\0" + value, "sha256")

    def _opened_digest_key(self, entropy: Entropy) -> Secret:
        with self.transaction() as at:
            found = at.execute("SELECT value FROM meta WHERE name = ?", (_DIGEST_KEY,)).fetchone()
            if found is not None:
                return self.unwrap(found[0], _DIGEST_KEY)
            key = Secret(entropy(_DIGEST_KEY_BYTES))
            at.execute("INSERT INTO meta VALUES (?, ?)", (_DIGEST_KEY, self.wrap(key, _DIGEST_KEY)))
            return key

    def close(self) -> None:
        """Close it."""
        self._connection.close()


class InThread:
    """A border store in a thread of its own, for an event loop."""

    def __init__(self, open_store: Callable[[], BorderStore]) -> None:
        self._open = open_store
        self._thread = ThreadPoolExecutor(1, "border")

    async def __aenter__(self) -> Self:
        """Open the store. Raises what opening it raises."""
        self._store = await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what waits, and close."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown()

    async def call(self, function: Callable[[BorderStore], T]) -> T:
        """Run a function on the store; what it raises is raised here.

        A caller that is cancelled does not undo it: what became of it is in the store.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, self._store)


def _connected(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=1, check_same_thread=False)
        for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {setting}")
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error
    return connection


def _install(connection: sqlite3.Connection, path: Path) -> None:
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise StoreError(f"{path} has schema version {version}; this release reads version {_VERSION}")
    except sqlite3.Error as error:
        raise StoreError(f"{path} is no border store: {error}") from error
