"""Certificates over time: renewed before they end, revoked when they must, and laid where the services read them.

A service reads its files again when they change. Each is replaced whole, and a certificate is renewed for the key it
was for, so that nobody finds half of a change.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec

from qsotn.app.authority import IDENTITY_LIFETIME, Authority, Issued, is_due, read_pem_certificate
from qsotn.app.files import PUBLIC, replace_file
from qsotn.app.record import PKI, load_plan, load_record, transport_folders
from qsotn.app.service_files import SHARED_FILES, TLS_FILES
from qsotn.crypto import certificates
from qsotn.domain import Entropy, PartyId, Role, role_of
from qsotn.service.installation import INSTALLATION, load_installation


class Renewed(msgspec.Struct, frozen=True):
    """What a renewal did."""

    transport: tuple[PartyId, ...]
    identities: tuple[PartyId, ...]
    revocation_lists: bool


def renew(state: Path, entropy: Entropy, now: dt.datetime, *, everything: bool = False) -> Renewed:
    """Renew what has passed two thirds of its life; with `everything`, all transport certificates and both lists.

    Who was revoked is certified no more.
    Raises `UsageError` for a folder that holds no province, `StoreError` for a damaged one.
    """
    record, plan = load_record(state), load_plan(state)
    folders = transport_folders(state, record)
    with Authority.opened(state / PKI, plan.lifetime, entropy) as authority:
        transport = _renew_transport(authority, folders, now, everything=everything)
        identities = _renew_identities(authority, folders, now)
        lists = everything or authority.lists_due(now)
        if lists:
            authority.renew_lists(now)
        _distribute(state / PKI, folders)
    return Renewed(transport, identities, lists)


def revoke_certificate(state: Path, party: PartyId, entropy: Entropy, now: dt.datetime) -> None:
    """Revoke every certificate of a party, and tell everybody. To do it again changes nothing but the lists' number.

    Raises `UsageError` for a party that has no certificate.
    """
    record, plan = load_record(state), load_plan(state)
    with Authority.opened(state / PKI, plan.lifetime, entropy) as authority:
        authority.revoke(party, now)
        authority.renew_lists(now)
        _distribute(state / PKI, transport_folders(state, record))


def issued_certificates(state: Path, entropy: Entropy) -> list[Issued]:
    """Return every certificate that may still be valid, and everyone who was revoked."""
    plan = load_plan(state)
    with Authority.opened(state / PKI, plan.lifetime, entropy) as authority:
        return sorted(authority.register.issued, key=lambda one: (one.party, one.kind, one.not_after))


def _renew_transport(
    authority: Authority, folders: dict[PartyId, Path], now: dt.datetime, *, everything: bool
) -> tuple[PartyId, ...]:
    made: dict[PartyId, bytes] = {}
    for party, folder in folders.items():
        old = read_pem_certificate(folder / TLS_FILES["certificate"])
        if not authority.is_revoked(party) and (everything or is_due(old.not_valid_after_utc, authority.lifetime, now)):
            made[party] = authority.transport_again(old, party, now)
    if made:
        authority.save()
    for party, pem in made.items():
        replace_file(folders[party] / TLS_FILES["certificate"], pem, PUBLIC)
    return tuple(made)


def _renew_identities(authority: Authority, folders: dict[PartyId, Path], now: dt.datetime) -> tuple[PartyId, ...]:
    """Certify platform parties' identities anew, and write them into every platform party's installation."""
    platform = [party for party in folders if role_of(party) not in (Role.CPE, Role.OPERATOR, Role.QKD, Role.SAE)]
    old = {party: load_installation(folders[party]) for party in platform}
    made: dict[PartyId, tuple[bytes, ...]] = {}
    for party, installation in old.items():
        end = certificates.read_certificate(installation.chain[0]).not_valid_after_utc
        if is_due(end, IDENTITY_LIFETIME, now) and not authority.is_revoked(party):
            made[party] = authority.identity_again(party, installation.chain, now)
    if made:
        authority.save()
        for party, installation in old.items():
            renewed = msgspec.structs.replace(
                installation, chain=made.get(party, installation.chain), known={**installation.known, **made}
            )
            replace_file(folders[party] / INSTALLATION, msgspec.json.format(msgspec.json.encode(renewed), indent=2))
    return tuple(made)


def _distribute(pki: Path, folders: dict[PartyId, Path]) -> None:
    """Lay the roots and lists beside every transport certificate, where they differ."""
    for name in SHARED_FILES:
        content = (pki / name).read_bytes()
        for folder in folders.values():
            path = folder / name
            if not path.exists() or path.read_bytes() != content:
                replace_file(path, content, PUBLIC)
