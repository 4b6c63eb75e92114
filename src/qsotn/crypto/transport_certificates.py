"""The certificate a process shows on a TLS connection: who it is, under a key that signs nothing else.

A party's messages are signed with the key of its identity (`identity`); its connections are opened with a key of their
own, so that whoever takes a front end's TLS key can pretend to be that party on a connection, yet sign none of its
messages. The two kinds of certificate share their path, name and usage (`paths`, `certificates`), and are told apart by
the HPKE key: an identity's certificate holds one, this kind must not. Neither passes for the other.

Host names and addresses may be listed for others to read. Here a peer is who its URI says, whatever its address.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from qsotn.crypto import certificates
from qsotn.crypto.identity import CertificateAuthority
from qsotn.crypto.paths import TrustAnchors, Window, certified_path, serial_of
from qsotn.crypto.revocation_lists import RevocationList
from qsotn.crypto.suites import DEFAULT_SUITE
from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import BadProof, UsageError

_CACHED_PEERS: Final = 4096
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class TransportPeer:
    """The other end of a connection, proven by its certificate."""

    party: PartyId
    role: Role
    serial: str | None
    """A device's serial number."""
    not_after: dt.datetime
    """When the first certificate of its path ends."""
    certificate_number: int
    """The certificate's own serial number, by which a revocation list names it."""
    certificate_sha384: bytes = field(repr=False)
    chain: tuple[bytes, ...] = field(repr=False, compare=False)


def issue_transport(
    authority: CertificateAuthority,
    party: PartyId,
    public_key: bytes,
    not_before: dt.datetime,
    not_after: dt.datetime,
    names: Sequence[str] = (),
    serial_number: str | None = None,
) -> bytes:
    """Certify a raw ML-DSA-65 public key for a party's connections; returns DER.

    `names` are host names and IP addresses; `serial_number` is a device's. Raises `UsageError` or `MalformedMessage`.
    """
    if (serial_number is not None) is not (role_of(party) is Role.CPE):
        raise UsageError(f"{party}: a device is certified with its serial number, and nobody else with any")
    uri = x509.UniformResourceIdentifier(certificates.spiffe_uri(party, authority.trust_domain))
    alternatives = x509.SubjectAlternativeName([uri, *map(_general_name, names)])
    public = DEFAULT_SUITE.verification_key(public_key)
    return authority.certify(party, public, (not_before, not_after), [(alternatives, False)], serial_number)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass  # then it is a host name
    if not _HOST.fullmatch(name):
        raise UsageError(f"{name!r} is neither an IP address nor a host name (letters, digits, hyphens, dots)")
    return x509.DNSName(name)


def verify_transport(
    chain: tuple[bytes, ...], anchors: TrustAnchors, revoked: Mapping[bytes, RevocationList], now: dt.datetime
) -> TransportPeer:
    """Check the chain a peer showed (DER, its own certificate first) at a moment; raises `BadProof` with the reason.

    `revoked` holds the list of each root (DER) that has one. Cheap for a chain that was seen before: what does not
    depend on the clock or the lists is kept.
    """
    peer, window = _proven(chain, anchors)
    window.check(now)
    listed = revoked.get(anchors.root_for(peer.role))
    if listed is not None:
        if len(chain) > 1:
            raise BadProof(f"{peer.party} was certified by an intermediate, which the root's revocation list omits")
        listed.check(peer.party, peer.certificate_number, now)
    return peer


@lru_cache(maxsize=_CACHED_PEERS)
def _proven(chain: tuple[bytes, ...], anchors: TrustAnchors) -> tuple[TransportPeer, Window]:
    leaf, window = certified_path(chain, anchors)
    if any(extension.oid == certificates.HPKE_KEY_OID for extension in leaf.extensions):
        raise BadProof(f"the certificate of {window.party} is the one that signs its messages, not one for connections")
    serial, digest = serial_of(leaf, window.party), leaf.fingerprint(hashes.SHA384())
    party, number = window.party, leaf.serial_number
    return TransportPeer(party, role_of(party), serial, window.closes, number, digest, chain), window
