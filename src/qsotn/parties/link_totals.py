"""What a key manager has had of a QKD link since it was installed, in running totals.

A link's blocks only grow in number, and those that are spent at this end never change again. Their sum is kept, up to
the last of them, so that asking costs what is open now and not what ever was.
"""

from __future__ import annotations

from functools import reduce
from typing import Final

import msgspec

from qsotn.keynetwork import pool
from qsotn.parties.desk import Collection
from qsotn.parties.km import BlockState, KeyBlock, Km
from qsotn.parties.km_losses import LinkLosses, losses
from qsotn.parties.link_light import lights

_COLLECTION: Final = "link-totals"


class LinkTotals(msgspec.Struct, frozen=True):
    """The blocks of a link up to `number`: how many, and their units of 256 bits at this end.

    `agreed_units` are those of both halves, `drawn_units` those of this end's half that it allocated. `error_rate` and
    `bits_per_second` are told by the ledger of the newest block that was agreed, where it has them; `told_by` is the
    number of that block.
    """

    number: int = 0
    blocks: int = 0
    pending: int = 0
    agreed_units: int = 0
    drawn_units: int = 0
    error_rate: float | None = None
    bits_per_second: float | None = None
    told_by: int = 0
    pending_since: int = 0
    """When the oldest block came that waits for the far end's agreement; 0 without one."""
    lost_blocks: int = 0
    lost_units: int = 0
    summed: int = 0
    """The newest block that the kept sum includes: its record is needed no more for a total."""


class LinkQuality(msgspec.Struct, frozen=True):
    """How the light of a link is, as far as its source tells: its QBER, and whether keys come of it."""

    error_rate: float | None = None
    distils: bool | None = None


def quality(km: Km, link: str, sums: LinkTotals) -> LinkQuality:
    """Return how a link's light is now: as its modules measured it last, or as its newest block says."""
    light = lights(km.desk).get(link)
    if light is None or light.number < sums.told_by:
        return LinkQuality(sums.error_rate, True if sums.told_by else None)
    return LinkQuality(light.error_rate, light.distils)


def totals(km: Km, link: str) -> LinkTotals:
    """Return the totals of a link as they are now; the sum of what is spent is kept for the next time."""
    kept, closed = _kept(km), km.desk.collection("closed-blocks", int).get(link) or 0
    known = kept.get(link) or LinkTotals()
    if closed > known.number:
        known = reduce(lambda sums, block: _with(km, sums, block), _between(km, link, known.number, closed), known)
        kept.put(link, known)
    newer = km.blocks.values(f"{link}/", after=_key(link, known.number))
    sums = reduce(lambda sums, block: _with(km, sums, block), newer, known)
    return msgspec.structs.replace(_less_losses(km, link, sums), summed=known.number)


def _less_losses(km: Km, link: str, sums: LinkTotals) -> LinkTotals:
    """Take off what was agreed here and written off since; what was allocated of it stays counted."""
    lost = losses(km.desk).get(link) or LinkLosses()
    return msgspec.structs.replace(
        sums,
        agreed_units=sums.agreed_units - lost.agreed_units,
        lost_blocks=lost.blocks,
        lost_units=lost.units,
    )


def _kept(km: Km) -> Collection[LinkTotals]:
    return km.desk.collection(_COLLECTION, LinkTotals)


def _between(km: Km, link: str, first: int, last: int) -> list[KeyBlock]:
    """Return the blocks after `first`, up to and including `last`."""
    found = km.blocks.items(f"{link}/", after=_key(link, first))
    return [block for key, block in found if key <= _key(link, last)]


def _with(km: Km, sums: LinkTotals, block: KeyBlock) -> LinkTotals:
    counted = msgspec.structs.replace(sums, number=block.number, blocks=sums.blocks + 1)
    if block.state is BlockState.PENDING:
        return msgspec.structs.replace(counted, pending=sums.pending + 1, pending_since=sums.pending_since or block.at)
    if block.state is BlockState.DISCARDED and not block.withdrawn:
        return counted
    own = pool.half(km.desk.party, km.configuration.links[block.link], block.units)
    return msgspec.structs.replace(
        counted,
        agreed_units=sums.agreed_units + block.units,
        drawn_units=sums.drawn_units + block.own_mark - own.start,
        error_rate=_error_rate(block),
        bits_per_second=_rate(block),
        told_by=block.number,
    )


def _error_rate(block: KeyBlock) -> float | None:
    """Return the error rate that was measured, if there was light to measure it by (`interoperation.link_feed`)."""
    return None if block.ledger.get("pulses") == 0 else block.ledger.get("error_rate")


def _rate(block: KeyBlock) -> float | None:
    """Return the link's own rate while it made this block; a source that does not say how long it took has none."""
    seconds = block.ledger.get("link_seconds")
    return block.units * pool.UNIT_BITS / seconds if seconds else None


def _key(link: str, number: int) -> str:
    return f"{link}/{number:08}"
