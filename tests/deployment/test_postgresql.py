"""The scripts beside the deployment files that touch a database, against a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deployment.files import DEPLOY
from tests.postgresql import PostgresServer

from qsotn.adapters.storage import open_store
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app.record import ProvinceRecord
from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import StoreError
from qsotn.ports import Store, StoredRow, Taken
from qsotn.service.config import load_configuration

POMP, QSSP = PartyId("pomp/shandong"), PartyId("qssp/jinan")
LATER = 4_000_000_000_000_000
ONE, OTHER = ProcedureId("procedure-1"), ProcedureId("procedure-2")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEPLOY / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- databases.py ---------------------------------------------------------------------------------------------------


def test_each_party_can_use_its_own_database_and_no_other(
    server: PostgresServer, composed: tuple[Path, ProvinceRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, record = composed
    made = run("postgresql/databases.py", state)
    assert made.returncode == 0, made.stderr
    for statement in made.stdout.splitlines():
        server.execute(statement)

    folder = next(state / one.folder for one in record.services if one.party == POMP)
    passfile = folder / "pgpass"
    assert passfile.stat().st_mode & 0o777 == 0o600
    password = passfile.read_text().strip().rpartition(":")[2]
    assert password not in made.stdout
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    own = load_configuration(folder / "service.toml").store.url.replace(":7399/", f":{server.port}/")
    open_store(own, POMP).close()
    with pytest.raises(StoreError, match="permission denied for database"):
        open_store(f"postgresql://pomp_shandong:{password}@127.0.0.1:{server.port}/qssp_jinan", POMP)
    assert server.fetch("SELECT has_database_privilege('pomp_shandong', 'qssp_jinan', 'CONNECT')") == [(False,)]

    again = run("postgresql/databases.py", state)
    assert again.returncode == 1
    assert "is there already" in again.stderr


def test_a_folder_that_is_no_province_is_told_so(tmp_path: Path) -> None:
    shown = run("postgresql/databases.py", tmp_path)
    assert shown.returncode == 1
    assert "holds no province" in shown.stderr


# --- move_store.py --------------------------------------------------------------------------------------------------


def fill(store: Store) -> None:
    """Something of everything that a store holds, with gaps in the numbers."""
    with store.transaction() as transaction:
        transaction.put("accounts", "bank", b'{"name": "bank"}')
        transaction.put("lines", "line-é", b"\x00\xff")
        transaction.put_row(StoredRow(ONE, "pomp", "leased-line", "line-1", True, LATER, b"row one"))
        transaction.put_row(StoredRow(OTHER, "pomp", "leased-line", "line-2", False, 5, b"row two"))
        for number, next_hop in enumerate((QSSP, PartyId("cpe/jinan-1"), QSSP)):
            transaction.post(
                ONE, next_hop, bytes([number]), b"cause", expires_at=10 if number == 2 else LATER, collected=number == 1
            )
        transaction.delivered([1])
        transaction.journal(Taken(ONE, "leased-line", 4, "", "ServiceReport", QSSP, POMP, "Ioa", 1, 2))
    with store.transaction() as transaction:
        assert transaction.prune(11, 10) == 1


def held(store: Store) -> list[object]:
    """All that can be seen of a store."""
    with store.transaction() as transaction:
        collected = transaction.lease(1, 1, 10, PartyId("cpe/jinan-1"))
    with store.transaction() as transaction:
        records = [list(transaction.scan(name)) for name in ("accounts", "lines")]
        seen = [records, transaction.rows(), transaction.rows_about("line-1"), transaction.rows_about("line-2")]
        return [*seen, transaction.taken(ONE), transaction.undelivered(1), collected]


@pytest.fixture
def folder(composed: tuple[Path, ProvinceRecord], tmp_path: Path) -> Path:
    """The folder of a POMP whose store is SQLite, and in use until a moment ago."""
    text = (composed[0] / "parties" / "pomp-shandong" / "service.toml").read_text()
    lines = ['url = "sqlite"' if line.startswith("url = ") else line for line in text.splitlines()]
    (tmp_path / "service.toml").write_text("\n".join(lines))
    return tmp_path


def test_a_store_moves_whole_and_its_numbers_go_on(server: PostgresServer, folder: Path) -> None:
    old = SqliteStore(folder / "store.db")
    fill(old)
    before = held(old)
    old.close()
    url = server.database(f"moved-{dt.datetime.now(dt.UTC).timestamp()}")

    moved = run("postgresql/move_store.py", folder, url)
    assert moved.returncode == 0, moved.stderr
    assert moved.stdout.startswith("moved 2 records, 2 procedures, 2 outbox, 1 journal\n")
    assert not any(part in moved.stdout for part in (url, "qsotn:"))  # the URL holds a password
    assert sorted(path.name for path in folder.iterdir()) == ["service.toml", "store.db.moved"]

    new = open_store(url, POMP)
    try:
        assert held(new) == before
        with new.transaction() as transaction:
            # The third was pruned; its number may stand in somebody's receipt.
            assert transaction.post(ONE, QSSP, b"next", b"cause", expires_at=LATER) == 4
    finally:
        new.close()


def test_a_store_that_is_in_use_is_not_moved(server: PostgresServer, folder: Path) -> None:
    store = SqliteStore(folder / "store.db")
    try:
        refused = run("postgresql/move_store.py", folder, server.database("in-use"))
    finally:
        store.close()
    assert refused.returncode == 1
    assert "stop the party first" in refused.stderr
    assert (folder / "store.db").exists()


def test_a_database_that_has_a_store_is_not_written_over(server: PostgresServer, folder: Path) -> None:
    url = server.database("taken")
    store = open_store(url, POMP)
    fill(store)
    before = held(store)
    SqliteStore(folder / "store.db").close()
    refused = run("postgresql/move_store.py", folder, url)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert (folder / "store.db").exists()
    assert held(store) == before
    store.close()


# --- rehearse.py ----------------------------------------------------------------------------------------------------


def test_a_rehearsal_finds_every_commit_again(server: PostgresServer) -> None:
    shown = run("patroni/rehearse.py", server.database("rehearsal"), "--seconds", 0.5)
    assert shown.returncode == 0, shown.stderr
    assert " 0 of them missing" in shown.stdout
    assert not shown.stdout.startswith("0 commits")


def test_a_rehearsal_notices_a_commit_that_is_gone(server: PostgresServer) -> None:
    """As a standby that lacks it would look, once it is the primary."""
    database = "forgetful"
    url = server.database(database)
    open_store(url, PartyId("pomp/rehearsal")).close()
    server.execute(
        "CREATE FUNCTION pomp_rehearsal.forget() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN CASE WHEN NEW.key LIKE '%-00000000' THEN NULL ELSE NEW END; END $$",
        database,
    )
    server.execute(
        "CREATE TRIGGER forget BEFORE INSERT ON pomp_rehearsal.records"
        " FOR EACH ROW EXECUTE FUNCTION pomp_rehearsal.forget()",
        database,
    )
    shown = run("patroni/rehearse.py", url, "--seconds", 0.5)
    assert shown.returncode == 1, shown.stdout
    assert " 2 of them missing" in shown.stdout  # one of each writer
