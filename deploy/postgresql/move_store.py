"""Move one party's store from SQLite to PostgreSQL, whole, while the party is stopped.

    python deploy/postgresql/move_store.py province/parties/pomp-shandong postgresql://pomp_shandong@host/pomp_shandong

Everything is copied in one transaction into a database in which the party has no store yet. Then `store.db` is renamed
to `store.db.moved`, so that nobody goes on from it: it is from that moment an older copy. What remains to be done is to
name the URL under [store] in the party's service.toml.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types

from qsotn.adapters.storage import open_store
from qsotn.adapters.storage.postgres import schema_of
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app.files import sync_folder
from qsotn.domain import PartyId
from qsotn.errors import QsotnError, StoreError, UsageError
from qsotn.service.config import SQLITE, load_configuration

TABLES: dict[str, tuple[str, ...]] = {
    "records": ("collection", "key", "value"),
    "procedures": ("procedure", "seat", "ladder", "subject", "running", "deadline", "content"),
    "outbox": (
        "number", "procedure", "next_hop", "datagram", "answers", "expires_at", "due", "attempts", "delivered",
        "collected",
    ),
    "journal": ("number", "procedure", "taken"),
}  # fmt: skip
TRUTH_VALUES = frozenset({"running", "delivered", "collected"})
NUMBERED = ("outbox", "journal")


def move(folder: Path, url: str) -> dict[str, int]:
    """Move the store of the party whose folder this is; return how many rows each table has. Raises `QsotnError`."""
    configuration = load_configuration(folder / "service.toml")
    path = folder / "store.db"
    if configuration.store.url != SQLITE or not path.exists():
        raise UsageError(f"{folder} has no SQLite store to be moved")
    SqliteStore(path).close()  # brings it to this release's schema
    open_store(url, configuration.party).close()
    with _alone(path) as source:
        counts = asyncio.run(_copy(source, url, configuration.party))
    _retire(path)
    return counts


@contextmanager
def _alone(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a store that nobody else has open, and keep it so. Raises `StoreError` if its party runs."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        try:
            # Out of the write-ahead log into the file itself: refused while anybody else has it open.
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path} is in use ({error}); stop the party first") from error
        yield connection
    finally:
        connection.close()


async def _copy(source: sqlite3.Connection, url: str, party: PartyId) -> dict[str, int]:
    schema = schema_of(party)
    target = await asyncpg.connect(url, target_session_attrs="read-write")
    try:
        async with target.transaction():
            counts = {table: await _copy_table(source, target, schema, table) for table in TABLES}
            for table in NUMBERED:
                await _number_on(source, target, schema, table)
        return counts
    finally:
        await target.close()


async def _copy_table(source: sqlite3.Connection, target: Any, schema: str, table: str) -> int:
    if await target.fetchval(f'SELECT count(*) FROM "{schema}".{table}'):  # noqa: S608  (names of our own)
        raise StoreError(f"{table} of {schema} is not empty: this party has a store there already")
    columns = TABLES[table]
    rows = source.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608  (names of our own)
    tag = await target.copy_records_to_table(
        table, schema_name=schema, columns=columns, records=_converted(columns, rows)
    )
    return int(tag.removeprefix("COPY "))


def _converted(columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        yield tuple(bool(value) if name in TRUTH_VALUES else value for name, value in zip(columns, row, strict=True))


async def _number_on(source: sqlite3.Connection, target: Any, schema: str, table: str) -> None:
    """Let numbers go on behind the last that was ever given, also where its row has been pruned."""
    last = source.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    if last is not None and last[0]:
        await target.execute("SELECT setval($1::text::regclass, $2)", f'"{schema}".{table}_number_seq', last[0])


def _retire(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.moved"))
    sync_folder(path.parent)


def main() -> int:
    """Move one store."""
    if len(sys.argv) != 3:
        sys.stderr.write("usage: python move_store.py PARTY_FOLDER postgresql://USER@HOST/DATABASE\n")
        return 2
    folder = Path(sys.argv[1])
    try:
        counts = move(folder, sys.argv[2])
    except (QsotnError, OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"move_store.py: {error}\n")
        return 1
    sys.stdout.write(f"moved {', '.join(f'{count} {table}' for table, count in counts.items())}\n")
    sys.stdout.write(f'next: in {folder}/service.toml, [store] url = "{_shown(sys.argv[2])}"\n')
    return 0


def _shown(url: str) -> str:
    return url if ":" not in url.partition("://")[2].partition("@")[0] else "the URL you gave"


if __name__ == "__main__":
    sys.exit(main())
