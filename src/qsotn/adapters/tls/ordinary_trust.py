"""Whose ordinary certificates are believed: CAs that an operator names, and the revocation list of each (RFC 5280).

A list is complete. With lists, every CA needs one: what no list covers, or a list that is older than its own next
update covers, is not believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from qsotn.adapters.tls.files import read_file
from qsotn.crypto.certificates import UNREADABLE
from qsotn.errors import BadProof, UsageError

_LONGEST_NAME: Final = 200
_BEGIN, _END = b"-----BEGIN X509 CRL-----", b"-----END X509 CRL-----"


@dataclass(frozen=True, slots=True)
class Revoked:
    """One CA's list: its number (-1 if it has none), until when it holds, and the serial numbers that it revokes."""

    number: int
    until: float
    serial_numbers: frozenset[int]


@dataclass(frozen=True, slots=True)
class Believed:
    """The content of the files that say whom to believe; `lists` by the CA's name, None where nothing is revoked."""

    authorities: tuple[x509.Certificate, ...]
    lists: Mapping[x509.Name, Revoked] | None

    def check(self, certificate: x509.Certificate, now: float) -> float:
        """Check a certificate, and return until when the verdict holds. Raises `BadProof`."""
        if self.lists is None:
            return float("inf")
        issuer = named(certificate.issuer)
        listed = self.lists.get(certificate.issuer)
        if listed is None:
            raise BadProof(f"no revocation list of {issuer} is there")
        if now > listed.until:
            raise BadProof(f"the revocation list of {issuer} has ended")
        if certificate.serial_number in listed.serial_numbers:
            shown = named(certificate.subject)
            raise BadProof(f"the certificate {certificate.serial_number:x} of {shown} is revoked")
        return listed.until

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether one of the CAs has signed a certificate itself."""
        return any(_signed(certificate, authority) for authority in self.authorities)


def named(name: x509.Name) -> str:
    """Return a name for a log or an error, of bounded length."""
    return name.rfc4514_string()[:_LONGEST_NAME]


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def read_believed(authority: Path, revoked: Path | None, previous: Believed | None) -> Believed:
    """Read the CAs and, if they are named, their lists: PEM files. `previous` is what would be replaced.

    Raises `UsageError`, also for a list that is older than the one in force.
    """
    authorities = _read_authorities(authority)
    if revoked is None:
        return Believed(authorities, None)
    return Believed(authorities, _read_lists(revoked, authorities, previous))


def _read_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    try:
        found = tuple(x509.load_pem_x509_certificates(read_file(path)))
    except UNREADABLE as error:
        raise UsageError(f"{path} holds no certificate of a CA in PEM: {error}") from error
    return found


def _read_lists(
    path: Path, authorities: Sequence[x509.Certificate], previous: Believed | None
) -> Mapping[x509.Name, Revoked]:
    lists: dict[x509.Name, Revoked] = {}
    older = (previous.lists if previous is not None else None) or {}
    for parsed in _parsed_lists(path):
        name = named(parsed.issuer)
        _check_list(path, name, parsed, authorities)
        newer = _revoked(path, name, parsed)
        if parsed.issuer in older and newer.number < older[parsed.issuer].number:
            # What was revoked stays revoked: whoever puts back an older list takes that away.
            raise UsageError(f"{path}: the list of {name} is older than number {older[parsed.issuer].number} in force")
        lists[parsed.issuer] = newer
    for authority in authorities:
        if authority.subject not in lists:
            raise UsageError(f"{path} has no revocation list of {named(authority.subject)}: it needs one")
    return MappingProxyType(lists)


def _parsed_lists(path: Path) -> list[x509.CertificateRevocationList]:
    data = read_file(path)
    parts = [_BEGIN + part.partition(_END)[0] + _END for part in data.split(_BEGIN)[1:]]
    try:
        return [x509.load_pem_x509_crl(part) for part in parts]
    except UNREADABLE as error:
        raise UsageError(f"{path} holds no revocation lists in PEM: {error}") from error


def _check_list(
    path: Path, name: str, parsed: x509.CertificateRevocationList, authorities: Sequence[x509.Certificate]
) -> None:
    keys = [authority.public_key() for authority in authorities if authority.subject == parsed.issuer]
    if not any(parsed.is_signature_valid(key) for key in keys):  # type: ignore[arg-type]  # a CA's key signs
        raise UsageError(f"{path}: the revocation list of {name} is not signed by a CA that is named")
    critical = [extension.oid.dotted_string for extension in parsed.extensions if extension.critical]
    if critical or parsed.next_update_utc is None:
        raise UsageError(f"{path}: the revocation list of {name} is partial or never ends; expected a complete one")


def _revoked(path: Path, name: str, parsed: x509.CertificateRevocationList) -> Revoked:
    try:
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = -1
    if parsed.next_update_utc is None:
        raise UsageError(f"{path}: the revocation list of {name} never ends")
    return Revoked(number, parsed.next_update_utc.timestamp(), frozenset(entry.serial_number for entry in parsed))
