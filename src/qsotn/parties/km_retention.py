"""Accounts of a key manager go after their time, a few at once, wherever in their collection they lie.

What protects bits from a second use is not among them. Units that were taken are gone; numbers of a pool stay reserved
(`km_pool.take_numbers`), and an exchange that was passed over stays so (`KmBlocks.is_passed_over`); a message of a
supply that was forgotten is past its own window by far. So what goes is what somebody may still want to read, and
nothing goes that a key, a unit or a procedure still needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from qsotn.parties.km import Km
from qsotn.parties.km_records import place_in_run

AT_ONCE: Final = 256
"""Records that are looked at in one transaction."""
_COUNTED_DIGITS: Final = 4
"""Of a key ID: those in which the keys of one supply differ."""


class Aged(msgspec.Struct):
    """What decides about most records: when, and how far it had come."""

    at: int = 0
    state: str = ""


class Progress(msgspec.Struct, frozen=True):
    """How far this pass has come: among which records, and behind which of them it goes on."""

    kind: str
    after: str = ""


@dataclass(frozen=True)
class Limits:
    """What is before `before` (microseconds since the epoch) may go; of blocks, those in the sums of their links.

    `summed` is the number of the newest block that is, by link.
    """

    before: int
    summed: Mapping[str, int]


@dataclass
class Swept:
    """What one step deleted, by kind, and whether it was the last of a pass over all kinds."""

    deleted: dict[str, int] = field(default_factory=dict)
    over: bool = False


def sweep_accounts(km: Km, limits: Limits) -> Swept:
    """Look at some records, and delete those whose time is over."""
    kinds, places = list(_MAY_GO), km.desk.collection("account-sweep", Progress)
    progress = places.get("km") or Progress(kinds[0])
    kind = progress.kind if progress.kind in _MAY_GO else kinds[0]
    found = list(km.desk.transaction.scan(kind, after=progress.after, limit=AT_ONCE))
    gone = [key for key, raw in found if _MAY_GO[kind](km, limits, key, raw)]
    for key in gone:
        km.desk.transaction.delete(kind, key)
    at_end = len(found) < AT_ONCE
    following = kinds[(kinds.index(kind) + 1) % len(kinds)]
    places.put("km", Progress(following) if at_end else Progress(kind, found[-1][0]))
    return Swept({kind: len(gone)} if gone else {}, at_end and following == kinds[0])


# --- what may go ----------------------------------------------------------------------------------------------------


def _is_old(_: Km, limits: Limits, __: str, raw: bytes) -> bool:
    return msgspec.json.decode(raw, type=Aged).at < limits.before


def _is_over(_: Km, limits: Limits, __: str, raw: bytes) -> bool:
    """Whether it is old and nothing is awaited any more."""
    one = msgspec.json.decode(raw, type=Aged)
    return one.at < limits.before and one.state in _ENDS


_ENDS: Final = frozenset({"RELAYED", "ARRIVED", "DESTROYED", "FAILED"})


def _is_delivered(km: Km, limits: Limits, key: str, raw: bytes) -> bool:
    """Whether a supply is old and none of its keys waits here for an SAE."""
    waiting = km.desk.transaction.scan("stored-keys", key[:-_COUNTED_DIGITS], limit=1)
    return _is_old(km, limits, key, raw) and next(iter(waiting), None) is None


def _has_no_supply(km: Km, _: Limits, __: str, raw: bytes) -> bool:
    """Whether the keys of a hop have no account any more."""
    ids = msgspec.json.decode(raw, type=_Hop).key_ids
    place = place_in_run(ids[0]) if ids else None
    return place is None or km.keys.supplies.get(place[0]) is None


def _is_spent(km: Km, limits: Limits, key: str, raw: bytes) -> bool:
    """Whether a block is old and counted in the sum, and not one unit of it is left, of this half or the other."""
    link, _, number = key.rpartition("/")
    if int(number) > limits.summed.get(link, 0) or not _is_old(km, limits, key, raw):
        return False
    return next(iter(km.desk.transaction.scan("key-units", f"{key}/", limit=1)), None) is None


def _has_no_block(km: Km, _: Limits, key: str, __: bytes) -> bool:
    """Whether there is no account any more of the block that this belongs to."""
    return km.desk.transaction.get("key-blocks", key) is None


def _has_no_loss(km: Km, _: Limits, key: str, __: bytes) -> bool:
    """Whether there is no account any more of the loss that the far end is still to be told of."""
    return km.desk.transaction.get("lost-blocks", key) is None


class _Hop(msgspec.Struct):
    key_ids: tuple[str, ...] = ()


_MAY_GO: Final[dict[str, Callable[[Km, Limits, str, bytes], bool]]] = {
    "passages": _is_over,
    "pool-batches": _is_over,
    "burnt-units": _is_old,
    "supplied-keys": _is_delivered,
    "hops": _has_no_supply,
    "key-blocks": _is_spent,
    "block-proofs": _has_no_block,
    "lost-blocks": _is_old,
    "block-withdrawals": _has_no_loss,
}
