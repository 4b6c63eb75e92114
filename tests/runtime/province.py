"""All ten parties of the demo's province over a fake wire, with a clock and chance that a test decides.

Everything here is real but three things: the wire (which loses, repeats, delays and shows what a test tells it to),
the clock, and the distillation: both ends of a link are given the same random block, as if the twin had distilled it.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.app import province
from qsotn.app.equipment import Equipment
from qsotn.app.province import ACCOUNT, CPE_A, CPE_B, HOMES, LINE, LINKS, PARTIES, PMP, POMP, SERIALS, Province
from qsotn.app.traffic import LeasedLine
from qsotn.dataplane.line import Fibre
from qsotn.domain import Entropy, PartyId, ProcedureId, QualityOfService, Secret
from qsotn.errors import LineError, PeerError
from qsotn.parties.pomp import DeviceState, LineState
from qsotn.ports import Transaction
from qsotn.procedures import deletion, initialization, key_supply, leased_line
from qsotn.procedures.turn import Row, State
from qsotn.runtime import Node

EPOCH = 1_790_000_000_000_000
LIFETIME_US = 3600 * 1_000_000
QUALITY = QualityOfService("ODU2", 60, 5_000)
BLOCK_BYTES = 16 * 1024
ROUNDS = 4000
Door = Callable[[PartyId, PartyId, bytes], None]


def seeded(seed: str) -> Entropy:
    """Chance that is the same in every run."""
    drawn = 0

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{seed}/{drawn}".encode()).digest(size)

    return draw


class Crash(BaseException):  # no `except Exception` may survive the death of a process
    """One party dies here."""

    def __init__(self, party: PartyId) -> None:
        super().__init__(party)
        self.party = party


class MortalStore:
    """A store whose party may die just before or just after a commit."""

    def __init__(self, party: PartyId, store: SqliteStore, dies: Callable[[PartyId], str]) -> None:
        self.inner = store
        self._party = party
        self._dies = dies

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """As the store's own, with a death in the middle if the schedule says so."""
        death = self._dies(self._party)
        with self.inner.transaction() as transaction:
            yield transaction
            if death == "before":
                raise Crash(self._party)
        if death == "after":
            raise Crash(self._party)

    def close(self) -> None:
        """Close the file."""
        self.inner.close()


