"""All parties of the province over a wire, a fibre, a clock and a stock of chance that a test holds in its hand.

The parties, their stores (SQLite files), their line terminals and the fibre are the real ones. Three things are not:

- The *wire* between parties is `FakeWire`: it loses, delays, duplicates and reorders datagrams, loses receipts, and
  crashes parties between two writes, all by one seed. Without `Faults` it delivers at once.
- The *photons*. In tests, and only there, `deposit` gives both ends of a link the same random block directly. The
  distillation that makes such blocks has tests of its own (`tests/quantum`), and one run here goes through it.
- The *disk's* last guarantee: stores run with synchronous=OFF, since the crashes here end a process and not the power.

A crash ends a party as `kill -9` would: its transaction is rolled back or just committed, every object it had in memory
is dropped, and it is made again from its files. A device that crashes loses the keys in its line terminal with it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.links import use_up

from qsotn import wire
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.local import LocalTransport
from qsotn.app.province import (
    ACCOUNT,
    CPE_A,
    CPE_B,
    HOMES,
    LINE,
    LINKS,
    PARTIES,
    PLATFORM,
    PMP,
    POMP,
    SERIALS,
    VALIDITY,
    Province,
    make_province,
    open_node,
    party_folder,
)
from qsotn.app.traffic import LeasedLine
from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors, Verified, verify_certificate
from qsotn.dataplane.line import Fibre
from qsotn.domain import LineId, PartyId, ProcedureId, QualityOfService, Role, Secret, role_of
from qsotn.errors import LineError
from qsotn.messages import Message
from qsotn.parties.desk import Certificates
from qsotn.parties.km import Km
from qsotn.parties.pomp import DeviceState, LineState, Pomp
from qsotn.ports import Transaction
from qsotn.procedures import deletion, initialization, key_supply, leased_line, rekey_order, revocation
from qsotn.procedures.turn import Row, State, Work, read_row
from qsotn.runtime import Node
from qsotn.service.equipment import Equipment

BEGINS_US = 1_780_000_000_000_000
"""When every world begins: microseconds since the epoch, May 2026."""
LIFETIME_US = 3600 * 1_000_000
ROUND_US = 20_000
QUALITY = QualityOfService(odu="ODU2", rekey_interval_s=60, max_latency_us=5_000)
BLOCK_BYTES = 8 * 1024
LEDGER = {"pulses": 0, "detections": 0, "error_rate": 0.0, "net_bits": 0, "key_basis_bits": 0, "test_basis_bits": 0}


class Chance:
    """Entropy by seed: SHAKE-256 over a counter and the size, so that no draw is the beginning of another."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_256(f"{self._seed}/{self._drawn}/{size}".encode()).digest(size)


class Clock:
    """Microseconds since the epoch, moved by hand."""

    def __init__(self, now: int = BEGINS_US) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, microseconds: int) -> None:
        self.now += microseconds


class Crash(Exception):
    """One party's process ends here."""

    def __init__(self, party: PartyId, moment: str) -> None:
        super().__init__(f"{party} crashed {moment}")
        self.party = party


class RoundOver(Exception):
    """A party was made again while others were at work; nobody may go on with what it was."""


@dataclass(frozen=True)
class Faults:
    """Probabilities: per datagram handed over, and for `crash` per transaction (half before, half after COMMIT)."""

    loss: float = 0.0
    receipt_loss: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    crash: float = 0.0


class FusedStore:
    """A store whose transactions may be the last thing its party does."""

    def __init__(self, party: PartyId, inner: SqliteStore, fuse: Callable[[PartyId, str], None]) -> None:
        self.party = party
        self.inner = inner
        self._fuse = fuse

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.inner.transaction() as transaction:
            yield transaction
            self._fuse(self.party, "before COMMIT")
        self._fuse(self.party, "after COMMIT")

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True)
class Sent:
    """One datagram as an observer of all wires sees it."""

    sender: PartyId
    hop: PartyId
    data: bytes


