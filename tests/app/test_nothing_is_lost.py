"""Bad input and damaged state: one clear error, and whatever stood before still stands."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import msgspec
import pytest
from tests.world import World

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app import demo
from qsotn.app.province import CPE_A, open_node, party_folder
from qsotn.app.state import STATE_VERSION, RunState, StateFolder
from qsotn.errors import StoreError, UsageError


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """A folder with an unfinished run that has received three of its four bytes."""
    file = tmp_path / "file"
    file.write_bytes(b"four")
    begun = StateFolder(tmp_path / "state")
    with begun.locked():
        begun.save(RunState(STATE_VERSION, str(file), 4, generated=False, provisioned=True, confirmed_bytes=3))
        begun.received.write_bytes(b"fou")
        begun.parties.mkdir()
    return begun


def test_fresh_with_a_bad_file_discards_nothing(folder: StateFolder) -> None:
    before = folder.load()
    with folder.locked(), pytest.raises(UsageError, match="No such file"):
        demo.plan(folder, folder.path / ".." / "nothing", resume=False, fresh=True, size=1)
    assert folder.load() == before
    assert folder.received.read_bytes() == b"fou"


def test_a_file_inside_the_state_folder_is_refused_and_kept(folder: StateFolder) -> None:
    with folder.locked(), pytest.raises(UsageError, match="lies in the state folder"):
        demo.plan(folder, folder.received, resume=False, fresh=True, size=1)
    assert folder.received.read_bytes() == b"fou"


@pytest.mark.parametrize("name", ["parties", "received", "generated", "report.json"])
def test_names_alone_do_not_make_a_folder_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("precious")
    with pytest.raises(UsageError, match=f"holds '{name}' and no qsotn state"), StateFolder(tmp_path / "mine").locked():
        pytest.fail("a foreign folder was locked")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == [name]


def test_a_pipe_as_file_is_refused_without_waiting_for_a_writer(folder: StateFolder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        demo.plan(folder, tmp_path / "pipe", resume=False, fresh=True, size=1)


@pytest.mark.parametrize(("content", "complaint"), [(None, "cannot be read"), (b"fo", "had 4 bytes .* has 2 now")])
def test_a_file_that_went_away_or_shrank_is_told_at_once(
    folder: StateFolder, tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    (tmp_path / "file").unlink()
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=complaint):
        demo.plan(folder, None, resume=True, fresh=False, size=1)


@pytest.mark.parametrize("confirmed", [-5, 4, 10**9])
def test_a_claim_of_bytes_that_are_not_there_is_refused(folder: StateFolder, confirmed: int) -> None:
    begun = folder.load()
    assert begun is not None
    folder.save(msgspec.structs.replace(begun, confirmed_bytes=confirmed))
    with pytest.raises(UsageError, match="bytes received and holds 3"):
        demo.plan(folder, None, resume=True, fresh=False, size=1)


def test_a_damaged_store_is_a_store_error(ready: World) -> None:
    ready.close()
    path = party_folder(ready.folder, CPE_A) / "store.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)

    def read() -> None:
        store = SqliteStore(path)
        with store.transaction() as transaction:
            list(transaction.scan("key-files"))

    with pytest.raises(StoreError, match="cannot be"):
        read()


def test_a_short_module_key_is_a_store_error(ready: World) -> None:
    (party_folder(ready.folder, CPE_A) / "module.key").write_bytes(b"ten bytes.")
    with pytest.raises(StoreError, match="module key of cpe/jinan-1 cannot be used"):
        open_node(ready.folder, CPE_A, ready.entropy, ready.clock)
