"""The certificate for connections: what it must hold, what it must not, and one row for every way to be refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from qsotn.crypto import certificates
from qsotn.crypto.identity import CertificateAuthority, verify_certificate
from qsotn.crypto.paths import TrustAnchors
from qsotn.crypto.revocation_lists import issue_revocation_list, read_revocation_list
from qsotn.crypto.suites import DEFAULT_SUITE, SigningKey, suite
from qsotn.crypto.transport_certificates import issue_transport, verify_transport
from qsotn.domain import Entropy, PartyId, Role
from qsotn.errors import BadProof, MalformedMessage, UsageError

Draw = Callable[[str], Entropy]
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)
QSSP, CPE = PartyId("qssp/jinan"), PartyId("cpe/east")


@pytest.fixture(scope="module")
def key(draw: Draw) -> SigningKey:
    return DEFAULT_SUITE.generate_signing_key(draw("transport"))


def raw(key: SigningKey) -> bytes:
    return key.public_key().public_bytes_raw()


@pytest.mark.parametrize("role", Role)
def test_each_role_is_certified_by_its_own_root_alone(world: Any, key: SigningKey, role: Role) -> None:
    party, serial = PartyId(f"{role}/x"), "SN-7" if role is Role.CPE else None
    right, wrong = world.operator, world.manufacturer
    if role is Role.CPE:
        right, wrong = wrong, right
    chain = (issue_transport(right, party, raw(key), world.now, world.ends, (), serial),)
    peer = verify_transport(chain, world.trust, {}, world.now)
    assert (peer.party, peer.role, peer.serial, peer.not_after) == (party, role, serial, world.ends)
    assert peer.certificate_sha384 == hashlib.sha384(chain[0]).digest()
    assert peer.certificate_number == x509.load_der_x509_certificate(chain[0]).serial_number
    swapped = (issue_transport(wrong, party, raw(key), world.now, world.ends, (), serial),)
    with pytest.raises(BadProof, match=f"of {role}/x does not lead to the root of its role: it comes from the wrong"):
        verify_transport(swapped, world.trust, {}, world.now)


def test_the_certificate_says_what_it_is_for_and_nothing_else(world: Any, key: SigningKey) -> None:
    names = ["qssp.jinan.example", "localhost", "127.0.0.1", "::1"]
    der = issue_transport(world.operator, QSSP, raw(key), world.now, world.ends, names)
    certificate = x509.load_der_x509_certificate(der)
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://qsotn.example/qssp/jinan"]
    assert alternatives.get_values_for_type(x509.DNSName) == names[:2]
    assert alternatives.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(name) for name in names[2:]]
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {*purposes} == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_cert_sign, usage.crl_sign) == (True, False, False)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificates.HPKE_KEY_OID not in {extension.oid for extension in certificate.extensions}
    assert verify_transport((der,), world.trust, {}, world.now).party == QSSP


def test_neither_kind_of_certificate_passes_for_the_other(world: Any, key: SigningKey) -> None:
    der = issue_transport(world.operator, QSSP, raw(key), world.now, world.ends)
    with pytest.raises(BadProof, match="holds no HPKE public key"):
        verify_certificate((der,), world.trust, world.now)
    with pytest.raises(BadProof, match="is the one that signs its messages"):
        verify_transport(world.qssp[1].chain, world.trust, {}, world.now)


def test_the_clock_is_asked_each_time(world: Any, key: SigningKey) -> None:
    chain = (issue_transport(world.operator, QSSP, raw(key), world.now, world.now + DAY),)
    first = verify_transport(chain, world.trust, {}, world.now)
    assert verify_transport(chain, world.trust, {}, world.now + DAY) is first
    with pytest.raises(BadProof, match="of qssp/jinan has expired"):
        verify_transport(chain, world.trust, {}, world.now + DAY + SECOND)
    with pytest.raises(BadProof, match="of qssp/jinan is not yet valid"):
        verify_transport(chain, world.trust, {}, world.now - SECOND)


def resigned(world: Any, key: SigningKey, *changed: x509.ExtensionType, left_out: type | None = None) -> bytes:
    """A certificate of the operator's root with some extensions replaced or left out."""
    der = issue_transport(world.operator, QSSP, raw(key), world.now, world.ends)
    certificate = x509.load_der_x509_certificate(der)
    replaced = {extension.oid: extension for extension in changed}
    extensions = [
        (replaced.get(extension.oid, extension.value), extension.critical)
        for extension in certificate.extensions
        if not (left_out and isinstance(extension.value, left_out))
    ]
    window, subject = (world.now, world.ends), certificates.subject_of(QSSP, None)
    made = certificates.build_certificate(
        subject, key.public_key(), certificate.issuer, world.operator.signing_key, 5, window, extensions
    )
    return made.public_bytes(Encoding.DER)


def purposes(*oids: x509.ObjectIdentifier) -> x509.ExtendedKeyUsage:
    return x509.ExtendedKeyUsage(oids)


def named(*values: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(value) for value in values])


CHANGED: dict[str, tuple[x509.ExtensionType, str]] = {
    "for clients alone": (purposes(ExtendedKeyUsageOID.CLIENT_AUTH), "not for both clients and servers"),
    "for servers alone": (purposes(ExtendedKeyUsageOID.SERVER_AUTH), "not for both clients and servers"),
    "for anything": (purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), "not for both clients and servers"),
    "no URI": (x509.SubjectAlternativeName([x509.DNSName("localhost")]), "names 0 URIs"),
    "two URIs": (named("spiffe://qsotn.example/qssp/jinan", "https://localhost/"), "names 2 URIs"),
    "no role": (named("spiffe://qsotn.example/king/jinan"), "identity is none"),
    "another trust domain": (named("spiffe://elsewhere/qssp/jinan"), "expected an identity under"),
    "a CA": (x509.BasicConstraints(ca=True, path_length=None), "cA must not be asserted"),
}


