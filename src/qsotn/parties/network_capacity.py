"""What the key network can carry beside what it carries, by what was seen of it.

A link's rate is what its two ends agreed on in its busiest minute. A source that rests while it is full is so never
believed to give more than it has shown. One that made nothing in sight is taken at its blocks' own account: bits, over
the time the link took to make them.

What the network carries already are the lines in service, at their rekey intervals, and what SAEs took of the pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Final

import msgspec

from qsotn.domain import End, PartyId
from qsotn.errors import Refusal
from qsotn.keynetwork.admission import Demand, assess
from qsotn.keynetwork.topology import Link, Topology
from qsotn.keynetwork.widths import BARRED_QBER, width_bits
from qsotn.parties.link_sights import LinkSight
from qsotn.parties.network_alarms import Cause, link_subject
from qsotn.parties.network_readings import LinkReading
from qsotn.parties.qkmp import Qkmp

WINDOW_US: Final = 60 * 1_000_000
_HOUR_S: Final = 3600


class LinkState(StrEnum):
    """Whether keys may be expected of a link."""

    UP = "UP"
    SILENT = "SILENT"
    """A key manager at its end does not answer, or was never asked."""
    DISAGREES = "DISAGREES"
    NOISY = "NOISY"
    """Its error rate is above the limit, or no key comes of its light now."""


class LinkUse(StrEnum):
    """What becomes of a link in the ways that key managers choose for supplies, as far as the QKMP tells them."""

    PREFERRED = "PREFERRED"
    AVOIDED = "AVOIDED"
    """On a way only if there is no other."""
    BARRED = "BARRED"
    """On no way: more errors than any key may be made of."""


class RateSource(StrEnum):
    """What a rate was taken from."""

    SEEN = "SEEN"
    BLOCKS = "BLOCKS"
    NONE = "NONE"


class LinkView(msgspec.Struct, frozen=True):
    """A link as the province sees it. Rates in bits a second, for both ends together; `qber` is the worse end's."""

    link: str
    ends: tuple[PartyId, PartyId]
    state: LinkState
    rate_bits_s: float
    rate_from: RateSource
    drawn_bits_s: float
    qber: float | None
    readings: tuple[LinkReading, ...]

    @property
    def measured(self) -> Link:
        """The link as a topology has it."""
        available = sum(one.available_bits for one in self.readings)
        up = self.state is LinkState.UP
        return Link(self.link, self.ends, int(self.rate_bits_s), available, qber=self.qber or 0.0, up=up)

    @property
    def pool_bits(self) -> int:
        """What the emptier of its ends may allocate: a supply draws from either, by the way it goes."""
        return min(one.available_bits for one in self.readings)

    @property
    def width_bits(self) -> int:
        """What supplies may count on, of the emptier end (`keynetwork.widths`)."""
        return width_bits(self.pool_bits, self.rate_bits_s / 2)

    @property
    def use(self) -> LinkUse:
        """What becomes of it in the ways of supplies."""
        if self.qber is not None and self.qber > BARRED_QBER:
            return LinkUse.BARRED
        return LinkUse.PREFERRED if self.state is LinkState.UP else LinkUse.AVOIDED

    def sight(self, now: int) -> LinkSight:
        """The link as the key managers are told of it."""
        return LinkSight(
            link=self.link,
            ends=self.ends,
            pool_bits=self.pool_bits,
            rate_bits_s=self.rate_bits_s,
            qber=self.qber,
            noisy=self.state is LinkState.NOISY,
            unseen=self.state in (LinkState.SILENT, LinkState.DISAGREES),
            age_s=max(0, now - min(one.at for one in self.readings)) / 1e6,
        )


def link_views(qkmp: Qkmp) -> list[LinkView]:
    """Return every link that a key manager told of, by name."""
    wrong = {(one.subject, one.cause) for one in qkmp.alarms.values("active/")}
    silent = {one.party for one in qkmp.watched.values() if one.silent_since}
    known = {one.party for one in qkmp.watched.values()}
    return [
        _view(qkmp, readings, wrong, known - silent)
        for _, readings in sorted(qkmp.by_link().items(), key=lambda x: x[0])
    ]


def _view(
    qkmp: Qkmp, readings: Sequence[LinkReading], wrong: set[tuple[str, Cause]], answering: set[PartyId]
) -> LinkView:
    ends = sorted({readings[0].km, readings[0].neighbour})
    rate, source = _rate(qkmp, readings)
    rates = [one.qber for one in readings if one.qber is not None]
    return LinkView(
        link=readings[0].link,
        ends=(ends[0], ends[-1]),
        state=_state(readings, ends, wrong, answering),
        rate_bits_s=rate,
        rate_from=source,
        drawn_bits_s=sum(qkmp.history(one).drawn_bits_s for one in readings),
        qber=max(rates, default=None),
        readings=tuple(readings),
    )


def _state(
    readings: Sequence[LinkReading], ends: Sequence[PartyId], wrong: set[tuple[str, Cause]], answering: set[PartyId]
) -> LinkState:
    subject = link_subject(readings[0].link)
    if not answering.issuperset(ends):
        return LinkState.SILENT
    if (subject, Cause.ENDS_DISAGREE) in wrong:
        return LinkState.DISAGREES
    dark = any(one.distils is False for one in readings)
    return LinkState.NOISY if dark or (subject, Cause.QBER_HIGH) in wrong else LinkState.UP


def _rate(qkmp: Qkmp, readings: Sequence[LinkReading]) -> tuple[float, RateSource]:
    seen = min(qkmp.history(one).busiest_bits_s(WINDOW_US) for one in readings)
    if seen:
        return seen, RateSource.SEEN
    told = [one.block_bits_s for one in readings if one.block_bits_s is not None]
    return (min(told), RateSource.BLOCKS) if told else (0.0, RateSource.NONE)


