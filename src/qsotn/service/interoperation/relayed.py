"""Keys of other operators for SAEs at other key managers of this network: what is known of each on its way there.

    relaying ── its key manager has it ──▶ relayed ── void ──▶ withdrawing ──▶ void, or delivered for all we know
       ├─────── it cannot be ──▶ failed                         ▲
       ├─────── void, and nowhere yet ──▶ void                  │
       └─────── void, and perhaps there ────────────────────────┘

They are rows of `received_for` like those for SAEs that are attached here, with an account of the way (`Way`) in the
place of the request. The key itself is destroyed here once the key managers of all its targets have it. The operator is
told `relayed` then, and not before.

Every function is one transaction, or a part of one, and returns what is durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from qsotn.domain import KeyId, PartyId
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery.assignments import Named
from qsotn.service.delivery.configuration import MOST_BITS
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.etsi020_messages import MOST_KEYS, AckStatus
from qsotn.service.interoperation.received_rows import (
    DELIVERED,
    FAILED,
    RELAYED,
    RELAYING,
    VOID,
    WAITING,
    WITHDRAWING,
    container,
    forget_finished,
    place_of,
    post,
)

Place = tuple[str, str, str]
"""Operator, key ID and target of a row."""
_BEGUN: Final = (
    "UPDATE received_for SET state = ?, request = ?"
    " WHERE operator = ? AND key_id = ? AND target = ? AND state = ? AND since = ?"
)
_NOTED: Final = "UPDATE received_for SET request = ? WHERE operator = ? AND key_id = ? AND target = ? AND state = ?"
_MOVED: Final = (
    "UPDATE received_for SET state = ?, since = ? WHERE operator = ? AND key_id = ? AND target = ? AND state = ?"
)
_FOUND: Final = "SELECT state, request FROM received_for WHERE operator = ? AND key_id = ? AND target = ?"
_WITHDRAWN: Final = (
    "UPDATE received_for SET state = ?, request = ?, since = ? WHERE operator = ? AND key_id = ? AND target = ?"
)


class Way(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a key goes on: to which path its end is told (empty for none), and under which pads it went, or may have.

    `void` says that it was withdrawn before it was acknowledged: then it counts as void, otherwise as delivered.
    """

    path: str = ""
    pads: tuple[Named, ...] = ()
    void: bool = False


def way_of(text: str) -> Way:
    """Read an account of a way."""
    return msgspec.json.decode(text, type=Way)


def written(way: Way) -> str:
    """Write one."""
    return msgspec.json.encode(way).decode()


@dataclass(frozen=True, slots=True)
class Relay:
    """Keys of one size from one initiator for the same SAEs, all at one key manager. `earlier` are pads of attempts."""

    operator: str
    initiator: str
    home: PartyId
    targets: tuple[str, ...]
    path: str
    keys: tuple[ReadyKey, ...]
    since: int
    earlier: tuple[Named, ...]

    @property
    def bits(self) -> int:
        """The size of each key."""
        return len(self.keys[0].key) * 8

    @property
    def places(self) -> list[Place]:
        """The rows."""
        return [(self.operator, key.key_id, target) for key in self.keys for target in self.targets]

    def with_more(self, other: Relay) -> Relay:
        """Return both together, or this one alone if that is more than one assignment takes."""
        if len(self.keys) >= MOST_KEYS or (len(self.keys) + 1) * self.bits > MOST_BITS:
            return self
        return replace(self, keys=(*self.keys, *other.keys), earlier=(*self.earlier, *other.earlier))


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """One key that is to be void at another key manager."""

    place: Place
    initiator: str
    way: Way


# --- on ---------------------------------------------------------------------------------------------------------------


def begin(
    at: sqlite3.Connection,
    operator: str,
    key_ids: Sequence[str],
    elsewhere: Collection[str],
    path: str | None,
    now: int,
) -> None:
    """Have keys that have just come go on to their targets elsewhere; those that came before are where they are."""
    at.executemany(
        _BEGUN,
        [
            (RELAYING, written(Way(path or "")), operator, key_id, target, WAITING, now)
            for key_id in key_ids
            for target in elsewhere
        ],
    )


def due(store: BorderStore, home: Callable[[str], PartyId]) -> list[Relay]:
    """Return what is to go on, the oldest first, each as much as one assignment takes."""
    with store.transaction() as at:
        rows = at.execute(
            "SELECT operator, key_id, target, initiator, wrapped, since, request FROM received_for"
            " JOIN received USING (operator, key_id) WHERE state = ? ORDER BY since, operator, key_id, target LIMIT ?",
            (RELAYING, 4 * MOST_KEYS),
        ).fetchall()
    together: dict[tuple[str, str, PartyId], Relay] = {}
    for operator, key_id, target, initiator, wrapped, since, request in rows:
        same = (operator, key_id, home(target))
        if same in together:
            together[same] = replace(together[same], targets=(*together[same].targets, target))
            continue
        key = ReadyKey(KeyId(key_id), store.unwrap(wrapped, place_of(operator, key_id)))
        way = way_of(request)
        together[same] = Relay(operator, initiator, home(target), (target,), way.path, (key,), since, way.pads)
    return _batches(list(together.values()))


