"""A run of all points of ETSI GS QKD 014 V1.1.1 against a key manager of anybody."""

from __future__ import annotations

import contextlib
import ssl
import warnings
from pathlib import Path
from typing import Final

from qsotn.app.conformance import etsi014_dec_keys, etsi014_enc_keys, etsi014_status
from qsotn.app.conformance.asking import Caller
from qsotn.app.conformance.etsi014_run import Context, Party, Run, Target
from qsotn.app.conformance.report import Report
from qsotn.errors import UsageError

STANDARD: Final = "ETSI GS QKD 014 V1.1.1"
CHECKS: Final = (*etsi014_status.checks.listed, *etsi014_enc_keys.checks.listed, *etsi014_dec_keys.checks.listed)
"""Every point, in the order in which they are tested."""


async def examine(target: Target) -> Report:
    """Test every point, one after the other. Draws some 160 keys at most."""
    async with contextlib.AsyncExitStack() as stack:
        master, slave = [
            await stack.enter_async_context(Caller(party.url, party.context)) for party in (target.master, target.slave)
        ]
        additional = None
        if target.additional is not None:
            additional = await stack.enter_async_context(Caller(target.additional.url, target.additional.context))
        run = Run(target, master, slave, additional)
        points = [await check.point(run) for check in CHECKS]
    return Report(STANDARD, target.master.url, tuple(points))


# --- from files -----------------------------------------------------------------------------------------------------


def party(sae: str, url: str, certificate: Path, key: Path | None, authority: Path | None) -> Party:
    """Return an SAE whose certificate and key are in PEM files, the key behind the certificate if it is not named.

    Raises `UsageError` for files that cannot be used, and for a URL that is not https.
    """
    if not url.startswith("https://"):
        raise UsageError(f"{url}: expected https://HOST[:PORT], because the standard has nothing else (clause 5.1)")
    context = _context(authority)
    try:
        context.load_cert_chain(certificate, key or certificate)
    except OSError as error:
        raise UsageError(f"{certificate} with the key {key or certificate} cannot be used: {error}") from error
    return Party(sae, url, lambda: context)


def target(
    master: Party, slave: Party, additional: Party | None, authority: Path | None, slave_certificate: Path
) -> Target:
    """Return what is tested; `slave_certificate` is shown in headers, where it must count for nothing."""
    anonymous = _context(authority)
    return Target(
        master, slave, additional, lambda: anonymous, obsolete(authority), first_certificate(slave_certificate)
    )


def first_certificate(path: Path) -> str:
    """Return the first certificate of a PEM file, and nothing that stands beside it: a key must not be shown."""
    text = path.read_text(errors="replace")
    found = text.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")[0]
    return f"-----BEGIN CERTIFICATE-----{found}-----END CERTIFICATE-----"


def obsolete(authority: Path | None) -> Context | None:
    """Return a context for TLS 1.1, or None where the library has none left."""
    context = _context(authority)
    try:
        with warnings.catch_warnings():  # that this version is obsolete is the point
            warnings.simplefilter("ignore", DeprecationWarning)
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
    except (ssl.SSLError, ValueError):
        return None
    return lambda: context


def _context(authority: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if authority is None else str(authority))
    except OSError as error:
        raise UsageError(f"{authority} holds no certificate of a CA in PEM: {error}") from error
