"""The rows of keys that other operators handed us, as `received` and `relayed` share them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from qsotn.service.interoperation.etsi020_messages import LONGEST_MESSAGE, AckContainer, AckStatus, KeyReference

REPEATED_S: Final = 10
"""How long an answer with keys can be had again by the same request, because it may have been lost."""
ACKED_S: Final = 24 * 3600
"""How long an acknowledgement is tried."""
SECOND: Final = 1_000_000
WAITING, DELIVERED, VOID, EXPIRED, ABSENT = "waiting", "delivered", "void", "expired", "absent"
"""For an SAE that is attached here."""
RELAYING, RELAYED, FAILED, WITHDRAWING = "relaying", "relayed", "failed", "withdrawing"
"""For one that is attached elsewhere, besides."""


def place_of(operator: str, key_id: str) -> str:
    """Return what a wrapped key is bound to."""
    return f"received/{operator}/{key_id}"


def forget_finished(at: sqlite3.Connection, now: int) -> None:
    """Destroy keys that no target waits for any more, once nobody may ask for them again."""
    at.execute(
        "UPDATE received SET wrapped = NULL WHERE wrapped IS NOT NULL AND NOT EXISTS (SELECT 1 FROM received_for AS one"
        " WHERE one.operator = received.operator AND one.key_id = received.key_id"
        " AND (one.state IN (?, ?) OR (one.state = ? AND one.since > ?)))",
        (WAITING, RELAYING, DELIVERED, now - REPEATED_S * SECOND),
    )


def container(
    initiator: str, target: str, status: AckStatus, key_ids: Iterable[str], message: str | None = None
) -> AckContainer:
    """Say of keys for one target that they share a status."""
    references = tuple(KeyReference(key_id) for key_id in key_ids)
    return AckContainer(references, status, initiator, (target,), message and message[:LONGEST_MESSAGE])


def post(
    at: sqlite3.Connection, operator: str, path: str | None, acks: Sequence[AckContainer], now: int
) -> Sequence[AckContainer]:
    """Have acknowledgements posted to a path of the operator, if there are any and a path; return them."""
    if path is not None and acks:
        row = (operator, path, msgspec.json.encode(acks), now, now + ACKED_S * SECOND)
        at.execute(
            "INSERT INTO acks (operator, path, content, due, attempts, expires_at) VALUES (?1, ?2, ?3, ?4, 0, ?5)", row
        )
    return acks
