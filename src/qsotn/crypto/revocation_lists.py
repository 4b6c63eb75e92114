"""Certificate revocation lists (RFC 5280, section 5), signed with ML-DSA by the root they speak for.

A list is complete: it names every certificate of its root that was revoked. Lists of changes (section 5.2.4) and of one
issuer's part (section 5.2.5) say so in a critical extension, and are refused with any other critical extension.

What always holds: a list that was configured is asked. When it is older than its own next update, nothing that its
root certified is believed until a newer one is there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qsotn.crypto import certificates
from qsotn.crypto.identity import CertificateAuthority
from qsotn.crypto.paths import read_root
from qsotn.crypto.suites import VerificationKey
from qsotn.domain import PartyId
from qsotn.errors import BadProof

_PEM: Final = b"-----BEGIN X509 CRL-----"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One verified list: its number, which grows from list to list, and the serial numbers it revokes."""

    number: int
    next_update: dt.datetime
    revoked: frozenset[int] = field(repr=False)

    def check(self, party: PartyId, serial_number: int, now: dt.datetime) -> None:
        """Raise `BadProof` if the list names this certificate, or is too old to say."""
        if now > self.next_update:
            raise BadProof(f"the revocation list that covers {party} ended at {self.next_update}, and it is {now}")
        if serial_number in self.revoked:
            raise BadProof(f"the certificate of {party} is revoked (serial number {serial_number:x})")


def issue_revocation_list(
    authority: CertificateAuthority,
    revoked: Mapping[int, dt.datetime],
    number: int,
    now: dt.datetime,
    next_update: dt.datetime,
) -> bytes:
    """Sign the list of all that a root has revoked, as serial number → moment; returns DER.

    `number` must be higher than that of every earlier list (RFC 5280, section 5.2.3).
    """
    public = authority.signing_key.public_key()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificates.subject_of(PartyId(authority.name), None))
        .last_update(now)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
    )
    for serial_number, moment in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(moment).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.signing_key, None).public_bytes(Encoding.DER)


def read_revocation_list(data: bytes, root: bytes) -> RevocationList:
    """Verify a list (DER or PEM) against the root (DER) it must be of; raises `BadProof`.

    Its age is asked where it is used (`RevocationList.check`).
    """
    try:
        parsed = x509.load_pem_x509_crl(data) if data.startswith(_PEM) else x509.load_der_x509_crl(data)
        return _verified(parsed, read_root(root))
    except (*certificates.UNREADABLE, x509.ExtensionNotFound) as error:
        raise BadProof(f"{len(data)} bytes are no complete revocation list: {error}") from error


def _verified(parsed: x509.CertificateRevocationList, root: x509.Certificate) -> RevocationList:
    key = root.public_key()
    if not isinstance(key, VerificationKey):
        raise BadProof("a revocation list is believed only of a root with an ML-DSA key")
    if parsed.issuer != root.subject or not parsed.is_signature_valid(key):
        raise BadProof(f"the revocation list of {parsed.issuer.rfc4514_string()!r} is not signed by its root")
    if not root.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
        raise BadProof("the root's key is not for signing revocation lists")
    critical = [extension.oid.dotted_string for extension in parsed.extensions if extension.critical]
    if critical or parsed.next_update_utc is None:
        raise BadProof(f"the revocation list is partial or never ends: critical extensions {critical}")
    number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return RevocationList(number, parsed.next_update_utc, frozenset(entry.serial_number for entry in parsed))
