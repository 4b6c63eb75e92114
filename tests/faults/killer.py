"""Kills processes by `kill -9`, by a seed and at a rate, and has them started again; it writes down when and whom.

    with Killer(processes, start, Plan(seed=7, rate=2.0)).at_work(seconds=30) as killer: ...

At the end every process runs again. One that was found dead, though nobody here had killed it, is written down apart
and started again: a test that is about kills must look at `found_dead`, or it would take a defect for a kill.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol, Self

BURIAL_S = 10.0
"""How long a process that was killed may take to be gone."""
LOOK_S = 0.05
"""How often to look whether a process died by itself."""


class Process(Protocol):
    """What of `subprocess.Popen` is used here."""

    @property
    def pid(self) -> int:
        """The process identifier."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def poll(self) -> int | None:
        """Return how it ended, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return how it ended."""


@dataclass(frozen=True)
class Death:
    """One process that ended. `at` is in microseconds since the epoch, to be held against a client's times."""

    name: str
    pid: int
    returncode: int
    at: int


@dataclass(frozen=True)
class Plan:
    """How often to kill: on average `rate` times a second. A victim is down between the two times of `downtime_s`."""

    seed: int
    rate: float
    downtime_s: tuple[float, float] = (0.0, 0.5)

    def __post_init__(self) -> None:
        shortest, longest = self.downtime_s
        if self.rate <= 0 or not 0 <= shortest <= longest:
            raise ValueError(f"a rate is positive, and a downtime is from the shortest to the longest: {self}")


@dataclass
class Killer:
    """Kills the processes it was given by name. `start` makes one of them again."""

    processes: dict[str, Process]
    start: Callable[[str], Process]
    plan: Plan
    kills: list[Death] = field(default_factory=list)
    found_dead: list[Death] = field(default_factory=list)
    _down: dict[str, float] = field(default_factory=dict)
    """Who is down, and until when."""
    _over: Event = field(default_factory=Event)

    @contextmanager
    def at_work(self, seconds: float) -> Iterator[Self]:
        """Kill in a thread, for so long or until the block ends. Raises what `start` raised."""
        self._over.clear()
        with ThreadPoolExecutor(1, thread_name_prefix="killer") as executor:
            working = executor.submit(self.run, seconds)
            try:
                yield self
            finally:
                self._over.set()
                working.result()

    def run(self, seconds: float) -> None:
        """Kill for so long; then start whoever is down."""
        chance, now = random.Random(self.plan.seed), time.monotonic()
        end, strike = now + seconds, now + chance.expovariate(self.plan.rate)
        while now < end and not self._over.is_set():
            self._look()
            self._start_again(now)
            if now >= strike:
                self._strike(chance, now)
                strike += chance.expovariate(self.plan.rate)
            self._over.wait(max(0.0, min(strike, end, now + LOOK_S, *self._down.values()) - now))
            now = time.monotonic()
        self._start_again(float("inf"))

    def _look(self) -> None:
        for name, process in self.processes.items():
            if name not in self._down and process.poll() is not None:
                self.found_dead.append(_death(name, process))
                self._down[name] = 0.0

    def _start_again(self, now: float) -> None:
        for name in [name for name, until in self._down.items() if until <= now]:
            self.processes[name] = self.start(name)
            del self._down[name]

    def _strike(self, chance: random.Random, now: float) -> None:
        alive = sorted(self.processes.keys() - self._down.keys())
        if not alive:
            return
        victim = chance.choice(alive)
        self._down[victim] = now + chance.uniform(*self.plan.downtime_s)
        self.processes[victim].kill()
        self.kills.append(_death(victim, self.processes[victim]))


def _death(name: str, process: Process) -> Death:
    return Death(name, process.pid, process.wait(BURIAL_S), time.time_ns() // 1000)