class FakeWire(LocalTransport):
    """`ports.Transport` by a seeded schedule. `before` sees each datagram first and may drop it by `LineError`."""

    def __init__(self, world: World, faults: Faults, chance: random.Random) -> None:
        super().__init__()
        self._world = world
        self._chance = chance
        self.faults = faults
        self.sent: list[Sent] = []
        self.before: Callable[[Sent], None] = lambda _: None
        self._delayed: list[Sent] = []

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        sent = Sent(sender, next_hop, datagram)
        self.sent.append(sent)
        self.before(sent)
        self._late_ones()
        if self._happens(self.faults.loss):
            raise LineError("lost on the way")
        if self._happens(self.faults.delay):
            self._delayed.append(sent)
            raise LineError("late")
        if self._happens(self.faults.duplicate):
            self._delayed.append(sent)
        self._deliver(sent)
        if self._happens(self.faults.receipt_loss):
            raise LineError("its receipt was lost on the way")

    def _late_ones(self) -> None:
        """Let datagrams that are still on their way overtake, in any order, whoever comes now."""
        for late in [one for one in self._delayed if self._happens(0.3)]:
            self._delayed.remove(late)
            try:
                self._deliver(late)
            except LineError:
                continue

    def _deliver(self, sent: Sent) -> None:
        try:
            super().send(sent.sender, sent.hop, sent.data)
        except Crash as crash:
            # Whoever is in the middle of handing something over begins its round anew: it may be the one that died.
            self._world.restart(crash.party)
            raise RoundOver from crash

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._chance.random() < probability


