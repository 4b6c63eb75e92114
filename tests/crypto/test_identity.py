"""Identities: what a certificate must hold to be believed, and one row for every way it can fail to."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qsotn.crypto import cbor, certificates
from qsotn.crypto.identity import (
    CertificateAuthority,
    Identity,
    TrustAnchors,
    certificate_request,
    verify_certificate,
    verify_request,
)
from qsotn.crypto.suites import SUITES, suite
from qsotn.domain import Entropy, PartyId, Role, Secret
from qsotn.errors import BadProof, MalformedMessage, StoreError, UsageError

Draw = Callable[[str], Entropy]
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)


@pytest.mark.parametrize("number", sorted(SUITES))
def test_a_party_and_a_device_prove_who_they_are(world: Any, number: int) -> None:
    for identity, role, serial in [(world.qssp[number], Role.QSSP, None), (world.cpe[number], Role.CPE, "SN-0001")]:
        verified = verify_certificate(identity.chain, world.trust, world.now)
        assert (verified.party, verified.role, verified.serial) == (identity.party, role, serial)
        assert verified.suite is suite(number)
        assert verified.kem_public == identity.kem.public
        assert verified.certificate_sha384 == identity.certificate_sha384 == hashlib.sha384(identity.chain[0]).digest()
        verified.verification_key.verify(identity.signing_key.sign(b"data"), b"data")


def test_parsed_keys_are_kept_but_the_clock_is_asked_each_time(world: Any) -> None:
    chain = world.qssp[1].chain
    first = verify_certificate(chain, world.trust, world.now)
    assert verify_certificate(chain, world.trust, world.ends) is first
    for moment, reason in [(world.now - SECOND, "valid from"), (world.ends + SECOND, "valid from")]:
        with pytest.raises(BadProof, match=reason):
            verify_certificate(chain, world.trust, moment)
    assert verify_certificate(chain, world.trust, world.now) is first


def test_a_certificate_does_not_outlive_its_root(world: Any, draw: Draw) -> None:
    root = CertificateAuthority.create("short", draw("short"), world.now - 3649 * DAY)
    party = Identity.create(PartyId("km/jinan"), root, world.now, world.now + 30 * DAY, draw("km"))
    trust = TrustAnchors(root.certificate, world.manufacturer.certificate)
    verify_certificate(party.chain, trust, world.now)
    with pytest.raises(BadProof, match="valid from"):
        verify_certificate(party.chain, trust, world.now + 2 * DAY)


def test_each_root_certifies_its_own_roles_alone(world: Any, draw: Draw) -> None:
    """A manufacturer's key makes no QSSP, and the operator's makes no device."""
    swapped = TrustAnchors(world.manufacturer.certificate, world.operator.certificate)
    for identity in (world.qssp[1], world.cpe[1]):
        with pytest.raises(BadProof, match="root of its role"):
            verify_certificate(identity.chain, swapped, world.now)
    for role in Role:
        authority = world.operator if role is Role.CPE else world.manufacturer
        serial = "SN-2" if role is Role.CPE else None
        impostor = Identity.create(
            PartyId(f"{role}/x"), authority, world.now, world.ends, draw(f"impostor {role}"), serial
        )
        with pytest.raises(BadProof, match="root of its role"):
            verify_certificate(impostor.chain, world.trust, world.now)


def test_a_root_of_the_same_name_with_another_key_is_another_root(world: Any, draw: Draw) -> None:
    other = CertificateAuthority.create("operator", draw("another operator"), world.now)
    impostor = Identity.create(PartyId("qssp/jinan"), other, world.now, world.ends, draw("impostor"))
    with pytest.raises(BadProof, match="root of its role"):
        verify_certificate(impostor.chain, world.trust, world.now)
    with pytest.raises(BadProof):
        verify_certificate((*impostor.chain, other.certificate), world.trust, world.now)


def standard(world: Any, party: str = "qssp/jinan") -> list[certificates.Extension]:
    """The extensions a QSSP's certificate really has."""
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(world.operator.signing_key.public_key())
    kem_public = world.qssp[1].kem.public
    return [
        *certificates.end_entity_extensions(PartyId(party), "qsotn.example", 1, kem_public),
        *certificates.issuing_extensions(),
        (authority, False),
    ]


