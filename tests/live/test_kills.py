"""kill -9 of any process at any moment, under load, on both stores: every procedure ends, every key is accounted for.

Half a minute for each store in the suite. The long loop, for minutes, which tells what happened:

    QSOTN_LIVE_SECONDS=300 QSOTN_LIVE_SEED=7 pytest --log-cli-level=INFO tests/live/test_kills.py

Anybody may be killed, also while it starts: a party of the platform or one of its replicas, a device with its line, a
house of devices; with PostgreSQL the server itself. Everybody is started again, as a supervisor does.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults.killer import Killer, Plan, Process
from tests.live.harness import check_run, work
from tests.live.load import Load, LoadThread
from tests.live.postgres_pair import PostgresPair
from tests.live.province import Province, Shape
from tests.live.stores import Stores
from tests.postgresql import PostgresServer

KILLS_A_SECOND = 0.4
LONGEST_DOWNTIME_S = 1.5
KEYS_A_SECOND = 128
"""At each end of a link: two key files."""
SERVER = "postgresql"
_log = logging.getLogger(__name__)


@dataclass
class ServerProcess:
    """A PostgreSQL server as the killer sees a process."""

    server: PostgresServer | PostgresPair
    pid: int = 0
    status: int | None = None

    def kill(self) -> None:
        self.server.kill()
        self.status = -9

    def poll(self) -> int | None:
        return self.status

    def wait(self, timeout: float | None = None) -> int:  # noqa: ARG002  (as of any process)
        return self.status or 0


@dataclass
class Victims:
    """Who may be killed, and how each is started again."""

    province: Province

    def processes(self) -> dict[str, Process]:
        found: dict[str, Process] = dict(self.province.processes)
        if self.province.stores.server is not None:
            found[SERVER] = ServerProcess(self.province.stores.server)
        return found

    def start(self, name: str) -> Process:
        if name != SERVER:
            return self.province.start(name)
        server = self.province.stores.server
        assert server is not None
        server.start()
        return ServerProcess(server)

    def unexplained(self, died: Counter[str]) -> list[str]:
        """Who died by itself more often than it found no server when it started."""
        return [
            f"{name} died {times} times by itself:\n{self.province.tail(name)}"
            for name, times in died.items()
            if times > self._without_server(name)
        ]

    def _without_server(self, name: str) -> int:
        if self.province.stores.server is None:
            return 0
        lines = [line for line in self.province.printed(name) if line.startswith("qsotn: ")]
        return sum("postgresql://" in line and "older copy" not in line for line in lines)


def test_killed_again_and_again_no_process_leaves_anything_undone(
    folder: Path, stores: Stores, live_seconds: float, live_seed: int
) -> None:
    replicas = 1 if stores.server is None else 2
    with Province(
        folder, stores, Shape(replicas=replicas, keys_an_end=KEYS_A_SECOND * int(16 + live_seconds))
    ) as province:
        province.begin()
        victims, load = Victims(province), Load(province, live_seed, leasing_s=live_seconds / 20)
        plan = Plan(live_seed, KILLS_A_SECOND, downtime_s=(0.0, LONGEST_DOWNTIME_S))
        killer = Killer(victims.processes(), victims.start, plan)
        died: Counter[str] = Counter()

        def suffer(_: LoadThread) -> None:
            killer.run(live_seconds)
            died.update([death.name for death in killer.found_dead])
            died.update(province.revive())

        began = time.monotonic()
        work(load, suffer)
        took, killed = time.monotonic() - began, Counter(death.name for death in killer.kills)
        _log.info("%d kills in %g s, all at an end after %.1f s", killed.total(), live_seconds, took)
        _log.info("killed: %s; died: %s", dict(killed), dict(died))
        _log.info("%d procedures: %s", load.procedures, dict(load.ended))
        _log.info("answers by status, 0 for none: %s", dict(load.client.statuses))
        assert victims.unexplained(died) == []
        assert len(killed) > 1
        assert load.procedures > 0
        check_run(province, load)
