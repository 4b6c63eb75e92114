"""A key manager: holds its links' blocks, allocates from them, relays for others, and supplies SAEs over AK.

Semantics of ETSI GS QKD 014: same key, same ID, once. Bits leave the pool when they are allocated and never return;
each unit of 256 bits lies wrapped in the store under its own record, which is deleted when the unit is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from qsotn.crypto import cbor
from qsotn.crypto.session import possession_proof, verify_possession
from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import (
    KeyReuse,
    KeyShortage,
    MalformedMessage,
    OutOfOrder,
    Refusal,
    ReplayedMessage,
    WrongParty,
)
from qsotn.keynetwork import pool
from qsotn.keynetwork.relay import cut
from qsotn.messages import DecKeysRequest, EncKeysRequest, KeyRelay, SuppliedKey
from qsotn.parties.desk import Collection, Desk

MAXIMUM_KEYS = 128
SMALLEST_KEY, LARGEST_KEY = 64, 1024
"""Bits: max_key_per_request, min_key_size and max_key_size of ETSI GS QKD 014 clause 6.1."""


class KmConfiguration(msgspec.Struct, frozen=True):
    """This key manager's neighbours by link, its next hop towards every other, and where each SAE is attached."""

    links: dict[str, PartyId]
    routes: dict[PartyId, PartyId]
    attachments: dict[PartyId, PartyId]


class BlockState(StrEnum):
    """A distilled block: deposited here, agreed with the far end, or thrown away."""

    PENDING = "PENDING"
    AVAILABLE = "AVAILABLE"
    DISCARDED = "DISCARDED"


class KeyBlock(msgspec.Struct, frozen=True):
    """One distilled block of one link. `own_mark` is the next unit of this end's half; `ledger` the twin's account."""

    link: str
    number: int
    units: int
    state: BlockState
    own_mark: int
    ledger: dict[str, Any]


class Allocation(msgspec.Struct, frozen=True):
    """Units taken from one block."""

    link: str
    block: int
    unit: int
    units: int

    def split(self, number: int) -> tuple[Allocation, ...]:
        """Return what each of `number` keys took of it."""
        each = self.units // number
        return tuple(Allocation(self.link, self.block, self.unit + n * each, each) for n in range(number))


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


class StoredKey(msgspec.Struct, frozen=True):
    """A key that waits for its slave SAE's `dec_keys`."""

    key_id: KeyId
    wrapped: bytes
    master: PartyId
    slave: PartyId
    path: tuple[PartyId, ...]


