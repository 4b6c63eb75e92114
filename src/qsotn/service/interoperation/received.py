"""Keys that other operators handed us for SAEs that are attached here (ETSI GS QKD 020), until those have them.

For each target SAE a key goes from *waiting* to *delivered*, *void* or *expired*, never back; one that was void before
it came is *absent* for good. The key itself is destroyed
once no target waits for it and the window for a repeated answer is over. Its ID stays, so that the same key is
acknowledged again and another one under the same ID is refused.

Every function is one transaction, and returns what is durable.
"""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec

from qsotn.domain import KeyId, Secret
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.etsi020_messages import (
    LONGEST_MESSAGE,
    AckContainer,
    AckStatus,
    ExtKey,
    ExtKeyContainer,
    KeyReference,
    VoidContainer,
    key_name,
)

KEPT_S: Final = 24 * 3600
"""How long a key waits for its SAE."""
REPEATED_S: Final = 10
"""How long an answer with keys can be had again by the same request, because it may have been lost."""
ACKED_S: Final = 24 * 3600
"""How long an acknowledgement is tried."""
SECOND: Final = 1_000_000
_WAITING, _DELIVERED, _VOID, _EXPIRED, _ABSENT = "waiting", "delivered", "void", "expired", "absent"


def take(store: BorderStore, operator: str, asked: ExtKeyContainer, path: str, now: int) -> None:
    """Keep keys for their targets, and post their acknowledgement to a path of the operator: all or none.

    Raises `Refusal` KEY_REUSED, with nothing kept, for an ID that came before with another value or other SAEs, or that
    was void before it came.
    """
    with store.transaction() as at:
        _expire(at, now)
        for key in asked.keys:
            _keep(store, at, operator, asked, key, now)
        _post(at, operator, path, _states(at, operator, asked), now)


def _keep(
    store: BorderStore, at: sqlite3.Connection, operator: str, asked: ExtKeyContainer, key: ExtKey, now: int
) -> None:
    key_id, targets = key_name(key.key_id), json.dumps(sorted(asked.target_sae_ids))
    digest = store.digest(key_id, key.value)
    found = at.execute(
        "SELECT initiator, targets, digest FROM received WHERE operator = ? AND key_id = ?", (operator, key_id)
    ).fetchone()
    if found is None:
        wrapped = store.wrap(Secret(key.value), _place(operator, key_id))
        _insert(at, operator, key_id, (asked.initiator_sae_id, targets, digest, wrapped), now)
        _insert_for(at, operator, key_id, asked.target_sae_ids, _WAITING, now)
    elif found[:2] != (asked.initiator_sae_id, targets) or not hmac.compare_digest(found[2], digest):
        raise Refusal("KEY_REUSED", f"key {key_id} was named before, with another value or for other SAEs")


def _insert(
    at: sqlite3.Connection, operator: str, key_id: str, row: tuple[str, str, bytes, bytes | None], now: int
) -> None:
    at.execute("INSERT INTO received VALUES (?, ?, ?, ?, ?, ?, ?)", (operator, key_id, *row, now + KEPT_S * SECOND))


def _insert_for(
    at: sqlite3.Connection, operator: str, key_id: str, targets: Iterable[str], state: str, now: int
) -> None:
    rows = [(operator, key_id, target, state, now) for target in targets]
    at.executemany("INSERT INTO received_for VALUES (?, ?, ?, ?, ?, '')", rows)


def _states(at: sqlite3.Connection, operator: str, asked: ExtKeyContainer) -> list[AckContainer]:
    """Say of each key what became of it here, a container for each target and status."""
    grouped: dict[tuple[str, AckStatus], list[str]] = defaultdict(list)
    for key in asked.keys:
        for target in asked.target_sae_ids:
            relayed = _state(at, operator, key_name(key.key_id), target) in (_WAITING, _DELIVERED)
            grouped[target, AckStatus.RELAYED if relayed else AckStatus.FAILED].append(key.key_id)
    return _containers(asked.initiator_sae_id, grouped)


