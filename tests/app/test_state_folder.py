"""The state folder: whatever is wrong with it is one clear sentence, and nothing of anybody else's is touched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qsotn.app import demo
from qsotn.app.state import STATE_VERSION, RunState, StateFolder
from qsotn.errors import UsageError

NOBODY = 65_534
BEGUN = RunState(STATE_VERSION, "/some/file", 10, generated=False, confirmed_bytes=4)


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    state = StateFolder(tmp_path / "state")
    state.path.mkdir()
    return state


def _contents(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def test_what_was_saved_is_loaded(folder: StateFolder) -> None:
    assert folder.load() is None
    folder.save(BEGUN)
    assert folder.load() == BEGUN


def test_an_interrupted_save_leaves_the_older_state(folder: StateFolder) -> None:
    folder.save(BEGUN)
    (folder.path / "state.json.new").write_bytes(b'{"version"')
    with folder.locked():
        assert folder.load() == BEGUN
    folder.clear()
    assert _contents(folder.path).keys() <= {"lock"}


def test_a_folder_is_used_by_one_at_a_time(folder: StateFolder) -> None:
    with (
        folder.locked(),
        pytest.raises(UsageError, match="state is in use by another qsotn process"),
        StateFolder(folder.path).locked(),
    ):
        pass
    with folder.locked():  # and is free again afterwards
        pass


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"version": 99}', f"is of version 99, this release reads {STATE_VERSION}"),
        (b"", "is not a state of qsotn"),
        (b"not json", "is not a state of qsotn"),
        (b"[]", "is not a state of qsotn"),
        (b"{}", "is not a state of qsotn"),
        (b'{"version": 1, "file": 7}', "is not a state of qsotn"),
    ],
    ids=["another version", "empty", "no JSON", "no object", "no version", "another shape"],
)
def test_a_state_that_cannot_be_read_is_said_to_be_so(folder: StateFolder, content: bytes, told: str) -> None:
    (folder.path / "state.json").write_bytes(content)
    with pytest.raises(UsageError, match=told) as caught:
        folder.load()
    assert "--state DIR" in str(caught.value)
    assert str(folder.path) in str(caught.value)


def test_a_state_that_is_a_folder_is_said_to_be_no_state(folder: StateFolder) -> None:
    (folder.path / "state.json").mkdir()
    with pytest.raises(UsageError, match="is not a state of qsotn"):
        folder.load()


@pytest.mark.parametrize("stranger", ["holiday.jpg", ".bashrc", "state.json.bak"])
def test_a_folder_of_somebody_else_is_refused_and_left_alone(folder: StateFolder, stranger: str) -> None:
    (folder.path / stranger).write_text("mine")
    before = _contents(folder.path)
    for use in (folder.locked().__enter__, folder.load, folder.clear):
        with pytest.raises(UsageError, match=f"holds '{stranger}' and no qsotn state"):
            use()
    with pytest.raises(UsageError, match=stranger):
        demo.plan(folder, None, resume=False, fresh=True, size=1)
    assert _contents(folder.path) == before


def test_a_folder_that_cannot_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used: Not a directory"), StateFolder(tmp_path / "file/x").locked():
        pass


def test_clearing_forgets_the_run_and_keeps_the_lock(folder: StateFolder) -> None:
    with folder.locked():
        folder.save(BEGUN)
        folder.save_report(b"{}")
        folder.received.write_bytes(b"x")
        (folder.parties / "cpe-1").mkdir(parents=True)
        folder.clear()
        assert _contents(folder.path).keys() == {"lock"}
        assert not folder.parties.exists()


# --- what this call is to do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [True, False])
def test_a_first_run_is_planned(folder: StateFolder, tmp_path: Path, resume: bool) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    planned = demo.plan(folder, file, resume=resume, fresh=False, size=7)
    assert planned == RunState(STATE_VERSION, str(file), 5, generated=False)
    assert demo.plan(folder, None, resume=resume, fresh=False, size=7) == RunState(
        STATE_VERSION, str(folder.generated), 7, generated=True
    )


def test_an_unfinished_run_is_not_lost_by_not_mentioning_it(folder: StateFolder, tmp_path: Path) -> None:
    file = tmp_path / "carried"
    file.write_bytes(b"four")
    begun = RunState(STATE_VERSION, str(file), 4, generated=False)
    folder.save(begun)
    with pytest.raises(UsageError, match=r"holds an unfinished run of .*carried: finish it with --resume"):
        demo.plan(folder, None, resume=False, fresh=False, size=1)
    assert folder.load() == begun
    assert demo.plan(folder, None, resume=True, fresh=False, size=1) == begun
    assert demo.plan(folder, None, resume=False, fresh=True, size=1) is not None
    assert folder.load() is None


def test_an_unfinished_run_carries_the_file_it_was_begun_with(folder: StateFolder, tmp_path: Path) -> None:
    folder.save(BEGUN)
    with pytest.raises(UsageError, match=r"carries /some/file, not .*other"):
        demo.plan(folder, tmp_path / "other", resume=True, fresh=False, size=1)


def test_a_file_that_is_missing_or_no_file_is_named_before_anything_is_cleared(
    folder: StateFolder, tmp_path: Path
) -> None:
    folder.save(BEGUN)
    folder.save_report(b"{}")
    before = _contents(folder.path)
    for file, told in (
        (tmp_path / "missing", "missing cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (Path("/dev/null"), "is not a regular file"),
    ):
        with pytest.raises(UsageError, match=told):
            demo.plan(folder, file, resume=False, fresh=False, size=1)
    assert _contents(folder.path) == before


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root reads every file; for this test it gives that up for a while."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(was)


def test_a_file_that_may_not_be_read_is_named(not_root: None) -> None:
    with tempfile.TemporaryDirectory() as own:
        folder, file = StateFolder(Path(own) / "state"), Path(own) / "file"
        folder.path.mkdir()
        file.write_bytes(b"secret")
        file.chmod(0)
        with pytest.raises(UsageError, match="file cannot be read: Permission denied"):
            demo.plan(folder, file, resume=False, fresh=False, size=1)
