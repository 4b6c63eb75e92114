"""What an operator, and the QKMP that watches the province, read at a key manager: counts of its links and its pools.

Neither holds a bit of a key, nor the identifier of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from qsotn.domain import PartyId, Role
from qsotn.keynetwork.delivery import UNIT_BITS, Pool, PoolCount
from qsotn.parties.km import Km
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.declaring import listing
from qsotn.service.http.operation import DESK, PREFIX, Call, Content, Success, operation
from qsotn.service.http.paging import Page, Window, page
from qsotn.service.link_totals import totals

WATCHERS: Final = frozenset({Role.OPERATOR, Role.QKMP})
"""Who may see counts of keys."""
_TAG: Final = "km"


class LinkSupply(msgspec.Struct, frozen=True):
    """What one QKD link can supply, as this end sees it.

    `available_bits` may still be allocated by this end; `pending_blocks` wait for the far end's agreement.
    `agreed_bits` and `drawn_bits` only grow: what both ends agreed on since the link was installed, and what this end
    allocated of its half. `qber` is the error rate of the newest block, a fraction; `block_bits_s` the rate at which
    the link made it, by its own account. Both are null where a block's source does not tell them.
    """

    link: str
    neighbour: PartyId
    available_bits: int
    blocks: int
    pending_blocks: int
    agreed_bits: int
    drawn_bits: int
    qber: float | None
    block_bits_s: float | None


class PoolSupply(msgspec.Struct, frozen=True):
    """A pool of ready keys as this end counts it, in bits; the origin gives them out, the target holds them too.

    `ready_bits` can be given out now, `waiting_bits` wait for the SAE they were given to. The others only grow.
    """

    origin: PartyId
    target: PartyId
    series: int
    ready_bits: int
    waiting_bits: int
    delivered_bits: int
    destroyed_bits: int
    """Void, expired, or destroyed because an older copy of the store was restored."""


@listing(
    "/links",
    tag=_TAG,
    item=LinkSupply,
    example=LinkSupply(
        link="jinan-weifang",
        neighbour=PartyId("km/weifang"),
        available_bits=110_848,
        blocks=12,
        pending_blocks=0,
        agreed_bits=1_545_216,
        drawn_bits=661_760,
        qber=0.0046,
        block_bits_s=2_043_936.5,
    ),
    roles=WATCHERS,
)
def list_links(km: Km, call: Call[Any, Window, None]) -> Page[LinkSupply]:
    """The QKD links of this key manager, by name."""
    links = km.configuration.links

    def items(*, after: str, limit: int) -> Iterator[tuple[str, tuple[str, PartyId]]]:
        names = [name for name in sorted(links) if name > after]
        return ((name, (name, links[name])) for name in names[:limit])

    return page("links", call.query, items, lambda link: _status(km, *link))


def _status(km: Km, link: str, neighbour: PartyId) -> LinkSupply:
    sums = totals(km, link)
    return LinkSupply(
        link=link,
        neighbour=neighbour,
        available_bits=km.available_bits(link),
        blocks=sums.blocks,
        pending_blocks=sums.pending,
        agreed_bits=sums.agreed_units * UNIT_BITS,
        drawn_bits=sums.drawn_units * UNIT_BITS,
        qber=sums.error_rate,
        block_bits_s=sums.bits_per_second,
    )


@operation(
    "GET",
    f"{PREFIX}/pools",
    tag=_TAG,
    roles=WATCHERS,
    query_type=Window,
    successes=(
        Success(
            200,
            "A page.",
            Content(
                Page[PoolSupply],
                Page(
                    (PoolSupply(PartyId("km/jinan"), PartyId("km/qingdao"), 1, 65_536, 512, 262_144, 256),),
                    None,
                ),
            ),
        ),
    ),
    problems=DESK,
)
async def list_pools(call: Call[Any, Window, None]) -> Answer:
    """The pools of ready keys that this key manager gives out or holds, by origin, target and series.

    A key manager that delivers no ready keys has none.
    """
    counts = await call.service.deployment.pools()
    return json_answer(200, _pools(counts, call.query))


def _pools(counts: Mapping[Pool, PoolCount], window: Window) -> Page[PoolSupply]:
    keys = sorted((f"{one.origin}>{one.target}#{one.series:08}", one) for one in counts)

    def items(*, after: str, limit: int) -> list[tuple[str, Pool]]:
        return [(key, one) for key, one in keys if key > after][:limit]

    return page("pools", window, items, lambda one: _supply(one, counts[one]))


def _supply(one: Pool, count: PoolCount) -> PoolSupply:
    return PoolSupply(
        origin=one.origin,
        target=one.target,
        series=one.series,
        ready_bits=count.ready * UNIT_BITS,
        waiting_bits=count.waiting * UNIT_BITS,
        delivered_bits=count.delivered * UNIT_BITS,
        destroyed_bits=(count.voided + count.expired + count.burned) * UNIT_BITS,
    )


OPERATIONS: Final = (list_links, list_pools)
