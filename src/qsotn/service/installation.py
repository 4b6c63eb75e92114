"""What a party is given once, in files, and how its store takes it in.

A party's folder holds

    module.key          the key-encryption key of the embedded module (32 bytes, for its user alone)
    identity.sealed     the party's own keys and certificate, wrapped under it
    installation.json   the roots, the certificates of those it must know, its own configuration: nothing secret

At a party's first start its store takes in all of it in one transaction; later, when it starts or the file changes, it
takes in what has been renewed: certificates and configuration. Keys and roots never change that way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from qsotn.crypto import certificates
from qsotn.crypto.identity import Identity, TrustAnchors
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, PartyId, Role, Secret, role_of
from qsotn.errors import BadProof, StoreError
from qsotn.messages import Chain
from qsotn.parties.cpe import DeviceConfiguration
from qsotn.parties.desk import Certificates
from qsotn.parties.km import KmConfiguration
from qsotn.parties.qkmp import QkmpConfiguration
from qsotn.parties.qssp import QsspConfiguration
from qsotn.ports import Store, Transaction

MODULE_KEY: Final = "module.key"
IDENTITY: Final = "identity.sealed"
INSTALLATION: Final = "installation.json"
IDENTITY_CONTEXT: Final = b"identity"
"""What the wrapped identity is bound to, in the file and in the store."""

CONFIGURATIONS: Final[dict[Role, type[msgspec.Struct]]] = {
    Role.QKMP: QkmpConfiguration,
    Role.QSSP: QsspConfiguration,
    Role.KM: KmConfiguration,
    Role.CPE: DeviceConfiguration,
}
"""The configuration record of each role that has one; its key is the role."""


class ProvisionedTrust(msgspec.Struct, frozen=True):
    """The two roots (DER) a party was installed with."""

    operator: bytes
    manufacturer: bytes


class Installation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One party's `installation.json`. A device knows nobody: whom it talks to, it learns and verifies in step 2."""

    party: PartyId
    trust: ProvisionedTrust
    chain: Chain
    """The party's own certificate, as it was last issued for its keys."""
    known: dict[PartyId, Chain]
    configuration: Any = None
    """The party's own configuration record, if its role has one."""


def load_installation(folder: Path) -> Installation:
    """Read a party's installation. Raises `StoreError` if it is not there or not one."""
    path = folder / INSTALLATION
    try:
        return msgspec.json.decode(path.read_bytes(), type=Installation)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path} is no installation of a party: {error}") from error


def open_vault(folder: Path, party: PartyId, entropy: Entropy) -> Vault:
    """Open the embedded module of a party. Raises `StoreError`."""
    try:
        return Vault(Secret((folder / MODULE_KEY).read_bytes()), entropy)
    except (OSError, ValueError) as error:
        raise StoreError(f"the module key of {party} cannot be used: {error}") from error


def install(folder: Path, store: Store, entropy: Entropy) -> None:
    """Take in what the folder holds and the store has not; a second call changes nothing.

    Raises `StoreError` if the store is another party's or another installation's, or a file cannot be used;
    `StoreConflict` if another replica did the same at once (then call again).
    """
    wanted = load_installation(folder)
    vault = open_vault(folder, wanted.party, entropy)
    with store.transaction() as transaction:
        sealed = transaction.get("installation", "identity")
        if sealed is None:
            sealed = _sealed_identity(folder)
            provision(transaction, sealed, wanted)
        identity = Identity.from_secret(vault.unwrap(sealed, IDENTITY_CONTEXT))
        _check_same(transaction, identity.party, wanted)
        if wanted.chain != identity.chain:
            renewed = _with_chain(identity, wanted.chain)
            transaction.put("installation", "identity", vault.wrap(renewed.to_secret(), IDENTITY_CONTEXT))
        _take_known(transaction, wanted)


