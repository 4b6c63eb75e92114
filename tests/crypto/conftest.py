"""One small world of certificates, shared by the tests of this folder; all of its chance comes from one seed."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from qsotn.crypto.identity import CertificateAuthority, Identity, TrustAnchors
from qsotn.crypto.suites import SUITES, Suite
from qsotn.domain import Entropy, PartyId


def seeded(seed: str) -> Entropy:
    counter = 0

    def draw(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(size)

    return draw


@dataclass(frozen=True)
class World:
    """Two roots, a QSSP and a CPE of each suite, and a moment at which all is valid."""

    now: dt.datetime
    ends: dt.datetime
    entropy: Entropy
    operator: CertificateAuthority
    manufacturer: CertificateAuthority
    trust: TrustAnchors
    qssp: dict[int, Identity]
    cpe: dict[int, Identity]


@pytest.fixture(scope="session")
def draw() -> Callable[[str], Entropy]:
    return seeded


@pytest.fixture(scope="session")
def world() -> World:
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    ends = now + dt.timedelta(days=30)
    entropy = seeded("world")
    operator = CertificateAuthority.create("operator", entropy, now)
    manufacturer = CertificateAuthority.create("manufacturer", entropy, now)

    def qssp(chosen: Suite) -> Identity:
        return Identity.create(PartyId("qssp/jinan"), operator, now, ends, entropy, chosen=chosen)

    def cpe(chosen: Suite) -> Identity:
        return Identity.create(PartyId("cpe/east"), manufacturer, now, ends, entropy, "SN-0001", chosen)

    return World(
        now,
        ends,
        entropy,
        operator,
        manufacturer,
        TrustAnchors(operator.certificate, manufacturer.certificate),
        {number: qssp(chosen) for number, chosen in SUITES.items()},
        {number: cpe(chosen) for number, chosen in SUITES.items()},
    )
