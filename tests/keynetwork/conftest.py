"""Three key managers on a fake wire, two cities and the trusted relay between them; the QSSPs only ask and listen."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.links import use_up

from qsotn import wire
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.local import LocalTransport
from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors, Verified, verify_certificate
from qsotn.crypto.vault import Vault
from qsotn.domain import KeyId, PartyId, ProcedureId, Secret
from qsotn.errors import LineError
from qsotn.interfaces import Seat
from qsotn.messages import (
    DecKeysRequest,
    DecKeysResponse,
    EncKeysRequest,
    EncKeysResponse,
    Message,
    ProcedureRefusal,
    SuppliedKey,
)
from qsotn.parties.desk import Certificates
from qsotn.parties.km import BlockState, Km, KmConfiguration
from qsotn.procedures import key_supply
from qsotn.procedures.turn import Row, State, Turn, Work, read_row
from qsotn.runtime import Node
from qsotn.runtime.failing import fail

NEAR, RELAY, FAR = PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")
SAE_A, SAE_B, SAE_A2 = PartyId("qssp/jinan"), PartyId("qssp/qingdao"), PartyId("qssp/jinan-2")
LINK_A, LINK_B = "jinan-weifang", "weifang-qingdao"
ENDS = {LINK_A: (NEAR, RELAY), LINK_B: (RELAY, FAR)}
KMS, SAES = (NEAR, RELAY, FAR), (SAE_A, SAE_B, SAE_A2)
START = 1_800_000_000_000_000
HOUR = 3600 * 1_000_000


class Dice:
    """Bytes that look random, repeat from run to run, and are never the same twice."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed, 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}".encode()).digest(size)


