"""Keys that we hand to other operators (ETSI GS QKD 020): what is known of each, and what is to be done next.

    sending ──relayed──▶ relayed
       │ └────failed───▶ failed
       └──nobody waits──▶ voiding ──voided, key not present──▶ voided
                             └─────failed to void, failed────▶ failed to void

A key is sent again until it is acknowledged, and void again until that is. Which of both is due is in the store before
anything is said, so a process that is killed goes on where it was. Only a key that ends in `relayed` is given to its
initiator.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from qsotn.domain import KeyId
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.etsi020_messages import AckContainer, AckStatus, key_name
from qsotn.service.interoperation.received_rows import SECOND

SENT_S: Final = 300
"""How long a key is tried before it is void."""
VOIDED_S: Final = 7 * 24 * 3600
"""How long it is tried to have a key void; the far end's own expiry comes long before."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1, 64


class Sending(StrEnum):
    """What became of a key towards one target."""

    SENDING = "sending"
    RELAYED = "relayed"
    FAILED = "failed"
    VOIDING = "voiding"
    VOIDED = "voided"
    FAILED_TO_VOID = "failed to void"


AFTER: Final[dict[tuple[Sending, AckStatus], Sending]] = {
    (Sending.SENDING, AckStatus.RELAYED): Sending.RELAYED,
    (Sending.SENDING, AckStatus.FAILED): Sending.FAILED,
    (Sending.SENDING, AckStatus.NOT_PRESENT): Sending.FAILED,
    (Sending.VOIDING, AckStatus.VOIDED): Sending.VOIDED,
    (Sending.VOIDING, AckStatus.NOT_PRESENT): Sending.VOIDED,
    (Sending.VOIDING, AckStatus.FAILED_TO_VOID): Sending.FAILED_TO_VOID,
    (Sending.VOIDING, AckStatus.FAILED): Sending.FAILED_TO_VOID,
}
"""What an acknowledgement does; in every other pair it comes late or again, and changes nothing."""


@dataclass(frozen=True, slots=True)
class Due:
    """Keys between two SAEs for which the same is to be said now. `keys` are empty for those to be void."""

    operator: str
    initiator: str
    target: str
    state: Sending
    key_ids: tuple[KeyId, ...]
    keys: tuple[ReadyKey, ...] = ()


@dataclass(frozen=True, slots=True)
class PostedAck:
    """An acknowledgement that waits to be taken by its operator."""

    number: int
    operator: str
    path: str
    content: bytes


