"""Both ends of a QKD link gave each unit of a block to the same key, or to none, and no unit vanished."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tests.faults.facts import History, rule
from tests.faults.key_book import Kept, KeyBook, unfinished
from tests.faults.snapshots import KmSnapshot

from qsotn.domain import PartyId
from qsotn.keynetwork import pool
from qsotn.parties.km import BlockState, KeyBlock


class Unit(NamedTuple):
    """256 bits of one block of one link."""

    link: str
    block: int
    number: int

    @property
    def place(self) -> str:
        """Its key in the store."""
        return f"{self.link}/{self.block:08}/{self.number:06}"

    def __str__(self) -> str:
        return f"unit {self.number} of block {self.block} of {self.link}"


@dataclass(frozen=True, eq=False)
class LinkEnd:
    """One link as one of its ends has it."""

    link: str
    km: KmSnapshot
    far: PartyId

    @cached_property
    def given(self) -> dict[Unit, list[Kept]]:
        """Which keys each unit was given to."""
        found: dict[Unit, list[Kept]] = defaultdict(list)
        for record in self.km.keys.values():
            for taken in (record.taken, record.pad):
                if taken is not None and taken.link == self.link:
                    for number in range(taken.unit, taken.unit + taken.units):
                        found[Unit(self.link, taken.block, number)].append(Kept(self.km.party, record))
        return dict(found)

    @cached_property
    def blocks(self) -> dict[int, KeyBlock]:
        """The link's blocks, by number."""
        return {block.number: block for block in self.km.blocks.values() if block.link == self.link}

    def owns(self, unit: Unit) -> bool:
        """Whether this end is the one that allocates a unit."""
        block = self.blocks.get(unit.block)
        return block is not None and unit.number in pool.half(self.km.party, self.far, block.units)


def _links(history: History) -> Iterator[tuple[LinkEnd, LinkEnd]]:
    """Yield each link twice: as one end has it and the other, and the reverse."""
    for km in history.all(KmSnapshot):
        for link, far in km.neighbours.items():
            yield LinkEnd(link, km, far), LinkEnd(link, history.at(far, KmSnapshot), km.party)


@rule
def a_unit_serves_one_key(history: History) -> Iterator[str]:
    """Neither one end nor the other, nor both together, gave it to two."""
    for near, far in _links(history):
        for unit, kept in near.given.items():
            everybody = [*kept, *far.given.get(unit, [])]
            if len({one.record.key_id for one in everybody}) > 1:
                yield f"{unit} was given to " + " and ".join(str(one) for one in everybody)


@rule
def a_unit_was_taken_at_both_ends(history: History) -> Iterator[str]:
    """For the same key, or, by the end that allocates it, for a key whose hop did not complete."""
    book = KeyBook(history)
    for near, far in _links(history):
        for unit, kept in near.given.items():
            if unit not in far.given and not _given_up(book, near, unit):
                yield f"{unit} was given to {kept[0]}, and {far.km.party} knows nothing of it"


def _given_up(book: KeyBook, near: LinkEnd, unit: Unit) -> bool:
    """Say whether an end allocated a unit for a hop that did not complete."""
    kept = near.given.get(unit, [])
    return near.owns(unit) and bool(kept) and all(unfinished(book.hops(one, near.far)) for one in kept)


@rule
def a_unit_is_stored_until_it_is_given(history: History) -> Iterator[str]:
    """What is not stored of a block was given to a key, or was destroyed with a hop that did not complete."""
    book = KeyBook(history)
    for near, far in _links(history):
        for block in near.blocks.values():
            for unit in (Unit(near.link, block.number, number) for number in range(block.units)):
                yield from (f"{unit} at {near.km.party} {wrong}" for wrong in _astray(book, near, far, block, unit))


def _astray(book: KeyBook, near: LinkEnd, far: LinkEnd, block: KeyBlock, unit: Unit) -> Iterator[str]:
    stored, given = unit.place in near.km.units, _given_to(near, unit)
    discarded = block.state is BlockState.DISCARDED
    if len(given) > 1:
        yield "was given to " + " and ".join(given)
    if stored and given:
        yield f"was given to {given[0]} and is still stored"
    elif stored and discarded:
        yield "is still stored; its block was discarded"
    elif not (stored or given or discarded or _given_up(book, far, unit)):
        yield f"is gone and was given to no key; its block is {block.state}"


def _given_to(near: LinkEnd, unit: Unit) -> list[str]:
    """Keys and shares of batches that one end gave a unit to, but no two keys: those have a rule of their own."""
    keys = [str(one) for one in near.given.get(unit, [])[:1]]
    share = near.km.pooled.get(unit.place)
    return keys if share is None else [*keys, f"share {share}"]


@rule
def both_ends_have_the_same_blocks(history: History) -> Iterator[str]:
    """What is available at one end is available at the other, in the same size."""
    for near, far in _links(history):
        for number, block in near.blocks.items():
            other = far.blocks.get(number)
            if block.state is BlockState.AVAILABLE and (other is None or _shape(other) != _shape(block)):
                at_far = "unknown" if other is None else f"{other.state}, {other.units} units,"
                named = f"block {number} of {near.link}"
                yield f"{named} is AVAILABLE, {block.units} units, at {near.km.party}, and {at_far} at {far.km.party}"


def _shape(block: KeyBlock) -> tuple[BlockState, int]:
    return block.state, block.units