def certified(world: Any, extensions: list[certificates.Extension], serial_number: str | None = None) -> bytes:
    """A certificate that the operator's root really signed, with these extensions."""
    certificate = certificates.build_certificate(
        certificates.subject_of(PartyId("qssp/jinan"), serial_number),
        world.qssp[1].signing_key.public_key(),
        certificates.subject_of(PartyId("operator"), None),
        world.operator.signing_key,
        77,
        (world.now, world.ends),
        extensions,
    )
    return certificate.public_bytes(Encoding.DER)


def usage(**wanted: bool) -> x509.KeyUsage:
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
    names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def uris(*values: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(value) for value in values])


def private(value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(certificates.HPKE_KEY_OID, value)


def hpke_key(number: int, public: bytes) -> x509.UnrecognizedExtension:
    extension, _ = certificates.end_entity_extensions(PartyId("qssp/x"), "d", number, public)[1]
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension


GOOD = "spiffe://qsotn.example/qssp/jinan"
DNS_ONLY = x509.SubjectAlternativeName([x509.DNSName("qsotn.example")])

REPLACED: dict[str, tuple[x509.ExtensionType, str]] = {
    "a CA": (x509.BasicConstraints(ca=True, path_length=0), "cA must not be asserted"),
    "only for TLS servers": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), "EKU"),
    "only for code": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), "EKU"),
    "key for other uses": (usage(content_commitment=True), "not for digital signatures"),
    "key for certificates": (usage(digital_signature=True, key_cert_sign=True), "keyCertSign"),
    "no URI": (DNS_ONLY, "names 0 URIs"),
    "two URIs": (uris(GOOD, "spiffe://qsotn.example/pomp/x"), "names 2 URIs"),
    "another trust domain": (uris("spiffe://qsotn.invalid/qssp/jinan"), "expected an identity under"),
    "a longer trust domain": (uris("spiffe://qsotn.example.org/qssp/jinan"), "expected an identity under"),
    "another scheme": (uris("https://qsotn.example/qssp/jinan"), "expected an identity under"),
    "unknown role": (uris("spiffe://qsotn.example/king/jinan"), "identity is none"),
    "role without name": (uris("spiffe://qsotn.example/qssp/"), "identity is none"),
    "name with a slash": (uris("spiffe://qsotn.example/qssp/a/b"), "identity is none"),
    "name with an escape": (uris("spiffe://qsotn.example/qssp/a%2Fb"), "identity is none"),
    "HPKE key that is no DER": (private(b"junk"), "no HPKE public key"),
    "HPKE key that is empty": (private(b""), "no HPKE public key"),
    "HPKE key of an unknown suite": (hpke_key(9, bytes(1216)), "no HPKE public key"),
    "HPKE key that is none": (hpke_key(1, b"\xff" * 1216), "no HPKE public key"),
    "HPKE key of another length": (hpke_key(1, bytes(100)), "no HPKE public key"),
    "HPKE key of another suite": (hpke_key(3, suite(3).kem_key(Secret(bytes(64))).public), "not of suite 3"),
}


@pytest.mark.parametrize(("extension", "reason"), REPLACED.values(), ids=REPLACED)
def test_the_operators_own_signature_does_not_save_a_wrong_extension(
    world: Any, extension: x509.ExtensionType, reason: str
) -> None:
    extensions = [
        (extension, critical) if old.oid == extension.oid else (old, critical) for old, critical in standard(world)
    ]
    assert extensions != standard(world)
    with pytest.raises(BadProof, match=reason):
        verify_certificate((certified(world, extensions),), world.trust, world.now)


MISSING = {
    x509.SubjectAlternativeName: "names 0 URIs",
    x509.UnrecognizedExtension: "no HPKE public key",
    x509.KeyUsage: "what its key is for",
    x509.ExtendedKeyUsage: "what its key is for",
    x509.AuthorityKeyIdentifier: "missing required extension",
}


@pytest.mark.parametrize(("kind", "reason"), MISSING.items())
def test_no_extension_may_be_missing(world: Any, kind: type, reason: str) -> None:
    assert verify_certificate((certified(world, standard(world)),), world.trust, world.now).party == "qssp/jinan"
    extensions = [(old, critical) for old, critical in standard(world) if not isinstance(old, kind)]
    with pytest.raises(BadProof, match=reason):
        verify_certificate((certified(world, extensions),), world.trust, world.now)


def test_an_unknown_critical_extension_is_not_ignored(world: Any) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1"), b"")
    with pytest.raises(BadProof, match="critical"):
        verify_certificate((certified(world, [*standard(world), (unknown, True)]),), world.trust, world.now)


