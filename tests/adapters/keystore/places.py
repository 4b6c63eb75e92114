"""Where a key store can be: one database of each kind with a folder beside it, and older copies of that database."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.postgresql import PostgresServer

from qsotn.adapters.keystore import KeyLedger, Times, open_key_store
from qsotn.adapters.storage.postgres import schema_of
from qsotn.crypto.vault import Vault
from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import QsotnError, Refusal
from qsotn.keynetwork.delivery import Collect, Deposit, Operation, Pool, ReadyKey, Reserve

SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND
TIMES: Final = Times(window=30 * SECOND, held=60 * SECOND, waiting=HOUR, epoch=2 * HOUR, epoch_limit=24 * HOUR)
HERE, THERE = PartyId("km/jinan"), PartyId("km/qingdao")
MASTER, SLAVE, OTHER = "sae/a", "sae/b", "sae/c"


@dataclass
class KeyPlace:
    """One database, new and empty, and its folder. All stores opened here share both."""

    url: str
    party: PartyId
    folder: Path
    server: PostgresServer | None = None
    _opened: list[KeyLedger] = field(default_factory=list)

    def open(self, replica: str = "1", times: Times = TIMES, *, discard: bool = False) -> KeyLedger:
        """Open a store here, until the test ends or `close` is called."""
        vault = Vault(Secret(b"k" * 32), os.urandom)
        store = open_key_store(
            self.url,
            self.party,
            self.folder / "epochs",
            vault,
            os.urandom,
            replica=replica,
            times=times,
            discard=discard,
        )
        self._opened.append(store)
        return store

    def close(self) -> None:
        """Close all that were opened."""
        while self._opened:
            self._opened.pop().close()

    def again(self, times: Times = TIMES) -> KeyLedger:
        """Close all, and open one."""
        self.close()
        return self.open(times=times)

    # --- copies of the database, without the folder -----------------------------------------------------------------

    def back_up(self) -> None:
        """Keep a copy of the database as it is."""
        if self.server is None:
            with closing(sqlite3.connect(self._file)) as source, closing(sqlite3.connect(self._copy)) as copy:
                source.backup(copy)
            return
        self.server.execute(f'CREATE SCHEMA "{self._schema} copy"', "keys")
        for table in self._tables():
            self.server.execute(f'CREATE TABLE "{self._schema} copy".{table} AS TABLE "{self._schema}".{table}', "keys")

    def restore(self) -> None:
        """Put the copy in the database's place; with SQLite, nobody may have it open."""
        if self.server is None:
            for suffix in ("-wal", "-shm"):
                Path(f"{self._file}{suffix}").unlink(missing_ok=True)
            shutil.copy(self._copy, self._file)
            return
        for table in self._tables():
            ours, copy = f'"{self._schema}".{table}', f'"{self._schema} copy".{table}'
            self.server.execute(f"DELETE FROM {ours}", "keys")  # noqa: S608  (our own names)
            self.server.execute(f"INSERT INTO {ours} OVERRIDING SYSTEM VALUE SELECT * FROM {copy}", "keys")  # noqa: S608

    def wipe(self) -> None:
        """Lose the database altogether."""
        if self.server is not None:
            self.server.execute(f'DROP SCHEMA "{self._schema}" CASCADE', "keys")
        else:
            for path in self._file.parent.glob(f"{self._file.name}*"):
                path.unlink()

    def plant(self, wrapped: bytes) -> None:
        """Write something into the database as if it were a wrapped unit."""
        if self.server is not None:
            table, values = f'"{self._schema}".key_units', f"(1, 1, '\\x{wrapped.hex()}')"
            self.server.execute(f"INSERT INTO {table} (place, epoch, wrapped) VALUES {values}", "keys")  # noqa: S608
            self.server.execute("CHECKPOINT", "keys")
            return
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute("INSERT INTO key_units (place, epoch, wrapped) VALUES (1, 1, ?)", [wrapped])

    def damage(self, place: int, other: int) -> None:
        """Put the wrapped bytes of one place into another."""
        if self.server is not None:
            table = f'"{self._schema}".key_units'
            copied = f"(SELECT wrapped FROM {table} WHERE place = {other})"  # noqa: S608  (our own names)
            self.server.execute(f"UPDATE {table} SET wrapped = {copied} WHERE place = {place}", "keys")  # noqa: S608
            return
        with closing(sqlite3.connect(self._file)) as connection, connection:
            copied = "(SELECT wrapped FROM key_units WHERE place = ?)"
            connection.execute(f"UPDATE key_units SET wrapped = {copied} WHERE place = ?", [other, place])  # noqa: S608

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Query it from outside."""
        if self.server is not None:
            return self.server.fetch(sql.replace(" key_", f' "{self._schema}".key_'), "keys")
        with closing(sqlite3.connect(self._file)) as connection:
            return list(connection.execute(sql))

    @property
    def _file(self) -> Path:
        return Path(self.url.removeprefix("sqlite:///"))

    @property
    def _copy(self) -> Path:
        return self._file.with_name("copy.db")

    @property
    def _schema(self) -> str:
        return schema_of(self.party)

    def _tables(self) -> list[str]:
        assert self.server is not None
        found = self.server.fetch(
            f"SELECT table_name::text FROM information_schema.tables WHERE table_schema = '{self._schema}'",  # noqa: S608
            "keys",
        )
        return [str(name) for (name,) in found]


# --- what tests do most -----------------------------------------------------------------------------------------------


def unit(number: int) -> Secret:
    """A unit that shows its number to whoever looks."""
    return Secret(number.to_bytes(8) * 4)


def deposit(store: KeyLedger, pool: Pool, number: int, *, first: int = 0, batch: str | None = None) -> None:
    """Put so many units into a pool."""
    units = tuple(unit(first + at) for at in range(number))
    one(store, Deposit(pool, batch or f"batch-{first}", first, units, b"came by link 1"))


def one(store: KeyLedger, operation: Operation) -> tuple[ReadyKey, ...]:
    """Do one operation; raises what it is refused with."""
    applied = store.apply([operation])
    for error in applied.refused.values():
        raise error
    return applied.done[0]


def refusal(store: KeyLedger, operation: Operation) -> str:
    """The code that one operation is refused with, or the name of another error."""
    try:
        one(store, operation)
    except Refusal as error:
        return error.code
    except QsotnError as error:
        return type(error).__name__
    return "done"


def reserve(
    pool: Pool, number: int = 1, *slaves: str, size: int = 256, held: bool = False, now: int = 0, master: str = MASTER
) -> Reserve:
    """Reserve for one slave, or for those that are named."""
    return Reserve(pool, master, slaves or (SLAVE,), number, size, now, held)


def collect(keys: Sequence[ReadyKey | str], slave: str = SLAVE, now: int = 0, master: str = MASTER) -> Collect:
    """Ask for keys."""
    return Collect(slave, master, ids(keys), now)


def ids(keys: Sequence[ReadyKey | str]) -> tuple[KeyId, ...]:
    return tuple(KeyId(key) if isinstance(key, str) else key.key_id for key in keys)
