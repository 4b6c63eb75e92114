"""The stores of a province from outside: filled before its parties start, looked at while they run, read at the end.

Looking at a running party's store takes no lock that the party could wait for.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # asyncpg ships no types
import msgspec
from tests.faults.facts import overtaken
from tests.faults.history import Snapshot, gather
from tests.live.postgres_pair import PostgresPair
from tests.postgresql import PostgresServer

from qsotn import wire
from qsotn.adapters.storage.postgres import PostgresStore, schema_of
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app.plan import Plan
from qsotn.app.record import party_place
from qsotn.domain import PartyId, Secret
from qsotn.keynetwork.pool import UNIT_BYTES
from qsotn.parties.km import BlockState, Km
from qsotn.parties.pomp import Device, DeviceState
from qsotn.ports import Store
from qsotn.procedures.turn import Work, read_row
from qsotn.runtime import Node
from qsotn.service.host import STORE_FILE, now_us
from qsotn.service.installation import install, open_installed, open_vault

DATABASE: Final = "live"
UNITS_A_BLOCK: Final = 2048
Rows = list[tuple[Any, ...]]
RUNNING: Final = "SELECT content FROM {schema}procedures WHERE running"
WAITING: Final = "SELECT next_hop, datagram FROM {schema}outbox WHERE NOT delivered AND expires_at > {now}"
DEVICES: Final = "SELECT value FROM {schema}records WHERE collection = 'devices'"


@dataclass(frozen=True)
class Stores:
    """What the platform's parties keep their records in: a file each, or a schema each of one real server."""

    server: PostgresServer | PostgresPair | None = None

    @property
    def url(self) -> str:
        """What stands in the province file."""
        return "sqlite" if self.server is None else self.server.dsn(DATABASE)

    @property
    def folders(self) -> list[Path]:
        """Where servers keep their data, if there are any."""
        match self.server:
            case PostgresServer():
                return [self.server.folder / "data"]
            case PostgresPair():
                return self.server.folders
        return []

    def opened(self, folder: Path, party: PartyId) -> Store:
        """Open a party's store; its folder has the file, if it has one. A device always has."""
        if self.in_file(party):
            return SqliteStore(folder / STORE_FILE)
        return PostgresStore(self.url, party)

    def in_file(self, party: PartyId) -> bool:
        """Whether a party's store is a file in its folder; a device's always is."""
        return self.server is None or party.startswith("cpe/")

    def look(self, asked: Sequence[tuple[Path, PartyId, str]]) -> list[Rows]:
        """Read what is committed, without a lock: for each query, with `{schema}` before a table's name, its rows."""
        tables = [
            sql.format(schema="" if self.in_file(party) else f'"{schema_of(party)}".', now=now_us())
            for _, party, sql in asked
        ]
        here = [self.in_file(party) for _, party, _ in asked]
        there = iter(self._look_there([sql for sql, file in zip(tables, here, strict=True) if not file]))
        return [
            _query_file(folder / STORE_FILE, sql) if file else next(there)
            for (folder, _, _), sql, file in zip(asked, tables, here, strict=True)
        ]

    def _look_there(self, queries: list[str]) -> list[Rows]:
        return asyncio.run(_query_server(self.url, queries)) if queries else []


@contextmanager
def postgresql_stores() -> Iterator[Stores]:
    """A server with an empty database."""
    with PostgresServer() as server:
        server.database(DATABASE)
        yield Stores(server)


async def _query_server(dsn: str, queries: list[str]) -> list[Rows]:
    connection = await asyncpg.connect(dsn)
    try:
        return [[tuple(row) for row in await connection.fetch(sql)] for sql in queries]
    finally:
        await connection.close()


def _query_file(path: Path, sql: str) -> Rows:
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
        return list(connection.execute(sql))


# --- keys in stock ----------------------------------------------------------------------------------------------------


