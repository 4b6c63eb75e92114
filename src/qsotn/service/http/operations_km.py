"""What an operator reads at a key manager: what its QKD links have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from qsotn.domain import PartyId
from qsotn.parties.km import BlockState, Km
from qsotn.service.http.declaring import listing
from qsotn.service.http.operation import Call
from qsotn.service.http.paging import Page, Window, page


class LinkSupply(msgspec.Struct, frozen=True):
    """What one QKD link can supply, as this end sees it.

    `available_bits` may still be allocated by this end; `pending_blocks` wait for the far end's agreement.
    """

    link: str
    neighbour: PartyId
    available_bits: int
    blocks: int
    pending_blocks: int


@listing(
    "/links",
    tag="km",
    item=LinkSupply,
    example=LinkSupply("jinan-weifang", PartyId("km/weifang"), 110_848, 12, 0),
)
def list_links(km: Km, call: Call[Any, Window, None]) -> Page[LinkSupply]:
    """The QKD links of this key manager, by name."""
    links = km.configuration.links

    def items(*, after: str, limit: int) -> Iterator[tuple[str, tuple[str, PartyId]]]:
        names = [name for name in sorted(links) if name > after]
        return ((name, (name, links[name])) for name in names[:limit])

    return page("links", call.query, items, lambda link: _status(km, *link))


def _status(km: Km, link: str, neighbour: PartyId) -> LinkSupply:
    states = [block.state for block in km.blocks.values(f"{link}/")]
    pending = states.count(BlockState.PENDING)
    return LinkSupply(link, neighbour, km.available_bits(link), len(states), pending)


OPERATIONS: Final = (list_links,)