def test_a_device_has_a_serial_number_and_only_a_device_has(world: Any, draw: Draw) -> None:
    with pytest.raises(BadProof, match="serial number"):
        verify_certificate((certified(world, standard(world), "SN-1"),), world.trust, world.now)
    nameless = Identity.create(PartyId("cpe/x"), world.manufacturer, world.now, world.ends, draw("nameless"))
    with pytest.raises(BadProof, match="serial number"):
        verify_certificate(nameless.chain, world.trust, world.now)


def test_a_device_has_one_serial_number(world: Any) -> None:
    attributes = [x509.NameAttribute(NameOID.SERIAL_NUMBER, serial) for serial in ("SN-1", "SN-2")]
    builder = signed_by(world, world.qssp[1].signing_key.public_key(), subject=x509.Name(attributes))
    der = builder.sign(world.operator.signing_key, None).public_bytes(Encoding.DER)
    with pytest.raises(BadProof, match="more than one serial number"):
        verify_certificate((der,), world.trust, world.now)


def signed_by(world: Any, public: Any, **changes: Any) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(changes.get("subject", certificates.subject_of(PartyId("qssp/jinan"), None)))
        .issuer_name(changes.get("issuer", certificates.subject_of(PartyId("operator"), None)))
        .public_key(public)
        .serial_number(5)
        .not_valid_before(world.now)
        .not_valid_after(world.ends)
    )
    for extension, critical in changes.get("extensions", standard(world)):
        builder = builder.add_extension(extension, critical=critical)
    return builder


def test_a_classical_key_is_not_believed_even_when_the_root_signed_it(world: Any) -> None:
    classical = signed_by(world, ec.generate_private_key(ec.SECP384R1()).public_key())
    der = classical.sign(world.operator.signing_key, None).public_bytes(Encoding.DER)
    with pytest.raises(BadProof, match="not ML-DSA"):
        verify_certificate((der,), world.trust, world.now)


def test_a_classical_root_is_no_root(world: Any) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), certificates.subject_of(PartyId("operator"), None)
    constraints = [*certificates.root_extensions(world.operator.signing_key.public_key())[:2]]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    root = signed_by(world, key.public_key(), subject=name, extensions=[*constraints, (identifier, False)])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    leaf = signed_by(
        world, world.qssp[1].signing_key.public_key(), extensions=[*standard(world)[:-1], (authority, False)]
    )
    root_der = root.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    chain = (leaf.sign(key, hashes.SHA256()).public_bytes(Encoding.DER),)
    with pytest.raises(BadProof, match="not ML-DSA"):
        verify_certificate(chain, TrustAnchors(root_der, world.manufacturer.certificate), world.now)


def intermediate(world: Any, key: Any, path_length: int | None) -> tuple[bytes, bytes]:
    """A root of this path length, and an issuing authority `operator` under it with the operator's own key."""
    name, issuer = certificates.subject_of(PartyId("top"), None), certificates.subject_of(PartyId("operator"), None)
    public, issuing = key.public_key(), world.operator.signing_key.public_key()
    below = certificates.root_extensions(issuing)
    above = [(x509.BasicConstraints(ca=True, path_length=path_length), True), *certificates.root_extensions(public)[1:]]
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(public)
    root = signed_by(world, public, subject=name, issuer=name, extensions=above).sign(key, None)
    middle = signed_by(world, issuing, subject=issuer, issuer=name, extensions=[*below, (authority, False)])
    return root.public_bytes(Encoding.DER), middle.sign(key, None).public_bytes(Encoding.DER)


def test_an_intermediate_is_believed_if_its_root_allows_one(world: Any, draw: Draw) -> None:
    leaf = world.qssp[1].chain[0]
    key = suite(1).generate_signing_key(draw("top"))
    root, middle = intermediate(world, key, 1)
    trust = TrustAnchors(root, world.manufacturer.certificate)
    assert verify_certificate((leaf, middle), trust, world.now).party == "qssp/jinan"
    for chain in [(leaf,), (middle, leaf), (leaf, middle, middle, middle), ()]:
        with pytest.raises(BadProof):
            verify_certificate(chain, trust, world.now)
    narrow, middle = intermediate(world, key, 0)
    with pytest.raises(BadProof, match="root of its role"):
        verify_certificate((leaf, middle), TrustAnchors(narrow, world.manufacturer.certificate), world.now)


