"""One process's way to TLS: its credentials and whom it believes, from the files that its configuration names."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial

import structlog

from qsotn.adapters.tls.context import PostQuantumContext, client_context, server_context
from qsotn.adapters.tls.credentials import Credentials
from qsotn.adapters.tls.trust import Trust, TrustFiles
from qsotn.domain import PartyId
from qsotn.service.config import TlsSection

_log = structlog.get_logger("tls")


class Credentialed:
    """A party's credentials and trust, renewed as the files change.

    Raises `UsageError` or `BadProof` at construction for files that cannot be used.
    """

    def __init__(self, party: PartyId, section: TlsSection, refused: Callable[[], None] = lambda: None) -> None:
        files = TrustFiles(
            section.operator_root, section.manufacturer_root, section.operator_list, section.manufacturer_list
        )
        self._counted = refused
        self.trust = Trust(files, lambda: dt.datetime.now(dt.UTC), partial(_failed, "trust"))
        self.credentials = Credentials(
            party, section.certificate, section.key, self.trust, partial(_failed, "certificate")
        )

    def server(self) -> PostQuantumContext:
        """Return the context of this party's server."""
        return server_context(self.credentials, self.trust, self._refused)

    def client(self, expected: PartyId) -> PostQuantumContext:
        """Return the context for connections to one party."""
        return client_context(self.credentials, self.trust, self._refused, expected)

    def reload(self) -> None:
        """Take over what was renewed or revoked."""
        if self.trust.reload_if_changed():
            _log.info("roots or revocation lists renewed")
        if self.credentials.reload_if_changed():
            _log.info("certificate renewed", not_after=self.not_after.isoformat())

    @property
    def not_after(self) -> dt.datetime:
        """When the certificate in force expires."""
        return self.credentials.pair.itself.not_after

    def _refused(self, reason: str, peer: PartyId | None) -> None:
        self._counted()
        _log.warning("connection refused", peer=peer or "unknown", reason=reason)


def _failed(what: str, reason: object) -> None:
    _log.error("renewal failed; what was in force goes on", what=what, reason=str(reason))