def _sealed_identity(folder: Path) -> bytes:
    try:
        return (folder / IDENTITY).read_bytes()
    except OSError as error:
        raise StoreError(f"{folder / IDENTITY} cannot be read: {error.strerror}") from error


def provision(transaction: Transaction, sealed: bytes, wanted: Installation) -> None:
    """Write all of an installation into an empty store."""
    transaction.put("installation", "identity", sealed)
    transaction.put("installation", "trust", msgspec.json.encode(wanted.trust))
    _take_known(transaction, wanted)


def _check_same(transaction: Transaction, party: PartyId, wanted: Installation) -> None:
    if party != wanted.party:
        raise StoreError(f"the store is not that of {wanted.party}: it holds the keys of {party}")
    if transaction.get("installation", "trust") != msgspec.json.encode(wanted.trust):
        raise StoreError(f"the store of {wanted.party} was provisioned under other roots than {INSTALLATION} names")


def _with_chain(identity: Identity, chain: Chain) -> Identity:
    """Return an identity under another certificate of the same two keys. Raises `StoreError` for one of other keys."""
    certified = _certified(identity.party, chain)
    own = (identity.signing_key.public_key().public_bytes_raw(), identity.kem.public)
    if certified != own:
        raise StoreError(f"{INSTALLATION} has a certificate of {identity.party} for keys that it does not hold")
    return Identity(identity.party, chain, identity.suite, identity.signing_key, identity.kem)


def _certified(party: PartyId, chain: Chain) -> tuple[bytes, bytes]:
    try:
        certificate = certificates.read_certificate(chain[0] if chain else b"")
        named = certificates.certified_party(certificate.extensions, certificates.DEFAULT_TRUST_DOMAIN)
        _, kem_public = certificates.certified_kem(certificate.extensions)
    except BadProof as error:
        raise StoreError(f"{INSTALLATION} has no certificate of {party} that can be used: {error}") from error
    if named != party:
        raise StoreError(f"{INSTALLATION} has a certificate of {named} where one of {party} belongs")
    public = certificate.public_key()
    return public.public_bytes_raw(), kem_public  # type: ignore[union-attr]  # an ML-DSA key, as certified_kem found


def _take_known(transaction: Transaction, wanted: Installation) -> None:
    for party, chain in wanted.known.items():
        _certified(party, chain)
        _put_changed(transaction, "certificates", party, msgspec.json.encode(Certificates(chain)))
    kind = CONFIGURATIONS.get(role_of(wanted.party))
    if kind is not None:
        _put_changed(transaction, "configuration", role_of(wanted.party), _configuration(wanted, kind))


def _configuration(wanted: Installation, kind: type[msgspec.Struct]) -> bytes:
    try:
        return msgspec.json.encode(msgspec.convert(wanted.configuration, kind, from_attributes=True))
    except msgspec.ValidationError as error:
        raise StoreError(f"{INSTALLATION} has no configuration for {wanted.party}: {error}") from error


def _put_changed(transaction: Transaction, collection: str, key: str, value: bytes) -> None:
    if transaction.get(collection, key) != value:
        transaction.put(collection, key, value)


def open_installed(store: Store, vault: Vault, party: PartyId) -> tuple[Identity, TrustAnchors]:
    """Return who a provisioned store says its party is, and whom it trusts.

    Raises `StoreError` for a store that was never provisioned, or that is another party's.
    """
    with store.transaction() as transaction:
        sealed, trust = transaction.get("installation", "identity"), transaction.get("installation", "trust")
    if sealed is None or trust is None:
        raise StoreError(f"the store of {party} was never provisioned")
    roots = msgspec.json.decode(trust, type=ProvisionedTrust)
    identity = Identity.from_secret(vault.unwrap(sealed, IDENTITY_CONTEXT))
    if identity.party != party:
        raise StoreError(f"the store is not that of {party}: it holds the keys of {identity.party}")
    return identity, TrustAnchors(roots.operator, roots.manufacturer)
