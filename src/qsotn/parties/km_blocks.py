"""The bits of a key manager's links: distilled blocks, agreed with the far end, and the units that are taken of them.

Bits leave a block when they are allocated and never return. Each unit of 256 bits lies wrapped in the store under its
own record, which is deleted when the unit is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from qsotn.domain import PartyId, Secret
from qsotn.errors import BadProof, KeyReuse, KeyShortage, OutOfOrder, Refusal, WrongParty
from qsotn.keynetwork import pool
from qsotn.parties import km_shares
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km_proofs import BlockProofs, Shown, block_proofs


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
    """One distilled block of one link. `own_mark` is the next unit of this end's half; `ledger` the twin's account.

    `at` is when it was deposited. `withdrawn` says of a discarded block that this end had agreed on it before.
    """

    link: str
    number: int
    units: int
    state: BlockState
    own_mark: int
    ledger: dict[str, Any]
    at: int = 0
    withdrawn: bool = False

    @property
    def key(self) -> str:
        """The key of its record."""
        return block_key(self.link, self.number)

    @property
    def shown(self) -> Shown:
        """What the ends show each other of it."""
        return Shown(self.link, self.number, self.units)


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


class KmBlocks:
    """A key manager's links at its desk."""

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

    # --- blocks -----------------------------------------------------------------------------------------------------

    def deposit(self, link: str, number: int, key: Secret, ledger: dict[str, Any]) -> None:
        """Take one end's copy of a distilled block; it waits for the far end's agreement.

        Raises `KeyReuse` for a number that was deposited before, or that a later block of this end closed.
        """
        if self.has_block(link, number) or number <= (self._closed.get(link) or 0):
            raise KeyReuse(f"block {number} of {link} was deposited at {self.desk.party} before")
        neighbour = self.configuration.links[link]
        units = len(key) // pool.UNIT_BYTES
        own = pool.half(self.desk.party, neighbour, units)
        material = key.reveal()
        for unit in range(units):
            bits = Secret(material[unit * pool.UNIT_BYTES : (unit + 1) * pool.UNIT_BYTES])
            place = _place(link, number, unit)
            self.desk.transaction.put("key-units", place, self.desk.vault.wrap(bits, place.encode()))
        block = KeyBlock(link, number, units, BlockState.PENDING, own.start, ledger, self.desk.now)
        self.blocks.put(block.key, block)
        block_proofs(self.desk).put(block.key, block.shown.proofs(self.desk.party, neighbour, key))

    def holds(self, link: str, number: int, key: Secret) -> bool:
        """Whether this very copy of a block was deposited here and was not discarded since.

        Raises `OutOfOrder` for a block of which nothing was deposited.
        """
        block = self.block(link, number)
        if block.state is BlockState.DISCARDED:
            return False
        return self._proofs(block).are(block.shown.proofs(self.desk.party, self.configuration.links[link], key))

    def block(self, link: str, number: int) -> KeyBlock:
        """Return a block that both ends should hold. Raises `OutOfOrder` before this end's copy was deposited."""
        block = self.blocks.get(block_key(link, number))
        if block is None:
            raise OutOfOrder(f"{self.desk.party} has not distilled block {number} of {link} yet")
        return block

    def has_block(self, link: str, number: int) -> bool:
        """Whether anything was deposited here under this number."""
        return self.blocks.get(block_key(link, number)) is not None

    def is_passed_over(self, link: str, number: int) -> bool:
        """Whether the modules began a later exchange here, so that a block which was not deposited never will be."""
        began = self.desk.collection("link-exchanges", int).get(link)
        return began is not None and number < began and not self.has_block(link, number)

    def set_state(self, block: KeyBlock, state: BlockState) -> int:
        """Make a block available, or throw its units away; return how many were left of those."""
        discarded = state is BlockState.DISCARDED
        withdrawn = discarded and (block.withdrawn or block.state is BlockState.AVAILABLE)
        self.blocks.put(block.key, msgspec.structs.replace(block, state=state, withdrawn=withdrawn))
        if discarded and block.state is BlockState.AVAILABLE:
            km_shares.forget(self.desk, block.link)
        return self._discard(block) if discarded else 0

    def _discard(self, block: KeyBlock) -> int:
        first, last = (_place(block.link, block.number, unit) for unit in (0, block.units - 1))
        left = self.desk.transaction.take("key-units", first, last)
        block_proofs(self.desk).delete(block.key)
        self._close_blocks(block.link)
        return len(left)

    def prove_block(self, block: KeyBlock) -> bytes:
        """Prove that this end holds a block; the MAC hides it computationally, not information-theoretically."""
        return self._proofs(block).own

    def verify_block(self, block: KeyBlock, prover: PartyId, proof: bytes) -> None:
        """Check the far end's proof. Raises `BadProof`."""
        if self.configuration.links[block.link] != prover or not self._proofs(block).hold(proof):
            raise BadProof(f"{prover} does not prove that it holds block {block.number} of {block.link}")

    def _proofs(self, block: KeyBlock) -> BlockProofs:
        """Return what was kept; of a block of an older release, what its units show. Raises `KeyReuse` without."""
        kept = block_proofs(self.desk).get(block.key)
        if kept is not None:
            return kept
        return block.shown.proofs(self.desk.party, self.configuration.links[block.link], self._whole(block))

    def _whole(self, block: KeyBlock) -> Secret:
        units = (self._unwrap(_place(block.link, block.number, unit)) for unit in range(block.units))
        return Secret(b"".join(unit.reveal() for unit in units))

    def _unwrap(self, place: str) -> Secret:
        wrapped = self.desk.transaction.get("key-units", place)
        if wrapped is None:
            raise KeyReuse(f"unit {place} was taken before")
        return self.desk.vault.unwrap(wrapped, place.encode())

    def pending(self, link: str) -> list[KeyBlock]:
        """Return the blocks of a link that wait for the far end's agreement, the oldest first."""
        return [block for block in self._open_blocks(link) if block.state is BlockState.PENDING]

    def available_bits(self, link: str) -> int:
        """Bits of a link that this end may still allocate."""
        return sum(self._left(block) for block in self._available(link)) * pool.UNIT_BITS

    def _available(self, link: str) -> Iterator[KeyBlock]:
        return (block for block in self._open_blocks(link) if block.state is BlockState.AVAILABLE)

    def _open_blocks(self, link: str) -> Iterator[KeyBlock]:
        """Blocks of which this end may have, or get, something to allocate: a link's older ones are not read again."""
        return self.blocks.values(f"{link}/", after=block_key(link, self._closed.get(link) or 0))

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

    # --- this end's half --------------------------------------------------------------------------------------------

    def allocate_units(self, link: str, units: int) -> tuple[Allocation, list[Secret]]:
        """Take successive units for leased lines, of this end's half of the first block that has them.

        Raises `KeyShortage`, also for what is kept for ready pools.
        """
        for block in self._available(link):
            taken = pool.allocate(self._own_half(block), block.own_mark, units)
            if taken is not None:
                self._share_out(link, km_shares.LINES, units)
                return self._allocated(block, taken)
        raise KeyShortage(f"{self.desk.party} has too few bits on {link} for {units} units in one block")

    def draw(self, link: str, units: int) -> tuple[tuple[Allocation, ...], Secret]:
        """Take units for ready pools, of this end's half of as many blocks as it needs, in order.

        Raises `KeyShortage`, also for what is kept for leased lines.
        """
        self._share_out(link, km_shares.POOLS, units)
        taken: list[Allocation] = []
        material: list[Secret] = []
        while len(material) < units:
            piece, found = self._allocated(*self._next_range(link, units - len(material)))
            taken.append(piece)
            material += found
        return tuple(taken), joined(material)

    def _share_out(self, link: str, name: str, units: int) -> None:
        km_shares.take(self.desk, link, name, units, lambda: self.available_bits(link) // pool.UNIT_BITS)

    def _next_range(self, link: str, wanted: int) -> tuple[KeyBlock, range]:
        for block in self._available(link):
            left = self._left(block)
            if left > 0:
                return block, range(block.own_mark, block.own_mark + min(left, wanted))
        raise KeyShortage(f"{self.desk.party} has too few bits on {link}: {wanted} units are missing")

    def _allocated(self, block: KeyBlock, taken: range) -> tuple[Allocation, list[Secret]]:
        marked = msgspec.structs.replace(block, own_mark=taken.stop)
        self.blocks.put(block_key(block.link, block.number), marked)
        self._close_blocks(block.link)
        return Allocation(block.link, block.number, taken.start, len(taken)), self._take(block, taken)

    # --- the far end's half -----------------------------------------------------------------------------------------

    def take_units(self, named: Allocation, sender: PartyId) -> list[Secret]:
        """Take units that the far end of a link named from its half.

        Raises `WrongParty` for a stranger to the link, `OutOfOrder` before the block is agreed, `KeyReuse` for units
        taken before.
        """
        if self.configuration.links.get(named.link) != sender:
            raise WrongParty(f"{sender} is not the far end of {named.link}")
        block = self.block(named.link, named.block)
        if block.state is BlockState.DISCARDED:
            raise Refusal("BLOCK_MISMATCH", f"block {named.block} of {named.link} was discarded at {self.desk.party}")
        if block.state is not BlockState.AVAILABLE:
            raise OutOfOrder(f"block {named.block} of {named.link} is {block.state} at {self.desk.party}")
        far_half = pool.half(sender, self.desk.party, block.units)
        return self._take(block, pool.check_named(far_half, named.unit, named.units))

    def take_all(self, named: Sequence[Allocation], sender: PartyId) -> Secret:
        """Take several ranges of units that the far end named. Raises as `take_units` does."""
        return joined([unit for one in named for unit in self.take_units(one, sender)])

    def burn_units(self, named: Allocation) -> list[Secret]:
        """Take what is left of units that a refused supply named: the far end has taken its copy, nobody else may."""
        block = self.blocks.get(block_key(named.link, named.block))
        if block is None:
            return []
        far = pool.half(self.configuration.links[named.link], self.desk.party, block.units)
        first, last = max(named.unit, far.start), min(named.unit + named.units, far.stop) - 1
        if first > last:
            return []
        places = (_place(named.link, named.block, unit) for unit in (first, last))
        return [
            self.desk.vault.unwrap(bits, at.encode()) for at, bits in self.desk.transaction.take("key-units", *places)
        ]

    def _take(self, block: KeyBlock, taken: range) -> list[Secret]:
        first, last = (_place(block.link, block.number, unit) for unit in (taken.start, taken.stop - 1))
        found = self.desk.transaction.take("key-units", first, last)
        if len(found) != len(taken):
            raise KeyReuse(f"{len(taken) - len(found)} of the units from {first} to {last} were taken before")
        return [self.desk.vault.unwrap(wrapped, place.encode()) for place, wrapped in found]


def joined(units: Sequence[Secret]) -> Secret:
    """Put units together, in order."""
    return Secret(b"".join(unit.reveal() for unit in units))


def split(material: Secret, number: int) -> list[Secret]:
    """Cut what was put together of `number` equal parts."""
    whole, each = material.reveal(), len(material) // number
    return [Secret(whole[index * each : (index + 1) * each]) for index in range(number)]


def block_key(link: str, number: int) -> str:
    """Return the key of a block's record."""
    return f"{link}/{number:08}"


def _place(link: str, number: int, unit: int) -> str:
    return f"{link}/{number:08}/{unit:06}"
