"""kill -9 of a key store at any moment, under load: no key twice, none to two, none lost, none in the clear.

A few seconds for each store in the suite; longer with QSOTN_LIVE_SECONDS and QSOTN_LIVE_SEED, as for the other loops.
With PostgreSQL, two replicas share the database, and the server itself is killed as well.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.adapters.keystore.scan import clear_in
from tests.live.key_store_child import open_child
from tests.live.key_store_load import Child, KeyLoad
from tests.postgresql import PostgresServer

from qsotn.domain import PartyId
from qsotn.keynetwork.delivery import Pool

PARTY = PartyId("km/jinan")
DEFAULT_SECONDS = 5.0
KILLED = 0.15
"""Of all batches."""
LATEST_KILL_S = 0.02
LONGEST = 6
"""Times as long as was asked."""
SERVER_KILLED = 0.02
_log = logging.getLogger(__name__)


@dataclass
class Run:
    """One store, its processes, and the load on them."""

    url: str
    folder: Path
    replicas: int
    server: PostgresServer | None
    chance: random.Random
    kills: int = 0
    children: list[Child] = field(init=False)
    load: KeyLoad = field(init=False)

    def __post_init__(self) -> None:
        store = open_child(self.url, PARTY, str(self.folder), "1")
        self.load = KeyLoad(store.begin_pool(PARTY, PARTY), self.chance)
        store.close()
        self.children = [Child(self.url, PARTY, str(self.folder), str(at + 1)) for at in range(self.replicas)]

    def go_on(self, seconds: float) -> None:
        """Go on for so long, and longer on a busy machine, until as many were killed."""
        begun = time.monotonic()
        while (gone := time.monotonic() - begun) < seconds or (self.kills <= seconds and gone < LONGEST * seconds):
            self.step(self.chance.uniform(0, LATEST_KILL_S) if self.chance.random() < KILLED else None)
            if self.server is not None and self.chance.random() < SERVER_KILLED:
                self.server.kill()
                self.server.start()

    def step(self, kill_after_s: float | None) -> None:
        operations = self.load.batch()
        self.load.history.offered(operations)
        self.kills += kill_after_s is not None
        self.load.heard(operations, self.chance.choice(self.children).ask(operations, kill_after_s))

    def end(self) -> list[str]:
        """Ask for the rest, and say what is wrong."""
        while operations := self.load.at_last():
            self.load.history.offered(operations)
            self.load.heard(operations, self.children[0].ask(operations))
        for child in self.children:
            child.kill()
        store = open_child(self.url, PARTY, str(self.folder), "1")
        assert not store.restored
        count = store.count(self.load.pool)
        store.close()
        _log.info("%d batches, %d kills, %s", self.load.batches, self.kills, count)
        return [*self.load.lost, *self.load.history.violations(count)]


@pytest.fixture(params=["sqlite", "postgresql"])
def run(request: pytest.FixtureRequest, folder: Path, live_seed: int) -> Iterator[Run]:
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer()) if request.param == "postgresql" else None
        url = f"sqlite:///{folder}/keys.db" if server is None else server.database("keys")
        made = Run(url, folder, 1 if server is None else 2, server, random.Random(live_seed))
        try:
            yield made
        finally:
            for child in made.children:
                child.kill()


def test_no_key_is_given_twice_or_lost_however_often_it_is_killed(run: Run) -> None:
    seconds = float(os.environ.get("QSOTN_LIVE_SECONDS", DEFAULT_SECONDS))
    run.go_on(seconds)
    assert run.end() == []
    assert run.kills > seconds
    assert len(run.load.history.collected) > 10 * seconds
    folders = [run.folder] if run.server is None else [run.folder, run.server.folder / "data"]
    assert [found for folder in folders for found in clear_in(folder)] == []


def test_a_store_that_forgets_what_it_gave_is_found_out(folder: Path, live_seed: int) -> None:
    """The checker over a live load, with a fault: between two processes, an older database with an older witness."""
    run = Run(f"sqlite:///{folder}/keys.db", folder, 1, None, random.Random(live_seed))
    for _ in range(20):
        run.step(None)
    run.children[0].kill()
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for _ in range(20):
        run.step(None)
    run.children[0].kill()
    for path, content in kept.items():
        path.write_bytes(content)
    for path in set(folder.rglob("*")) - kept.keys():
        path.unlink()
    for _ in range(20):
        run.step(None)
    wrong = run.end()
    assert any("was reserved 2 times" in one for one in wrong), wrong
    assert Pool(PARTY, PARTY, 1) == run.load.pool