def void(store: BorderStore, operator: str, asked: VoidContainer, path: str, now: int) -> None:
    """Make keys void for the targets that are named, and post what became of each to a path of the operator.

    An ID that never came is void, too: the key may be on its way, and must not be kept when it arrives.
    """
    with store.transaction() as at:
        _expire(at, now)
        grouped: dict[tuple[str, AckStatus], list[str]] = defaultdict(list)
        for key_id in asked.key_ids:
            _shut_out(at, operator, asked, key_name(key_id), now)
        for target in asked.target_sae_ids:
            key_ids = asked.key_ids or _between(at, operator, asked.initiator_sae_id, target)
            for key_id in key_ids:
                status = _void_one(at, (operator, asked.initiator_sae_id, key_name(key_id), target), now)
                grouped[target, status].append(key_id)
            if not key_ids:
                grouped[target, AckStatus.VOIDED] = []
        _forget_finished(at, now)
        _post(at, operator, path, _containers(asked.initiator_sae_id, grouped), now)


def _shut_out(at: sqlite3.Connection, operator: str, asked: VoidContainer, key_id: str, now: int) -> None:
    known = at.execute("SELECT 1 FROM received WHERE operator = ? AND key_id = ?", (operator, key_id)).fetchone()
    if known is None:
        targets = json.dumps(sorted(asked.target_sae_ids))
        _insert(at, operator, key_id, (asked.initiator_sae_id, targets, b"", None), now)
        _insert_for(at, operator, key_id, asked.target_sae_ids, _ABSENT, now)


def _void_one(at: sqlite3.Connection, who: tuple[str, str, str, str], now: int) -> AckStatus:
    row = at.execute(
        "SELECT state FROM received JOIN received_for USING (operator, key_id)"
        " WHERE operator = ? AND initiator = ? AND key_id = ? AND target = ?",
        who,
    ).fetchone()
    if row is None or row[0] in (_EXPIRED, _ABSENT):
        return AckStatus.NOT_PRESENT
    if row[0] == _DELIVERED:
        return AckStatus.FAILED_TO_VOID
    operator, _, key_id, target = who
    at.execute(
        "UPDATE received_for SET state = ?, since = ? WHERE operator = ? AND key_id = ? AND target = ?",
        (_VOID, now, operator, key_id, target),
    )
    return AckStatus.VOIDED


def _between(at: sqlite3.Connection, operator: str, initiator: str, target: str) -> tuple[str, ...]:
    rows = at.execute(
        "SELECT key_id FROM received JOIN received_for USING (operator, key_id)"
        " WHERE operator = ? AND initiator = ? AND target = ? AND state = ? ORDER BY key_id",
        (operator, initiator, target, _WAITING),
    )
    return tuple(key_id for (key_id,) in rows)


@dataclass(frozen=True, slots=True)
class Asker:
    """A target SAE that asks for the keys of an initiator, which belongs to an operator."""

    slave: str
    master: str
    operator: str


def collect(store: BorderStore, asker: Asker, key_ids: Sequence[KeyId], now: int) -> tuple[ReadyKey, ...]:
    """Give keys to their target SAE, all or none, in the order asked; for a moment again to the same request.

    Raises `Refusal` KEYS_NOT_FOUND, also for keys that are not this SAE's or not from this initiator.
    """
    request = sha256("\n".join((asker.master, *key_ids)).encode()).hexdigest()
    with store.transaction() as at:
        keys = [_opened(store, at, asker, key_name(key_id), request, now) for key_id in key_ids]
        at.executemany(
            "UPDATE received_for SET state = ?, since = ?, request = ?"
            " WHERE operator = ? AND key_id = ? AND target = ? AND state = ?",
            [(_DELIVERED, now, request, asker.operator, key_name(key), asker.slave, _WAITING) for key in key_ids],
        )
        return tuple(ReadyKey(key_id, key) for key_id, key in zip(key_ids, keys, strict=True))


