"""Keys that other operators handed us for SAEs of this network (ETSI GS QKD 020), until those have them.

For each target SAE a key goes from *waiting* to *delivered*, *void* or *expired*, never back; one that was void before
it came is *absent* for good. The key itself is destroyed
once no target waits for it and the window for a repeated answer is over. Its ID stays, so that the same key is
acknowledged again and another one under the same ID is refused.

For SAEs that are attached elsewhere see `relayed`.

Every function is one transaction, and returns what is durable.
"""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from qsotn.domain import KeyId, Secret
from qsotn.errors import Refusal
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.interoperation import relayed
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.etsi020_messages import (
    AckContainer,
    AckStatus,
    ExtKey,
    ExtKeyContainer,
    VoidContainer,
    key_name,
)
from qsotn.service.interoperation.received_rows import (
    ABSENT,
    DELIVERED,
    EXPIRED,
    FAILED,
    RELAYED,
    RELAYING,
    REPEATED_S,
    SECOND,
    VOID,
    WAITING,
    WITHDRAWING,
    container,
    forget_finished,
    place_of,
    post,
)

KEPT_S: Final = 24 * 3600
"""How long a key waits for its SAE."""
_WHY: Final = {
    AckStatus.FAILED: "these keys were void or expired before they came again, or cannot go on to their SAE",
    AckStatus.FAILED_TO_VOID: "these keys were delivered, or may have been",
}


def take(
    store: BorderStore,
    operator: str,
    asked: ExtKeyContainer,
    path: str | None,
    now: int,
    elsewhere: Collection[str] = (),
) -> Sequence[AckContainer]:
    """Keep keys for their targets, all or none, and return their acknowledgement; post it to a path of the operator.

    What is for targets `elsewhere` in this network is acknowledged when it is there (`relayed.done`).

    Without a path it is not posted: whoever calls has to give it. Raises `Refusal` KEY_REUSED, with nothing kept, for
    an ID that came before with another value or other SAEs, or that was void before it came.
    """
    with store.transaction() as at:
        _expire(at, now)
        for key in asked.keys:
            _keep(store, at, operator, asked, key, now)
        relayed.begin(at, operator, [key_name(key.key_id) for key in asked.keys], elsewhere, path, now)
        return post(at, operator, path, _states(at, operator, asked), now)


def _keep(
    store: BorderStore, at: sqlite3.Connection, operator: str, asked: ExtKeyContainer, key: ExtKey, now: int
) -> None:
    key_id, targets = key_name(key.key_id), json.dumps(sorted(asked.target_sae_ids))
    digest = store.digest(key_id, key.value)
    found = at.execute(
        "SELECT initiator, targets, digest FROM received WHERE operator = ? AND key_id = ?", (operator, key_id)
    ).fetchone()
    if found is None:
        wrapped = store.wrap(Secret(key.value), place_of(operator, key_id))
        _insert(at, operator, key_id, (asked.initiator_sae_id, targets, digest, wrapped), now)
        _insert_for(at, operator, key_id, asked.target_sae_ids, WAITING, now)
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
            state = _state(at, operator, key_name(key.key_id), target)
            if state != RELAYING:
                here = state in (WAITING, DELIVERED, RELAYED)
                grouped[target, AckStatus.RELAYED if here else AckStatus.FAILED].append(key.key_id)
    return _containers(asked.initiator_sae_id, grouped)