@dataclass
class Schedule:
    """What the wire and the machines do wrong, as chances of one in a hundred."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lose: int = 0
    lose_receipt: int = 0
    repeat: int = 0
    delay: int = 0
    crash: int = 0

    def happens(self, percent: int) -> bool:
        """Draw."""
        return percent > 0 and self.rng.randrange(100) < percent


class World:
    """The parties, their wire, their clock."""

    def __init__(self, folder: Path, schedule: Schedule | None = None) -> None:
        self.folder = folder
        self.schedule = schedule or Schedule()
        self.now = EPOCH
        self.entropy = seeded("world")
        self.sent: list[tuple[PartyId, PartyId, bytes]] = []
        self.intercept: Door | None = None
        self.unreachable: set[PartyId] = set()
        self.restarts = 0
        self._mortal = self._acting = False
        self._delayed: list[tuple[PartyId, bytes]] = []
        self.fibre = Fibre()
        self.line: LeasedLine | None = None
        self.nodes: dict[PartyId, Node] = {}
        self.stores: dict[PartyId, MortalStore] = {}
        for party in PARTIES:
            self._open(party)

    def clock(self) -> int:
        """A millisecond passes whenever somebody looks."""
        self.now += 1000
        return self.now

    # --- lives and deaths -------------------------------------------------------------------------------------------

    def _open(self, party: PartyId) -> None:
        node, store = province.open_node(self.folder, party, self.entropy, self.clock)
        mortal = MortalStore(party, store, self._dies)
        node._store = mortal
        self.nodes[party] = node
        self.stores[party] = mortal

    def _dies(self, _party: PartyId) -> str:
        if self._mortal and self._acting and self.schedule.happens(self.schedule.crash):
            return self.schedule.rng.choice(("before", "after"))
        return ""

    def restart(self, party: PartyId) -> None:
        """The party's process is gone; a new one opens its store. A CPE's line terminal is gone with it."""
        self.restarts += 1
        acting, self._acting = self._acting, False
        self.stores[party].close()
        self._open(party)
        if self.line is not None and party in (CPE_A, CPE_B):
            end = Equipment(self.nodes[party], LINE)
            if party == CPE_A:
                self.line.a = end
            else:
                self.line.b = end
        self._acting = acting

    def close(self) -> None:
        """Close every store."""
        for store in self.stores.values():
            store.close()

    # --- the wire ---------------------------------------------------------------------------------------------------

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        """`ports.Transport`: hand over one datagram, or do to it what the schedule says."""
        self.sent.append((sender, next_hop, datagram))
        if self.intercept is not None:
            self.intercept(sender, next_hop, datagram)
        if next_hop in self.unreachable or self.schedule.happens(self.schedule.lose):
            raise LineError("lost")
        if self.schedule.happens(self.schedule.delay):
            self._delayed.append((next_hop, datagram))
            raise LineError("late")
        self.deliver(next_hop, datagram)
        if self.schedule.happens(self.schedule.repeat):
            self.deliver(next_hop, datagram)
        if self.schedule.happens(self.schedule.lose_receipt):
            raise LineError("the receipt was lost")

    def deliver(self, party: PartyId, datagram: bytes) -> None:
        """Give bytes to a party. Raises `LineError` if it gives no receipt, or dies."""
        try:
            self.nodes[party].receive(datagram)
        except PeerError as error:
            raise LineError(str(error)) from error
        except Crash as crash:
            self.restart(crash.party)
            raise LineError("the next hop died") from crash

    def _deliver_late(self) -> None:
        late, self._delayed = self._delayed, []
        self.schedule.rng.shuffle(late)
        for party, datagram in late:
            with _no_receipt_needed():
                self.deliver(party, datagram)

    def round(self) -> int:
        """Everybody sends what is due once; the line, if there is one, carries a multiframe each way."""
        with self._act():
            moved = self._everybody_sends()
        if not moved:
            self.now += 50_000
        return moved

    @contextmanager
    def _act(self) -> Iterator[None]:
        """Parties die only while they act, not while a test looks at them."""
        self._acting = True
        try:
            yield
        finally:
            self._acting = False

    def _everybody_sends(self) -> int:
        moved = 0
        for party in list(self.nodes):
            try:
                moved += self.nodes[party].flush(self)
            except Crash as crash:
                self.restart(crash.party)
        self._deliver_late()
        if self.line is not None:
            self._turn()
        return moved

    def _turn(self) -> None:
        assert self.line is not None
        try:
            self.line.turn()
        except Crash as crash:
            self.restart(crash.party)

    def until(self, reached: Callable[[], bool]) -> None:
        """Go on until something holds."""
        for _ in range(ROUNDS):
            if reached():
                return
            self.round()
        raise AssertionError(f"not reached in {ROUNDS} rounds: {self.describe()}")

    def quiet(self) -> None:
        """Go on until every datagram has its receipt."""
        self.until(lambda: all(node.settle() == 0 for node in self.nodes.values()))

    def describe(self) -> str:
        """What runs where, for a failing test."""
        rows = [(party, row.ladder, row.state, row.failure) for party in PARTIES for row in self.rows(party)]
        return "; ".join(f"{party} {ladder} {state} {why}" for party, ladder, state, why in rows)

    # --- what a test looks at ---------------------------------------------------------------------------------------

    def rows(self, party: PartyId) -> list[Row]:
        """A party's procedures."""
        with self.nodes[party].rows() as rows:
            return rows

    def dump(self, party: PartyId) -> bytes:
        """A digest of every record and journal line of a party (not of its outbox)."""
        store = self.stores[party]
        state = hashlib.sha256()
        for table in ("SELECT * FROM records ORDER BY 1, 2", "SELECT * FROM journal ORDER BY 1"):
            for row in store.inner._connection.execute(table):
                state.update(repr(row).encode())
        return state.digest()

    def device_state(self, cpe: PartyId) -> DeviceState | None:
        """How far a device is, as the POMP knows it."""
        with self.nodes[POMP].desk() as pomp:
            device = pomp.devices.get(cpe)
        return None if device is None else device.state

    def line_state(self) -> LineState | None:
        """How far the line is, as the POMP knows it."""
        with self.nodes[POMP].desk() as pomp:
            line = pomp.lines.get(LINE)
        return None if line is None else line.state

    def read(self, party: PartyId, look: Callable[[Any], Any]) -> Any:
        """Look at a party's records."""
        with self.nodes[party].desk() as desk:
            return look(desk)

    # --- orders -----------------------------------------------------------------------------------------------------

    def order(self, party: PartyId, start: Callable[[Any, Any], object]) -> ProcedureId:
        """Give a party a local command that begins a procedure; a party that dies over it is told again."""
        begun: list[Any] = []
        while True:
            try:
                with self._act():
                    self.nodes[party].begin(lambda desk, work: begun.append(start(desk, work)))
            except Crash as crash:
                self.restart(crash.party)
                if any(row.procedure == begun[-1] for row in self.rows(party)):
                    return ProcedureId(begun[-1])
            else:
                return ProcedureId(begun[-1])

    def give_blocks(self, number: int = 1) -> None:
        """Deposit the same block with both ends of each link, and let them agree on it."""
        ledger = {"pulses": 1, "detections": 1, "error_rate": 0.0, "net_bits": BLOCK_BYTES * 8}
        ledger |= {"key_basis_bits": 1, "test_basis_bits": 1}
        for link, ends in LINKS.items():
            key = Secret(self.entropy(BLOCK_BYTES))
            for party in ends:
                with self.nodes[party].desk() as km:
                    km.deposit(link, number, key, ledger)
            self.nodes[min(ends)].begin(partial(_announce, link, number))
        self.quiet()

    def begin_initialization(self, cpe: PartyId) -> ProcedureId:
        """Order a device into service."""
        return self.order(
            POMP,
            lambda pomp, work: initialization.begin(pomp, work, cpe, SERIALS[cpe], HOMES[cpe], PMP, LIFETIME_US),
        )

    def initialize(self, *cpes: PartyId) -> None:
        """Bring devices into service."""
        for cpe in cpes:
            self.begin_initialization(cpe)
        self.until(lambda: all(self.device_state(cpe) is DeviceState.READY for cpe in cpes))

    def begin_line(self, quality: QualityOfService = QUALITY) -> ProcedureId:
        """Order the line."""

        def order(pomp: Any, work: Any) -> ProcedureId:
            pomp.open_account(ACCOUNT)
            return leased_line.begin(pomp, work, LINE, ACCOUNT, (CPE_A, CPE_B), quality, PMP, LIFETIME_US)

        return self.order(POMP, order)

    def connect(self) -> LeasedLine:
        """Switch both terminals on, once both ports are prepared."""
        self.until(lambda: all(self.read(cpe, lambda desk: desk.lines.get(LINE)) is not None for cpe in (CPE_A, CPE_B)))
        ends = [Equipment(self.nodes[cpe], LINE) for cpe in (CPE_A, CPE_B)]
        self.line = LeasedLine(_Silent({}, {}, self), ends[0], ends[1], self.fibre, LIFETIME_US)
        return self.line

    def establish(self) -> LeasedLine:
        """Order the line and wait until it is encrypted."""
        self.begin_line()
        line = self.connect()
        self.until(lambda: self.line_state() is LineState.ENCRYPTED)
        return line

    def rekey(self) -> None:
        """Change keys once, and wait until the new ones are in use."""
        done = self._rekeys()
        self.order(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, LINE, LIFETIME_US))
        self.until(lambda: self._rekeys() > done)

    def _rekeys(self) -> int:
        return sum(row.ladder == "rekey" and row.state is State.COMPLETED for row in self.rows(CPE_A))

    def delete(self) -> None:
        """Take the line out of service."""
        self.order(POMP, lambda pomp, work: deletion.begin(pomp, work, LINE, PMP, LIFETIME_US))
        self.until(lambda: self.line_state() is LineState.DELETED)
        self.line = None
        self.quiet()

    def be_mortal(self) -> None:
        """From now on parties die as the schedule says."""
        self._mortal = True


class _Silent(Province):
    """The world flushes the nodes itself; the line's own pump has nothing to do."""

    def pump(self) -> int:
        """Move nothing."""
        return 0


def _announce(link: str, number: int, km: Any, work: Any) -> None:
    key_supply.announce(km, work, link, number)


@contextmanager
def _no_receipt_needed() -> Iterator[None]:
    try:
        yield
    except LineError:
        return


def make_template(folder: Path) -> None:
    """Make a province's stores once; tests work on copies."""
    province.make_province(folder, seeded("province"), datetime.fromtimestamp(EPOCH / 1e6, UTC))


def copy_template(template: Path, folder: Path) -> Path:
    """Give one test stores of its own."""
    shutil.copytree(template, folder)
    return folder
