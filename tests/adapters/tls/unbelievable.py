"""Certificates that nobody believes, each with the words that say why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography import x509
from tests.adapters.tls.parties import CPE, DAY, KM, NOW, POMP, SECOND, Province, seeded, uris

from qsotn.crypto.identity import CertificateAuthority, Identity
from qsotn.crypto.transport_certificates import issue_transport
from qsotn.domain import PartyId

Maker = Callable[[Province, PartyId], tuple[list[bytes], Any]]
"""Makes a chain and its key."""


def of_an_unknown_root(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    """A root of the same name, with another key."""
    key, other = province.key(), CertificateAuthority.create("operator", seeded("other"), NOW - DAY)
    return [issue_transport(other, party, key.public_key().public_bytes_raw(), NOW - DAY, NOW + DAY)], key


def of_the_wrong_root(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    key = province.key()
    public = key.public_key().public_bytes_raw()
    return [issue_transport(province.manufacturer, party, public, NOW - DAY, NOW + DAY)], key


def a_device_of_the_operators_root(province: Province, _: PartyId) -> tuple[list[bytes], Any]:
    key = province.key()
    public = key.public_key().public_bytes_raw()
    return [issue_transport(province.operator, CPE, public, NOW - DAY, NOW + DAY, (), "SN-9")], key


def expired(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    key = province.key()
    return [province.certificate(party, key, NOW - 2 * DAY - SECOND, 2)], key


def not_yet_valid(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    key = province.key()
    return [province.certificate(party, key, NOW + SECOND)], key


def of_an_identity(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    """The certificate that signs a party's messages, with its key."""
    identity = Identity.create(party, province.operator, NOW - DAY, NOW + DAY, province.entropy)
    return list(identity.chain), identity.signing_key


def without_a_name(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    key = province.key()
    return [province.wrongly(party, key, x509.SubjectAlternativeName([x509.DNSName("localhost")]))], key


def with_two_names(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    key = province.key()
    return [province.wrongly(party, key, uris(party, POMP))], key


def of_another_trust_domain(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    key, alternatives = province.key(), [x509.UniformResourceIdentifier(f"spiffe://elsewhere/{party}")]
    return [province.wrongly(party, key, x509.SubjectAlternativeName(alternatives))], key


def with_an_end_entity_for_an_intermediate(province: Province, party: PartyId) -> tuple[list[bytes], Any]:
    """Issued by a party's own transport certificate."""
    key, km = province.key(), province.key()
    issuer = province.certificate(KM, km)
    rogue = CertificateAuthority(issuer, KM, "qsotn.example", km, seeded("rogue"))
    return [issue_transport(rogue, party, key.public_key().public_bytes_raw(), NOW - DAY, NOW + DAY), issuer], key


UNBELIEVED: dict[str, tuple[Maker, str, PartyId | None]] = {
    "unknown root": (of_an_unknown_root, "its root is unknown here", KM),
    "wrong root for its role": (of_the_wrong_root, "it comes from the wrong root", KM),
    "device of the operator's root": (a_device_of_the_operators_root, "it comes from the wrong root", CPE),
    "expired": (expired, "has expired", KM),
    "not yet valid": (not_yet_valid, "is not yet valid", KM),
    "identity certificate": (of_an_identity, "is the one that signs its messages", KM),
    "no URI": (without_a_name, "names 0 URIs", None),
    "two URIs": (with_two_names, "names 2 URIs", None),
    "another trust domain": (of_another_trust_domain, "expected an identity under spiffe://qsotn.example/", None),
    "issued by an end entity": (with_an_end_entity_for_an_intermediate, "cA must be asserted", KM),
}
"""What is wrong → the certificate of km/jinan, part of the reason, and the party it is seen to claim."""