class World:
    """The province of one test, in a folder of its own."""

    def __init__(self, folder: Path, *, seed: int = 0, faults: Faults | None = None) -> None:
        self.folder = folder
        self.clock = Clock()
        self.entropy = Chance(f"world/{seed}")
        self._chance = random.Random(seed)
        self.wire = FakeWire(self, faults or Faults(), self._chance)
        self.province = Province({}, {}, self.wire)
        self.fibre = Fibre()
        self.line: LeasedLine | None = None
        self.crashes = 0
        self._verified: dict[PartyId, Verified] = {}
        self._opened: dict[bytes, wire.Received[Message]] = {}
        for party in PARTIES:
            self._open(party)

    # --- parties ----------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[PartyId, Node]:
        return self.province.nodes

    def _open(self, party: PartyId) -> None:
        node, store = open_node(self.folder, party, self.entropy, self.clock)
        store._connection.execute("PRAGMA synchronous=OFF")
        node._store = FusedStore(party, store, self._fuse)
        self.nodes[party] = node
        self.province.stores[party] = store
        self.wire.join(party, node.receive)

    def _fuse(self, party: PartyId, moment: str) -> None:
        if self._chance.random() < self.wire.faults.crash / 2:
            raise Crash(party, moment)

    def restart(self, party: PartyId) -> None:
        """Make a party again from its files; what it had in memory is gone."""
        self.crashes += 1
        self.province.stores[party].close()
        self._open(party)
        if self.line is not None and role_of(party) is Role.CPE:
            self._restart_line(party)

    def _restart_line(self, party: PartyId) -> None:
        before, self.line = self.line, None
        assert before is not None
        ends = [end if end.node.party != party else self._equipment(party) for end in (before.a, before.b)]
        self.line = LeasedLine(self.province, ends[0], ends[1], self.fibre, LIFETIME_US)

    def _equipment(self, party: PartyId) -> Equipment:
        while True:
            try:
                return Equipment(self.nodes[party], LINE)
            except Crash:
                self.crashes += 1
                self.province.stores[party].close()
                self._open(party)

    def close(self) -> None:
        for store in self.province.stores.values():
            store.close()

    # --- time -------------------------------------------------------------------------------------------------------

    def begin(self, party: PartyId, order: Callable[[Any, Work], object]) -> None:
        """Give a local order; one that a crash rolled back is given again (the operator sees that nothing began)."""
        faults, self.wire.faults = self.wire.faults, Faults()
        try:
            self.nodes[party].begin(order)
        finally:
            self.wire.faults = faults

    def pump(self) -> int:
        """One round: every party hands over what it has. Returns how many datagrams got their receipt."""
        self.clock.advance(ROUND_US)
        return sum(self._flush(party) for party in list(self.nodes))

    def _flush(self, party: PartyId) -> int:
        try:
            return self.nodes[party].flush(self.wire)
        except Crash as crash:
            self.restart(crash.party)
        except RoundOver:
            pass
        return 1

    def settle(self, rounds: int = 400) -> None:
        """Pump until nobody has anything more to say."""
        for _ in range(rounds):
            if not self.pump() and not self.waiting():
                return
        raise AssertionError(f"not quiet after {rounds} rounds: {self.states()}")

    def waiting(self) -> int:
        """Datagrams that no next hop has acknowledged."""
        count = 0
        for party in PARTIES:
            with self.province.stores[party].transaction() as transaction:
                count += transaction.undelivered(self.clock())
            count -= len(self.nodes[party]._receipts)
        return count

    def turn(self) -> None:
        """One multiframe each way over the line, then whatever the parties have to say."""
        assert self.line is not None
        self.clock.advance(ROUND_US)
        try:
            self.line.turn()
        except Crash as crash:
            self.restart(crash.party)
        except RoundOver:
            pass

    def run_line(self, until: Callable[[], bool], turns: int = 4000) -> None:
        """Let the line run until something holds."""
        for _ in range(turns):
            if until():
                return
            self.turn()
        raise AssertionError(f"not reached after {turns} turns: {self.states()}")

    # --- what the operator does -------------------------------------------------------------------------------------

    def initialize(self, cpe: PartyId, home: PartyId | None = None) -> ProcedureId:
        """Order one device into service; `settle` carries it out."""
        begun: list[ProcedureId] = []

        def order(pomp: Pomp, work: Work) -> None:
            begun.append(initialization.begin(pomp, work, cpe, SERIALS[cpe], home or HOMES[cpe], PMP, LIFETIME_US))

        self.begin(POMP, order)
        return begun[0]

    def order_line(
        self,
        line: LineId = LINE,
        quality: QualityOfService = QUALITY,
        ends: tuple[PartyId, PartyId] = (CPE_A, CPE_B),
    ) -> ProcedureId:
        """Order a line between both devices."""
        begun: list[ProcedureId] = []

        def order(pomp: Pomp, work: Work) -> None:
            pomp.open_account(ACCOUNT)
            begun.append(leased_line.begin(pomp, work, line, ACCOUNT, ends, quality, PMP, LIFETIME_US))

        self.begin(POMP, order)
        return begun[0]

    def connect(self) -> None:
        """Join both devices' line terminals by the fibre, once both prepared their ports."""
        ends = [self._equipment(cpe) for cpe in (CPE_A, CPE_B)]
        self.line = LeasedLine(self.province, ends[0], ends[1], self.fibre, LIFETIME_US)

    def encrypt(self) -> None:
        """Run the line until the POMP knows that it is ENCRYPTED, and everybody has had the last word."""
        self.run_line(lambda: self.line_state() is LineState.ENCRYPTED)
        self.settle()

    def rekey(self) -> None:
        """Change the line's keys, and wait until both ends turned to the new ones."""
        assert self.line is not None
        line, before = self.line, self.completed(leased_line.REKEY.name, CPE_A)
        self.begin(CPE_A, lambda cpe, work: leased_line.begin_rekey(cpe, work, line.line, LIFETIME_US))
        self.run_line(lambda: self.completed(leased_line.REKEY.name, CPE_A) > before)
        self.run_line(lambda: not self.running())
        self.settle()

    def order_rekey(self, line: LineId = LINE) -> ProcedureId:
        """Order new keys for a line; the line and `settle` carry it out."""
        begun: list[ProcedureId] = []

        def order(pomp: Pomp, work: Work) -> None:
            begun.append(rekey_order.begin(pomp, work, line, PMP, LIFETIME_US))

        self.begin(POMP, order)
        return begun[0]

    def revoke(self, cpe: PartyId, reason: str = "stolen") -> ProcedureId:
        """Order a device out of service for good; `settle` carries it out."""
        begun: list[ProcedureId] = []

        def order(pomp: Pomp, work: Work) -> None:
            begun.append(revocation.begin(pomp, work, cpe, reason, PMP, LIFETIME_US))

        self.begin(POMP, order)
        return begun[0]

    def delete(self) -> None:
        """Order the line out of service, and see it through."""
        self.begin(POMP, lambda pomp, work: deletion.begin(pomp, work, LINE, PMP, LIFETIME_US))
        self.settle()
        if self.line is not None:
            self.line.a.erase()
            self.line.b.erase()

    # --- what travels -----------------------------------------------------------------------------------------------

    def verified(self, party: PartyId) -> Verified:
        """A party's certified keys; they stay what they were provisioned as, whatever a test does to the party."""
        if party not in self._verified:
            moment = dt.datetime.fromtimestamp(BEGINS_US / 1e6, dt.UTC)
            self._verified[party] = verify_certificate(self.nodes[party].identity.chain, self.anchors, moment)
        return self._verified[party]

    @property
    def anchors(self) -> TrustAnchors:
        return self.nodes[POMP]._anchors

    def opened(self, data: bytes) -> wire.Received[Message]:
        """What a datagram says to its receiver (a test may look with the receiver's own key)."""
        if data not in self._opened:
            datagram = wire.unpack(data)
            receiver = self.nodes[datagram.receiver].identity
            self._opened[data] = wire.open_datagram(datagram, receiver, self.verified)
        return self._opened[data]

    def when(self, message: type[Message], act: Callable[[], object]) -> None:
        """Do something just before the first datagram with this message reaches the party it is for."""
        done: list[bool] = []

        def watch(sent: Sent) -> None:
            receiver = wire.unpack(sent.data).receiver
            if not done and receiver == sent.hop and isinstance(self.opened(sent.data).message, message):
                done.append(True)
                act()

        self.wire.before = watch

    # --- what is so -------------------------------------------------------------------------------------------------

    @contextmanager
    def desk(self, party: PartyId) -> Iterator[Any]:
        """A party's desk, for looking and for tampering; no crash happens here."""
        faults, self.wire.faults = self.wire.faults, Faults()
        try:
            with self.nodes[party].desk() as desk:
                yield desk
        finally:
            self.wire.faults = faults

    def rows(self, party: PartyId) -> list[Row]:
        with self.desk(party) as desk:
            return rows_of(desk)

    def row(self, party: PartyId, procedure: ProcedureId) -> Row:
        """A party's only row of a procedure."""
        (row,) = [row for row in self.rows(party) if row.procedure == procedure]
        return row

    def states(self) -> dict[str, str]:
        """Every row: where it is and how it stands."""
        return {
            f"{party} {row.ladder} {row.subject}": f"{row.state} {row.failure}".strip()
            for party in PARTIES
            for row in self.rows(party)
        }

    def running(self) -> list[Row]:
        return [row for party in PARTIES for row in self.rows(party) if row.state is State.RUNNING]

    def completed(self, ladder: str, party: PartyId) -> int:
        return sum(row.ladder == ladder and row.state is State.COMPLETED for row in self.rows(party))

    def device_state(self, cpe: PartyId) -> DeviceState | None:
        with self.desk(POMP) as pomp:
            device = pomp.devices.get(cpe)
        return None if device is None else device.state

    def line_state(self, line: LineId = LINE) -> LineState | None:
        with self.desk(POMP) as pomp:
            held = pomp.lines.get(line)
        return None if held is None else held.state

    def dump(self, party: PartyId) -> dict[str, list[tuple[Any, ...]]]:
        """All a party has durably, byte for byte, but for when it will send next."""
        connection = self.province.stores[party]._connection
        return {
            "records": connection.execute("SELECT * FROM records ORDER BY collection, key").fetchall(),
            "procedures": connection.execute("SELECT * FROM procedures ORDER BY procedure, seat").fetchall(),
            "journal": connection.execute("SELECT * FROM journal ORDER BY number").fetchall(),
            "outbox": connection.execute(
                "SELECT number, procedure, next_hop, datagram, answers, expires_at FROM outbox ORDER BY number"
            ).fetchall(),
        }

    def dump_all(self) -> dict[PartyId, dict[str, list[tuple[Any, ...]]]]:
        return {party: self.dump(party) for party in PARTIES}


