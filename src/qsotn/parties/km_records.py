"""The account of keys that were supplied over AK: one record for each supply, read key by key.

The keys of one supply have successive IDs: UUIDs of version 8 (RFC 9562, section 5.8) that share 106 random bits and
count in their last 16. So one record under the first ID stands for all, and any of them leads to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import msgspec

from qsotn.domain import Entropy, KeyId, PartyId
from qsotn.errors import StoreError
from qsotn.parties.desk import Collection
from qsotn.parties.km_blocks import Allocation

_COUNTED: Final = 0xFFFF


class KeyRecord(msgspec.Struct, frozen=True):
    """What this key manager had to do with one key: for the trace of a key, never the key."""

    key_id: KeyId
    role: str
    taken: Allocation
    pad: Allocation | None
    path: tuple[PartyId, ...]
    master: PartyId
    slave: PartyId
    at: int
    delivered_at: int = 0


class SupplyRecord(msgspec.Struct, frozen=True):
    """What this key manager had to do with the keys of one supply. `delivered_at` of each key, or nothing for all."""

    first: KeyId
    number: int
    role: str
    taken: Allocation
    pad: Allocation | None
    path: tuple[PartyId, ...]
    master: PartyId
    slave: PartyId
    at: int
    delivered_at: tuple[int, ...] = ()

    def of_each(self) -> Iterator[KeyRecord]:
        """Yield what is so of each key."""
        taken = self.taken.split(self.number)
        pads = (None,) * self.number if self.pad is None else self.pad.split(self.number)
        delivered = self.delivered_at or (0,) * self.number
        for key_id, own, pad, at in zip(key_run(self.first, self.number), taken, pads, delivered, strict=True):
            yield KeyRecord(key_id, self.role, own, pad, self.path, self.master, self.slave, self.at, at)


def new_key_run(number: int, entropy: Entropy) -> tuple[KeyId, ...]:
    """Draw successive identifiers for the keys of a new supply."""
    drawn = int.from_bytes(entropy(16)) & ~_COUNTED
    marked = drawn & ~(0xF << 76) & ~(0b11 << 62) | 8 << 76 | 0b10 << 62  # version and variant
    return key_run(KeyId(str(UUID(int=marked))), number)


def key_run(first: KeyId, number: int) -> tuple[KeyId, ...]:
    """Return that many successive identifiers from the first on."""
    begin = UUID(first).int
    return tuple(KeyId(str(UUID(int=begin + index))) for index in range(number))


def place_in_run(key_id: str) -> tuple[KeyId, int] | None:
    """Return the first identifier of a key's run and the key's place in it, or None for a text that is no such ID."""
    try:
        value = UUID(key_id)
    except ValueError:
        return None
    index = value.int & _COUNTED
    return (KeyId(str(UUID(int=value.int - index))), index) if value.version == 8 and str(value) == key_id else None


def is_run(key_ids: Sequence[KeyId]) -> bool:
    """Whether these are the identifiers of one supply, in order."""
    place = place_in_run(key_ids[0]) if key_ids else None
    return place is not None and place[1] == 0 and tuple(key_ids) == key_run(place[0], len(key_ids))


class KeyRecords:
    """Every key that passed here, by ID."""

    def __init__(self, supplies: Collection[SupplyRecord]) -> None:
        self.supplies = supplies

    def get(self, key_id: str) -> KeyRecord | None:
        """Return what is so of one key, or None."""
        place = place_in_run(key_id)
        supply = None if place is None else self.supplies.get(place[0])
        if place is None or supply is None or place[1] >= supply.number:
            return None
        return list(supply.of_each())[place[1]]

    def require(self, key_id: str) -> KeyRecord:
        """Return what is so of a key that must be known. Raises `StoreError`."""
        record = self.get(key_id)
        if record is None:
            raise StoreError(f"the store has no record of key {key_id}")
        return record

    def values(self) -> Iterator[KeyRecord]:
        """Yield every key's, by supply."""
        for supply in self.supplies.values():
            yield from supply.of_each()

    def delivered(self, key_ids: Sequence[KeyId], now: int) -> None:
        """Note when keys were handed over."""
        places = [place for key_id in key_ids if (place := place_in_run(key_id)) is not None]
        for first in dict.fromkeys(first for first, _ in places):
            supply = self.supplies.require(first)
            taken = {index for other, index in places if other == first}
            before = supply.delivered_at or (0,) * supply.number
            times = tuple(now if index in taken else at for index, at in enumerate(before))
            self.supplies.put(first, msgspec.structs.replace(supply, delivered_at=times))