def test_an_end_entity_issues_nothing(world: Any, draw: Draw) -> None:
    """The QSSP's own key signs a certificate for a POMP."""
    qssp = world.qssp[1]
    rogue = CertificateAuthority(qssp.chain[0], "qssp/jinan", "qsotn.example", qssp.signing_key, draw("rogue"))
    pomp = Identity.create(PartyId("pomp/x"), rogue, world.now, world.ends, draw("pomp"))
    with pytest.raises(BadProof, match="root of its role"):
        verify_certificate((*pomp.chain, qssp.chain[0]), world.trust, world.now)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_no_flipped_bit_in_a_certificate_passes(world: Any) -> None:
    der = world.qssp[1].chain[0]
    key_or_signature = [*range(300, 2090), *range(2400, 3400), *range(3530, len(der) - 4)]
    places = sorted({*range(len(der)), *key_or_signature[::101]} - {*key_or_signature} | {*key_or_signature[::101]})
    for place in places:
        changed = bytearray(der)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(BadProof):
            verify_certificate((bytes(changed),), world.trust, world.now)


def test_one_certificate_has_one_encoding(world: Any) -> None:
    """The count of unused bits in the signature, which a parser lets vary where they are zero, gives it two hashes."""
    der = b"\x01"
    while der[-1] % 2:  # signing is randomised: until one ends in a zero bit
        der = certified(world, standard(world))
    assert verify_certificate((der,), world.trust, world.now).party == "qssp/jinan"
    unused_bits = len(der) - 3309 - 1
    assert der[unused_bits] == 0
    with pytest.raises(BadProof, match="whole bytes"):
        verify_certificate((der[:unused_bits] + b"\x01" + der[unused_bits + 1 :],), world.trust, world.now)


def resigned(world: Any, old: bytes, new: bytes) -> bytes:
    """A certificate with these bytes replaced and the operator's signature over the result."""
    der = certified(world, standard(world))
    signed = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    assert signed.count(old) == 1
    assert len(old) == len(new)
    changed = signed.replace(old, new)
    return der.replace(signed, changed)[:-3309] + bytes(world.operator.signing_key.sign(changed))


# What `cryptography` writes for nobody, and what reading fails on in ways of its own.
REWRITTEN = {
    "serial number zero": ("02014d 300b", "020100 300b", "not positive"),
    "serial number negative": ("02014d 300b", "0201ff 300b", "not positive"),
    "version 9": ("a003020102", "a003020108", "can be read"),
    "an extension twice": ("0603551d0f", "0603551d13", "can be read"),
    "a name of a kind nobody uses": ("302386217370", "3023a3217370", "can be read"),
    "an unknown kind of key": ("0609608648016503040312 038207a1", "060960864801650304037f 038207a1", "can be read"),
    "untouched": ("0603551d0f", "0603551d0f", ""),
}


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@pytest.mark.parametrize(("old", "new", "reason"), REWRITTEN.values(), ids=REWRITTEN)
def test_what_only_a_careless_root_would_sign_is_refused(world: Any, old: str, new: str, reason: str) -> None:
    chain = (resigned(world, bytes.fromhex(old), bytes.fromhex(new)),)
    if not reason:
        assert verify_certificate(chain, world.trust, world.now).party == "qssp/jinan"
        return
    with pytest.raises(BadProof, match=reason):
        verify_certificate(chain, world.trust, world.now)


def test_bytes_that_are_no_certificate_are_refused(world: Any) -> None:
    der = world.qssp[1].chain[0]
    for wrong in (b"", b"junk", der[:-1], der + b"\x00", der[:2000]):
        with pytest.raises(BadProof, match="certificate that can be read"):
            verify_certificate((wrong,), world.trust, world.now)


def test_an_identity_survives_its_partys_store(world: Any) -> None:
    for identity in (*world.qssp.values(), *world.cpe.values()):
        again = Identity.from_secret(identity.to_secret())
        assert again == identity
        assert again.kem == identity.kem
        identity.signing_key.public_key().verify(again.signing_key.sign(b"data"), b"data")


def test_a_root_survives_its_owners_store(world: Any, draw: Draw) -> None:
    again = CertificateAuthority.from_secret(world.operator.to_secret(), draw("later"))
    assert again.certificate == world.operator.certificate
    later = Identity.create(PartyId("pmp/x"), again, world.now, world.ends, draw("pmp"))
    assert verify_certificate(later.chain, world.trust, world.now).role is Role.PMP