def drain(world: World, party: PartyId, link: str) -> None:
    """Take every key that one end of a link may still allocate."""
    with world.desk(party) as km:
        use_up(km, link)


def rows_of(party: Any) -> list[Row]:
    """The rows of a party at its desk."""
    return [read_row(content) for content in party.desk.transaction.rows()]


def whole_story(world: World) -> None:
    """Two devices come into service, a line between them is established, rekeyed by order and deleted; one goes."""
    for cpe in (CPE_A, CPE_B):
        world.initialize(cpe)
    world.settle()
    world.order_line()
    world.settle()
    world.connect()
    world.encrypt()
    world.order_rekey()
    world.run_line(lambda: not world.running())
    world.settle()
    world.delete()
    world.revoke(CPE_A)
    world.settle()


# --- worlds as they begin ---------------------------------------------------------------------------------------------


def deposit(world: World, link: str, number: int, *, blocks: tuple[bytes, bytes] | None = None) -> None:
    """Give both ends of a link a block without photons; the ends then agree on it as on a distilled one."""
    same = world.entropy(BLOCK_BYTES)
    for party, block in zip(LINKS[link], blocks or (same, same), strict=True):

        def put(km: Km, _: Work, block: bytes = block) -> None:
            km.deposit(link, number, Secret(block), LEDGER)

        world.begin(party, put)
    world.begin(min(LINKS[link]), lambda km, work: key_supply.announce(km, work, link, number))


