"""The demo's province: who is in it, and how each party is made and opened again.

Shandong with two cities, Jinan and Qingdao, and a trusted relay at Weifang between them. Each party gets a folder
with its store and the key-encryption key of its embedded module, a certificate from the root of its kind, and the
certificates of the platform parties it deals with. A CPE is given nothing but the two roots: whom it talks to, it
learns and verifies in step 2.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from qsotn.adapters.storage.sqlite import SqliteStore
from qsotn.adapters.transport.local import LocalTransport
from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, LineId, PartyId, Role, Secret, role_of
from qsotn.errors import StoreError
from qsotn.parties.cpe import DeviceConfiguration
from qsotn.parties.desk import Certificates
from qsotn.parties.km import KmConfiguration
from qsotn.parties.qkmp import QkmpConfiguration
from qsotn.parties.qssp import QsspConfiguration
from qsotn.ports import Transaction, Transport
from qsotn.runtime import Node

POMP, QKMP, PMP = PartyId("pomp/shandong"), PartyId("qkmp/shandong"), PartyId("pmp/shandong")
QSSP_A, QSSP_B = PartyId("qssp/jinan"), PartyId("qssp/qingdao")
KM_A, KM_RELAY, KM_B = PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")
CPE_A, CPE_B = PartyId("cpe/jinan-1"), PartyId("cpe/qingdao-1")
PLATFORM = (POMP, QKMP, PMP, QSSP_A, QSSP_B, KM_A, KM_RELAY, KM_B)
PARTIES = (*PLATFORM, CPE_A, CPE_B)
SERIALS = {CPE_A: "QS-2026-000001", CPE_B: "QS-2026-000002"}
LINK_A, LINK_B = "jinan-weifang", "weifang-qingdao"
LINKS = {LINK_A: (KM_A, KM_RELAY), LINK_B: (KM_RELAY, KM_B)}
HOMES = {CPE_A: QSSP_A, CPE_B: QSSP_B}
ACCOUNT, LINE = "bank-of-shandong", LineId("line-1")
VALIDITY = timedelta(days=365)


class ProvisionedTrust(msgspec.Struct, frozen=True):
    """The two roots a party was installed with."""

    operator: bytes
    manufacturer: bytes


def _configurations() -> dict[PartyId, tuple[str, msgspec.Struct]]:
    """Each party's own configuration record, by party."""
    attached = {QSSP_A: KM_A, QSSP_B: KM_B}
    km = {
        KM_A: KmConfiguration({LINK_A: KM_RELAY}, {KM_RELAY: KM_RELAY, KM_B: KM_RELAY}, attached),
        KM_RELAY: KmConfiguration({LINK_A: KM_A, LINK_B: KM_B}, {KM_A: KM_A, KM_B: KM_B}, attached),
        KM_B: KmConfiguration({LINK_B: KM_RELAY}, {KM_RELAY: KM_RELAY, KM_A: KM_RELAY}, attached),
    }
    cpe = {party: DeviceConfiguration(serial, (1,), ("ODU0", "ODU2")) for party, serial in SERIALS.items()}
    return {
        QKMP: ("qkmp", QkmpConfiguration((QSSP_A, QSSP_B))),
        QSSP_A: ("qssp", QsspConfiguration(KM_A, QKMP, PMP)),
        QSSP_B: ("qssp", QsspConfiguration(KM_B, QKMP, PMP)),
        **{party: ("km", configuration) for party, configuration in km.items()},
        **{party: ("cpe", configuration) for party, configuration in cpe.items()},
    }


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
    _write_private(place / "module.key", kek.reveal())
    store = SqliteStore(place / "store.db")
    with store.transaction() as transaction:
        wrapped = Vault(kek, entropy).wrap(identity.to_secret(), b"identity")
        transaction.put("installation", "identity", wrapped)
        transaction.put("installation", "trust", msgspec.json.encode(trust))
        for party, chain in known.items():
            transaction.put("certificates", party, msgspec.json.encode(Certificates(chain)))
        _configure(transaction, identity.party)
    store.close()


def _configure(transaction: Transaction, party: PartyId) -> None:
    if party in (configurations := _configurations()):
        key, configuration = configurations[party]
        transaction.put("configuration", key, msgspec.json.encode(configuration))


def _write_private(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def party_folder(folder: Path, party: PartyId) -> Path:
    """Where one party's state is."""
    return folder / party.replace("/", "-")


def open_node(folder: Path, party: PartyId, entropy: Entropy, clock: Callable[[], int]) -> tuple[Node, SqliteStore]:
    """Open one party again from its folder."""
    place = party_folder(folder, party)
    try:
        vault = Vault(Secret((place / "module.key").read_bytes()), entropy)
    except (OSError, ValueError) as error:
        raise StoreError(f"the module key of {party} cannot be used: {error}") from error
    store = SqliteStore(place / "store.db")
    with store.transaction() as transaction:
        wrapped, trust = transaction.get("installation", "identity"), transaction.get("installation", "trust")
    if wrapped is None or trust is None:
        raise StoreError(f"the store of {party} was never provisioned")
    roots = msgspec.json.decode(trust, type=ProvisionedTrust)
    identity = Identity.from_secret(vault.unwrap(wrapped, b"identity"))
    anchors = TrustAnchors(roots.operator, roots.manufacturer)
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
