"""Revocation lists: what is read of one, and one row for every list that is not believed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from qsotn.crypto import certificates
from qsotn.crypto.identity import CertificateAuthority
from qsotn.crypto.revocation_lists import issue_revocation_list, read_revocation_list
from qsotn.domain import Entropy, PartyId
from qsotn.errors import BadProof

Draw = Callable[[str], Entropy]
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)
KM = PartyId("km/jinan")


def test_a_list_says_which_certificates_are_revoked_and_until_when_it_holds(world: Any) -> None:
    revoked = {7: world.now - DAY, 2**127 + 1: world.now}
    data = issue_revocation_list(world.operator, revoked, 12, world.now, world.now + DAY)
    for form in (data, x509.load_der_x509_crl(data).public_bytes(Encoding.PEM)):
        read = read_revocation_list(form, world.operator.certificate)
        assert (read.number, read.next_update, read.revoked) == (12, world.now + DAY, frozenset(revoked))
    read.check(KM, 8, world.now + DAY)
    for number in revoked:
        with pytest.raises(BadProof, match="km/jinan is revoked"):
            read.check(KM, number, world.now)
    with pytest.raises(BadProof, match="covers km/jinan ended at"):
        read.check(KM, 8, world.now + DAY + SECOND)


def test_a_list_of_ten_thousand_is_read(world: Any) -> None:
    revoked = dict.fromkeys(range(1, 10_001), world.now)
    data = issue_revocation_list(world.operator, revoked, 1, world.now, world.now + DAY)
    assert read_revocation_list(data, world.operator.certificate).revoked == frozenset(revoked)


def test_a_list_of_another_root_is_not_believed(world: Any, draw: Draw) -> None:
    same_name = CertificateAuthority.create("operator", draw("another operator"), world.now)
    same_key = replace(world.operator, name="another operator")
    for authority in (world.manufacturer, same_name, same_key):
        data = issue_revocation_list(authority, {}, 1, world.now, world.now + DAY)
        with pytest.raises(BadProof, match="not signed by its root"):
            read_revocation_list(data, world.operator.certificate)


def test_a_party_issues_no_list(world: Any, draw: Draw) -> None:
    """Its certificate, taken for a root, is for signatures and not for lists."""
    qssp = world.qssp[1]
    rogue = CertificateAuthority(qssp.chain[0], "qssp/jinan", "qsotn.example", qssp.signing_key, draw("rogue"))
    data = issue_revocation_list(rogue, {}, 1, world.now, world.now + DAY)
    with pytest.raises(BadProof, match="not for signing revocation lists"):
        read_revocation_list(data, qssp.chain[0])


def built(world: Any, *extensions: tuple[x509.ExtensionType, bool], signer: Any = None) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(certificates.subject_of(PartyId("operator"), None))
    builder = builder.last_update(world.now).next_update(world.now + DAY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    if signer is not None:
        return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)
    return builder.sign(world.operator.signing_key, None).public_bytes(Encoding.DER)


NUMBER = (x509.CRLNumber(1), False)
PARTIAL: dict[str, tuple[list[tuple[x509.ExtensionType, bool]], str]] = {
    "changes only": ([NUMBER, (x509.DeltaCRLIndicator(1), True)], "partial or never ends: .*'2.5.29.27'"),
    "devices only": (
        [
            NUMBER,
            (x509.IssuingDistributionPoint(None, None, True, False, None, False, False), True),
        ],
        "'2.5.29.28'",
    ),
    "without a number": ([], "no complete revocation list"),
}


@pytest.mark.parametrize(("extensions", "words"), PARTIAL.values(), ids=PARTIAL)
def test_a_list_that_is_not_complete_is_refused(world: Any, extensions: Any, words: str) -> None:
    assert read_revocation_list(built(world, NUMBER), world.operator.certificate).number == 1
    with pytest.raises(BadProof, match=words):
        read_revocation_list(built(world, *extensions), world.operator.certificate)


def test_a_classical_signature_is_not_believed(world: Any) -> None:
    data = built(world, NUMBER, signer=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(BadProof):
        read_revocation_list(data, world.operator.certificate)


def test_a_classical_root_has_no_list_here(world: Any) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), certificates.subject_of(PartyId("operator"), None)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(world.now).not_valid_after(world.ends)
    root = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    with pytest.raises(BadProof, match="only of a root with an ML-DSA key"):
        read_revocation_list(built(world, NUMBER, signer=key), root)


def test_no_changed_byte_of_a_list_passes(world: Any) -> None:
    data = issue_revocation_list(world.operator, {7: world.now}, 1, world.now, world.now + DAY)
    before_the_signature = len(data) - 3309
    for place in [*range(before_the_signature - 6), *range(before_the_signature, len(data), 97)]:
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(BadProof):
            read_revocation_list(bytes(changed), world.operator.certificate)


def test_bytes_that_are_no_list_are_refused(world: Any) -> None:
    for wrong in (
        b"",
        b"junk",
        b"-----BEGIN X509 CRL-----\njunk\n-----END X509 CRL-----\n",
        world.operator.certificate,
    ):
        with pytest.raises(BadProof, match="no complete revocation list"):
            read_revocation_list(wrong, world.operator.certificate)