def stock(state: Path, plan: Plan, stores: Stores, keys_an_end: int) -> None:
    """Put random keys of 256 bits at both ends of each link, as if they had been distilled and agreed on."""
    nodes = {km: _node(state, km) for km in plan.kms}
    for link, ends in plan.links.items():
        for number in range(1, 2 + 2 * keys_an_end // UNITS_A_BLOCK):
            block = os.urandom(UNITS_A_BLOCK * UNIT_BYTES)
            for km in ends:
                nodes[km][0].begin(partial(_deposit, link=link, number=number, block=block))
    for _, store in nodes.values():
        store.close()
    if stores.server is not None:
        for km in plan.kms:
            _move(state / party_place(km) / STORE_FILE, stores, km)


def _node(state: Path, party: PartyId) -> tuple[Node, SqliteStore]:
    folder = state / party_place(party)
    store = SqliteStore(folder / STORE_FILE, synchronous="OFF")  # the test has not begun, and nothing is lost
    install(folder, store, os.urandom)
    vault = open_vault(folder, party, os.urandom)
    identity, anchors = open_installed(store, vault, party)
    return Node(identity, anchors, store, vault, os.urandom, now_us), store


def _deposit(km: Km, _: Work, *, link: str, number: int, block: bytes) -> None:
    km.deposit(link, number, Secret(block), {"source": "random, for a test"})
    km.set_state(km.block(link, number), BlockState.AVAILABLE)


def _move(file: Path, stores: Stores, party: PartyId) -> None:
    """Move a party's records from a file into its schema: one statement a record would take a minute."""
    PostgresStore(stores.url, party).close()  # makes the schema
    records = _query_file(file, "SELECT collection, key, value FROM records")
    asyncio.run(_copy(stores.url, schema_of(party), records))
    file.unlink()


async def _copy(dsn: str, schema: str, records: Rows) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.copy_records_to_table("records", schema_name=schema, records=records)
    finally:
        await connection.close()


# --- at rest ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One party's store, wherever it is."""

    party: PartyId
    folder: Path
    stores: Stores

    def gather(self) -> Snapshot:
        """Read it whole."""
        store = self.stores.opened(self.folder, self.party)
        try:
            return gather(store, self.party)
        finally:
            store.close()

    def unrest(self, rows: Rows, waiting: Rows, revoked: set[PartyId]) -> Iterator[str]:
        """Say what is not at an end here: rows that run, datagrams that wait.

        Two things never end and are no fault: a rekey that was overtaken, and what still goes to or comes from a
        revoked device, which nobody carries any more.
        """
        for row in (read_row(content) for (content,) in rows):
            if not overtaken(row):
                yield f"{self.party}: {row.ladder} {row.procedure} of {row.subject} runs in seat {row.seat}"
        for hop, datagram in waiting:
            sent = wire.unpack(datagram)
            if not revoked & {sent.sender, sent.receiver}:
                yield f"{self.party}: a datagram over {sent.interface} from {sent.sender} waits for {hop}"


def unrest(places: Sequence[Place]) -> list[str]:
    """Say what is not at an end anywhere."""
    pomp = next(place for place in places if place.party.startswith("pomp/"))
    asked = [(place.folder, place.party, sql) for place in places for sql in (RUNNING, WAITING)]
    devices, *answers = pomp.stores.look([(pomp.folder, pomp.party, DEVICES), *asked])
    known = [msgspec.json.decode(value, type=Device) for (value,) in devices]
    revoked = {device.cpe for device in known if device.state is DeviceState.REVOKED}
    return [
        wrong
        for place, rows, waiting in zip(places, answers[::2], answers[1::2], strict=True)
        for wrong in place.unrest(rows, waiting, revoked)
    ]


def come_to_rest(places: Sequence[Place], patience_s: float) -> None:
    """Wait until nothing runs and nothing waits, twice in a row. Raises `AssertionError` with what is left."""
    end, calm = time.monotonic() + patience_s, 0
    while calm < 2:
        left = unrest(places)
        calm = 0 if left else calm + 1
        if left and time.monotonic() > end:
            listed = "\n".join(left[:40])
            raise AssertionError(f"{len(left)} things have not ended within {patience_s:g} s:\n{listed}")
        time.sleep(0.3)
