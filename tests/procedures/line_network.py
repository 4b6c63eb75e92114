"""A network of key managers whose QSSPs ask for leased lines' keys: the QSSPs only ask, and listen.

Key managers, wire and clock are those of `tests.procedures.key_network`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from tests.procedures.key_network import A, B, C, Certified, D, E, Network, Shape
from tests.world import BEGINS_US, Chance

from qsotn import wire
from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors
from qsotn.crypto.vault import Vault
from qsotn.domain import KeyId, PartyId, ProcedureId, Secret
from qsotn.interfaces import Seat
from qsotn.messages import DecKeysRequest, EncKeysRequest, EncKeysResponse, Message, ProcedureRefusal, SuppliedKey
from qsotn.parties.desk import Certificates
from qsotn.parties.km import KmConfiguration
from qsotn.procedures.turn import Row, Turn
from qsotn.runtime import Node

SAE_A, SAE_A2, SAE_C = PartyId("qssp/a"), PartyId("qssp/a2"), PartyId("qssp/c")
ATTACHED = {SAE_A: A, SAE_A2: A, SAE_C: C}
RING: Shape = ((A, B), (B, C), (A, D), (D, E), (E, C))
"""The tables of A lead to C by way of B; the other way round has one link more."""
LIFETIME_US = 120 * 1_000_000


class CertifiedLines(Certified):
    """Identities for the QSSPs, too."""

    def __init__(self) -> None:
        chance, now = Chance("line network"), dt.datetime.fromtimestamp(BEGINS_US / 1e6, dt.UTC) - dt.timedelta(hours=1)
        operator = CertificateAuthority.create("operator root", chance, now)
        manufacturer = CertificateAuthority.create("manufacturer root", chance, now)
        until = now + dt.timedelta(days=30)
        parties = (A, B, C, D, E, *ATTACHED)
        self.identities = {one: Identity.create(one, operator, now, until, chance) for one in parties}
        self.anchors = TrustAnchors(operator.certificate, manufacturer.certificate)


class LineNetwork(Network):
    """The key managers of one test, and the QSSPs at two of them."""

    def __init__(self, folder: Any, certified: CertifiedLines, shape: Shape = RING, **how: Any) -> None:
        super().__init__(folder, certified, shape, **how)
        self.answers: dict[ProcedureId, Message] = {}
        self._asked = 0
        for sae in ATTACHED:
            self._open_sae(sae)

    def _configuration(self, party: PartyId) -> KmConfiguration:
        return msgspec.structs.replace(super()._configuration(party), attachments=ATTACHED)

    def _open_sae(self, sae: PartyId) -> None:
        store = SqliteStore(self.folder / f"{sae.replace('/', '-')}.db")
        with store.transaction() as transaction:
            for other, identity in self.certified.identities.items():
                transaction.put("certificates", other, msgspec.json.encode(Certificates(identity.chain)))
        chance = Chance(sae)
        identity = self.certified.identities[sae]
        vault = Vault(Secret(chance(32)), chance)
        self.nodes[sae] = Node(identity, self.certified.anchors, store, vault, chance, self.clock)
        self.stores[sae] = store
        self.wire.join(sae, self._hear(sae))

    def _hear(self, sae: PartyId) -> Any:
        def receive(data: bytes) -> None:
            received = wire.open_datagram(wire.unpack(data), self.certified.identities[sae], self.certified.key_of)
            before = self.answers.setdefault(received.envelope.procedure, received.message)
            assert before == received.message, "an answer was given twice, and not the same"

        return receive

    def pump(self) -> int:
        sent = sum(self._flush(sae) for sae in ATTACHED)
        return sent + super().pump()

    # --- AK ---------------------------------------------------------------------------------------------------------

    def ask(self, number: int = 2, size: int = 256, *, slave: PartyId = SAE_C, master: PartyId = SAE_A) -> ProcedureId:
        """Let a QSSP ask for keys as for a rekey (Figure 4, step 10a)."""
        return self._send(master, Seat.QSSP_A, Seat.KM_A, EncKeysRequest(slave, number, size))

    def asked(self, number: int = 2, size: int = 256, *, slave: PartyId = SAE_C) -> ProcedureId:
        """Let a QSSP ask, and wait for what comes of it."""
        procedure = self.ask(number, size, slave=slave)
        self.some_rounds()
        return procedure

    def fetch(self, keys: tuple[SuppliedKey, ...]) -> ProcedureId:
        """Let the far QSSP ask for keys by their IDs."""
        ids = tuple(KeyId(one.key_id) for one in keys)
        procedure = self._send(SAE_C, Seat.QSSP_B, Seat.KM_B, DecKeysRequest(SAE_A, ids))
        self.some_rounds()
        return procedure

    def some_rounds(self, rounds: int = 20) -> None:
        """Let everybody say what there is to say; what is unanswered is not repeated so soon."""
        for _ in range(rounds):
            self.pump()

    def _send(self, sae: PartyId, seat: Seat, manager: Seat, request: Message) -> ProcedureId:
        self._asked += 1
        procedure, now = ProcedureId(f"procedure-{self._asked}"), self.clock()
        seats = {seat: sae, manager: ATTACHED[sae]}
        row = Row(procedure, "leased-line", seat, "line-1", seats, now + LIFETIME_US, now)
        self.begin(sae, lambda _, work: Turn(work, work.add(row), None, sae, seat).send(manager, request))
        return procedure

    def keys(self, procedure: ProcedureId) -> tuple[SuppliedKey, ...]:
        """The keys that a request was answered with."""
        answer: Any = self.answers[procedure]
        assert not isinstance(answer, ProcedureRefusal), answer
        found: tuple[SuppliedKey, ...] = answer.keys
        return found

    def refusal(self, procedure: ProcedureId) -> ProcedureRefusal:
        answer = self.answers[procedure]
        assert isinstance(answer, ProcedureRefusal), answer
        return answer

    def source(self, procedure: ProcedureId) -> str:
        """Over whose links the keys came, as their container says."""
        assert isinstance(self.answers[procedure], EncKeysResponse)
        (source,) = {one.source for one in self.keys(procedure)}
        return source
