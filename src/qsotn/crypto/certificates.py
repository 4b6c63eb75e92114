"""The shape of the project's certificates, written and read in one place.

- The identity is a URI subjectAltName, `spiffe://<trust domain>/<role>/<name>`. (The `service_identity` library fails
  on URNs with many colons; the SPIFFE form is one that TLS libraries and people already read.)
- A device's certificate carries its serial number in the subject, as IEEE 802.1AR asks of an IDevID.
- The party's HPKE public key and its suite ride in a private, non-critical extension. One certificate therefore
  certifies both keys: they cannot be recombined across parties or suites, they expire and are revoked together, and
  no standard has to define X.509 for X-Wing first. Non-critical, because who only checks signatures may ignore it.
- RFC 9881: an ML-DSA subject key may sign and nothing else, so keyUsage is digitalSignature alone.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from typing import Annotated, Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qsotn.crypto.suites import SigningKey, Suite, VerificationKey, suite
from qsotn.domain import PartyId, role_of
from qsotn.errors import BadProof, MalformedMessage, UsageError

DEFAULT_TRUST_DOMAIN: Final = "qsotn.example"

HPKE_KEY_OID: Final = x509.ObjectIdentifier(f"2.25.{uuid.UUID('6f1c1b0e-5a0d-4f0e-9b0f-3a4f7c1d2e90').int}")
"""The private extension: an arc under a UUID (Rec. ITU-T X.667), which anyone may own without a registry."""

# X.520 allows a common name 64 characters, and it holds the role and a slash as well.
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,56}")
_SERIAL_NUMBER: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BOTH_ENDS: Final = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for a certificate or request that it cannot read, at load or at first access."""

Extension: TypeAlias = tuple[x509.ExtensionType, bool]
"""An extension and whether it is critical."""


@asn1.sequence
class HpkeKey:
    """The extension's value: SEQUENCE { suite INTEGER, publicKey OCTET STRING }."""

    suite: int
    public_key: Annotated[bytes, asn1.Size(min=32, max=4096)]


def checked_party(party: str) -> PartyId:
    """Return the identifier if it is `role/name` with a known role and a name of plain letters; raises `UsageError`."""
    role_of(PartyId(party))
    name = party.partition("/")[2]
    if not _NAME.fullmatch(name):
        raise UsageError(f"{party!r} is no party: a name is 1 to 56 letters, digits, dots, hyphens or underscores")
    return PartyId(party)


def spiffe_uri(party: PartyId, trust_domain: str) -> str:
    """Return the party's URI, for example `spiffe://qsotn.example/qssp/jinan`."""
    return f"spiffe://{trust_domain}/{checked_party(party)}"


def end_entity_extensions(party: PartyId, trust_domain: str, suite_number: int, kem_public: bytes) -> list[Extension]:
    """Return the extensions that a party asks for and a CA certifies, each with its criticality."""
    uri = x509.UniformResourceIdentifier(spiffe_uri(party, trust_domain))
    value = asn1.encode_der(HpkeKey(suite=suite_number, public_key=kem_public))
    return [
        (x509.SubjectAlternativeName([uri]), False),
        (x509.UnrecognizedExtension(HPKE_KEY_OID, value), False),
    ]


def issuing_extensions() -> list[Extension]:
    """Return what every end-entity certificate carries besides: no CA, signing only, both ends of TLS."""
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage(_BOTH_ENDS), False),
    ]


def root_extensions(public: VerificationKey) -> list[Extension]:
    """Return a root's extensions: a CA of end entities only, which signs certificates and revocation lists."""
    return [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(digital_signature=False), True),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
    ]


def _key_usage(*, digital_signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not digital_signature,
        crl_sign=not digital_signature,
        encipher_only=False,
        decipher_only=False,
    )


