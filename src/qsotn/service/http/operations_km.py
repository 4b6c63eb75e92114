"""What an operator reads at a key manager: counts of its links and its pools, and how one key came to it.

The QKMP that watches the province reads the counts too. Nothing of it holds a bit of a key, and the counts not even the
identifier of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from qsotn.domain import PartyId, Role
from qsotn.errors import LocalError, MalformedMessage
from qsotn.keynetwork.delivery import UNIT_BITS, Pool, PoolCount
from qsotn.keynetwork.examination import Examination, Examined, examine
from qsotn.keynetwork.provenance import Leg
from qsotn.keynetwork.relay import Mode
from qsotn.parties.km import Km
from qsotn.parties.link_totals import quality, totals
from qsotn.service.delivery.passing_on import ForeignPart
from qsotn.service.http.answer import Answer, json_answer
from qsotn.service.http.declaring import absent, at_desk, listing
from qsotn.service.http.names import KeyPath
from qsotn.service.http.operation import DESK, OPERATORS, PREFIX, Call, Content, Success, operation
from qsotn.service.http.paging import Page, Window, page

WATCHERS: Final = frozenset({Role.OPERATOR, Role.QKMP})
"""Who may see counts of keys."""
_TAG: Final = "km"


class LinkSupply(msgspec.Struct, frozen=True):
    """What one QKD link can supply, as this end sees it.

    `available_bits` may still be allocated by this end; `pending_blocks` wait for the far end's agreement.
    `agreed_bits` and `drawn_bits` only grow: what both ends agreed on since the link was installed, and what this end
    allocated of its half. `qber` is the error rate that its light showed last, a fraction; `distils` is whether keys
    come of it now; `block_bits_s` is the rate at which the link made its newest block, by its own account. All three
    are null where a link's source does not tell them. `pending_s` is for how long the oldest of the pending blocks
    waits; `lost_blocks` and `lost_bits` are what was written off here, because the far end does not share it.
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
    distils: bool | None = None
    pending_s: float = 0.0
    lost_blocks: int = 0
    lost_bits: int = 0


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


class SignedStatement(msgspec.Struct, frozen=True):
    """What one key manager signed of one share: which link it took it from, which it passed it on over, and to whom.

    `at` in microseconds. `verified` says whether it holds by itself, by the certificates known here; `reason` why not.
    """

    share: int
    party: PartyId
    received_over: str
    passed_over: str
    next: PartyId
    at: int
    verified: bool
    reason: str


