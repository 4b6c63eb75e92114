"""The arithmetic of a link's pool: which end may allocate which bits of a block, and in which order.

Both ends of a link hold the same block. To let each allocate without asking the other, a block is cut in units of 256
bits and halved: the first half belongs to the end whose identifier sorts first, the second to the other. An end
allocates only in its own half, upwards, and takes what the far end names only in the far end's half; a unit that is
taken is deleted. No unit is therefore given twice by two ends, and none is taken again.
"""

from __future__ import annotations

from qsotn.domain import PartyId
from qsotn.errors import WrongParty

UNIT_BITS = 256
UNIT_BYTES = UNIT_BITS // 8


def half(own: PartyId, far: PartyId, units: int) -> range:
    """Return the units of a block that `own` may allocate."""
    middle = units // 2
    return range(middle) if own < far else range(middle, units)


def units_for(number: int, size: int) -> int:
    """Units that `number` keys of `size` bits need; a key takes whole units, and what it leaves of one is destroyed."""
    return number * -(-size // UNIT_BITS)


def allocate(own_half: range, mark: int, units: int) -> range | None:
    """Return the next units of one's own half above the high-water mark, or None if they do not suffice."""
    first = max(own_half.start, mark)
    return range(first, first + units) if first + units <= own_half.stop else None


def check_named(far_half: range, first: int, units: int) -> range:
    """Check that units the far end names are its own to allocate. Raises `WrongParty`.

    Supplies may overtake each other on a link, so order proves nothing; that a unit is still there does.
    """
    if units < 1 or first < far_half.start or first + units > far_half.stop:
        raise WrongParty(f"units {first} to {first + units} are not the far end's to allocate ({far_half})")
    return range(first, first + units)
