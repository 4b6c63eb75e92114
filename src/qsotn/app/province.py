"""The demo's province: who is in it, and how each party is made and opened again.

It is the province that ships with the package (`sample_province.toml`), all of it in one process. Each party gets a
folder with its store and the key-encryption key of its embedded module, a certificate from the root of its kind, and
the certificates of the platform parties it deals with. A CPE is given nothing but the two roots: whom it talks to, it
learns and verifies in step 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.local import LocalTransport
from qsotn.app.files import write_new
from qsotn.app.plan import sample_plan
from qsotn.crypto.identity import CertificateAuthority, Identity
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, LineId, PartyId, Role, Secret, role_of
from qsotn.ports import Transport
from qsotn.runtime import Node
from qsotn.service.installation import (
    IDENTITY_CONTEXT,
    MODULE_KEY,
    Installation,
    ProvisionedTrust,
    open_installed,
    open_vault,
    provision,
)

PLAN = sample_plan()
POMP, QKMP, PMP = PLAN.pomp, PLAN.qkmp, PLAN.pmp
QSSP_A, QSSP_B = PLAN.qssps
KM_A, KM_B, KM_RELAY = PLAN.kms
CPE_A, CPE_B = PLAN.cpes
PLATFORM, PARTIES = PLAN.platform, PLAN.parties
SERIALS, HOMES, LINKS = PLAN.serial_numbers, PLAN.homes, PLAN.links
LINK_A, LINK_B = LINKS
ACCOUNT, LINE = "bank-of-shandong", LineId("line-1")
VALIDITY = timedelta(days=365)


def make_province(folder: Path, entropy: Entropy, now: datetime) -> None:
    """Make every party: keys, certificates, configuration, store. The roots' private keys are not kept."""
    operator = CertificateAuthority.create("Shandong operator root", entropy, now)
    manufacturer = CertificateAuthority.create("CPE manufacturer root", entropy, now)
    identities = {
        party: Identity.create(
            party,
            manufacturer if role_of(party) is Role.CPE else operator,
            now - timedelta(minutes=5),
            now + VALIDITY,
            entropy,
            SERIALS.get(party),
        )
        for party in PARTIES
    }
    platform = {party: identities[party].chain for party in PLATFORM}
    trust = ProvisionedTrust(operator.certificate, manufacturer.certificate)
    for identity in identities.values():
        known = {} if role_of(identity.party) is Role.CPE else platform
        _make_party(folder, identity, trust, known, entropy)


def _make_party(
    folder: Path,
    identity: Identity,
    trust: ProvisionedTrust,
    known: dict[PartyId, tuple[bytes, ...]],
    entropy: Entropy,
) -> None:
    place = party_folder(folder, identity.party)
    place.mkdir(parents=True, mode=0o700)
    kek = Secret(entropy(32))
    write_new(place / MODULE_KEY, kek.reveal())
    sealed = Vault(kek, entropy).wrap(identity.to_secret(), IDENTITY_CONTEXT)
    installation = Installation(identity.party, trust, identity.chain, known, PLAN.configuration(identity.party))
    store = SqliteStore(place / "store.db")
    with store.transaction() as transaction:
        provision(transaction, sealed, installation)
    store.close()


def party_folder(folder: Path, party: PartyId) -> Path:
    """Where one party's state is."""
    return folder / party.replace("/", "-")


def open_node(folder: Path, party: PartyId, entropy: Entropy, clock: Callable[[], int]) -> tuple[Node, SqliteStore]:
    """Open one party again from its folder."""
    place = party_folder(folder, party)
    vault = open_vault(place, party, entropy)
    store = SqliteStore(place / "store.db")
    identity, anchors = open_installed(store, vault, party)
    courier = PMP if role_of(party) in (Role.CPE, Role.QSSP) else None
    return Node(identity, anchors, store, vault, entropy, clock, courier), store


@dataclass(frozen=True)
class Province:
    """All parties of one process, joined by one transport."""

    nodes: dict[PartyId, Node]
    stores: dict[PartyId, SqliteStore]
    transport: Transport

    def pump(self) -> int:
        """Let every party hand over what it has; return how many datagrams got a receipt."""
        return sum(node.flush(self.transport) for node in self.nodes.values())


@contextmanager
def open_province(folder: Path, entropy: Entropy, clock: Callable[[], int]) -> Iterator[Province]:
    """Open all parties and join them; close their stores at the end."""
    opened = {party: open_node(folder, party, entropy, clock) for party in PARTIES}
    transport = LocalTransport()
    for party, (node, _) in opened.items():
        transport.join(party, node.receive)
    province = Province(
        {party: node for party, (node, _) in opened.items()},
        {party: store for party, (_, store) in opened.items()},
        transport,
    )
    try:
        yield province
    finally:
        for store in province.stores.values():
            store.close()


def utc(clock: Callable[[], int]) -> datetime:
    """The clock's time as a date."""
    return datetime.fromtimestamp(clock() / 1_000_000, UTC)