# --- admission ------------------------------------------------------------------------------------------------------


class WayCarried(msgspec.Struct, frozen=True):
    """How many lines would go over which key managers."""

    path: tuple[PartyId, ...]
    lines: int


class Admission(msgspec.Struct, frozen=True):
    """Whether more lines can be carried, how many would fit, and what holds the next one back.

    `limiting_links` are those of a minimum cut. `reasons` say it in sentences, whatever the answer.
    """

    admitted: bool
    lines_asked: int
    lines_fit: int
    bits_s_per_line: float
    ways: tuple[WayCarried, ...]
    limiting_links: tuple[str, ...]
    reasons: tuple[str, ...]


def admit(qkmp: Qkmp, asked: Demand) -> Admission:
    """Answer whether the network, as it was seen last, can carry more lines.

    Raises `Refusal` UNKNOWN_KM for a key manager that nobody told of, SAME_KM for one and the same, `UsageError` for a
    network that is none.
    """
    views = link_views(qkmp)
    managers = sorted({end for view in views for end in view.ends})
    for end in (asked.origin, asked.target):
        if end not in managers:
            raise Refusal("UNKNOWN_KM", f"nobody told of {end} yet; known are {', '.join(managers) or 'none'}")
    if asked.origin == asked.target:
        raise Refusal(
            "SAME_KM", f"both ends are at {asked.origin}; a line within a city takes nothing from the network"
        )
    piece = _piece(views, asked.origin)
    if asked.target not in piece:
        why = f"no links lead from {asked.origin} to {asked.target}"
        return _answered(asked, 0, (), (), (why,))
    within = [view for view in views if view.ends[0] in piece]
    return _assessed(qkmp, within, piece, asked)


def _assessed(qkmp: Qkmp, views: Sequence[LinkView], piece: set[PartyId], asked: Demand) -> Admission:
    topology = Topology(tuple(sorted(piece)), tuple(view.measured for view in views))
    existing = [one for one in demands(qkmp) if {one.origin, one.target} <= piece]
    told = assess(topology, existing, asked)
    ways = tuple(WayCarried(one.path, one.lines) for one in told.ways)
    reasons = [*_of_views(views)]
    if told.unplaced is not None:
        one = told.unplaced
        reasons.append(f"what is taken already between {one.origin} and {one.target} is more than the links give")
    if told.limiting:
        reasons.append(f"{', '.join(told.limiting)} let no more than {told.lines_fit} more lines through")
    reasons += [f"twice the rate of {one.link} would add {one.more_lines} lines" for one in told.upgrades[:3]]
    reasons.append(f"{sum(one.lines > 0 for one in existing)} lines and pools take keys already")
    return _answered(asked, told.lines_fit, ways, told.limiting, tuple(reasons))


def _of_views(views: Sequence[LinkView]) -> list[str]:
    """Say which links do not count, or count by their own account."""
    down = [f"{one.link} does not count: it is {one.state}" for one in views if one.state is not LinkState.UP]
    told = [one.link for one in views if one.state is LinkState.UP and one.rate_from is RateSource.BLOCKS]
    unseen = [one.link for one in views if one.state is LinkState.UP and one.rate_from is RateSource.NONE]
    if told:
        down.append(f"the rate of {', '.join(told)} is its blocks' own account; it made nothing in sight")
    if unseen:
        down.append(f"{', '.join(unseen)} made nothing in sight, and no block says at what rate; it counts as nothing")
    return down


def _answered(
    asked: Demand, fit: int, ways: tuple[WayCarried, ...], limiting: tuple[str, ...], reasons: tuple[str, ...]
) -> Admission:
    return Admission(
        admitted=fit >= asked.lines,
        lines_asked=asked.lines,
        lines_fit=fit,
        bits_s_per_line=float(asked.bits_s_per_line),
        ways=ways,
        limiting_links=limiting,
        reasons=reasons,
    )


def _piece(views: Sequence[LinkView], origin: PartyId) -> set[PartyId]:
    """Return the key managers that links join to one, whether they are up or not."""
    piece, grown = {origin}, True
    while grown:
        reached = {end for view in views if not piece.isdisjoint(view.ends) for end in view.ends}
        grown = not reached <= piece
        piece |= reached
    return piece


def demands(qkmp: Qkmp) -> list[Demand]:
    """Return what is taken from the network now: lines in service, and what SAEs took of each pool."""
    return [*_of_lines(qkmp), *_of_pools(qkmp)]


def _of_lines(qkmp: Qkmp) -> list[Demand]:
    ends = {one.key: one for one in qkmp.line_ends.values()}
    pairs = [(one, ends.get(f"{one.line}/{End.B}")) for one in ends.values() if one.end is End.A]
    return [
        Demand(a.km, b.km, 1, max(1, a.rekey_interval_s))
        for a, b in pairs
        if b is not None and a.km != b.km  # keys for two devices of one city cross no other link
    ]


def _of_pools(qkmp: Qkmp) -> list[Demand]:
    """As lines that change their keys once an hour, rounded up: what a pool lost to SAEs over its history."""
    found = []
    for (origin, target), told in qkmp.newest_pools().items():
        rates = [qkmp.history(one).drawn_bits_s for one in told if one.km == origin]
        one_line = Demand(origin, target, 1, _HOUR_S)
        lines = ceil(Fraction(max(rates, default=0.0)) / one_line.bits_s_per_line)
        if origin != target and lines:
            found.append(Demand(origin, target, lines, _HOUR_S))
    return found