@dataclass(frozen=True)
class Impostors:
    """Certified parties of another province, one of each role. Everybody here knows their certificates."""

    identities: dict[Role, Identity]


@dataclass(frozen=True)
class Worlds:
    """Folders to begin a world from, made once: keys at hand and nothing begun, or both devices READY."""

    provisioned: Path
    ready: Path
    impostors: Impostors
    manufacturer: CertificateAuthority

    def begin(self, stage: Path, into: Path, *, seed: int = 0, faults: Faults | None = None) -> World:
        """A world of its own from a stage."""
        shutil.copytree(stage, into)
        return World(into, seed=seed, faults=faults)


def make_worlds(folder: Path) -> Worlds:
    """Provision the province, its impostors, keys, and the two READY devices: once for all tests."""
    now = dt.datetime.fromtimestamp(BEGINS_US / 1e6, dt.UTC)
    provisioned, ready = folder / "provisioned", folder / "ready"
    make_province(provisioned, Chance("province"), now)
    again = Chance("province")  # the roots' keys are not kept: the same chance draws them again
    operator = CertificateAuthority.create("Shandong operator root", again, now)
    manufacturer = CertificateAuthority.create("CPE manufacturer root", again, now)
    impostors = _impostors(operator, manufacturer, now)
    _introduce(provisioned, impostors)
    world = World(provisioned, seed=-1)
    for link in LINKS:
        deposit(world, link, 1)
    world.settle()
    world.close()
    shutil.copytree(provisioned, ready)
    world = World(ready, seed=-2)
    for cpe in (CPE_A, CPE_B):
        world.initialize(cpe)
    world.settle()
    assert [world.device_state(cpe) for cpe in (CPE_A, CPE_B)] == [DeviceState.READY] * 2
    world.close()
    return Worlds(provisioned, ready, impostors, manufacturer)


def _impostors(operator: CertificateAuthority, manufacturer: CertificateAuthority, now: dt.datetime) -> Impostors:
    chance = Chance("impostors")
    return Impostors(
        {
            role: Identity.create(
                PartyId(f"{role}/hebei"),
                manufacturer if role is Role.CPE else operator,
                now - dt.timedelta(minutes=5),
                now + VALIDITY,
                chance,
                "QS-2026-666666" if role is Role.CPE else None,
            )
            for role in Role
        }
    )


def _introduce(folder: Path, impostors: Impostors) -> None:
    for party in PLATFORM:
        store = SqliteStore(party_folder(folder, party) / "store.db")
        with store.transaction() as transaction:
            for identity in impostors.identities.values():
                known = msgspec.json.encode(Certificates(identity.chain))
                transaction.put("certificates", identity.party, known)
        store.close()