class Km:
    """A key manager at its desk."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def configuration(self) -> KmConfiguration:
        """Links, routes and SAEs."""
        return self.desk.collection("configuration", KmConfiguration).require("km")

    @property
    def blocks(self) -> Collection[KeyBlock]:
        """Blocks by `link/number`."""
        return self.desk.collection("key-blocks", KeyBlock)

    @property
    def keys(self) -> Collection[KeyRecord]:
        """Every key that passed here, by ID."""
        return self.desk.collection("keys", KeyRecord)

    @property
    def stored(self) -> Collection[StoredKey]:
        """Keys waiting for their slave SAE, by ID."""
        return self.desk.collection("stored-keys", StoredKey)

    # --- blocks -----------------------------------------------------------------------------------------------------

    def deposit(self, link: str, number: int, key: Secret, ledger: dict[str, Any]) -> None:
        """Take one end's copy of a distilled block; it waits for the far end's agreement.

        Raises `KeyReuse` for a number that was deposited before.
        """
        if self.blocks.get(_block_key(link, number)) is not None:
            raise KeyReuse(f"block {number} of {link} was deposited at {self.desk.party} before")
        neighbour = self.configuration.links[link]
        units = len(key) // pool.UNIT_BYTES
        own = pool.half(self.desk.party, neighbour, units)
        material = key.reveal()
        for unit in range(units):
            bits = Secret(material[unit * pool.UNIT_BYTES : (unit + 1) * pool.UNIT_BYTES])
            place = _place(link, number, unit)
            self.desk.transaction.put("key-units", place, self.desk.vault.wrap(bits, place.encode()))
        block = KeyBlock(link, number, units, BlockState.PENDING, own.start, ledger)
        self.blocks.put(_block_key(link, number), block)

    def block(self, link: str, number: int) -> KeyBlock:
        """Return a block that both ends should hold. Raises `OutOfOrder` before this end's copy was deposited."""
        block = self.blocks.get(_block_key(link, number))
        if block is None:
            raise OutOfOrder(f"{self.desk.party} has not distilled block {number} of {link} yet")
        return block

    def set_state(self, block: KeyBlock, state: BlockState) -> None:
        """Make a block available, or throw its units away."""
        self.blocks.put(_block_key(block.link, block.number), msgspec.structs.replace(block, state=state))
        if state is BlockState.DISCARDED:
            for unit in range(block.units):
                self.desk.transaction.delete("key-units", _place(block.link, block.number, unit))

    def prove_block(self, block: KeyBlock) -> bytes:
        """Prove that this end holds a block; the MAC hides it computationally, not information-theoretically."""
        return possession_proof(self._whole(block), _block_context(self.desk.party, block))

    def verify_block(self, block: KeyBlock, prover: PartyId, proof: bytes) -> None:
        """Check the far end's proof. Raises `BadProof`."""
        verify_possession(self._whole(block), _block_context(prover, block), proof)

    def _whole(self, block: KeyBlock) -> Secret:
        units = (self._unwrap(_place(block.link, block.number, unit)) for unit in range(block.units))
        return Secret(b"".join(unit.reveal() for unit in units))

    def available_bits(self, link: str) -> int:
        """Bits of a link that this end may still allocate."""
        return sum(self._left(block) for block in self._available(link)) * pool.UNIT_BITS

    def _available(self, link: str) -> Iterator[KeyBlock]:
        return (block for block in self._open_blocks(link) if block.state is BlockState.AVAILABLE)

    def _open_blocks(self, link: str) -> Iterator[KeyBlock]:
        """Blocks of which this end may have, or get, something to allocate: a link's older ones are not read again."""
        return self.blocks.values(f"{link}/", after=_block_key(link, self._closed.get(link) or 0))

    @property
    def _closed(self) -> Collection[int]:
        """By link, the block up to which everything was allocated or discarded."""
        return self.desk.collection("closed-blocks", int)

    def _close_blocks(self, link: str) -> None:
        """Move past the blocks that have nothing left for this end."""
        for block in self._open_blocks(link):
            if block.state is BlockState.PENDING or (block.state is BlockState.AVAILABLE and self._left(block)):
                return
            self._closed.put(link, block.number)

    def _left(self, block: KeyBlock) -> int:
        return self._own_half(block).stop - block.own_mark

    def _own_half(self, block: KeyBlock) -> range:
        return pool.half(self.desk.party, self.configuration.links[block.link], block.units)

    # --- bits -------------------------------------------------------------------------------------------------------

    def allocate(self, link: str, number: int, size: int) -> tuple[Allocation, list[Secret]]:
        """Take keys from this end's half of the first block that has them. Raises `KeyShortage`."""
        units = pool.units_for(number, size)
        for block in self._available(link):
            taken = pool.allocate(self._own_half(block), block.own_mark, units)
            if taken is not None:
                marked = msgspec.structs.replace(block, own_mark=taken.stop)
                self.blocks.put(_block_key(link, block.number), marked)
                self._close_blocks(link)
                return Allocation(link, block.number, taken.start, units), self._take(block, taken, number, size)
        raise KeyShortage(f"{self.desk.party} has too few bits on {link} for {number} keys of {size} bits")

    def check_relay(self, asked: KeyRelay) -> None:
        """Check a hop's form before anything is taken for it.

        Raises `MalformedMessage` for what no `enc_keys` request could have begun, `ReplayedMessage` for a known key ID.
        """
        number, distinct = len(asked.key_ids), len(set(asked.key_ids))
        if not 1 <= number <= MAXIMUM_KEYS or number != distinct:
            raise MalformedMessage(f"a hop carries 1 to {MAXIMUM_KEYS} keys, not {number} under {distinct} IDs")
        if asked.size % 8 or not SMALLEST_KEY <= asked.size <= LARGEST_KEY:
            raise MalformedMessage(f"a key has {SMALLEST_KEY} to {LARGEST_KEY} bits in whole bytes, not {asked.size}")
        if len(asked.ciphertext) not in (0, number * asked.size // 8):
            raise MalformedMessage(f"{len(asked.ciphertext)} bytes do not hold {number} keys of {asked.size} bits")
        for key_id in asked.key_ids:
            if self.keys.get(key_id) is not None:
                raise ReplayedMessage(f"key {key_id} passed {self.desk.party} before")

    def take_named(self, asked: KeyRelay, sender: PartyId) -> tuple[Allocation, list[Secret]]:
        """Take the keys that the far end of a link named from its half.

        Raises `WrongParty` for a stranger to the link, `OutOfOrder` before the block is agreed, `KeyReuse` for units
        taken before.
        """
        if self.configuration.links.get(asked.link) != sender:
            raise WrongParty(f"{sender} is not the far end of {asked.link}")
        block = self.block(asked.link, asked.block)
        if block.state is BlockState.DISCARDED:
            raise Refusal("BLOCK_MISMATCH", f"block {asked.block} of {asked.link} was discarded at {self.desk.party}")
        if block.state is not BlockState.AVAILABLE:
            raise OutOfOrder(f"block {asked.block} of {asked.link} is {block.state} at {self.desk.party}")
        units = pool.units_for(len(asked.key_ids), asked.size)
        far_half = pool.half(sender, self.desk.party, block.units)
        taken = pool.check_named(far_half, asked.unit, units)
        allocation = Allocation(asked.link, asked.block, taken.start, units)
        return allocation, self._take(block, taken, len(asked.key_ids), asked.size)

    def forget_named(self, asked: KeyRelay) -> None:
        """Destroy the units a refused supply named: the far end has taken its copy, nobody else ever may."""
        named = range(asked.unit, asked.unit + pool.units_for(len(asked.key_ids), asked.size))
        block = self.blocks.get(_block_key(asked.link, asked.block))
        own = range(0) if block is None else self._own_half(block)
        for unit in (unit for unit in named if unit not in own):
            self.desk.transaction.delete("key-units", _place(asked.link, asked.block, unit))

    def _take(self, block: KeyBlock, taken: range, number: int, size: int) -> list[Secret]:
        first, last = (_place(block.link, block.number, unit) for unit in (taken.start, taken.stop - 1))
        found = self.desk.transaction.take("key-units", first, last)
        if len(found) != len(taken):
            raise KeyReuse(f"{len(taken) - len(found)} of the units from {first} to {last} were taken before")
        units = [self.desk.vault.unwrap(wrapped, place.encode()) for place, wrapped in found]
        return cut(units, number, size)

    def _unwrap(self, place: str) -> Secret:
        wrapped = self.desk.transaction.get("key-units", place)
        if wrapped is None:
            raise KeyReuse(f"unit {place} was taken before")
        return self.desk.vault.unwrap(wrapped, place.encode())

    # --- supply -----------------------------------------------------------------------------------------------------

    def check_enc_request(self, asked: EncKeysRequest, master: PartyId) -> PartyId:
        """Check an `enc_keys` request; return the key manager its slave SAE is attached to.

        Raises `WrongParty` for an SAE of another key manager, `Refusal` with the standard's own words.
        """
        attached = self.configuration.attachments
        if attached.get(master) != self.desk.party:
            raise WrongParty(f"{master} is not attached to {self.desk.party}")
        if asked.slave_sae not in attached:
            raise Refusal("UNKNOWN_SAE", f"no SAE {asked.slave_sae} is known to {self.desk.party}")
        if asked.size % 8:
            raise Refusal("BAD_REQUEST", "size shall be a multiple of 8")
        if not SMALLEST_KEY <= asked.size <= LARGEST_KEY or not 1 <= asked.number <= MAXIMUM_KEYS:
            limits = f"1 to {MAXIMUM_KEYS} keys of {SMALLEST_KEY} to {LARGEST_KEY} bits"
            raise Refusal("BAD_REQUEST", f"asked for {asked.number} keys of {asked.size} bits; supplied are {limits}")
        return attached[asked.slave_sae]

    def new_key_ids(self, number: int) -> tuple[KeyId, ...]:
        """Draw identifiers for new keys."""
        return tuple(KeyId(str(UUID(bytes=self.desk.entropy(16), version=4))) for _ in range(number))

    def link_with_bits(self, number: int, size: int) -> str:
        """Return the link with most bits, for keys that stay in this city. Raises `KeyShortage`."""
        best = max(self.configuration.links, key=self.available_bits)
        if self.available_bits(best) < number * size:
            raise KeyShortage(f"no link of {self.desk.party} has {number} keys of {size} bits")
        return best

    def link_towards(self, target: PartyId) -> tuple[str, PartyId]:
        """Return the link and next hop towards another key manager. Raises `Refusal` NO_ROUTE."""
        hop = self.configuration.routes.get(target)
        for link, neighbour in self.configuration.links.items():
            if neighbour == hop:
                return link, neighbour
        raise Refusal("NO_ROUTE", f"{self.desk.party} knows no way to {target}")

    def store_keys(
        self, ids: Sequence[KeyId], keys: Sequence[Secret], master: PartyId, slave: PartyId, path: tuple[PartyId, ...]
    ) -> None:
        """Keep supplied keys for the slave SAE."""
        for key_id, key in zip(ids, keys, strict=True):
            wrapped = self.desk.vault.wrap(key, f"stored/{key_id}".encode())
            self.stored.put(key_id, StoredKey(key_id, wrapped, master, slave, path))

    def hand_over(self, asked: DecKeysRequest, slave: PartyId) -> tuple[SuppliedKey, ...]:
        """Give the named keys to the slave SAE, all or none, and forget them.

        Raises `WrongParty` for an SAE of another key manager, `Refusal` KEYS_NOT_FOUND.
        """
        if self.configuration.attachments.get(slave) != self.desk.party:
            raise WrongParty(f"{slave} is not attached to {self.desk.party}")
        found = [self.stored.get(key_id) for key_id in dict.fromkeys(asked.key_ids)]
        keys = [key for key in found if key is not None and (key.master, key.slave) == (asked.master_sae, slave)]
        if not keys or len(keys) != len(asked.key_ids):
            raise Refusal("KEYS_NOT_FOUND", "one or more keys specified are not found on KME")
        supplied = []
        for key in keys:
            material = self.desk.vault.unwrap(key.wrapped, f"stored/{key.key_id}".encode())
            supplied.append(SuppliedKey(key.key_id, material, source_of(key.path)))
            self.stored.delete(key.key_id)
            record = self.keys.require(key.key_id)
            self.keys.put(key.key_id, msgspec.structs.replace(record, delivered_at=self.desk.now))
        return tuple(supplied)


def source_of(path: Sequence[PartyId]) -> str:
    """Say where a key came from: the key managers whose links carried it, in order."""
    return f"qkd:{'–'.join(path)}"


def _block_key(link: str, number: int) -> str:
    return f"{link}/{number:08}"


def _place(link: str, number: int, unit: int) -> str:
    return f"{link}/{number:08}/{unit:06}"


def _block_context(prover: PartyId, block: KeyBlock) -> bytes:
    return cbor.encode([prover, block.link, block.number, block.units])