def relabelled(stored: Secret) -> Secret:
    fields = cbor.decode(stored.reveal())
    assert isinstance(fields, list)
    return Secret(cbor.encode([b"qsotn/v1/another", *fields[1:]]))


def test_other_stored_bytes_are_no_identity(world: Any, draw: Draw) -> None:
    identity, root = world.qssp[1].to_secret(), world.operator.to_secret()
    for stored in (Secret(b"junk"), root, relabelled(identity), Secret(identity.reveal()[:-1])):
        with pytest.raises(StoreError) as caught:
            Identity.from_secret(stored)
        assert caught.value.__cause__ is caught.value.__context__ is None
    for stored in (Secret(b"junk"), relabelled(root), identity):
        with pytest.raises(StoreError):
            CertificateAuthority.from_secret(stored, draw("x"))


def test_a_request_for_a_certificate_shows_the_signing_key(world: Any) -> None:
    device = world.cpe[1]
    asked = verify_request(certificate_request(device))
    assert (asked.party, asked.serial, asked.suite) == (device.party, "SN-0001", device.suite)
    assert asked.signing_public == device.signing_key.public_key().public_bytes_raw()
    assert asked.kem_public == device.kem.public


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_a_changed_request_is_refused(world: Any) -> None:
    request = certificate_request(world.cpe[1])
    for place in [*range(120), *range(120, len(request), 67), len(request) - 1]:
        changed = bytearray(request)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(BadProof):
            verify_request(bytes(changed))
    with pytest.raises(BadProof, match="identity under"):
        verify_request(request, "qsotn.invalid")


def test_a_request_of_a_classical_key_or_another_suite_is_refused(world: Any) -> None:
    extensions = certificates.end_entity_extensions(PartyId("cpe/x"), "qsotn.example", 1, world.cpe[1].kem.public)
    builder = x509.CertificateSigningRequestBuilder().subject_name(certificates.subject_of(PartyId("cpe/x"), "SN"))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    for key in (ed25519.Ed25519PrivateKey.generate(), world.cpe[2].signing_key):
        with pytest.raises(BadProof, match="another suite"):
            verify_request(builder.sign(key, None).public_bytes(Encoding.DER))


@pytest.mark.parametrize("party", ["qssp", "qssp/", "king/x", "qssp/a/b", "qssp/a b", "qssp/" + "x" * 57, "/x", ""])
def test_nothing_is_issued_for_what_is_no_party(world: Any, party: str) -> None:
    public = world.qssp[1].signing_key.public_key().public_bytes_raw()
    with pytest.raises(UsageError, match="no party"):
        world.operator.issue(PartyId(party), public, world.qssp[1].kem.public, world.now, world.ends)


def test_nothing_is_issued_for_wrong_keys_serials_or_naive_times(world: Any) -> None:
    public, kem = world.qssp[1].signing_key.public_key().public_bytes_raw(), world.qssp[1].kem.public
    party, now, ends = PartyId("qssp/x"), world.now, world.ends
    with pytest.raises(MalformedMessage):
        world.operator.issue(party, public[:-1], kem, now, ends)
    with pytest.raises(MalformedMessage):
        world.operator.issue(party, public, kem[:-1], now, ends)
    with pytest.raises(MalformedMessage):
        world.operator.issue(party, public, kem, now, ends, chosen=suite(2))
    with pytest.raises(UsageError, match="serial number"):
        world.operator.issue(party, public, kem, now, ends, "SN 1")
    with pytest.raises(ValueError, match="time zone"):
        world.operator.issue(party, public, kem, now.replace(tzinfo=None), ends)


def test_another_trust_domain_is_another_world(world: Any, draw: Draw) -> None:
    abroad = CertificateAuthority.create("operator", draw("abroad"), world.now, "qsotn.invalid")
    party = Identity.create(PartyId("qssp/x"), abroad, world.now, world.ends, draw("party"))
    trust = TrustAnchors(abroad.certificate, abroad.certificate, "qsotn.invalid")
    assert verify_certificate(party.chain, trust, world.now).party == "qssp/x"
    with pytest.raises(BadProof, match="identity under"):
        verify_certificate(party.chain, replace(trust, trust_domain="qsotn.example"), world.now)
