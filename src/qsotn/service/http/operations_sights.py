"""What the QKMP tells a key manager: how the links of the whole network stand. Counts and rates, no key."""

from __future__ import annotations

from typing import Any, Final

from qsotn.domain import PartyId, Role
from qsotn.parties import link_sights
from qsotn.parties.link_sights import LinkSight, NetworkSight
from qsotn.service.http.answer import Answer
from qsotn.service.http.declaring import at_desk
from qsotn.service.http.operation import DESK, PREFIX, Call, Content, Success, operation

SIGHTS: Final = f"{PREFIX}/network/links"
_SUPERVISORS: Final = frozenset({Role.QKMP})
_EXAMPLE: Final = NetworkSight(
    page=0,
    believed_s=30.0,
    qber_limit=0.05,
    links=(
        LinkSight(
            link="jinan-weifang",
            ends=(PartyId("km/jinan"), PartyId("km/weifang")),
            pool_bits=98_304,
            rate_bits_s=2146.1,
            qber=0.0046,
            noisy=False,
            unseen=False,
            age_s=0.4,
        ),
    ),
)


@operation(
    "PUT",
    SIGHTS,
    tag="km",
    roles=_SUPERVISORS,
    body=Content(NetworkSight, _EXAMPLE),
    successes=(Success(204, "It is believed until it is told anew, or has become old."),),
    problems=DESK,
)
async def take_sight(call: Call[Any, Any, NetworkSight]) -> Answer:
    """Take what the QKMP saw of the network's links, for the ways of supplies that begin here.

    What this key manager measures of its own links goes before what it is told of them.
    """
    await at_desk(call, lambda km: link_sights.keep(km.desk, call.body))
    return Answer(204)


OPERATIONS: Final = (take_sight,)