class KeyProvenance(msgspec.Struct, frozen=True):
    """How a key came to a key manager, as everybody on its way signed it.

    A key is made of units of a batch, and all units of a batch came together: `units` of them, from the number `first`
    of the pool on. `paths` are the key managers each share passed. `verified` says that every signature holds and that
    the statements fit together; `reason` is the first thing that does not. `account` says it all in plain words.
    """

    km: PartyId
    key_id: str
    batch: str
    origin: PartyId
    target: PartyId
    series: int
    first: int
    units: int
    mode: Mode
    paths: tuple[tuple[PartyId, ...], ...]
    verified: bool
    reason: str
    account: str
    statements: tuple[SignedStatement, ...]
    foreign: str = ""
    """The other operator that a key came from, empty for one of this network. All else is about its way from our border
    on, where it lay under a one-time pad of that batch; how it came to the border, its operator knows."""


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
        distils=True,
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
    light = quality(km, link, sums)
    return LinkSupply(
        link=link,
        neighbour=neighbour,
        available_bits=km.available_bits(link),
        blocks=sums.blocks,
        pending_blocks=sums.pending,
        agreed_bits=sums.agreed_units * UNIT_BITS,
        drawn_bits=sums.drawn_units * UNIT_BITS,
        qber=light.error_rate,
        block_bits_s=sums.bits_per_second,
        distils=light.distils,
        pending_s=(km.desk.now - sums.pending_since) / 1e6 if sums.pending_since else 0.0,
        lost_blocks=sums.lost_blocks,
        lost_bits=sums.lost_units * UNIT_BITS,
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


_KEY_ID: Final = "f02d0743-5956-43e3-9aec-35e959c5fdbd"


@operation(
    "GET",
    f"{PREFIX}/keys/{{key_id}}/provenance",
    tag=_TAG,
    roles=OPERATORS,
    path_type=KeyPath,
    successes=(
        Success(
            200,
            "How it came here.",
            Content(
                KeyProvenance,
                KeyProvenance(
                    km=PartyId("km/weifang"),
                    key_id=_KEY_ID,
                    batch="8c9e6679-7425-40de-944b-e07fc1f90ae7",
                    origin=PartyId("km/jinan"),
                    target=PartyId("km/weifang"),
                    series=1,
                    first=0,
                    units=64,
                    mode=Mode.ONE_TIME_PAD,
                    paths=((PartyId("km/jinan"), PartyId("km/weifang")),),
                    verified=False,
                    reason="km/weifang has no certificate of km/jinan",
                    account="batch 8c9e6679-7425-40de-944b-e07fc1f90ae7: units 0 to 63 of the pool …",
                    statements=(
                        SignedStatement(
                            share=0,
                            party=PartyId("km/jinan"),
                            received_over="",
                            passed_over="jinan-weifang",
                            next=PartyId("km/weifang"),
                            at=1_780_000_000_300_000,
                            verified=False,
                            reason="km/weifang has no certificate of km/jinan",
                        ),
                    ),
                ),
            ),
        ),
    ),
    problems=DESK,
)
async def show_provenance(call: Call[KeyPath, Any, None]) -> Answer:
    """How a key of an SAE came to this key manager: who relayed it, over which links, how hidden, and who signed that.

    It is known from the key's arrival on, also after its delivery, at both ends of its pool and nowhere else.
    """
    key_id = call.path.key_id
    deployment = call.service.deployment
    signed, foreign = await deployment.provenance(key_id), None
    if not signed:
        foreign = await deployment.foreign(key_id)
        signed = None if foreign is None else await deployment.provenance(foreign.pad)
    if not signed:
        raise absent("key", key_id)
    return json_answer(200, await at_desk(call, lambda km: _with_foreign(_provenance(km, key_id, signed), foreign)))


def _with_foreign(shown: KeyProvenance, part: ForeignPart | None) -> KeyProvenance:
    if part is None:
        return shown
    account = (
        f"key {shown.key_id} came from {part.operator} to {part.border}, and went on under the one-time pad "
        f"{part.pad}; of the pad: {shown.account}"
    )
    return msgspec.structs.replace(shown, foreign=part.operator, account=account)


def _provenance(km: Km, key_id: str, signed: bytes) -> KeyProvenance:
    try:
        found = examine(signed, km.desk.peer)
    except MalformedMessage as error:
        raise LocalError(f"what is kept with the key {key_id} is no provenance: {error}") from error
    return _shown(km.desk.party, key_id, found)


def _shown(km: PartyId, key_id: str, found: Examination) -> KeyProvenance:
    order = found.chains[0][0].statement.order
    return KeyProvenance(
        km=km,
        key_id=key_id,
        batch=order.batch,
        origin=order.origin,
        target=order.target,
        series=order.series,
        first=order.first,
        units=order.units,
        mode=order.mode,
        paths=tuple(tuple(one.statement.party for one in chain) for chain in found.chains),
        verified=not found.failure,
        reason=found.failure,
        account=found.account,
        statements=tuple(_statement(share, one) for share, chain in enumerate(found.chains) for one in chain),
    )


def _statement(share: int, examined: Examined) -> SignedStatement:
    one = examined.statement
    return SignedStatement(
        share=share,
        party=one.party,
        received_over=_link(one.received),
        passed_over=_link(one.passed),
        next=one.next,
        at=one.at,
        verified=not examined.failure,
        reason=examined.failure,
    )


def _link(leg: Leg | None) -> str:
    return "" if leg is None else leg.link


OPERATIONS: Final = (list_links, list_pools, show_provenance)