def _batches(relays: Sequence[Relay]) -> list[Relay]:
    found: dict[tuple[object, ...], Relay] = {}
    for one in relays:
        same = (one.operator, one.initiator, one.home, one.targets, one.path, one.bits)
        found[same] = found[same].with_more(one) if same in found else one
    return list(found.values())


def noted(store: BorderStore, relay: Relay, pads: Named) -> None:
    """Note under which pads, one for each key, keys are about to go on; those of `earlier` are void by now."""
    rows = [
        (written(Way(relay.path, (Named(pads.target, pads.series, (number,)),))), relay.operator, key.key_id, target)
        for key, number in zip(relay.keys, pads.numbers, strict=True)
        for target in relay.targets
    ]
    with store.transaction() as at:
        at.executemany(_NOTED, [(*row, RELAYING) for row in rows])


def done(store: BorderStore, relay: Relay, now: int) -> None:
    """Note that the key manager of the targets has the keys, and post that, but of what was withdrawn meanwhile."""
    _finished(store, relay, RELAYED, AckStatus.RELAYED, None, now)


def failed(store: BorderStore, relay: Relay, reason: str, now: int) -> None:
    """Note that keys cannot go on, and post that."""
    _finished(store, relay, FAILED, AckStatus.FAILED, reason, now)


def _finished(store: BorderStore, relay: Relay, state: str, status: AckStatus, message: str | None, now: int) -> None:
    with store.transaction() as at:
        ended = [place for place in relay.places if _moved(at, place, (RELAYING, state), now)]
        acks = [
            container(relay.initiator, target, status, key_ids, message)
            for target in relay.targets
            if (key_ids := [key_id for _, key_id, of in ended if of == target])
        ]
        forget_finished(at, now)
        post(at, relay.operator, relay.path or None, acks, now)


def _moved(at: sqlite3.Connection, place: Place, states: tuple[str, str], now: int) -> bool:
    """Bring a row from one state into another, if it is still in that."""
    before, after = states
    return at.execute(_MOVED, (after, now, *place, before)).rowcount > 0


def is_under_way(store: BorderStore, operator: str, key_ids: Sequence[str]) -> bool:
    """Say whether one of these keys is still on its way to one of its targets."""
    with store.transaction() as at:
        return any(
            at.execute(
                "SELECT 1 FROM received_for WHERE operator = ? AND key_id = ? AND state = ?", (operator, one, RELAYING)
            ).fetchone()
            for one in key_ids
        )


# --- and back ---------------------------------------------------------------------------------------------------------


def withdraw(at: sqlite3.Connection, place: Place, path: str | None, now: int) -> bool:
    """Have a key withdrawn from where it went on to, and that told to a path; False if it cannot have gone anywhere."""
    state, request = at.execute(_FOUND, place).fetchone()
    way = way_of(request)
    if state == RELAYING and not way.pads:
        return False
    void = way.void if state == WITHDRAWING else state == RELAYING
    changed = written(Way(path or "", way.pads, void))
    at.execute(_WITHDRAWN, (WITHDRAWING, changed, now, *place))
    return True


def withdrawals(store: BorderStore) -> list[Withdrawal]:
    """Return what is to be withdrawn, the oldest first."""
    with store.transaction() as at:
        rows = at.execute(
            "SELECT operator, initiator, key_id, target, request FROM received_for"
            " JOIN received USING (operator, key_id) WHERE state = ? ORDER BY since LIMIT ?",
            (WITHDRAWING, MOST_KEYS),
        ).fetchall()
    return [Withdrawal((operator, key_id, target), asked, way_of(way)) for operator, asked, key_id, target, way in rows]


def withdrawn(store: BorderStore, one: Withdrawal, now: int) -> None:
    """Note that a key cannot be had any more, and post what that means."""
    status = AckStatus.VOIDED if one.way.void else AckStatus.FAILED_TO_VOID
    message = None if one.way.void else "these keys cannot be had any more; whether one was before is not known"
    operator, key_id, target = one.place
    with store.transaction() as at:
        _moved(at, one.place, (WITHDRAWING, VOID if one.way.void else DELIVERED), now)
        forget_finished(at, now)
        acks = [container(one.initiator, target, status, [key_id], message)]
        post(at, operator, one.way.path or None, acks, now)


# --- where a key came from --------------------------------------------------------------------------------------------


def origin(store: BorderStore, key_id: str) -> tuple[str, Named] | None:
    """Return the operator that a key for an SAE elsewhere came from, and the pad it went on under."""
    with store.transaction() as at:
        row = at.execute(
            "SELECT operator, request FROM received_for WHERE key_id = ? AND state = ? LIMIT 1", (key_id, RELAYED)
        ).fetchone()
    if row is None:
        return None
    (pad,) = way_of(row[1]).pads
    return row[0], pad
