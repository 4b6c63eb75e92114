"""`qsotn pki` as a person sees it: which certificates there are, and which were renewed."""

from __future__ import annotations

import datetime as dt
import os
import sys
from pathlib import Path

import msgspec

from qsotn.app.authority import Issued
from qsotn.app.renewal import Renewed, issued_certificates, renew, revoke_certificate
from qsotn.console.columns import aligned
from qsotn.domain import PartyId


def show_certificates(state: Path, *, as_json: bool) -> None:
    """List every certificate that may still be valid, and everyone who was revoked."""
    issued = issued_certificates(state, os.urandom)
    if as_json:
        _write_json(issued)
        return
    heading = ("party", "for", "serial", "not after (UTC)", "revoked (UTC)")
    rows = [(one.party, one.kind, one.number, _moment(one.not_after), _moment(one.revoked_at)) for one in issued]
    sys.stdout.write(aligned([heading, *rows]) + "\n")


def renew_certificates(state: Path, *, everything: bool, as_json: bool) -> None:
    """Renew what has passed two thirds of its life, or every certificate of TLS."""
    renewed = renew(state, os.urandom, dt.datetime.now(dt.UTC), everything=everything)
    if as_json:
        _write_json(renewed)
    else:
        sys.stdout.write("\n".join(renewal_lines(renewed)) + "\n")


def revoke_party(state: Path, party: str, *, as_json: bool) -> None:
    """Revoke every certificate of a party. Raises `UsageError` for one that has none."""
    revoke_certificate(state, PartyId(party), os.urandom, dt.datetime.now(dt.UTC))
    if as_json:
        _write_json([one for one in issued_certificates(state, os.urandom) if one.party == party])
    else:
        sys.stdout.write(f"{party} is revoked: running services refuse it within seconds.\n")


def renewal_lines(renewed: Renewed) -> list[str]:
    """Say what a renewal did."""
    lines = []
    if renewed.transport:
        lines.append(f"Renewed for TLS, and taken up by running services: {', '.join(renewed.transport)}.")
    if renewed.identities:
        lines.append(f"Renewed identities, and taken up by running services: {', '.join(renewed.identities)}.")
    if renewed.revocation_lists:
        lines.append("Renewed both revocation lists.")
    return lines or ["Nothing has passed two thirds of its life; --all renews all the same."]


def _moment(moment: dt.datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _write_json(shown: Renewed | list[Issued]) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode() + "\n")
