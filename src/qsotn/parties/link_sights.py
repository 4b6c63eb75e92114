"""The network's links as the QKMP tells them to its key managers, and what a key manager keeps of it.

The QKMP tells what its last look brought, in pages; a page replaces what the same page said before. A key manager dates
what it is told by its own clock, and believes it for as long as the QKMP said: what is older is no knowledge any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec

from qsotn.domain import PartyId
from qsotn.keynetwork.widths import Avoided, Measured
from qsotn.parties.desk import Collection, Desk

LINKS_A_PAGE: Final = 200
MOST_PAGES: Final = 100
LONGEST_BELIEVED_S: Final = 3 * 3600.0
_COLLECTION: Final = "told-links"

Bits = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(ge=0)]
LinkEnd = Annotated[PartyId, msgspec.Meta(min_length=1, max_length=64)]
ErrorRate = Annotated[float, msgspec.Meta(ge=0, le=1)]


class LinkSight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One link between two key managers.

    `pool_bits` is what the emptier of its ends may allocate; `rate_bits_s` is that of both ends together.

    `noisy` says that its error rate is raised or no key comes of its light, `unseen` that one of its ends does not
    answer or that they disagree. `age_s` is since the older of its readings.
    """

    link: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    ends: tuple[LinkEnd, LinkEnd]
    pool_bits: Bits
    rate_bits_s: Rate
    qber: ErrorRate | None
    noisy: bool
    unseen: bool
    age_s: Annotated[float, msgspec.Meta(ge=0)]

    @property
    def measured(self) -> Measured:
        """The link as a choice of ways has it."""
        why = {Avoided.NOISY: self.noisy, Avoided.UNSEEN: self.unseen}
        avoided = frozenset(reason for reason, is_so in why.items() if is_so)
        return Measured(self.pool_bits, self.rate_bits_s, self.qber, avoided)


class NetworkSight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A page of the network's links, the first numbered 0, which may be believed for so many seconds.

    `qber_limit` is the error rate above which a link is to be avoided.
    """

    page: Annotated[int, msgspec.Meta(ge=0, lt=MOST_PAGES)]
    believed_s: Annotated[float, msgspec.Meta(gt=0, le=LONGEST_BELIEVED_S)]
    qber_limit: ErrorRate
    links: Annotated[tuple[LinkSight, ...], msgspec.Meta(max_length=LINKS_A_PAGE)]


class KeptSight(msgspec.Struct, frozen=True):
    """A page as it was told at `at`, microseconds since the epoch."""

    told: NetworkSight
    at: int

    def age_s(self, now: int) -> float:
        """Seconds since it was told."""
        return max(0, now - self.at) / 1e6


def keep(desk: Desk, told: NetworkSight) -> None:
    """Keep a page in the place of what it said before."""
    _kept(desk).put(f"{told.page:04}", KeptSight(told, desk.now))


def kept(desk: Desk) -> Iterator[KeptSight]:
    """Yield every page in its order, however old: which links there are changes slowly."""
    return _kept(desk).values()


def fresh(desk: Desk) -> Iterator[KeptSight]:
    """Yield the pages that may still be believed, in their order."""
    return (one for one in kept(desk) if one.age_s(desk.now) < one.told.believed_s)


def _kept(desk: Desk) -> Collection[KeptSight]:
    return desk.collection(_COLLECTION, KeptSight)


def pages(sights: Sequence[LinkSight], believed_s: float, qber_limit: float) -> Iterator[NetworkSight]:
    """Yield the pages that tell these links, at least one, and at most as many as are taken."""
    for page, start in enumerate(range(0, max(1, len(sights)), LINKS_A_PAGE)):
        if page < MOST_PAGES:
            yield NetworkSight(page, believed_s, qber_limit, tuple(sights[start : start + LINKS_A_PAGE]))
