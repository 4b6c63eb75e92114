"""SAEs of a province of ours, over its post-quantum TLS, as parties to a test of its key managers.

What they show lies in the province's folder (`app.record`), and so does where each key manager is, and who it must be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from OpenSSL import SSL

from qsotn.adapters.tls.context import PostQuantumContext, client_context
from qsotn.adapters.tls.credentials import Credentials
from qsotn.adapters.tls.openssl import nameless_context
from qsotn.app.conformance.etsi014 import first_certificate, obsolete
from qsotn.app.conformance.etsi014_run import Party, Target
from qsotn.app.record import SAES, load_plan, load_record, sae_party
from qsotn.app.service_files import TLS_FILES, tls_section
from qsotn.crypto.transport_certificates import TransportPeer
from qsotn.domain import PartyId
from qsotn.errors import UsageError
from qsotn.service.identity_files import Credentialed


class Province:
    """A province's SAEs and key managers. Raises `UsageError`, `StoreError` for a folder that holds none."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._homes = load_plan(state).sae_homes
        self._listeners = {one.delivery: one.party for one in load_record(state).services if one.delivery}

    def party(self, sae: str, url: str | None) -> Party:
        """Return an SAE at a key manager, without a URL at its own. Raises `UsageError` for one that is not here."""
        tls = self._tls(sae)
        place = url or next(url for url, km in self._listeners.items() if km == self._homes[sae])
        km = self._key_manager(place)
        # A refusal is told by the point that meets it.
        return Party(sae, place, lambda: client_context(tls.credentials, tls.trust, _untold, km))

    def target(self, master: Party, slave: Party, additional: Party | None) -> Target:
        """Return what is tested."""
        tls = self._tls(master.sae)
        shown = first_certificate(self._folder(slave.sae) / TLS_FILES["certificate"])
        return Target(master, slave, additional, lambda: _nameless(tls), obsolete(None), shown)

    def _tls(self, sae: str) -> Credentialed:
        return Credentialed(sae_party(sae), tls_section(self._folder(sae)))

    def _folder(self, sae: str) -> Path:
        folder = self._state / SAES / sae
        if sae not in self._homes or not folder.is_dir():
            raise UsageError(f"{self._state} has no certificate of an SAE {sae!r}; its SAEs are {_listed(self._homes)}")
        return folder

    def _key_manager(self, url: str) -> PartyId:
        km = self._listeners.get(url.rstrip("/"))
        if km is None:
            raise UsageError(f"{url}: no key manager of {self._state} is there; they are at {_listed(self._listeners)}")
        return km


@dataclass(frozen=True, slots=True)
class _NobodysPair:
    client: SSL.Context


@dataclass(frozen=True, slots=True)
class _Nobody:
    """In the place of credentials: a client that has none."""

    pair: _NobodysPair


def _nameless(tls: Credentialed) -> PostQuantumContext:
    nobody = cast("Credentials", _Nobody(_NobodysPair(nameless_context())))
    return PostQuantumContext(nobody, tls.trust, _untold, _anybody, server=False)


def _anybody(_: TransportPeer) -> None:
    """Admit the server, whoever it is: it is the one that has to refuse."""


def _untold(_reason: str, _party: PartyId | None) -> None:
    """Leave the log alone."""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
