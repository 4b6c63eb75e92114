"""A run whose process dies between any two writes is finished by resuming it, with every key used once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.app.killed_demo import Silent, clock_since
from tests.invariants import check_no_key_twice
from tests.world import Chance, Clock, World, deposit

from qsotn.app import demo, links
from qsotn.app.demo import KEY_BITS_PER_END
from qsotn.app.province import LINKS, open_province
from qsotn.app.report_form import Report
from qsotn.app.state import STATE_VERSION, RunState, StateFolder
from qsotn.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(open_world: Callable[..., World], tmp_path: Path) -> StateFolder:
    """A run that has begun: the province stands and its links hold enough keys, put there without photons."""
    world = open_world("provisioned")
    for number in (2, 3):
        for link in LINKS:
            deposit(world, link, number)
    world.settle()
    links.install_links(world.province, world.entropy)
    with world.desk(min(LINKS["jinan-weifang"])) as km:
        assert km.available_bits("jinan-weifang") >= KEY_BITS_PER_END
    world.close()
    state = StateFolder(tmp_path / "state")
    state.path.mkdir()
    world.folder.rename(state.parties)
    return state


def _begin(folder: StateFolder, content: bytes) -> RunState:
    file = folder.path.parent / "file"
    file.write_bytes(content)
    begun = RunState(STATE_VERSION, str(file), len(content), generated=False, provisioned=True)
    folder.save(begun)
    return begun


def _run(folder: StateFolder, begun: RunState, clock: Callable[[], int] | None = None) -> Report:
    now = clock or clock_since(time.time_ns() // 1000)
    with folder.locked():
        return demo.run(folder, begun, Silent(), demo.Environment(os.urandom, now))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_run_that_is_killed_again_and_again_is_finished_by_resuming_it(folder: StateFolder, seed: int) -> None:
    content, epoch = Chance("killed")(400_000), time.time_ns() // 1000
    _begin(folder, content)
    words = [sys.executable, "-m", "tests.app.killed_demo", str(folder.path), str(seed), "12", str(epoch)]
    killed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert int(killed.stdout) >= 8
    begun = folder.load()
    assert begun is not None
    report = _run(folder, begun, clock_since(epoch))
    assert report.intact
    assert folder.received.read_bytes() == content
    assert report.traffic.rekeys >= 2
    assert report.leased_line.deletion.state == "DELETED"
    used = [key.key_id for key in report.keys]
    assert len(used) == len(set(used))
    with open_province(folder.parties, os.urandom, Clock(clock_since(epoch)())) as province:
        check_no_key_twice(province)


def test_a_finished_run_is_shown_again_and_not_run_again(folder: StateFolder) -> None:
    _run(folder, _begin(folder, b"once"))
    assert demo.plan(folder, None, resume=True, fresh=False, size=0) is None
    again = demo.plan(folder, folder.path.parent / "file", resume=False, fresh=False, size=0)
    assert again is not None
    assert not folder.parties.exists()


def test_a_file_that_is_gone_when_the_run_is_resumed_is_named(folder: StateFolder) -> None:
    begun = _begin(folder, b"gone")
    Path(begun.file).unlink()
    with pytest.raises(UsageError, match="file cannot be read: No such file"):
        _run(folder, begun)
