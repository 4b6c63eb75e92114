"""Ready keys: what two key managers hold in common for their SAEs, and what may be done with it.

A *pool* is directed. `Pool("km/jinan", "km/qingdao", 1)` holds units of 256 bits that `km/jinan` gives out and
`km/qingdao` holds too, under the same numbers; the other way round there is a pool of its own, and a pool from a key
manager to itself serves two SAEs that are both attached to it. Only the origin decides who gets a unit, so no unit is
given out by two. A pool has a *series*: whoever restored an older copy of its store begins a new one.

A key is one or more successive units, and its ID says which: a UUID of version 8 (RFC 9562, section 5.8) made of the
pool's tag and the number of its first unit. An ID is no secret; who may collect a key is written down when it is
reserved (ETSI GS QKD 014, clause 4).

What always holds, at either end: a unit is in the store once, wrapped, or not at all; it goes from *ready* to
*waiting* (for named SAEs) to *delivered*, never back, and each step is durable before anybody is told of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol
from uuid import UUID

import msgspec

from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import QsotnError, Refusal

UNIT_BITS: Final = 256
_NUMBER_BITS, _TAG_BITS = 62, 60


@dataclass(frozen=True, slots=True)
class Pool:
    """Units that one key manager gives out for SAEs at another."""

    origin: PartyId
    target: PartyId
    series: int

    @property
    def tag(self) -> int:
        """60 bits that stand for this pool in key IDs and in stores."""
        named = f"{self.origin}>{self.target}#{self.series}".encode()
        return int.from_bytes(sha256(named).digest()[:8]) >> (64 - _TAG_BITS)


def key_id(tag: int, number: int) -> KeyId:
    """Return the ID of the key whose first unit has that number: UUID version 8, variant of RFC 9562."""
    high = (tag >> 12) << 16 | 0x8 << 12 | tag & 0xFFF
    return KeyId(str(UUID(int=high << 64 | 0b10 << _NUMBER_BITS | number)))


def parse_key_id(text: str) -> tuple[int, int] | None:
    """Inverse of `key_id`: tag and number, or None for a text that is no such ID."""
    try:
        value = UUID(text)
    except ValueError:
        return None
    if value.version != 8:
        return None
    high, low = value.int >> 64, value.int & ((1 << 64) - 1)
    return (high >> 16) << 12 | high & 0xFFF, low & ((1 << _NUMBER_BITS) - 1)


def units_of(size: int) -> int:
    """Units that a key of `size` bits takes; what it leaves of the last one is destroyed."""
    return -(-size // UNIT_BITS)


class ReadyKey(msgspec.Struct, frozen=True, gc=False):
    """One key as it is handed to an SAE."""

    key_id: KeyId
    key: Secret


# --- operations -----------------------------------------------------------------------------------------------------

# Structs, as one or two are made for every request of an SAE: a frozen dataclass takes far longer to make.


class Deposit(msgspec.Struct, frozen=True, gc=False):
    """Put units into a pool; `batch` names the supply they came by. The same batch again changes nothing.

    Refused `KEY_REUSED` when one of the numbers was used before, by another batch.
    """

    pool: Pool
    batch: str
    first: int
    units: tuple[Secret, ...]
    provenance: bytes = b""
    """How they came here, signed (`keynetwork.provenance`); opaque to a store."""


class Reserve(msgspec.Struct, frozen=True, gc=False):
    """At the origin: take the next units of a pool as `number` keys of `size` bits for `master`.

    Slaves that are attached to the origin itself find them waiting at once; for others (`held`) the keys are kept until
    `Confirm` or `Void`. Yields the keys in both cases. Refused `KEY_SHORTAGE` without anything taken.
    """

    pool: Pool
    master: str
    slaves: tuple[str, ...]
    number: int
    size: int
    now: int
    held: bool = False


class Confirm(msgspec.Struct, frozen=True, gc=False):
    """At the origin: the far end has these keys waiting for their slaves; ours are given to the master now."""

    key_ids: tuple[KeyId, ...]


class Assign(msgspec.Struct, frozen=True, gc=False):
    """At the target: the origin gave these keys to `slaves`. The same assignment again changes nothing.

    `sealed`, if not empty, are keys of another pool under these units as one-time pads (an SAE elsewhere gets the same
    key as the first slave does), known by `names`. Refused `KEYS_NOT_FOUND` when a unit is not ready here.
    """

    pool: Pool
    key_ids: tuple[KeyId, ...]
    master: str
    slaves: tuple[str, ...]
    size: int
    now: int
    sealed: tuple[bytes, ...] = ()
    names: tuple[KeyId, ...] = ()


class Collect(msgspec.Struct, frozen=True, gc=False):
    """Hand keys to a slave SAE, all or none, and forget them once every slave that was named has them.

    The same request by the same SAE within the window of the store gets the same answer. Refused `KEYS_NOT_FOUND`, and
    `NOT_NAMED` when a key waits here for others.
    """

    slave: str
    master: str
    key_ids: tuple[KeyId, ...]
    now: int


class Void(msgspec.Struct, frozen=True, gc=False):
    """Destroy keys that no SAE was given, at either end. Unknown ones change nothing."""

    key_ids: tuple[KeyId, ...]
    reason: str


class Sweep(msgspec.Struct, frozen=True, gc=False):
    """Shred what is past its time: answers kept for repetition, keys that nobody collected, epochs.

    So much of it as keeps others waiting for some milliseconds; the rest is `Applied.unfinished`.
    """

    now: int


Operation = Deposit | Reserve | Confirm | Assign | Collect | Void | Sweep


class Applied(msgspec.Struct, frozen=True):
    """What became of several operations, by position: the keys each one yielded, or why it was refused."""

    done: dict[int, tuple[ReadyKey, ...]] = msgspec.field(default_factory=dict)
    refused: dict[int, QsotnError] = msgspec.field(default_factory=dict)
    unfinished: set[int] = msgspec.field(default_factory=set)
    """Sweeps that left something of what is due: to be asked again."""


@dataclass(frozen=True, slots=True)
class PoolCount:
    """How a pool stands at this end: units ready, keys waiting, and what became of the rest, in units."""

    ready: int
    waiting: int
    delivered: int
    voided: int
    expired: int
    burned: int
    """Destroyed because an older copy of the store was restored, or the other end has lost its units."""

    @property
    def gone(self) -> int:
        """Units that were ready and are no more. It grows at the origin before it grows at the target."""
        return self.waiting + self.delivered + self.voided + self.expired + self.burned


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted because its time was over: accounts of batches, audiences, and units of pools that have ended.

    `unfinished` says that there is more.
    """

    batches: int
    audiences: int
    units: int
    unfinished: bool