def _opened(store: BorderStore, at: sqlite3.Connection, asker: Asker, key_id: str, request: str, now: int) -> Secret:
    row = at.execute(
        "SELECT wrapped, state, since, request FROM received JOIN received_for USING (operator, key_id)"
        " WHERE operator = ? AND key_id = ? AND target = ? AND initiator = ? AND wrapped IS NOT NULL",
        (asker.operator, key_id, asker.slave, asker.master),
    ).fetchone()
    if row is None or not _may_have(row[1:], request, now):
        raise Refusal("KEYS_NOT_FOUND", "one or more keys specified are not found on KME")
    return store.unwrap(row[0], _place(asker.operator, key_id))


def _may_have(row: tuple[str, int, str], request: str, now: int) -> bool:
    """Whether a key waits, and not for too long, or was given a moment ago to this very request."""
    state, since, given_to = row
    if state == _WAITING:
        return now - since < KEPT_S * SECOND
    return state == _DELIVERED and given_to == request and now - since < REPEATED_S * SECOND


def waiting(store: BorderStore, asker: Asker, now: int) -> int:
    """Return how many keys of an initiator wait for a target."""
    with store.transaction() as at:
        (count,) = at.execute(
            "SELECT count(*) FROM received JOIN received_for USING (operator, key_id)"
            " WHERE operator = ? AND target = ? AND initiator = ? AND state = ? AND expires_at > ?",
            (asker.operator, asker.slave, asker.master, _WAITING, now),
        ).fetchone()
        return int(count)


def sweep(store: BorderStore, now: int) -> None:
    """Destroy what nobody collected in time, and keys whose repetition nobody may ask for any more."""
    with store.transaction() as at:
        _expire(at, now)
        _forget_finished(at, now)
        at.execute("DELETE FROM acks WHERE expires_at <= ?", (now,))


def _expire(at: sqlite3.Connection, now: int) -> None:
    at.execute(
        "UPDATE received_for SET state = ?, since = ? WHERE state = ? AND (operator, key_id) IN"
        " (SELECT operator, key_id FROM received WHERE wrapped IS NOT NULL AND expires_at <= ?)",
        (_EXPIRED, now, _WAITING, now),
    )


def _forget_finished(at: sqlite3.Connection, now: int) -> None:
    at.execute(
        "UPDATE received SET wrapped = NULL WHERE wrapped IS NOT NULL AND NOT EXISTS (SELECT 1 FROM received_for AS one"
        " WHERE one.operator = received.operator AND one.key_id = received.key_id"
        " AND (one.state = ? OR (one.state = ? AND one.since > ?)))",
        (_WAITING, _DELIVERED, now - REPEATED_S * SECOND),
    )


def _state(at: sqlite3.Connection, operator: str, key_id: str, target: str) -> str:
    (state,) = at.execute(
        "SELECT state FROM received_for WHERE operator = ? AND key_id = ? AND target = ?", (operator, key_id, target)
    ).fetchone()
    return str(state)


def _containers(initiator: str, grouped: dict[tuple[str, AckStatus], list[str]]) -> list[AckContainer]:
    return [_container(initiator, target, status, key_ids) for (target, status), key_ids in grouped.items()]


def _container(initiator: str, target: str, status: AckStatus, key_ids: Iterable[str]) -> AckContainer:
    message = None if status is not AckStatus.FAILED else "these keys were void or expired before they came again"
    references = tuple(KeyReference(key_id) for key_id in key_ids)
    return AckContainer(references, status, initiator, (target,), message and message[:LONGEST_MESSAGE])


def _post(at: sqlite3.Connection, operator: str, path: str, acks: Sequence[AckContainer], now: int) -> None:
    row = (operator, path, msgspec.json.encode(acks), now, now + ACKED_S * SECOND)
    at.execute(
        "INSERT INTO acks (operator, path, content, due, attempts, expires_at) VALUES (?1, ?2, ?3, ?4, 0, ?5)", row
    )


def _place(operator: str, key_id: str) -> str:
    return f"received/{operator}/{key_id}"
