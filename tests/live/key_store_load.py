"""A load on a key store that runs in other processes, and the history of what was asked and answered."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.adapters.keystore.history import History
from tests.adapters.keystore.scan import marked_unit
from tests.live.key_store_child import SECOND, read_answer, write_operations

from qsotn.domain import KeyId
from qsotn.keynetwork.delivery import (
    Applied,
    Collect,
    Confirm,
    Deposit,
    Operation,
    Pool,
    ReadyKey,
    Reserve,
    Sweep,
    Void,
)

MASTER, SLAVE, OTHER = "sae/a", "sae/b", "sae/c"
SIZES: Final = (256, 256, 256, 128, 512)
UNITS_A_BATCH: Final = 64
A_STEP: Final = SECOND // 20


class Child:
    """One process with a store."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.live.key_store_child", *self._arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, operations: list[Operation], kill_after_s: float | None = None) -> Applied | None:
        """Ask for a batch, and perhaps kill the process meanwhile; None if it gave no answer. Starts it if need be."""
        if self._process is None:
            self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        killer = threading.Timer(kill_after_s or 0, process.kill)
        if kill_after_s is not None:
            killer.start()
        try:
            process.stdin.write(write_operations(operations))
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if kill_after_s is not None:
            killer.join()
            self.kill()
        if line.endswith(b"\n"):
            return read_answer(line)
        assert kill_after_s is not None, "it ended though nobody killed it"
        return None

    def stop(self) -> None:
        """Have it do nothing more, as if its power were cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@dataclass
class KeyLoad:
    """Asks for all kinds of things, and asks again for what was not answered, as clients do."""

    pool: Pool
    chance: random.Random
    history: History = field(init=False)
    now: int = SECOND
    batches: int = 0
    waiting: list[tuple[Reserve, tuple[ReadyKey, ...]]] = field(default_factory=list)
    """Given to a master; its slave has still to ask."""
    held: list[tuple[Reserve, tuple[ReadyKey, ...]]] = field(default_factory=list)
    again: list[Operation] = field(default_factory=list)
    """What was not answered."""
    lost: list[str] = field(default_factory=list)
    _ready: int = 0
    _deposits: int = 0

    def __post_init__(self) -> None:
        self.history = History(self.pool)

    def batch(self) -> list[Operation]:
        """What is asked next."""
        operations, self.again = list(self.again), []
        if self._ready < 2 * UNITS_A_BATCH:
            operations.append(self._deposit())
        operations += [self._reserve() for _ in range(self.chance.randint(0, 6))]
        for _ in range(min(len(self.waiting), self.chance.randint(0, 6))):
            operations.append(self._collect(self.waiting.pop(self.chance.randrange(len(self.waiting)))))
        for _ in range(min(len(self.held), self.chance.randint(0, 2))):
            keys = _ids(self.held.pop()[1])
            operations.append(Confirm(keys) if self.chance.random() < 0.7 else Void(keys, "test"))
        operations += self._wrongly()
        if self.chance.random() < 0.2:
            operations.append(Sweep(self.now))
        self.now += A_STEP
        return operations

    def _deposit(self) -> Deposit:
        self._deposits += 1
        units = tuple(marked_unit(os.urandom(26)) for _ in range(UNITS_A_BATCH))
        return Deposit(self.pool, f"batch {self._deposits}", (self._deposits - 1) * UNITS_A_BATCH, units)

    def _reserve(self) -> Reserve:
        slaves = (SLAVE,) if self.chance.random() < 0.8 else (SLAVE, OTHER)
        held, number = self.chance.random() < 0.15, self.chance.randint(1, 4)
        self._ready -= 2 * number
        return Reserve(self.pool, MASTER, slaves, number, self.chance.choice(SIZES), self.now, held)

    def _collect(self, given: tuple[Reserve, tuple[ReadyKey, ...]]) -> Collect:
        return Collect(SLAVE, MASTER, _ids(given[1]), self.now)

    def _wrongly(self) -> list[Operation]:
        """What must be refused, or get what it got before: keys of others, and keys that were collected."""
        wrong: list[Operation] = []
        if self.waiting and self.chance.random() < 0.3:
            wrong.append(Collect("sae/x", MASTER, _ids(self.chance.choice(self.waiting)[1]), self.now))
        if self.history.collected and self.chance.random() < 0.3:
            before, _ = self.chance.choice(self.history.collected)
            wrong.append(Collect(before.slave, MASTER, (*before.key_ids[:1], *before.key_ids[:0:-1]), self.now))
            wrong.append(Collect(before.slave, MASTER, before.key_ids[:1], self.now))
        return wrong

    def heard(self, operations: list[Operation], applied: Applied | None) -> None:
        """Take note of an answer, or of none."""
        self.batches += 1
        if applied is None:
            self.history.unanswered(operations)
            self.again = [one for one in operations if not isinstance(one, Reserve)]
            return
        self.history.answered(operations, applied)
        for index, operation in enumerate(operations):
            if isinstance(operation, Deposit):
                self._ready += len(operation.units)
            elif isinstance(operation, Reserve) and index in applied.done:
                (self.held if operation.held else self.waiting).append((operation, applied.done[index]))
            elif index in applied.refused:
                self._refused(operation, str(applied.refused[index]))

    def _refused(self, operation: Operation, why: str) -> None:
        """A deposit that came again is no other one; what a slave asks again, as it asked before, it gets."""
        rightly = {keys for _, keys in ((asked, _ids(given)) for asked, given in self.history.reserved)}
        if isinstance(operation, Deposit | Confirm):
            self.lost.append(f"{operation.__class__.__name__} was refused: {why}")
        elif isinstance(operation, Collect) and operation.slave == SLAVE and operation.key_ids in rightly:
            answered = any(before.key_ids == operation.key_ids for before, _ in self.history.collected)
            if not answered:
                self.lost.append(f"{operation.key_ids} were refused to their slave: {why}")

    def at_last(self) -> list[Operation]:
        """Everything that is still to be asked."""
        operations = [*self.again, *(self._collect(given) for given in self.waiting)]
        operations += [Confirm(_ids(keys)) for _, keys in self.held]
        self.again, self.waiting, self.held = [], [], []
        return operations


def _ids(keys: Sequence[ReadyKey]) -> tuple[KeyId, ...]:
    return tuple(key.key_id for key in keys)