def subject_of(party: PartyId, serial_number: str | None) -> x509.Name:
    """Return the subject: the party's identifier, and a device's serial number."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, party)]
    if serial_number is not None:
        if not _SERIAL_NUMBER.fullmatch(serial_number):
            raise UsageError(f"{serial_number!r} is no serial number: expected 1 to 64 letters, digits, . _ -")
        attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, serial_number))
    return x509.Name(attributes)


def build_certificate(
    subject: x509.Name,
    public: VerificationKey,
    issuer: x509.Name,
    issuer_key: SigningKey,
    serial: int,
    window: tuple[dt.datetime, dt.datetime],
    extensions: list[Extension],
) -> x509.Certificate:
    """Sign one certificate; `window` is (not before, not after), both aware."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_aware(window[0]))
        .not_valid_after(_aware(window[1]))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, None)


def _aware(moment: dt.datetime) -> dt.datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone means a different moment on every machine")
    return moment


def read_certificate(der: bytes) -> x509.Certificate:
    """Parse a certificate so far that nothing in it can fail to be read later; raises `BadProof`."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        _ = certificate.extensions  # parsed at first access, and it is this access that may fail
    except UNREADABLE as error:
        raise BadProof(f"{len(der)} bytes are no X.509 certificate that can be read") from error
    if certificate.serial_number <= 0:
        raise BadProof("the certificate's serial number is not positive (RFC 5280, section 4.1.2.2)")
    if not der.endswith(b"\x00" + certificate.signature):
        # The parser lets the count of unused bits vary where the last bits are zero: one certificate, two hashes.
        raise BadProof("the certificate's signature is not whole bytes")
    return certificate


def certified_party(extensions: x509.Extensions, trust_domain: str) -> PartyId:
    """Return the one party that the extensions name; raises `BadProof` for none, several, or another trust domain."""
    uris = _uris(extensions)
    if len(uris) != 1:
        raise BadProof(f"the certificate names {len(uris)} URIs: expected one, spiffe://{trust_domain}/role/name")
    prefix = f"spiffe://{trust_domain}/"
    if not uris[0].startswith(prefix):
        raise BadProof(f"the certificate is for {uris[0]!r}: expected an identity under {prefix}")
    try:
        return checked_party(uris[0].removeprefix(prefix))
    except UsageError as error:
        raise BadProof(f"the certificate's identity is none: {error}") from error


def _uris(extensions: x509.Extensions) -> list[str]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def certified_kem(extensions: x509.Extensions) -> tuple[Suite, bytes]:
    """Return the suite and the HPKE public key of the private extension; raises `BadProof` if it is not in order."""
    try:
        extension = extensions.get_extension_for_oid(HPKE_KEY_OID).value
        if not isinstance(extension, x509.UnrecognizedExtension):
            raise BadProof("the certificate's HPKE key extension is of another kind")
        key = asn1.decode_der(HpkeKey, extension.value)
        chosen = suite(key.suite)
        chosen.kem_public_key(key.public_key)
    except (x509.ExtensionNotFound, ValueError, MalformedMessage) as error:
        raise BadProof("the certificate holds no HPKE public key of a known suite") from error
    return chosen, key.public_key


def check_usage(extensions: x509.Extensions) -> None:
    """Raise `BadProof` unless the certificate says that its key signs, and that it serves at both ends of TLS.

    Path validation treats both extensions as optional, and then everything is permitted.
    """
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise BadProof(
            "the certificate does not say what its key is for: expected both key usage extensions"
        ) from error
    if not usage.digital_signature:
        raise BadProof("the certificate's key is not for digital signatures")
    if not {*_BOTH_ENDS} <= {*purposes}:
        raise BadProof("the certificate's key is not for both clients and servers of TLS, as its EKU extension says")


def device_serial(subject: x509.Name) -> str | None:
    """Return the serialNumber of a subject, or None; raises `BadProof` if there are several."""
    values = subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    if len(values) > 1:
        raise BadProof("the certificate's subject holds more than one serial number")
    return str(values[0].value) if values else None
