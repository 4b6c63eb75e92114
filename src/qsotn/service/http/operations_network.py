"""What an operator reads of the key network at the QKMP: who answers, links, pools, lines, alarms, and what comes.

Everything is what was seen in the last looks (`service.supervision`), with its age; nothing is asked of anybody now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from qsotn.domain import End, LineId, PartyId
from qsotn.keynetwork.forecast import forecast
from qsotn.parties.line_comparison import LineComparison, LineEndState, Step
from qsotn.parties.network_alarms import Alarm, Cause, Severity
from qsotn.parties.network_capacity import LinkState, LinkUse, LinkView, RateSource, link_views
from qsotn.parties.network_readings import LinkReading, PoolReading
from qsotn.parties.qkmp import Qkmp
from qsotn.service.http.declaring import listing, reading
from qsotn.service.http.operation import Call
from qsotn.service.http.paging import Page, Window, page

_TAG: Final = "network"
_AT: Final = 1_780_000_000_400_000


class NetworkParty(msgspec.Struct, frozen=True):
    """A key manager or QSSP that is asked. It answers if `silent_since` is 0; `reason` says why it does not."""

    party: PartyId
    answered_at: int
    silent_since: int
    reason: str


class NetworkLinkEnd(msgspec.Struct, frozen=True):
    """One end of a link as its key manager told it at `at`, `age_s` seconds ago; the totals only grow."""

    km: PartyId
    available_bits: int
    agreed_bits: int
    drawn_bits: int
    pending_blocks: int
    at: int
    age_s: float


class NetworkLink(msgspec.Struct, frozen=True):
    """A QKD link. Rates in bits a second for both ends together; `qber` is a fraction, null where nobody told it.

    `rate_from` says whether the rate was seen in the busiest minute of its history, or is its blocks' own account; by
    that, supplies prefer one way to another, and no line is admitted. `told` has an entry for each end that told of it.
    `width_bits` and `use` are what supplies are routed by: the bits that they may count on within a minute, and whether
    the link is PREFERRED, AVOIDED or BARRED.
    """

    link: str
    ends: tuple[PartyId, PartyId]
    state: LinkState
    rate_bits_s: float
    rate_from: RateSource
    drawn_bits_s: float
    qber: float | None
    width_bits: int
    use: LinkUse
    told: tuple[NetworkLinkEnd, ...]


class Network(msgspec.Struct, frozen=True):
    """The key network as it was seen last, at `at`: microseconds since the epoch, or 0 for never."""

    at: int
    parties: tuple[NetworkParty, ...]
    links: tuple[NetworkLink, ...]


class NetworkPoolEnd(msgspec.Struct, frozen=True):
    """A pool as one of its key managers counted it at `at`, `age_s` seconds ago."""

    km: PartyId
    ready_bits: int
    waiting_bits: int
    delivered_bits: int
    destroyed_bits: int
    at: int
    age_s: float


class NetworkPool(msgspec.Struct, frozen=True):
    """The pool of ready keys in use from one key manager to another, and each end that told of it."""

    origin: PartyId
    target: PartyId
    series: int
    told: tuple[NetworkPoolEnd, ...]


class Outlook(msgspec.Struct, frozen=True):
    """What becomes of one end of a link, or of a pool at its origin, if it goes on as it did.

    `starves_at` (microseconds) and `starves_in_s` are null where it does not fall; all is null before there are two
    samples to tell from.
    """

    what: str
    km: PartyId
    available_bits: int
    at: int
    samples: int
    bits_per_s: float | None
    starves_at: int | None
    starves_in_s: float | None


class AlarmStatus(msgspec.Struct, frozen=True):
    """Something that is wrong, or was: `cleared_at` is 0 while it lasts. Times in microseconds since the epoch."""

    subject: str
    cause: Cause
    severity: Severity
    detail: str
    since: int
    raised_at: int
    cleared_at: int


NETWORK_EXAMPLE: Final = Network(
    at=_AT,
    parties=(
        NetworkParty(PartyId("km/jinan"), _AT, 0, ""),
        NetworkParty(PartyId("km/weifang"), _AT - 30_000_000, _AT - 20_000_000, "km/weifang did not answer within 5 s"),
    ),
    links=(
        NetworkLink(
            link="jinan-weifang",
            ends=(PartyId("km/jinan"), PartyId("km/weifang")),
            state=LinkState.SILENT,
            rate_bits_s=2146.1,
            rate_from=RateSource.SEEN,
            drawn_bits_s=17.1,
            qber=0.0046,
            width_bits=175_231,
            use=LinkUse.AVOIDED,
            told=(NetworkLinkEnd(PartyId("km/jinan"), 110_848, 1_545_216, 661_760, 0, _AT, 2.5),),
        ),
    ),
)


@reading("/network", tag=_TAG, result=Network, example=NETWORK_EXAMPLE)
def read_network(qkmp: Qkmp, _: Call[Any, Any, None]) -> Network:
    """The key network as it was seen last: who answers, and every QKD link.

    A link is SILENT while a key manager at its end does not answer, DISAGREES while its ends do not have the same
    blocks, NOISY while its error rate is above the limit. Pools, lines, forecasts and alarms are lists of their own.
    """
    parties = tuple(
        NetworkParty(one.party, one.answered_at, one.silent_since, one.reason) for one in qkmp.watched.values()
    )
    last = max((one.answered_at for one in parties), default=0)
    return Network(last, parties, tuple(_link(view, qkmp.desk.now) for view in link_views(qkmp)))


def _link(view: LinkView, now: int) -> NetworkLink:
    return NetworkLink(
        link=view.link,
        ends=view.ends,
        state=view.state,
        rate_bits_s=view.rate_bits_s,
        rate_from=view.rate_from,
        drawn_bits_s=view.drawn_bits_s,
        qber=view.qber,
        width_bits=view.width_bits,
        use=view.use,
        told=tuple(_link_end(one, now) for one in view.readings),
    )


def _link_end(one: LinkReading, now: int) -> NetworkLinkEnd:
    return NetworkLinkEnd(
        km=one.km,
        available_bits=one.available_bits,
        agreed_bits=one.agreed_bits,
        drawn_bits=one.drawn_bits,
        pending_blocks=one.pending_blocks,
        at=one.at,
        age_s=(now - one.at) / 1e6,
    )


@listing(
    "/network/pools",
    tag=_TAG,
    item=NetworkPool,
    example=NetworkPool(
        origin=PartyId("km/jinan"),
        target=PartyId("km/qingdao"),
        series=1,
        told=(
            NetworkPoolEnd(PartyId("km/jinan"), 65_536, 512, 262_144, 256, _AT, 2.5),
            NetworkPoolEnd(PartyId("km/qingdao"), 65_536, 0, 262_144, 256, _AT, 2.5),
        ),
    ),
)
def list_network_pools(qkmp: Qkmp, call: Call[Any, Window, None]) -> Page[NetworkPool]:
    """The pools of ready keys in use, by origin and target, as both ends count them."""
    pools = {f"{origin}>{target}": told for (origin, target), told in qkmp.newest_pools().items()}

    def items(*, after: str, limit: int) -> list[tuple[str, list[PoolReading]]]:
        return [(key, pools[key]) for key in sorted(pools) if key > after][:limit]

    return page("network pools", call.query, items, lambda told: _pool(told, qkmp.desk.now))


def _pool(told: list[PoolReading], now: int) -> NetworkPool:
    ends = tuple(
        NetworkPoolEnd(
            km=one.km,
            ready_bits=one.ready_bits,
            waiting_bits=one.waiting_bits,
            delivered_bits=one.delivered_bits,
            destroyed_bits=one.destroyed_bits,
            at=one.at,
            age_s=(now - one.at) / 1e6,
        )
        for one in told
    )
    return NetworkPool(told[0].origin, told[0].target, told[0].series, ends)


@listing(
    "/network/lines",
    tag=_TAG,
    item=LineComparison,
    example=LineComparison(
        line=LineId("line-1"),
        step=Step.LAGS,
        ends=(
            LineEndState(End.A, PartyId("qssp/jinan"), 4, _AT),
            LineEndState(End.B, PartyId("qssp/qingdao"), 3, _AT),
        ),
        last_common=3,
        differing=(),
        behind="qssp/qingdao",
    ),
)
def list_network_lines(qkmp: Qkmp, call: Call[Any, Window, None]) -> Page[LineComparison]:
    """The lines in service, and whether their two QSSPs hold the same generations of session keys."""

    def items(*, after: str, limit: int) -> Sequence[tuple[str, LineId]]:
        return [(line, line) for line in sorted(qkmp.lines()) if line > after][:limit]

    found = page("network lines", call.query, items, qkmp.compared)
    return Page(tuple(one for one in found.items if one is not None), found.next_cursor)


@listing(
    "/network/forecast",
    tag=_TAG,
    item=Outlook,
    example=Outlook(
        what="link jinan-weifang",
        km=PartyId("km/jinan"),
        available_bits=110_848,
        at=_AT,
        samples=30,
        bits_per_s=-17.1,
        starves_at=_AT + 6_482_000_000,
        starves_in_s=6482.0,
    ),
)
def list_forecasts(qkmp: Qkmp, call: Call[Any, Window, None]) -> Page[Outlook]:
    """When each end of a link, and each pool at its origin, is empty if its last quarter of an hour goes on.

    A straight line through the samples; what is filled in blocks and emptied in keys is told well over several blocks.
    """
    told = dict(_forecast_of(qkmp))

    def items(*, after: str, limit: int) -> list[tuple[str, tuple[str, LinkReading | PoolReading]]]:
        return [(key, told[key]) for key in sorted(told) if key > after][:limit]

    return page("forecasts", call.query, items, lambda one: _outlook(qkmp, *one))


def _forecast_of(qkmp: Qkmp) -> Iterator[tuple[str, tuple[str, LinkReading | PoolReading]]]:
    for link in qkmp.links.values():
        yield f"link/{link.key}", (f"link {link.link}", link)
    for told in qkmp.newest_pools().values():
        for pool in (one for one in told if one.km == one.origin):
            yield f"pool/{pool.key}", (f"pool {pool.origin}>{pool.target}", pool)


def _outlook(qkmp: Qkmp, what: str, one: LinkReading | PoolReading) -> Outlook:
    available = one.available_bits if isinstance(one, LinkReading) else one.ready_bits
    made = forecast(qkmp.history(one).samples)
    if made is None:
        return Outlook(what, one.km, available, one.at, len(qkmp.history(one).points), None, None, None)
    left = None if made.starves_at is None else max(0, made.starves_at - qkmp.desk.now) / 1e6
    return Outlook(what, one.km, available, one.at, made.samples, made.bits_per_s, made.starves_at, left)


@listing(
    "/network/alarms",
    tag=_TAG,
    item=AlarmStatus,
    example=AlarmStatus(
        subject="line line-1",
        cause=Cause.QSSP_LAGS,
        severity=Severity.MAJOR,
        detail="qssp/qingdao lags: qssp/jinan has 4, qssp/qingdao has 3; the last that both have is 3",
        since=_AT,
        raised_at=_AT + 10_000_000,
        cleared_at=0,
    ),
)
def list_alarms(qkmp: Qkmp, call: Call[Any, Window, None]) -> Page[AlarmStatus]:
    """The alarms of the key network: those that last, by subject and cause, then the last 200 that cleared, by time."""
    return page("alarms", call.query, qkmp.alarms.items, _alarm)


def _alarm(one: Alarm) -> AlarmStatus:
    return AlarmStatus(one.subject, one.cause, one.severity, one.detail, one.since, one.raised_at, one.cleared_at)


OPERATIONS: Final = (read_network, list_network_pools, list_network_lines, list_forecasts, list_alarms)
