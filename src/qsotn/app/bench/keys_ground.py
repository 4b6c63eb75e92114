"""What all processes of `qsotn bench keys` share: one key manager, two SAEs, and their certificates in files."""

from __future__ import annotations

import datetime as dt
import os
import time
from pathlib import Path
from statistics import median
from typing import Final

from cryptography import x509

from qsotn.app.authority import Authority, pem_key
from qsotn.app.service_files import SHARED_FILES, TLS_FILES, tls_section
from qsotn.crypto.certificates import DEFAULT_TRUST_DOMAIN, certified_party
from qsotn.crypto.suites import DEFAULT_SUITE
from qsotn.domain import PartyId
from qsotn.service.delivery.saes import party_sae
from qsotn.service.identity_files import Credentialed

KM, MASTER, SLAVE = PartyId("km/bench"), PartyId("sae/master"), PartyId("sae/slave")
HOMES: Final = {party_sae(sae): KM for sae in (MASTER, SLAVE)}
"""Both SAEs are at the key manager that is measured: one server sees both halves of a round trip."""
HOST: Final = "127.0.0.1"
_LIFETIME: Final = dt.timedelta(days=1)
_SYNCS: Final = 25


def make_certificates(folder: Path) -> None:
    """Make a root, and a folder with certificate, key, roots and revocation lists for each of the three."""
    now = dt.datetime.now(dt.UTC)
    authority = Authority.create(folder / "pki", "bench", _LIFETIME, os.urandom, now)
    for party in (KM, MASTER, SLAVE):
        key = DEFAULT_SUITE.generate_signing_key(os.urandom)
        place = _place(folder, party)
        place.mkdir(mode=0o700)
        made = authority.transport(party, key.public_key().public_bytes_raw(), (HOST,), None, now)
        (place / TLS_FILES["certificate"]).write_bytes(made)
        (place / TLS_FILES["key"]).touch(0o600)
        (place / TLS_FILES["key"]).write_bytes(pem_key(key))
    authority.renew_lists(now)
    for party in (KM, MASTER, SLAVE):
        for name in SHARED_FILES:
            (_place(folder, party) / name).write_bytes((folder / "pki" / name).read_bytes())


def credentialed(folder: Path, party: PartyId) -> Credentialed:
    """Return the credentials of one of the three."""
    return Credentialed(party, tls_section(_place(folder, party)))


def _place(folder: Path, party: PartyId) -> Path:
    return folder / party.replace("/", "-")


def identify(certificate: x509.Certificate) -> str:
    """Return the SAE that a certificate of this root is of. Raises `BadProof`."""
    return party_sae(certified_party(certificate.extensions, DEFAULT_TRUST_DOMAIN))


def sync_ms(folder: Path) -> float:
    """Return how long the disk takes to make 4 KiB durable: the median, in milliseconds."""
    taken = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return 1000 * median(taken)
