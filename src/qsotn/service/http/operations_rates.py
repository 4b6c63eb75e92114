"""What links and pools gained and gave of late, as the QKMP saw it: averages over a time that is told with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from qsotn.domain import PartyId
from qsotn.parties.network_alarms import link_subject, pool_subject
from qsotn.parties.network_readings import RECENT_US, LinkReading, PoolReading
from qsotn.parties.qkmp import Qkmp
from qsotn.service.http.declaring import listing
from qsotn.service.http.operation import Call
from qsotn.service.http.paging import Page, Window, page


class NetworkRate(msgspec.Struct, frozen=True):
    """What one end of a link, or the origin of a pool, gained and gave: bits a second, averaged over `over_s` seconds.

    `gained_bits_s` of a link is what both ends agreed on, for both together; `drawn_bits_s` is what this end allocated
    of its half. Those of a pool are what came to it, and what went out of it. `over_s` is at most ten minutes, and 0
    before there was a second look.
    """

    what: str
    km: PartyId
    gained_bits_s: float
    drawn_bits_s: float
    over_s: float


@listing(
    "/network/rates",
    tag="network",
    item=NetworkRate,
    example=NetworkRate("link jinan-weifang", PartyId("km/jinan"), 2146.1, 17.1, 600.0),
)
def list_rates(qkmp: Qkmp, call: Call[Any, Window, None]) -> Page[NetworkRate]:
    """What each end of a link, and each pool at its origin, gained and gave in the last ten minutes, on average.

    A source that rests while its link is full gains less than it could.
    """
    told = dict(_watched(qkmp))

    def items(*, after: str, limit: int) -> list[tuple[str, tuple[str, LinkReading | PoolReading]]]:
        return [(key, told[key]) for key in sorted(told) if key > after][:limit]

    return page("rates", call.query, items, lambda one: _rate(qkmp, *one))


def _watched(qkmp: Qkmp) -> Iterator[tuple[str, tuple[str, LinkReading | PoolReading]]]:
    for link in qkmp.links.values():
        yield f"link/{link.key}", (link_subject(link.link), link)
    for told in qkmp.newest_pools().values():
        for pool in (one for one in told if one.km == one.origin):
            yield f"pool/{pool.key}", (pool_subject(pool), pool)


def _rate(qkmp: Qkmp, what: str, one: LinkReading | PoolReading) -> NetworkRate:
    gained, drawn, seconds = qkmp.history(one).recent(RECENT_US)
    return NetworkRate(what, one.km, gained, drawn, seconds)


OPERATIONS: Final = (list_rates,)