def void(store: BorderStore, operator: str, asked: VoidContainer, path: str | None, now: int) -> Sequence[AckContainer]:
    """Make keys void for the targets that are named, and return, and post as `take` does, what became of each.

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
                status = _void_one(at, (operator, asked.initiator_sae_id, key_name(key_id), target), path, now)
                if status is not None:
                    grouped[target, status].append(key_id)
            if not key_ids:
                grouped[target, AckStatus.VOIDED] = []
        forget_finished(at, now)
        return post(at, operator, path, _containers(asked.initiator_sae_id, grouped), now)


def _shut_out(at: sqlite3.Connection, operator: str, asked: VoidContainer, key_id: str, now: int) -> None:
    known = at.execute("SELECT 1 FROM received WHERE operator = ? AND key_id = ?", (operator, key_id)).fetchone()
    if known is None:
        targets = json.dumps(sorted(asked.target_sae_ids))
        _insert(at, operator, key_id, (asked.initiator_sae_id, targets, b"", None), now)
        _insert_for(at, operator, key_id, asked.target_sae_ids, ABSENT, now)


def _void_one(at: sqlite3.Connection, who: tuple[str, str, str, str], path: str | None, now: int) -> AckStatus | None:
    """Return what became of a key; None if it is withdrawn elsewhere, and acknowledged when that is done."""
    row = at.execute(
        "SELECT state FROM received JOIN received_for USING (operator, key_id)"
        " WHERE operator = ? AND initiator = ? AND key_id = ? AND target = ?",
        who,
    ).fetchone()
    if row is None or row[0] in (EXPIRED, ABSENT, FAILED):
        return AckStatus.NOT_PRESENT
    if row[0] == DELIVERED:
        return AckStatus.FAILED_TO_VOID
    operator, _, key_id, target = who
    if row[0] in (RELAYING, RELAYED, WITHDRAWING) and relayed.withdraw(at, (operator, key_id, target), path, now):
        return None if path is not None else AckStatus.FAILED_TO_VOID
    at.execute(
        "UPDATE received_for SET state = ?, since = ? WHERE operator = ? AND key_id = ? AND target = ?",
        (VOID, now, operator, key_id, target),
    )
    return AckStatus.VOIDED


def _between(at: sqlite3.Connection, operator: str, initiator: str, target: str) -> tuple[str, ...]:
    rows = at.execute(
        "SELECT key_id FROM received JOIN received_for USING (operator, key_id)"
        " WHERE operator = ? AND initiator = ? AND target = ? AND state IN (?, ?, ?) ORDER BY key_id",
        (operator, initiator, target, WAITING, RELAYING, RELAYED),
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
            [(DELIVERED, now, request, asker.operator, key_name(key), asker.slave, WAITING) for key in key_ids],
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
    return store.unwrap(row[0], place_of(asker.operator, key_id))


def _may_have(row: tuple[str, int, str], request: str, now: int) -> bool:
    """Whether a key waits, and not for too long, or was given a moment ago to this very request."""
    state, since, given_to = row
    if state == WAITING:
        return now - since < KEPT_S * SECOND
    return state == DELIVERED and given_to == request and now - since < REPEATED_S * SECOND


def waiting(store: BorderStore, asker: Asker, now: int) -> int:
    """Return how many keys of an initiator wait for a target."""
    with store.transaction() as at:
        (count,) = at.execute(
            "SELECT count(*) FROM received JOIN received_for USING (operator, key_id)"
            " WHERE operator = ? AND target = ? AND initiator = ? AND state = ? AND expires_at > ?",
            (asker.operator, asker.slave, asker.master, WAITING, now),
        ).fetchone()
        return int(count)


def sweep(store: BorderStore, now: int) -> None:
    """Destroy what nobody collected in time, and keys whose repetition nobody may ask for any more."""
    with store.transaction() as at:
        _expire(at, now)
        forget_finished(at, now)
        at.execute("DELETE FROM acks WHERE expires_at <= ?", (now,))


def _expire(at: sqlite3.Connection, now: int) -> None:
    at.execute(
        "UPDATE received_for SET state = ?, since = ? WHERE state = ? AND (operator, key_id) IN"
        " (SELECT operator, key_id FROM received WHERE wrapped IS NOT NULL AND expires_at <= ?)",
        (EXPIRED, now, WAITING, now),
    )


def _state(at: sqlite3.Connection, operator: str, key_id: str, target: str) -> str:
    (state,) = at.execute(
        "SELECT state FROM received_for WHERE operator = ? AND key_id = ? AND target = ?", (operator, key_id, target)
    ).fetchone()
    return str(state)


def _containers(initiator: str, grouped: dict[tuple[str, AckStatus], list[str]]) -> list[AckContainer]:
    return [
        container(initiator, target, status, key_ids, _WHY.get(status)) for (target, status), key_ids in grouped.items()
    ]
