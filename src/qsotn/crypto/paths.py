"""Which root a certificate must lead to, and whether it does.

The check is the same for both kinds of certificate: the one whose key signs messages (`identity`) and the one whose
key opens TLS connections (`transport_certificates`). What each kind must hold besides is in its own module.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509 import verification

from qsotn.crypto import certificates
from qsotn.crypto.certificates import DEFAULT_TRUST_DOMAIN
from qsotn.crypto.suites import VerificationKey
from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import BadProof

_MAX_INTERMEDIATES: Final = 2
_CACHED_ROOTS: Final = 16


@dataclass(frozen=True, slots=True)
class TrustAnchors:
    """The two roots (DER) that a party was given when it was installed, and the trust domain they speak for."""

    operator: bytes = field(repr=False)
    manufacturer: bytes = field(repr=False)
    trust_domain: str = DEFAULT_TRUST_DOMAIN

    def root_for(self, role: Role) -> bytes:
        """Return the only root that may certify this role."""
        return self.manufacturer if role is Role.CPE else self.operator


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which the whole path of a party's certificate is valid, both moments included."""

    party: PartyId
    opens: dt.datetime
    closes: dt.datetime

    def check(self, now: dt.datetime) -> None:
        """Raise `BadProof` outside the window."""
        if not self.opens <= now <= self.closes:
            what = "is not yet valid" if now < self.opens else "has expired"
            window = f"it is valid from {self.opens} to {self.closes}, and it is {now}"
            raise BadProof(f"the certificate of {self.party} {what}: {window}")


def certified_path(chain: tuple[bytes, ...], trust: TrustAnchors) -> tuple[x509.Certificate, Window]:
    """Check a chain but for the clock and what its end entity is for; return that and the path's window.

    Raises `BadProof`. The path is checked at the first moment all its certificates have begun: if it holds then, it
    holds until the first of them ends. So the window is all that is left to compare, and the rest can be cached.
    """
    if not 1 <= len(chain) <= 1 + _MAX_INTERMEDIATES:
        raise BadProof(f"a chain of {len(chain)} certificates: expected 1 to {1 + _MAX_INTERMEDIATES}")
    leaf, *intermediates = [certificates.read_certificate(der) for der in chain]
    party = certificates.certified_party(leaf.extensions, trust.trust_domain)
    certificates.check_usage(leaf.extensions)
    root = read_root(trust.root_for(role_of(party)))
    path = (leaf, *intermediates, root)
    opens = max(certificate.not_valid_before_utc for certificate in path)
    try:
        _check_path(leaf, intermediates, root, opens)
    except verification.VerificationError as error:
        why = _why_not(path[-2], root, trust) or str(error)
        raise BadProof(f"the certificate of {party} does not lead to the root of its role: {why}") from error
    return leaf, Window(party, opens, min(certificate.not_valid_after_utc for certificate in path))


@lru_cache(maxsize=_CACHED_ROOTS)
def read_root(der: bytes) -> x509.Certificate:
    """Parse a root, once; raises `BadProof`."""
    return certificates.read_certificate(der)


def _check_path(
    leaf: x509.Certificate, between: list[x509.Certificate], root: x509.Certificate, at: dt.datetime
) -> None:
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(at)
    if not all(isinstance(certificate.public_key(), VerificationKey) for certificate in (leaf, *between, root)):
        # One classical signature in the path would undo all the post-quantum ones.
        raise BadProof("the certificate's path holds a key that is not ML-DSA-65 or ML-DSA-87")
    policy.max_chain_depth(_MAX_INTERMEDIATES).build_client_verifier().verify(leaf, between)


def _why_not(last: x509.Certificate, root: x509.Certificate, trust: TrustAnchors) -> str | None:
    """Say whose the last certificate of a refused path is, unless it is the root's own and faulty otherwise."""
    issuers = [der for der in (trust.operator, trust.manufacturer) if _issued_by(read_root(der), last)]
    if not issuers:
        return "its root is unknown here"
    return None if _issued_by(root, last) else "it comes from the wrong root, which certifies other roles"


def _issued_by(root: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def serial_of(leaf: x509.Certificate, party: PartyId) -> str | None:
    """Return a device's serial number; raises `BadProof` for a device without one, or a number without a device."""
    serial = certificates.device_serial(leaf.subject)
    if (serial is not None) is not (role_of(party) is Role.CPE):
        raise BadProof(f"the certificate of {party}: a device carries a serial number, and only a device does")
    return serial
