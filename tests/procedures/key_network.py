"""Key managers in any shape on a wire that a test holds in its hand: the real parties, stores and procedures.

Clock, chance, crashes and the wire are those of `tests.world`. Besides, the wire can be *twisted*: a test puts other
bytes in the place of what a key manager that lies sends.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.links import use_up
from tests.world import BEGINS_US, Chance, Clock, Crash, FakeWire, Faults, FusedStore, RoundOver, Sent

from qsotn import wire
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors, Verified, verify_certificate
from qsotn.crypto.vault import Vault
from qsotn.domain import PartyId, Secret
from qsotn.errors import LineError
from qsotn.interfaces import BY_NAME
from qsotn.keynetwork.delivery import Deposit, Pool
from qsotn.keynetwork.relay import Mode
from qsotn.messages import Message
from qsotn.parties import km_pool
from qsotn.parties.desk import Certificates
from qsotn.parties.km import BlockState, KmConfiguration
from qsotn.parties.km_pool import Batch, Passage
from qsotn.procedures import pool_supply
from qsotn.procedures.turn import Work, read_row
from qsotn.runtime import Node

A, B, C, D, E, F = (PartyId(f"km/{letter}") for letter in "abcdef")
ROUND_US = 20_000
LEDGER: dict[str, Any] = {}

Shape = tuple[tuple[PartyId, PartyId], ...]
CHAIN: Shape = ((A, B), (B, C), (C, D))
RHOMBUS: Shape = ((A, B), (B, D), (A, C), (C, D))
"""A and D, with B and C side by side between them."""


def link_of(one: PartyId, other: PartyId) -> str:
    return "-".join(sorted(party.removeprefix("km/") for party in (one, other)))


class Certified:
    """Identities for every key manager a test may need, made once."""

    def __init__(self) -> None:
        chance, now = Chance("key network"), dt.datetime.fromtimestamp(BEGINS_US / 1e6, dt.UTC) - dt.timedelta(hours=1)
        operator = CertificateAuthority.create("operator root", chance, now)
        manufacturer = CertificateAuthority.create("manufacturer root", chance, now)
        until = now + dt.timedelta(days=30)
        self.identities = {one: Identity.create(one, operator, now, until, chance) for one in (A, B, C, D, E, F)}
        self.anchors = TrustAnchors(operator.certificate, manufacturer.certificate)

    def key_of(self, party: PartyId) -> Verified:
        moment = dt.datetime.fromtimestamp(BEGINS_US / 1e6, dt.UTC)
        return verify_certificate(self.identities[party].chain, self.anchors, moment)


class TwistedWire(FakeWire):
    """`twist` may return other bytes in the place of a datagram; they are what its sender sends, whatever it thinks."""

    def __init__(self, network: Network, faults: Faults, chance: random.Random) -> None:
        super().__init__(network, faults, chance)  # type: ignore[arg-type]  # of the world it only uses `restart`
        self.twist: Callable[[Sent], bytes | None] = lambda _: None

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        twisted = self.twist(Sent(sender, next_hop, datagram))
        super().send(sender, next_hop, twisted or datagram)


class Network:
    """The key managers of one test, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        certified: Certified,
        shape: Shape = CHAIN,
        *,
        units: int = 64,
        seed: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.folder, self.certified, self.shape = folder, certified, shape
        self.parties = sorted({party for pair in shape for party in pair})
        self.clock, self._chance = Clock(), random.Random(seed)
        self.wire = TwistedWire(self, faults or Faults(), self._chance)
        self.nodes: dict[PartyId, Node] = {}
        self.stores: dict[PartyId, SqliteStore] = {}
        self.deposits: dict[PartyId, dict[str, Deposit]] = {party: {} for party in self.parties}
        """What was handed over, by batch: the key stores of this network."""
        self.takes_in = True
        """Whether what arrives is handed over."""
        self.crashes = 0
        self._made = 0
        for party in self.parties:
            self._open(party)
        self.fill(units)

    # --- parties ----------------------------------------------------------------------------------------------------

    def _open(self, party: PartyId) -> None:
        path = self.folder / f"{party.replace('/', '-')}.db"
        fresh = not path.exists()
        store = SqliteStore(path)
        store._connection.execute("PRAGMA synchronous=OFF")
        if fresh:
            self._provision(store, party)
        self._made += 1
        chance = Chance(f"{party}/{self._made}")
        vault = Vault(Secret(Chance(party)(32)), chance)
        fused: Any = FusedStore(party, store, self._fuse)
        node = Node(self.certified.identities[party], self.certified.anchors, fused, vault, chance, self.clock)
        self.nodes[party], self.stores[party] = node, store
        self.wire.join(party, node.receive)

    def _provision(self, store: SqliteStore, party: PartyId) -> None:
        with store.transaction() as transaction:
            for other, identity in self.certified.identities.items():
                transaction.put("certificates", other, msgspec.json.encode(Certificates(identity.chain)))
            transaction.put("configuration", "km", msgspec.json.encode(self._configuration(party)))

    def _configuration(self, party: PartyId) -> KmConfiguration:
        links = {link_of(*pair): next(one for one in pair if one != party) for pair in self.shape if party in pair}
        routes = {target: hop for target in self.parties if (hop := self._next_hop(party, target)) is not None}
        return KmConfiguration(links, routes, {})

    def _next_hop(self, party: PartyId, target: PartyId) -> PartyId | None:
        """The first step of a shortest way, by breadth."""
        ways: list[tuple[PartyId, ...]] = [(party,)]
        seen = {party}
        for way in ways:
            for pair in (pair for pair in self.shape if way[-1] in pair):
                far = next(one for one in pair if one != way[-1])
                if far == target:
                    return (*way, far)[1]
                if far not in seen:
                    seen.add(far)
                    ways.append((*way, far))
        return None

    def _fuse(self, party: PartyId, moment: str) -> None:
        if self._chance.random() < self.wire.faults.crash / 2:
            raise Crash(party, moment)

    def restart(self, party: PartyId) -> None:
        self.crashes += 1
        self.stores[party].close()
        self._open(party)

    def close(self) -> None:
        for store in self.stores.values():
            store.close()

    # --- links ------------------------------------------------------------------------------------------------------

    def fill(self, units: int, number: int = 1) -> None:
        """Give both ends of every link a block that they have agreed on: half of its units for each."""
        for pair in self.shape:
            same = Chance(f"{link_of(*pair)}/{number}")(2 * units * 32)
            for party in pair:
                with self.desk(party) as km:
                    km.deposit(link_of(*pair), number, Secret(same), LEDGER)
                    km.set_state(km.block(link_of(*pair), number), BlockState.AVAILABLE)

    def drain(self, party: PartyId, link: str, leave: int = 0) -> None:
        with self.desk(party) as km:
            use_up(km, link, leave)

    def units_left(self, party: PartyId, link: str) -> set[str]:
        """The places of the units of a link that a key manager still has."""
        with self.stores[party].transaction() as transaction:
            return {key for key, _ in transaction.scan("key-units", f"{link}/")}

    # --- supplies ---------------------------------------------------------------------------------------------------

    def supply(
        self, batch: str = "batch", units: int = 8, first: int = 0, pool: Pool | None = None, **how: Any
    ) -> None:
        """Begin a supply from A to D, or as the test says."""
        wanted = pool or Pool(A, D, 1)

        def order(km: Any, work: Work) -> Batch:
            return pool_supply.begin_pool_supply(km, work, wanted, batch, first, units, **how)

        self.begin(wanted.origin, order)

    def begin(self, party: PartyId, order: Callable[[Any, Work], object]) -> None:
        """Give a local order; no crash happens meanwhile."""
        with self.calm():
            self.nodes[party].begin(order)

    def pump(self) -> int:
        """One round: every party hands over what it has, and lays into its key store what arrived."""
        self.clock.advance(ROUND_US)
        sent = sum(self._flush(party) for party in self.parties)
        for party in self.parties if self.takes_in else ():
            self._hand_over(party)
        return sent

    def _flush(self, party: PartyId) -> int:
        try:
            return self.nodes[party].flush(self.wire)
        except Crash as crash:
            self.restart(crash.party)
        except RoundOver:
            pass
        return 1

    def _hand_over(self, party: PartyId) -> None:
        with self.desk(party) as km:
            for deposit in list(km_pool.arrived(km.desk)):
                assert self.deposits[party].setdefault(deposit.batch, deposit) == deposit
                km_pool.handed_over(km.desk, deposit.batch)

    def settle(self, rounds: int = 300) -> None:
        """Pump until nobody has anything more to say."""
        for _ in range(rounds):
            if not self.pump() and not self.waiting():
                return
        raise AssertionError(f"not quiet after {rounds} rounds: {self.rows()}")

    def waiting(self) -> int:
        count = 0
        for party in self.parties:
            with self.stores[party].transaction() as transaction:
                count += transaction.undelivered(self.clock())
            count -= len(self.nodes[party]._receipts)
        return count

    def run(self, seconds: float, step: float = 0.5) -> None:
        """Let time pass, with everybody at work and every deadline looked at."""
        for _ in range(int(seconds / step)):
            self.clock.advance(int(step * 1e6))
            for party in self.parties:
                with self.desk(party) as km:
                    km_pool.sweep(km.desk)
                with self.calm():
                    self.nodes[party].tick()
            self.pump()

    # --- looking ----------------------------------------------------------------------------------------------------

    @contextmanager
    def calm(self) -> Iterator[None]:
        """No fault happens here."""
        faults, self.wire.faults = self.wire.faults, Faults()
        try:
            yield
        finally:
            self.wire.faults = faults

    @contextmanager
    def desk(self, party: PartyId) -> Iterator[Any]:
        with self.calm(), self.nodes[party].desk() as desk:
            yield desk

    def batch(self, name: str = "batch", origin: PartyId = A) -> Batch:
        with self.desk(origin) as km:
            found: Batch = km_pool.batches(km.desk).require(name)
            return found

    def passage(self, party: PartyId, key: str = "batch/00") -> Passage | None:
        with self.desk(party) as km:
            return km_pool.passages(km.desk).get(key)

    def states(self, key: str = "batch/00") -> list[str]:
        """How far a share came at every key manager, in the order of their names."""
        found = (self.passage(party, key) for party in self.parties)
        return ["-" if one is None else str(one.state) for one in found]

    def bits_kept(self) -> dict[PartyId, list[str]]:
        """Whatever supplies still keep of bits, anywhere."""
        kept = {}
        for party in self.parties:
            with self.stores[party].transaction() as transaction:
                kept[party] = [name for name, _ in transaction.scan("pool-bits")]
        return {party: names for party, names in kept.items() if names}

    def rows(self) -> dict[str, str]:
        found = {}
        for party in self.parties:
            with self.stores[party].transaction() as transaction:
                for row in map(read_row, transaction.rows()):
                    found[f"{party} {row.ladder} {row.seat} {row.subject}"] = f"{row.state} {row.failure}".strip()
        return found

    def opened(self, data: bytes) -> wire.Received[Message]:
        datagram = wire.unpack(data)
        return wire.open_datagram(datagram, self.certified.identities[datagram.receiver], self.certified.key_of)

    # --- lying ------------------------------------------------------------------------------------------------------

    def lie(self, liar: PartyId, message: type[Message], change: Callable[[Any], Message | None]) -> list[Message]:
        """Let a key manager sign other messages of a type than it means to; return, in time, what it signed."""
        told: list[Message] = []

        def twist(sent: Sent) -> bytes | None:
            if sent.sender != liar:
                return None
            content = self.opened(sent.data)
            bent = change(content.message) if isinstance(content.message, message) else None
            if bent is None:
                return None
            told.append(bent)
            envelope = msgspec.structs.replace(content.envelope, body=wire.body_of(bent))
            signed = wire.sign(self.certified.identities[liar], envelope)
            return wire.encode(wire.pack(BY_NAME["Kx"], envelope, signed, None))

        self.wire.twist = twist
        return told

    def mute(self, *silent: PartyId) -> None:
        """Nothing that these send reaches anybody."""

        def before(sent: Sent) -> None:
            if sent.sender in silent:
                raise LineError("it says nothing")

        self.wire.before = before


def same_units(network: Network, batch: str = "batch", ends: tuple[PartyId, PartyId] = (A, D)) -> list[bytes]:
    """The units of a batch, which both ends must have been given, the same."""
    one, other = (network.deposits[end][batch] for end in ends)
    assert one == other
    return [unit.reveal() for unit in one.units]


MODES = (Mode.ONE_TIME_PAD, Mode.AES_WRAPPED)
