"""A leased line carrying a file while its keys change: two CPEs, a fibre, two hosts, one turn at a time.

One turn is one multiframe each way, then whatever the control plane has to say. Keys are changed by the clock (the
line's rekey interval) and at thirds of the file, so that a short run shows it too. The line runs elastic: as fast as
the process goes, with no pacing to an ODU's rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from qsotn.app.client import ReceivingHost, SendingHost
from qsotn.app.province import Province
from qsotn.dataplane.line import Fibre
from qsotn.domain import Direction, LineId
from qsotn.errors import LineError, QsotnError
from qsotn.interfaces import Seat
from qsotn.procedures import leased_line
from qsotn.procedures.turn import Row, State
from qsotn.service.equipment import Equipment

REKEYS_ON_THE_WAY = 2
CHECKPOINT_BYTES = 16 << 20
STALLED_TURNS = 20_000
PATIENCE_TURNS = 200
"""Several times what two proofs in the GCC take to cross."""
Checkpoint = Callable[[int], None]


def rekey_due_on_the_way(acknowledged: int, size: int, asked: int) -> bool:
    """Say whether so much of a file has arrived that the next rekey is due: at each third of it."""
    return asked < REKEYS_ON_THE_WAY and acknowledged * (REKEYS_ON_THE_WAY + 1) >= size * (asked + 1)


@dataclass
class LeasedLine:
    """Both ends of a line and the fibre between them."""

    province: Province
    a: Equipment
    b: Equipment
    fibre: Fibre
    lifetime_us: int
    asked: int = 0
    """Rekeys that end A has asked for, by the clock, by a transfer, or because the line had no key."""
    _seen: dict[str, int] = field(default_factory=dict)
    _dead_turns: int = 0
    _received: int = 0

    @property
    def line(self) -> LineId:
        """Which line this is."""
        return self.a.line

    def turn(self) -> None:
        """Carry one multiframe each way and let everybody react."""
        self._carry(self.a, self.b, Direction.A_TO_B)
        self._carry(self.b, self.a, Direction.B_TO_A)
        for end in (self.a, self.b):
            end.take_events()
        self.province.pump()
        for end in (self.a, self.b):
            changes = end.node.changes
            if self._seen.get(end.node.party) != changes:
                end.take_keys()
                self._seen[end.node.party] = changes
        self._watch()

    def _carry(self, near: Equipment, far: Equipment, direction: Direction) -> None:
        self.fibre.send(direction, near.terminal.transmit())
        far.terminal.receive(self.fibre.receive(direction))

    def rekeys(self) -> list[Row]:
        """Every rekey of this line that end A asked for."""
        with self.a.node.rows() as rows:
            return [row for row in rows if row.ladder == leased_line.REKEY.name and row.seat is Seat.CPE_A]

    def rekey(self) -> None:
        """Have end A ask for the next generation."""
        self.asked += 1
        self.a.node.begin(lambda cpe, work: leased_line.begin_rekey(cpe, work, self.line, self.lifetime_us))

    def _watch(self) -> None:
        """Ask for new keys when nothing authentic arrives any more: after a restart, one end or both have none."""
        received = self.a.authentic_multiframes
        alive = self.a.encrypting and received > self._received
        self._received = received
        self._dead_turns = 0 if alive else self._dead_turns + 1
        if self._dead_turns >= PATIENCE_TURNS:
            self._dead_turns = 0
            if self.a.may_ask:
                self.rekey()


@dataclass
class Transfer:
    """A file on its way over a line."""

    line: LeasedLine
    sender: SendingHost
    receiver: ReceivingHost
    interval_us: int
    clock: Callable[[], int]
    checkpoint: Checkpoint
    report: Callable[[int, int], None]
    _completed: int = 0
    _last: int = 0
    _durable: int = 0
    _turns: int = 0

    def run(self) -> None:
        """Carry the whole file, changing keys at least twice on the way. Raises `LineError` if it stops moving."""
        rekeys = self.line.rekeys()
        self.line.asked, self._last = len(rekeys), self.clock()
        self._durable = self.receiver.received
        self._count()
        turns_without_progress = 0
        while not self._finished():
            before = (self.sender.acknowledged, self._completed)
            self._turn()
            moved = before != (self.sender.acknowledged, self._completed)
            turns_without_progress = 0 if moved else turns_without_progress + 1
            if turns_without_progress > STALLED_TURNS:
                raise LineError(f"{self.line.line} carried nothing for {STALLED_TURNS} turns: {self._why()}")
        self._save()

    def _turn(self) -> None:
        line = self.line
        self.sender.send(line.a.terminal)
        line.turn()
        self._turns += 1
        self.receiver.take(line.b.terminal.deliver(), line.b.terminal)
        self.sender.take(line.a.terminal.deliver(), self._turns)
        if self._rekey_under_way():
            self._count()
        if self._rekey_due():
            line.rekey()
            self._last = self.clock()
        if self.receiver.received - self._durable >= CHECKPOINT_BYTES:
            self._save()
        self.report(self.receiver.received, self._completed)

    def _rekey_under_way(self) -> bool:
        return self.line.asked > self._completed

    def _count(self) -> None:
        rekeys = self.line.rekeys()
        self._completed = sum(row.state is State.COMPLETED for row in rekeys)
        failed = [row.failure for row in rekeys if row.state is State.FAILED]
        if failed:
            raise QsotnError(f"a rekey of {self.line.line} failed: {failed[-1]}")

    def _rekey_due(self) -> bool:
        if self._rekey_under_way():
            return False
        on_the_way = rekey_due_on_the_way(self.sender.acknowledged, self.sender.size, self.line.asked)
        return on_the_way or self.clock() - self._last >= self.interval_us

    def _finished(self) -> bool:
        return self.sender.finished and self._completed >= REKEYS_ON_THE_WAY and not self._rekey_under_way()

    def _save(self) -> None:
        self._durable = self.receiver.make_durable()
        self.line.a.record()
        self.line.b.record()
        self.checkpoint(self._durable)

    def _why(self) -> str:
        alarms = sorted(alarm for end in (self.line.a, self.line.b) for alarm in end.terminal.alarms())
        return f"alarms {', '.join(alarms) or 'none'}; {self.sender.acknowledged} of {self.sender.size} bytes arrived"
