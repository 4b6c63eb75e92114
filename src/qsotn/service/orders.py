"""What an operator may order of a POMP: each order is checked here and begins one procedure.

A function here runs in one transaction (`runtime.Node.begin`) and either begins its procedure or changes nothing.
`UsageError` says that what was asked cannot be asked; `Refusal` that the POMP, as things stand, decides no.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from qsotn.crypto.certificates import checked_party
from qsotn.domain import LineId, PartyId, ProcedureId, QualityOfService, Role, role_of
from qsotn.errors import Refusal, UsageError
from qsotn.parties.pmp import ODU_TYPES, SHORTEST_REKEY_S
from qsotn.parties.pomp import Account, Pomp
from qsotn.procedures import deletion, initialization, leased_line, rekey_order, revocation
from qsotn.procedures.turn import Work

LIFETIME_US: Final = 10 * 60 * 1_000_000
LONGEST_REASON: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Terms:
    """What orders are given under: the PMP that carries them out, and how long a procedure may take (microseconds)."""

    pmp: PartyId
    lifetime_us: int = LIFETIME_US


def open_account(pomp: Pomp, name: str) -> tuple[Account, bool]:
    """Open a customer's account; say whether it is new. Raises `UsageError`."""
    _check_name("account", name)
    new = pomp.accounts.get(name) is None
    pomp.open_account(name)
    return pomp.accounts.require(name), new


def order_device(
    pomp: Pomp, work: Work, cpe: PartyId, serial_number: str, home_qssp: PartyId, terms: Terms
) -> ProcedureId:
    """Order a device into service.

    Raises `UsageError`; `Refusal` UNKNOWN_QSSP, UNDER_WAY, or as `initialization.begin`.
    """
    _check_role(cpe, Role.CPE)
    _check_role(home_qssp, Role.QSSP)
    if pomp.desk.certificates.get(home_qssp) is None:
        raise Refusal("UNKNOWN_QSSP", f"{pomp.desk.party} has no certificate of {home_qssp}")
    _check_idle(work, cpe)
    return initialization.begin(pomp, work, cpe, serial_number, home_qssp, terms.pmp, terms.lifetime_us)


def order_revocation(pomp: Pomp, work: Work, cpe: PartyId, reason: str, terms: Terms) -> ProcedureId:
    """Put a device out of service for good. Raises `UsageError`; `Refusal` as `revocation.begin`."""
    _check_role(cpe, Role.CPE)
    if not reason.isprintable() or not 1 <= len(reason) <= LONGEST_REASON:
        raise UsageError(f"a reason is 1 to {LONGEST_REASON} printable characters")
    return revocation.begin(pomp, work, cpe, reason, terms.pmp, terms.lifetime_us)


def order_line(
    pomp: Pomp,
    work: Work,
    line: LineId,
    account: str,
    ends: tuple[PartyId, PartyId],
    quality: QualityOfService,
    terms: Terms,
) -> ProcedureId:
    """Order a line between two devices. Raises `UsageError`; `Refusal` SAME_DEVICE, or as `leased_line.begin`."""
    _check_name("line", line)
    for cpe in ends:
        _check_role(cpe, Role.CPE)
    if ends[0] == ends[1]:
        raise Refusal("SAME_DEVICE", f"a line joins two devices, and both ends are {ends[0]}")
    _check_quality(quality)
    return leased_line.begin(pomp, work, line, account, ends, quality, terms.pmp, terms.lifetime_us)


def order_rekey(pomp: Pomp, work: Work, line: LineId, terms: Terms) -> ProcedureId:
    """Order new keys for a line. Raises `Refusal` UNDER_WAY, or as `rekey_order.begin`."""
    _check_idle(work, line)
    return rekey_order.begin(pomp, work, line, terms.pmp, terms.lifetime_us)


def order_deletion(pomp: Pomp, work: Work, line: LineId, terms: Terms) -> ProcedureId:
    """Order a line out of service. Raises `Refusal` as `deletion.begin`."""
    return deletion.begin(pomp, work, line, terms.pmp, terms.lifetime_us)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} names no {what}: expected 1 to 64 letters, digits, dots, hyphens or underscores")


def _check_role(party: PartyId, role: Role) -> None:
    if role_of(checked_party(party)) is not role:
        raise UsageError(f"{party} is no {role}: expected {role}/name")


def _check_quality(quality: QualityOfService) -> None:
    if quality.odu not in ODU_TYPES:
        raise UsageError(f"no ODU type {quality.odu!r}; there are {', '.join(sorted(ODU_TYPES))}")
    if quality.rekey_interval_s < SHORTEST_REKEY_S or quality.max_latency_us < 1:
        raise UsageError("rekey interval (seconds) and latency (microseconds) are positive")


def _check_idle(work: Work, subject: str) -> None:
    """One order about a device or a line at a time: a second one would take the first one's place half way."""
    for row in work.about(subject):
        raise Refusal("UNDER_WAY", f"{row.ladder} {row.procedure} of {subject} has not ended")