class Wire(LocalTransport):
    """A transport from which a test can take datagrams out of the air: those that `holds` names get no receipt."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[tuple[PartyId, PartyId]] = set()

    def send(self, sender: PartyId, next_hop: PartyId, datagram: bytes) -> None:
        if (sender, next_hop) in self.held:
            raise LineError("held back by the test")
        super().send(sender, next_hop, datagram)


@dataclass(repr=False)
class Province:
    """The network under test and everything a story asks of it."""

    folder: Path
    identities: dict[PartyId, Identity]
    anchors: TrustAnchors
    now: int = START
    wire: Wire = field(default_factory=Wire)
    nodes: dict[PartyId, Node] = field(default_factory=dict)
    stores: dict[PartyId, SqliteStore] = field(default_factory=dict)
    answers: dict[ProcedureId, list[Message]] = field(default_factory=dict)
    blocks: dict[tuple[str, int], bytes] = field(default_factory=dict)
    order: list[ProcedureId] = field(default_factory=list)
    """The requests in the order in which they were answered."""
    _asked: int = 0

    def key_of(self, party: PartyId) -> Verified:
        moment = dt.datetime.fromtimestamp(self.now / 1e6, dt.UTC)
        return verify_certificate(self.identities[party].chain, self.anchors, moment)

    def open(self) -> None:
        for party in (*KMS, *SAES):
            self.stores[party] = store = SqliteStore(self.folder / f"{party.replace('/', '-')}.db")
            with store.transaction() as transaction:
                for other, identity in self.identities.items():
                    transaction.put("certificates", other, msgspec.json.encode(Certificates(identity.chain)))
                if party in KMS:
                    transaction.put("configuration", "km", msgspec.json.encode(configuration(party)))
            dice = Dice(party)
            vault = Vault(Secret(dice(32)), dice)
            node = Node(self.identities[party], self.anchors, store, vault, dice, lambda: self.now, PartyId("pmp/x"))
            self.nodes[party] = node
            self.wire.join(party, node.receive if party in KMS else self._door(party))

    def _door(self, party: PartyId):  # type: ignore[no-untyped-def]
        def receive(data: bytes) -> None:
            received = wire.open_datagram(wire.unpack(data), self.identities[party], self.key_of)
            kept = self.answers.setdefault(received.envelope.procedure, [])
            if received.message not in kept:
                kept.append(received.message)
                self.order.append(received.envelope.procedure)

        return receive

    def pump(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            for node in self.nodes.values():
                node.flush(self.wire)
            self.now += 100_000

    # --- links ---

    def deposit(self, link: str, number: int, octets: int = 1024, copies: tuple[bytes, bytes] | None = None) -> None:
        same = Dice(f"{link}/{number}")(octets)
        self.blocks[link, number] = same
        for party, copy in zip(ENDS[link], copies or (same, same), strict=True):
            with self.nodes[party].desk() as km:
                km.deposit(link, number, Secret(copy), {"error_rate": 0.01})

    def announce(self, link: str, number: int) -> None:
        self.nodes[min(ENDS[link])].begin(lambda km, work: key_supply.announce(km, work, link, number))

    def fill(self, number: int = 1, octets: int = 1024) -> None:
        for link in ENDS:
            self.deposit(link, number, octets)
            self.announce(link, number)
        self.pump(4)

    def available(self, party: PartyId, link: str) -> int:
        with self.nodes[party].desk() as km:
            bits: int = km.available_bits(link)
            return bits

    def everything_available(self) -> list[int]:
        return [self.available(party, link) for link, ends in ENDS.items() for party in ends]

    def units(self, party: PartyId, link: str) -> int:
        """How many units of a link are left in one party's store."""
        with self.stores[party].transaction() as transaction:
            return sum(1 for _ in transaction.scan("key-units", f"{link}/"))

    def relay_uses_up(self, link: str) -> None:
        with self.nodes[RELAY].desk() as km:
            use_up(km, link)

    def discard(self, party: PartyId, link: str, number: int) -> None:
        with self.nodes[party].desk() as km:
            km.set_state(km.block(link, number), BlockState.DISCARDED)

    def failures(self, party: PartyId, ladder: str) -> list[str]:
        with self.nodes[party].rows() as rows:
            return [row.failure for row in rows if row.ladder == ladder]

    def roles(self, party: PartyId, ids: tuple[KeyId, ...]) -> list[str]:
        with self.nodes[party].desk() as km:
            return [km.keys.require(key_id).role for key_id in ids]

    def waiting(self, party: PartyId) -> int:
        """How many keys wait for their slave SAE."""
        with self.nodes[party].desk() as km:
            return sum(1 for _ in km.stored.values())

    def bytes_of_stores(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.folder.iterdir()))

    # --- AK ---

    def enc_keys(self, master: PartyId, slave: PartyId, number: int = 2, size: int = 256) -> ProcedureId:
        """Ask as an SAE does: Figure 4's step 10a, from a QSSP to its own key manager."""
        return self._ask(master, Seat.QSSP_A, Seat.KM_A, EncKeysRequest(slave, number, size))

    def dec_keys(self, slave: PartyId, master: PartyId, ids: tuple[KeyId, ...]) -> ProcedureId:
        return self._ask(slave, Seat.QSSP_B, Seat.KM_B, DecKeysRequest(master, ids))

    def _ask(self, sae: PartyId, seat: Seat, manager: Seat, request: Message) -> ProcedureId:
        self._asked += 1
        procedure = ProcedureId(f"procedure-{self._asked}")
        seats = {seat: sae, manager: FAR if sae == SAE_B else NEAR}
        row = Row(procedure, "leased-line", seat, "line-1", seats, self.now + HOUR, self.now)
        self.nodes[sae].begin(lambda _, work: Turn(work, work.add(row), None, sae, seat).send(manager, request))
        return procedure

    def refuse_from_origin(self, parent: ProcedureId) -> None:
        """Let the origin give up its hop, as the runtime does at a deadline, while the message can still travel."""

        def give_up(km: Km, work: Work) -> None:
            for row in [read_row(content) for content in work.desk.transaction.rows()]:
                if row.ladder == "key-supply" and row.state is State.RUNNING:
                    fail(work, km, work.add(row), ProcedureRefusal("TIMEOUT", f"{parent} was given up"), None)

        self.nodes[NEAR].begin(give_up)

    def refusal(self, procedure: ProcedureId) -> ProcedureRefusal:
        (answer,) = self.answers[procedure]
        assert isinstance(answer, ProcedureRefusal)
        return answer

    def keys(self, procedure: ProcedureId) -> tuple[SuppliedKey, ...]:
        (answer,) = self.answers[procedure]
        assert isinstance(answer, EncKeysResponse | DecKeysResponse)
        return answer.keys


def configuration(party: PartyId) -> KmConfiguration:
    attached = {SAE_A: NEAR, SAE_A2: NEAR, SAE_B: FAR}
    links = {link: next(end for end in ends if end != party) for link, ends in ENDS.items() if party in ends}
    routes = {other: other if RELAY in (party, other) else RELAY for other in KMS if other != party}
    return KmConfiguration(links, routes, attached)


@pytest.fixture(scope="session")
def certified() -> tuple[dict[PartyId, Identity], TrustAnchors]:
    dice = Dice("certificates")
    now = dt.datetime.fromtimestamp(START / 1e6, dt.UTC) - dt.timedelta(hours=1)
    operator = CertificateAuthority.create("operator root", dice, now)
    manufacturer = CertificateAuthority.create("manufacturer root", dice, now)
    until = now + dt.timedelta(days=30)
    identities = {party: Identity.create(party, operator, now, until, dice) for party in (*KMS, *SAES)}
    return identities, TrustAnchors(operator.certificate, manufacturer.certificate)


@pytest.fixture
def province(tmp_path: Path, certified: tuple[dict[PartyId, Identity], TrustAnchors]) -> Iterator[Province]:
    opened = Province(tmp_path, *certified)
    opened.open()
    yield opened
    for store in opened.stores.values():
        store.close()