def prepare(store: BorderStore, operator: str, initiator: str, target: str, keys: Sequence[ReadyKey], now: int) -> None:
    """Note keys that are to be sent. Raises `StoreError` if one was noted before."""
    with store.transaction() as at:
        for key in keys:
            name = key_name(key.key_id)
            wrapped = store.wrap(key.key, _place(name, target))
            row = (name, target, operator, initiator, wrapped, Sending.SENDING, now, 0, now + SENT_S * SECOND)
            at.execute("INSERT INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def due(store: BorderStore, operator: str, now: int, limit: int) -> list[Due]:
    """Take what is due towards an operator; it is due again after a pause that doubles. The oldest pair comes first."""
    with store.transaction() as at:
        _give_up(at, now)
        first = at.execute(
            "SELECT initiator, target, state FROM sent WHERE operator = ? AND due <= ? AND state IN (?, ?)"
            " ORDER BY due LIMIT 1",
            (operator, now, Sending.SENDING, Sending.VOIDING),
        ).fetchone()
        if first is None:
            return []
        initiator, target, state = first
        rows = at.execute(
            "SELECT key_id, wrapped, attempts FROM sent WHERE operator = ? AND initiator = ? AND target = ?"
            " AND state = ? AND due <= ? ORDER BY due, key_id LIMIT ?",
            (operator, initiator, target, state, now, limit),
        ).fetchall()
        at.executemany(
            "UPDATE sent SET due = ?, attempts = attempts + 1 WHERE key_id = ? AND target = ?",
            [(now + pause(attempts) * SECOND, key_id, target) for key_id, _, attempts in rows],
        )
        key_ids = tuple(KeyId(key_id) for key_id, _, _ in rows)
        keys = tuple(_opened(store, key_id, target, wrapped) for key_id, wrapped, _ in rows if wrapped is not None)
        return [Due(operator, initiator, target, Sending(state), key_ids, keys)]


def _give_up(at: sqlite3.Connection, now: int) -> None:
    """Have void what was not acknowledged in time: the far end may have it. In the end leave even that."""
    at.execute(
        "UPDATE sent SET state = ?, wrapped = NULL, due = ?, attempts = 0, expires_at = ?"
        " WHERE state = ? AND expires_at <= ?",
        (Sending.VOIDING, now, now + VOIDED_S * SECOND, Sending.SENDING, now),
    )
    at.execute(
        "UPDATE sent SET state = ? WHERE state = ? AND expires_at <= ?",
        (Sending.FAILED_TO_VOID, Sending.VOIDING, now),
    )


def pause(attempts: int) -> int:
    """Return the seconds after which something that was tried is due again."""
    return int(min(LONGEST_PAUSE_S, FIRST_PAUSE_S << min(attempts, 16)))


def settle(store: BorderStore, operator: str, acks: Iterable[AckContainer]) -> dict[KeyId, Sending]:
    """Take acknowledgements of an operator; return the keys whose state they changed.

    What is acknowledged by another operator than it was sent to, or for other SAEs, changes nothing.
    """
    changed: dict[KeyId, Sending] = {}
    with store.transaction() as at:
        for ack in acks:
            for target in ack.target_sae_ids:
                for reference in ack.key_id_container:
                    key = (key_name(reference.key_id), target, operator, ack.initiator_sae_id)
                    after = _settled(at, key, ack.ack_status)
                    if after is not None:
                        changed[KeyId(key[0])] = after
    return changed


def _settled(at: sqlite3.Connection, key: tuple[str, str, str, str], status: AckStatus) -> Sending | None:
    row = at.execute(
        "SELECT state FROM sent WHERE key_id = ? AND target = ? AND operator = ? AND initiator = ?", key
    ).fetchone()
    after = None if row is None else AFTER.get((Sending(row[0]), status))
    if after is not None:
        at.execute("UPDATE sent SET state = ?, wrapped = NULL WHERE key_id = ? AND target = ?", (after, *key[:2]))
    return after


def refused(store: BorderStore, what: Due) -> None:
    """Note that the operator took nothing of what was sent, or that it will not hear of a void."""
    after = Sending.FAILED if what.state is Sending.SENDING else Sending.FAILED_TO_VOID
    with store.transaction() as at:
        at.executemany(
            "UPDATE sent SET state = ?, wrapped = NULL WHERE key_id = ? AND target = ? AND state = ?",
            [(after, key_id, what.target, what.state) for key_id in what.key_ids],
        )


def abandon(store: BorderStore, key_ids: Iterable[str], now: int, target: str | None = None) -> None:
    """Have keys void, for one target or for all, that no initiator waits for any more."""
    until = now + VOIDED_S * SECOND
    with store.transaction() as at:
        at.executemany(
            "UPDATE sent SET state = ?, wrapped = NULL, due = ?, attempts = 0, expires_at = ?"
            " WHERE key_id = ?4 AND (?5 IS NULL OR target = ?5) AND state IN (?, ?)",
            [
                (Sending.VOIDING, now, until, key_name(key_id), target, Sending.SENDING, Sending.RELAYED)
                for key_id in key_ids
            ],
        )


def abandon_all(store: BorderStore, now: int) -> int:
    """Have void whatever is being sent, and return how many: after a start, nobody waits for it any more."""
    with store.transaction() as at:
        cursor = at.execute(
            "UPDATE sent SET state = ?, wrapped = NULL, due = ?, attempts = 0, expires_at = ? WHERE state = ?",
            (Sending.VOIDING, now, now + VOIDED_S * SECOND, Sending.SENDING),
        )
        return cursor.rowcount


def state_of(store: BorderStore, key_id: str, target: str) -> Sending | None:
    """Return what became of a key, None if it was never to be sent."""
    with store.transaction() as at:
        row = at.execute(
            "SELECT state FROM sent WHERE key_id = ? AND target = ?", (key_name(key_id), target)
        ).fetchone()
        return None if row is None else Sending(row[0])


def states_of(store: BorderStore, key_ids: Iterable[KeyId], target: str) -> dict[KeyId, Sending]:
    """Return what became of keys, without those that were never to be sent."""
    found = ((key_id, state_of(store, key_id, target)) for key_id in key_ids)
    return {key_id: state for key_id, state in found if state is not None}


# --- acknowledgements that wait to be taken --------------------------------------------------------------------------


def acks_due(store: BorderStore, operator: str, now: int, limit: int) -> list[PostedAck]:
    """Take acknowledgements that are due; they are due again after a pause that doubles, until `acked`."""
    with store.transaction() as at:
        rows = at.execute(
            "SELECT number, path, content, attempts FROM acks WHERE operator = ? AND due <= ? AND expires_at > ?"
            " ORDER BY due, number LIMIT ?",
            (operator, now, now, limit),
        ).fetchall()
        at.executemany(
            "UPDATE acks SET due = ?, attempts = attempts + 1 WHERE number = ?",
            [(now + pause(attempts) * SECOND, number) for number, _, _, attempts in rows],
        )
        return [PostedAck(number, operator, path, content) for number, path, content, _ in rows]


def acked(store: BorderStore, number: int) -> None:
    """The operator has an acknowledgement, or will not take it."""
    with store.transaction() as at:
        at.execute("DELETE FROM acks WHERE number = ?", (number,))


def _opened(store: BorderStore, key_id: str, target: str, wrapped: bytes) -> ReadyKey:
    return ReadyKey(KeyId(key_id), store.unwrap(wrapped, _place(key_id, target)))


def _place(key_id: str, target: str) -> str:
    return f"sent/{target}/{key_id}"
