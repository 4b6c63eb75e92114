"""Whom this process believes: the two roots, their revocation lists, and the clock that both are held against."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qsotn.adapters.tls.files import Failed, FromFiles, read_file
from qsotn.crypto.certificates import DEFAULT_TRUST_DOMAIN, UNREADABLE
from qsotn.crypto.paths import TrustAnchors, read_root
from qsotn.crypto.revocation_lists import RevocationList, read_revocation_list
from qsotn.crypto.suites import VerificationKey
from qsotn.crypto.transport_certificates import TransportPeer, verify_transport
from qsotn.errors import BadProof, UsageError

Clock = Callable[[], dt.datetime]


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """Where the roots (PEM) and their revocation lists (PEM or DER) are.

    A root without a list revokes nothing. A list that is named is required: see `revocation_lists`.
    """

    operator_root: Path
    manufacturer_root: Path
    operator_list: Path | None = None
    manufacturer_list: Path | None = None
    trust_domain: str = DEFAULT_TRUST_DOMAIN

    @property
    def paths(self) -> list[Path]:
        """Every file that is named."""
        named = (self.operator_root, self.manufacturer_root, self.operator_list, self.manufacturer_list)
        return [path for path in named if path is not None]


@dataclass(frozen=True, slots=True)
class Believed:
    """The content of the files: the anchors, and the list of each root (DER) that has one."""

    anchors: TrustAnchors
    revoked: MappingProxyType[bytes, RevocationList]


@dataclass(frozen=True, slots=True)
class _Verified:
    """A peer that was verified: with which trust, and between which moments, both included, the verdict is the same."""

    peer: TransportPeer
    believed: Believed
    since: dt.datetime
    until: dt.datetime


_MOST_VERIFIED: Final = 4096


class Trust:
    """Judges peers. Raises `UsageError` or `BadProof` at construction if the files cannot be used."""

    def __init__(self, files: TrustFiles, clock: Clock, failed: Failed) -> None:
        self._files = files
        self._clock = clock
        self._believed = FromFiles(files.paths, self._read, failed)
        self._verified: dict[bytes, _Verified] = {}

    @property
    def anchors(self) -> TrustAnchors:
        """The roots now in force."""
        return self._believed.value.anchors

    def now(self) -> dt.datetime:
        """The moment this process holds certificates against."""
        return self._clock()

    def verify(self, chain: tuple[bytes, ...]) -> TransportPeer:
        """Check the chain (DER) that a peer showed, with the trust and the time of this moment; raises `BadProof`."""
        believed = self._believed.value
        return verify_transport(chain, believed.anchors, believed.revoked, self._clock())

    def confirm(self, peer: TransportPeer) -> None:
        """Check a peer of an open connection again; raises `BadProof` once it expired or was revoked.

        As long as the trust is the same object, and nothing that it was verified with has ended, that is a comparison:
        this is asked at every read and every write.
        """
        now, known = self._clock(), self._verified.get(peer.certificate_sha384)
        if (
            known is None
            or known.peer is not peer
            or known.believed is not self._believed.value
            or not known.since <= now <= known.until
        ):
            self._verify_again(peer, now)

    def _verify_again(self, peer: TransportPeer, now: dt.datetime) -> None:
        believed = self._believed.value
        verify_transport(peer.chain, believed.anchors, believed.revoked, now)
        listed = believed.revoked.get(believed.anchors.root_for(peer.role))
        until = peer.not_after if listed is None else min(peer.not_after, listed.next_update)
        if len(self._verified) >= _MOST_VERIFIED:
            self._verified.clear()
        self._verified[peer.certificate_sha384] = _Verified(peer, believed, now, until)

    def reload_if_changed(self) -> bool:
        """Take over changed files, for new and for open connections; say whether there were any (see `FromFiles`)."""
        return self._believed.reload_if_changed()

    def _read(self, previous: Believed | None) -> Believed:
        files = self._files
        operator, manufacturer = _read_root(files.operator_root), _read_root(files.manufacturer_root)
        revoked: dict[bytes, RevocationList] = {}
        for root, path in ((operator, files.operator_list), (manufacturer, files.manufacturer_list)):
            if path is not None:
                older = previous.revoked.get(root) if previous else None
                revoked[root] = _read_list(path, root, older)
        return Believed(TrustAnchors(operator, manufacturer, files.trust_domain), MappingProxyType(revoked))


def _read_root(path: Path) -> bytes:
    try:
        (parsed,) = x509.load_pem_x509_certificates(read_file(path))
        root = read_root(parsed.public_bytes(Encoding.DER))
        issues = root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (*UNREADABLE, x509.ExtensionNotFound, BadProof) as error:
        raise UsageError(f"{path} does not hold exactly one root certificate in PEM: {error}") from error
    if not issues or not isinstance(root.public_key(), VerificationKey):
        raise UsageError(f"{path} holds no root: expected a CA certificate with an ML-DSA-65 or ML-DSA-87 key")
    return root.public_bytes(Encoding.DER)


def _read_list(path: Path, root: bytes, older: RevocationList | None) -> RevocationList:
    try:
        newer = read_revocation_list(read_file(path), root)
    except BadProof as error:
        raise BadProof(f"{path}: {error}") from error
    if older is not None and newer.number < older.number:
        # A certificate that was revoked stays revoked: whoever puts back an older list takes that away.
        raise BadProof(f"{path} holds list number {newer.number}, older than number {older.number} now in force")
    return newer
