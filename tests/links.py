"""What tests do to the links of a key manager behind its back."""

from __future__ import annotations

from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.parties import km_shares
from qsotn.parties.km import Km


def use_up(km: Km, link: str, leave: int = 0) -> None:
    """Take units of a link for nobody until so many are left that this end may still allocate."""
    left = km.available_bits(link) // UNIT_BITS - leave
    while left > 0:
        taken, _ = km._allocated(*km._next_range(link, left))
        left -= taken.units
    km_shares.forget(km.desk, link)
