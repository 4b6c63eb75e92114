"""This process's own certificate chain and private key, from two files that may be replaced while it runs.

The pair in force is complete and proven to belong together. A renewal writes both files in either order; until both
are there, the old pair goes on. An open connection keeps the pair it was made with.
"""

from __future__ import annotations

import datetime as dt
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL

from qsotn.adapters.tls import openssl
from qsotn.adapters.tls.files import Failed, FromFiles, read_file
from qsotn.adapters.tls.trust import Trust
from qsotn.crypto.certificates import UNREADABLE
from qsotn.crypto.suites import SigningKey
from qsotn.crypto.transport_certificates import TransportPeer, verify_transport
from qsotn.domain import PartyId
from qsotn.errors import UsageError

_SHARED: int = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, ready for handshakes on either side."""

    itself: TransportPeer
    """This process as its peers will see it."""
    not_before: dt.datetime
    server: SSL.Context = field(repr=False)
    client: SSL.Context = field(repr=False)


class Credentials:
    """The pair of one party. Raises `UsageError` or `BadProof` at construction if the files cannot be used."""

    def __init__(self, party: PartyId, certificate: Path, key: Path, trust: Trust, failed: Failed) -> None:
        self.party = party
        self._certificate = certificate
        self._key = key
        self._trust = trust
        self._pair = FromFiles((certificate, key), self._read, failed)

    @property
    def pair(self) -> Pair:
        """The pair in force; what it holds never changes, a renewal is another pair."""
        return self._pair.value

    def renew_at(self) -> dt.datetime:
        """Say when the certificate is due for renewal: when two thirds of its lifetime are gone."""
        pair = self.pair
        return pair.not_before + (pair.itself.not_after - pair.not_before) * 2 / 3

    def reload_if_changed(self) -> bool:
        """Take over a renewed pair for new connections; say whether there was one (see `FromFiles`)."""
        return self._pair.reload_if_changed()

    def _read(self, _: Pair | None) -> Pair:
        chain, key = _read_chain(self._certificate), _read_key(self._key)
        if chain[0].public_key() != key.public_key():
            raise UsageError(f"the key in {self._key} is not that of the certificate in {self._certificate}")
        encoded = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
        # Asked of this process's own trust: what would be refused by every peer is better refused here, with a reason.
        itself = verify_transport(encoded, self._trust.anchors, {}, self._trust.now())
        if itself.party != self.party:
            raise UsageError(f"{self._certificate} is the certificate of {itself.party}: expected {self.party}")
        server, client = (openssl.context(chain, self._key, server=side) for side in (True, False))
        return Pair(itself, chain[0].not_valid_before_utc, server, client)


def _read_chain(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(read_file(path))
    except UNREADABLE as error:
        raise UsageError(f"{path} holds no certificate chain in PEM: {error}") from error


def _read_key(path: Path) -> SigningKey:
    data = read_file(path)
    if path.stat().st_mode & _SHARED:
        raise UsageError(f"{path} is open to others than its owner: expected a private key with mode 0600")
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # told below, and without the cause: it could quote what it failed on
    if not isinstance(key, SigningKey):
        raise UsageError(f"{path} holds no ML-DSA private key in PEM without a passphrase")
    return key
