"""The killer by itself, among processes that do nothing but sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from tests.faults.killer import Killer, Plan, Process


class Sleepers:
    """Sleeping processes; whoever was started is ended at the end."""

    def __init__(self) -> None:
        self.started: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        self.started.append((name, process))
        return process

    def end(self) -> None:
        for _, process in self.started:
            process.kill()
            process.wait()


@contextmanager
def sleepers(*names: str) -> Iterator[tuple[Sleepers, dict[str, Process]]]:
    all_of_them = Sleepers()
    try:
        yield all_of_them, {name: all_of_them.start(name) for name in names}
    finally:
        all_of_them.end()


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.005)


def test_processes_die_by_sigkill_and_are_started_again() -> None:
    with sleepers("a", "b", "c") as (house, processes):
        first = {process.pid for process in processes.values()}
        killer, began = Killer(processes, house.start, Plan(1, rate=25, downtime_s=(0.0, 0.05))), time.time_ns() // 1000
        with killer.at_work(seconds=30):
            wait_until(lambda: first <= {death.pid for death in killer.kills})
        assert {death.returncode for death in killer.kills} == {-signal.SIGKILL}
        assert {death.name for death in killer.kills} == {"a", "b", "c"}
        assert all(began <= death.at <= time.time_ns() // 1000 for death in killer.kills)
        assert killer.found_dead == []
        assert len(house.started) == 3 + len(killer.kills)
        assert all(process.poll() is None for process in processes.values())
        assert not first & {process.pid for process in processes.values()}


def test_a_seed_names_the_victims_and_their_order() -> None:
    def victims(seed: int) -> list[str]:
        with sleepers("a", "b") as (house, processes):
            killer = Killer(processes, house.start, Plan(seed, rate=40, downtime_s=(0.0, 0.0)))
            with killer.at_work(seconds=30):
                wait_until(lambda: len(killer.kills) >= 5)
            return [death.name for death in killer.kills][:5]

    assert victims(4) == victims(4)
    assert victims(4) != victims(5)


def test_it_kills_as_often_as_it_was_told_and_stops_in_time() -> None:
    with sleepers("a", "b", "c") as (house, processes):
        killer, began = Killer(processes, house.start, Plan(3, rate=20, downtime_s=(0.0, 0.0))), time.monotonic()
        killer.run(0.5)
        assert 0.5 <= time.monotonic() - began < 30
        assert 1 <= len(killer.kills) <= 25


def test_in_the_background_it_works_for_its_time_and_no_longer_than_the_block() -> None:
    with sleepers("a", "b") as (house, processes):
        killer = Killer(processes, house.start, Plan(2, rate=30, downtime_s=(5.0, 5.0)))
        began = time.monotonic()
        with killer.at_work(seconds=60):
            wait_until(lambda: len(killer.kills) == 2)
            assert [processes[name].poll() for name in ("a", "b")] == [-signal.SIGKILL] * 2
        assert time.monotonic() - began < 30
        assert all(process.poll() is None for process in processes.values())


def test_a_process_that_died_by_itself_is_told_apart() -> None:
    with sleepers("a", "b") as (house, processes):
        killer = Killer(processes, house.start, Plan(1, rate=0.001))
        os.kill(dead := processes["b"].pid, signal.SIGTERM)
        killer.run(0.3)
        assert killer.kills == []
        assert [(death.name, death.pid, death.returncode) for death in killer.found_dead] == [("b", dead, -15)]
        assert processes["b"].pid != dead


def test_a_process_that_cannot_be_started_again_is_told_at_the_end() -> None:
    def refuse(name: str) -> Process:
        raise OSError(f"{name} does not start")

    with sleepers("a") as (_, processes):
        killer = Killer(processes, refuse, Plan(1, rate=50, downtime_s=(0.0, 0.0)))
        with pytest.raises(OSError, match="a does not start"), killer.at_work(seconds=30):
            wait_until(lambda: bool(killer.kills))


@pytest.mark.parametrize(
    ("rate", "downtime"), [(0.0, (0.0, 1.0)), (-1.0, (0.0, 1.0)), (1.0, (2.0, 1.0)), (1.0, (-1.0, 1.0))]
)
def test_a_plan_that_cannot_be_is_refused(rate: float, downtime: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a rate is positive"):
        Plan(0, rate, downtime)
