"""Run a demo that is killed: `python -m tests.app.killed_demo FOLDER SEED KILLS EPOCH_US`.

Each life of the process goes on from where the last one was killed: by SIGKILL to itself, at a COMMIT chosen by the
seed, half of the times just before it and half just after. A life is a fork, so that what was imported stays imported.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.world import BEGINS_US

from qsotn.adapters.storage.sqlite import SqliteStore, SqliteTransaction
from qsotn.app import demo
from qsotn.app.state import StateFolder

COMMITS = (5, 150)
"""How many transactions a life sees: fewest and most."""


class Silent:
    """A watcher that shows nothing."""

    def phase(self, name: str) -> None:
        pass

    def advance(self, detail: str, part: float) -> None:
        pass


def clock_since(epoch: int) -> Callable[[], int]:
    """A clock that began with the world, and goes on from life to life."""
    return lambda: BEGINS_US + time.time_ns() // 1000 - epoch


def _die_at(commit: int, *, after: bool) -> None:
    begin, seen = SqliteStore.transaction, 0

    @contextmanager
    def transaction(store: SqliteStore) -> Iterator[SqliteTransaction]:
        nonlocal seen
        with begin(store) as opened:
            yield opened
            seen += 1
            if seen == commit and not after:
                os.kill(os.getpid(), signal.SIGKILL)
        if seen == commit:
            os.kill(os.getpid(), signal.SIGKILL)

    SqliteStore.transaction = transaction  # type: ignore[method-assign,assignment]


def _live(folder: StateFolder, epoch: int) -> None:
    with folder.locked():
        begun = folder.load()
        assert begun is not None
        demo.run(folder, begun, Silent(), demo.Environment(os.urandom, clock_since(epoch)))


def main(path: str, seed: str, kills: str, epoch: str) -> None:
    chance, died = random.Random(seed), 0
    for _ in range(int(kills)):
        commit, after = chance.randint(*COMMITS), chance.random() < 0.5
        child = os.fork()
        if child == 0:
            _die_at(commit, after=after)
            _live(StateFolder(Path(path)), int(epoch))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        died += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    print(died)  # noqa: T201  (its one result, for the test that started it)


if __name__ == "__main__":
    main(*sys.argv[1:])