@pytest.mark.parametrize(("extension", "words"), CHANGED.values(), ids=CHANGED)
def test_the_operators_own_signature_does_not_save_a_wrong_extension(
    world: Any, key: SigningKey, extension: x509.ExtensionType, words: str
) -> None:
    assert verify_transport((resigned(world, key),), world.trust, {}, world.now).party == QSSP
    with pytest.raises(BadProof, match=words):
        verify_transport((resigned(world, key, extension),), world.trust, {}, world.now)


@pytest.mark.parametrize("left_out", [x509.KeyUsage, x509.ExtendedKeyUsage])
def test_a_key_must_say_what_it_is_for(world: Any, key: SigningKey, left_out: type) -> None:
    with pytest.raises(BadProof, match="what its key is for"):
        verify_transport((resigned(world, key, left_out=left_out),), world.trust, {}, world.now)


def test_a_stranger_of_the_same_name_and_an_empty_chain_are_refused(world: Any, key: SigningKey, draw: Draw) -> None:
    other = CertificateAuthority.create("operator", draw("another operator"), world.now)
    chain = (issue_transport(other, QSSP, raw(key), world.now, world.ends),)
    with pytest.raises(BadProof, match="its root is unknown here"):
        verify_transport(chain, world.trust, {}, world.now)
    for wrong in [(), chain * 4]:
        with pytest.raises(BadProof, match="expected 1 to 3"):
            verify_transport(wrong, world.trust, {}, world.now)


@pytest.mark.parametrize("names", [[""], ["jinan.例"], ["a", "b b"], ["*.jinan"], ["-a"], ["x" * 64], ["a..b"]])
def test_nothing_is_issued_for_a_name_that_is_none(world: Any, key: SigningKey, names: list[str]) -> None:
    with pytest.raises(UsageError, match="neither an IP address nor a host name"):
        issue_transport(world.operator, QSSP, raw(key), world.now, world.ends, names)


def test_nothing_is_issued_for_wrong_keys_or_serial_numbers(world: Any, key: SigningKey, draw: Draw) -> None:
    larger = suite(2).generate_signing_key(draw("larger"))
    with pytest.raises(MalformedMessage, match="no ML-DSA-65 public key"):
        issue_transport(world.operator, QSSP, raw(larger), world.now, world.ends)
    with pytest.raises(UsageError, match="with its serial number"):
        issue_transport(world.manufacturer, CPE, raw(key), world.now, world.ends)
    with pytest.raises(UsageError, match="with its serial number"):
        issue_transport(world.operator, QSSP, raw(key), world.now, world.ends, (), "SN-1")
    with pytest.raises(UsageError, match="no party"):
        issue_transport(world.operator, PartyId("king/x"), raw(key), world.now, world.ends)


def test_a_revoked_certificate_is_refused_and_no_other(world: Any, key: SigningKey) -> None:
    revoked, kept = ((issue_transport(world.operator, QSSP, raw(key), world.now, world.ends),) for _ in range(2))
    number = verify_transport(revoked, world.trust, {}, world.now).certificate_number
    data = issue_revocation_list(world.operator, {number: world.now}, 1, world.now, world.now + DAY)
    lists = {world.operator.certificate: read_revocation_list(data, world.operator.certificate)}
    with pytest.raises(BadProof, match=f"of qssp/jinan is revoked .serial number {number:x}"):
        verify_transport(revoked, world.trust, lists, world.now)
    assert verify_transport(kept, world.trust, lists, world.now + DAY).party == QSSP
    with pytest.raises(BadProof, match="the revocation list that covers qssp/jinan ended"):
        verify_transport(kept, world.trust, lists, world.now + DAY + SECOND)
    device = (issue_transport(world.manufacturer, CPE, raw(key), world.now, world.ends, (), "SN-1"),)
    assert verify_transport(device, world.trust, lists, world.now + 2 * DAY).party == CPE


def test_an_intermediate_is_not_covered_by_its_roots_list(world: Any, key: SigningKey, draw: Draw) -> None:
    """An external root may certify an issuing authority; whose certificates are revoked, the root does not know."""
    top = DEFAULT_SUITE.generate_signing_key(draw("top"))
    name = certificates.subject_of(PartyId("top"), None)
    above = [
        (x509.BasicConstraints(ca=True, path_length=1), True),
        *certificates.root_extensions(top.public_key())[1:],
    ]
    window = (world.now - DAY, world.ends)
    root = certificates.build_certificate(name, top.public_key(), name, top, 1, window, above)
    below = [
        *certificates.root_extensions(world.operator.signing_key.public_key()),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(top.public_key()), False),
    ]
    issuer, public = certificates.subject_of(PartyId("operator"), None), world.operator.signing_key.public_key()
    middle = certificates.build_certificate(issuer, public, name, top, 2, window, below).public_bytes(Encoding.DER)
    anchor = root.public_bytes(Encoding.DER)
    trust = TrustAnchors(anchor, world.manufacturer.certificate)
    chain = (issue_transport(world.operator, QSSP, raw(key), world.now, world.ends), middle)
    assert verify_transport(chain, trust, {}, world.now).party == QSSP
    authority = CertificateAuthority(anchor, "top", "qsotn.example", top, draw("serials"))
    data = issue_revocation_list(authority, {}, 1, world.now, world.ends)
    with pytest.raises(BadProof, match="certified by an intermediate"):
        verify_transport(chain, trust, {anchor: read_revocation_list(data, anchor)}, world.now)
