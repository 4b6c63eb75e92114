"""A power cut under a key store: what it answered is on the disk. Without waiting for the disk, it is not.

Needs root and loop devices (`tests.live.disk`).
"""

from __future__ import annotations

import logging
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.adapters.keystore.history import number_of
from tests.live.disk import Disk, can_mount
from tests.live.key_store_child import open_child
from tests.live.key_store_load import Child, KeyLoad

from qsotn.adapters.keystore.statements import NUMBER_BITS, State
from qsotn.domain import PartyId
from qsotn.keynetwork.delivery import Collect, PoolCount

pytestmark = pytest.mark.skipif(not can_mount(), reason="only root can mount a loop device, where there are some")
PARTY = PartyId("km/jinan")
BATCHES = 60
_log = logging.getLogger(__name__)


def work_until_the_cut(disk: Disk, synchronous: str, seed: int) -> KeyLoad:
    """Load a store on the disk, cut its power, and go on with what the disk held."""
    place = (f"sqlite:///{disk.path}/keys.db", PARTY, str(disk.path / "epochs"), "1")
    store = open_child(*place)
    load = KeyLoad(store.begin_pool(PARTY, PARTY), random.Random(seed))
    store.close()
    disk.sync()
    child = Child(*place, synchronous)
    try:
        for _ in range(BATCHES):
            operations = load.batch()
            load.history.offered(operations)
            load.heard(operations, child.ask(operations))
        child.stop()
        disk.cut()
    finally:
        child.kill()
    disk.restart()
    return load


def lost(disk: Disk, load: KeyLoad) -> list[str]:
    """Say which answers the database does not know of, read as it lies there."""
    with closing(sqlite3.connect(disk.path / "keys.db")) as connection:
        rows = connection.execute("SELECT place, state, until FROM key_units").fetchall()
        batches = connection.execute("SELECT first, last FROM key_batches").fetchall()
    below = (1 << NUMBER_BITS) - 1
    ready = {place & below for place, state, _ in rows if state == State.READY}
    open_ = {place & below for place, _, until in rows if until is None}
    known = {number for first, last in batches for number in range(first & below, (last & below) + 1)}
    reserved = [number_of(key.key_id) for _, keys in load.history.reserved for key in keys]
    alone = [asked for asked, _ in load.history.reserved if len(asked.slaves) == 1]
    single = {number_of(key.key_id) for asked, keys in load.history.reserved if asked in alone for key in keys}
    collected = [number_of(key.key_id) for _, keys in load.history.collected for key in keys]
    return [
        *(f"unit {number} was deposited" for number in load.history.deposited - known),
        *(f"unit {number} was reserved" for number in reserved if number in ready),
        *(f"unit {number} was collected" for number in collected if number in open_ & single),
    ]


def reopened(disk: Disk, load: KeyLoad) -> tuple[bool, PoolCount, list[str]]:
    """Open the store after the cut: was it an older copy, how does it stand, and what is refused to a slave?"""
    store = open_child(f"sqlite:///{disk.path}/keys.db", PARTY, str(disk.path / "epochs"), "1")
    try:
        applied = store.apply(asked := load.at_last())
        refused = [f"{asked[index]}: {error}" for index, error in applied.refused.items()]
        assert any(isinstance(one, Collect) for one in asked)
        return store.restored, store.count(load.pool), refused
    finally:
        store.close()


def test_what_was_answered_survives_a_power_cut(folder: Path, live_seed: int) -> None:
    with Disk(folder) as disk:
        load = work_until_the_cut(disk, "FULL", live_seed)
        assert lost(disk, load) == []
        restored, count, refused = reopened(disk, load)
    _log.info("%d collected before the cut, %s after it", len(load.history.collected), count)
    assert not restored
    assert refused == []
    assert load.history.violations(count) == []
    assert len(load.history.collected) > BATCHES


def test_without_waiting_for_the_disk_it_does_not_but_nothing_is_given_twice(folder: Path, live_seed: int) -> None:
    """The witness waits for the disk all the same: it knows of more than the database, whose keys are destroyed."""
    with Disk(folder) as disk:
        load = work_until_the_cut(disk, "NORMAL", live_seed)
        gone = lost(disk, load)
        restored, count, _ = reopened(disk, load)
    assert any("was deposited" in one or "was reserved" in one for one in gone), gone
    assert restored
    assert (count.ready, count.waiting) == (0, 0)