class KeyStore(Protocol):
    """Where ready keys lie. It belongs to one thread at a time."""

    def apply(self, operations: Sequence[Operation]) -> Applied:
        """Do all in one transaction, each standing alone; returning is the receipt that what was done is durable.

        Raises `StoreError`: nobody may be told of any of it, though it may be in the store if its witness could not
        be written; `StoreConflict` if it may be tried again.
        """

    def prepare(self, operations: Sequence[Operation]) -> Applied | None:
        """Do all as `apply` does, but for its last step, `commit`; until then nobody may hear of it.

        None, with nothing done, where that would wait for anybody or take long: then `apply` is the way. Whatever it
        raises, nothing was done. Between a preparation and its commit the store does nothing else.
        """

    def commit(self) -> None:
        """Make what was prepared durable; returning is the receipt. Raises `StoreError`, as `apply` does."""

    def pools(self) -> Sequence[Pool]:
        """Return the pools that were ever deposited into, or begun by `begin_pool`, here."""

    def begin_pool(self, origin: PartyId, target: PartyId) -> Pool:
        """At the origin: return the pool in use towards a target; its first series, or a new one after a restore."""

    def end_pool(self, pool: Pool) -> None:
        """Destroy what nobody was given of a pool, counted as burned, and take no more into it.

        An origin does so when the far end does not have what it assigned, a far end when the numbers of a deposit are
        those of other units: one of them has put an older copy back, or begun anew.
        """

    def next_number(self, pool: Pool) -> int:
        """Return the number above every unit that this pool ever had at this end."""

    def held(self, before: int) -> Sequence[tuple[KeyId, int]]:
        """At the origin: return the keys that were reserved, `held`, before this moment and neither confirmed nor void.

        Each with its size in bits. Whoever reserved them may be dead; the far end may have them waiting.
        """

    def count(self, pool: Pool) -> PoolCount:
        """Return how a pool stands."""

    def provenance(self, key_id: str) -> bytes | None:
        """Return what was deposited with the batch of a key, also after its delivery; None for a key of none here.

        It is kept for as long as the store keeps accounts (`forget`).
        """

    def forget(self, now: int) -> Forgotten:
        """Delete a bounded part of the accounts that are past their time, and of what pools that have ended left.

        No ID of a key is used again for it.
        """

    def close(self) -> None:
        """Close it; what is not committed is undone."""


def shortage(pool: Pool) -> Refusal:
    """Say that a pool has too few units: the caller gets nothing, and nothing was taken."""
    return Refusal("KEY_SHORTAGE", f"too few keys are ready from {pool.origin} to {pool.target}")
