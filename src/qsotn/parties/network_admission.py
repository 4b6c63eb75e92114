"""What the key network can carry beside what it carries, by the rates its links have shown.

A rate is shown when both ends of a link agreed on keys over a minute at least of the QKMP's own clock. While a link has
shown none, two answers are sought: without the link, and as if it gave all that is asked. A yes without it and a no
with it hold whatever its rate is. Between them it cannot be said yet.

What the network carries already are the lines in service, at their rekey intervals, and what SAEs took of the pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from fractions import Fraction
from math import ceil
from typing import Final

import msgspec

from qsotn.domain import End, PartyId, Role
from qsotn.errors import Refusal
from qsotn.keynetwork.admission import Assessment, Demand, assess
from qsotn.keynetwork.topology import Topology
from qsotn.parties.network_capacity import WINDOW_US, LinkState, LinkView, link_views
from qsotn.parties.network_readings import LinkReading, Point, link_point
from qsotn.parties.qkmp import Qkmp

_HOUR_S: Final = 3600


class Verdict(StrEnum):
    """The answer in one word."""

    YES = "YES"
    NO = "NO"
    NOT_YET = "NOT_YET"
    """It hangs on links that have not shown their rate."""


class WayCarried(msgspec.Struct, frozen=True):
    """How many lines would go over which key managers."""

    path: tuple[PartyId, ...]
    lines: int


class Admission(msgspec.Struct, frozen=True):
    """Whether more lines can be carried, how many surely fit, and what holds the next one back.

    `verdict` is NOT_YET while it hangs on links that have not shown their rate over a minute. `told_from` is then when
    it can be said at the earliest, in microseconds since the epoch; it is null for the other verdicts, and where a link
    was watched for a minute and made nothing, so that nobody knows when it will. `admitted` is whether the verdict is
    YES. `lines_fit` counts only rates that were shown. `limiting_links` are those of a minimum cut. `reasons` say it in
    sentences, whatever the answer.
    """

    admitted: bool
    verdict: Verdict
    lines_asked: int
    lines_fit: int
    bits_s_per_line: float
    ways: tuple[WayCarried, ...]
    limiting_links: tuple[str, ...]
    reasons: tuple[str, ...]
    told_from: int | None = None


def admit(qkmp: Qkmp, asked: Demand) -> Admission:
    """Answer whether the network, as it was seen last, can carry more lines.

    Raises `Refusal` UNKNOWN_KM for a key manager that nobody told of, NO_CITY for that of a relay, SAME_KM for one and
    the same, `UsageError` for a network that is none.
    """
    views = link_views(qkmp)
    _check_ends(qkmp, views, asked)
    piece = _piece(views, asked.origin)
    if asked.target not in piece:
        why = f"no links lead from {asked.origin} to {asked.target}"
        return Admission(False, Verdict.NO, asked.lines, 0, float(asked.bits_s_per_line), (), (), (why,))
    within = [view for view in views if view.ends[0] in piece]
    return _assessed(qkmp, within, piece, asked)


def _check_ends(qkmp: Qkmp, views: Sequence[LinkView], asked: Demand) -> None:
    managers = sorted({end for view in views for end in view.ends})
    cities = _cities(qkmp)
    for end in (asked.origin, asked.target):
        if end not in managers:
            raise Refusal("UNKNOWN_KM", f"nobody told of {end} yet; known are {', '.join(managers) or 'none'}")
        if end not in cities:
            raise Refusal("NO_CITY", f"{end} is a relay; a line ends in cities: {', '.join(sorted(cities))}")
    if asked.origin == asked.target:
        raise Refusal(
            "SAME_KM", f"both ends are at {asked.origin}; a line within a city takes nothing from the network"
        )


def _cities(qkmp: Qkmp) -> set[PartyId]:
    """Return the key managers of cities: a city has a QSSP of its name, a relay has none."""
    return {PartyId(f"{Role.KM}/{qssp.partition('/')[2]}") for qssp in qkmp.configuration.qssps}


def _assessed(qkmp: Qkmp, views: Sequence[LinkView], piece: set[PartyId], asked: Demand) -> Admission:
    existing = [one for one in demands(qkmp) if {one.origin, one.target} <= piece]
    least = assess(_topology(views, piece, 0), existing, asked)
    shown = all(view.shown for view in views)
    most = least if shown else assess(_topology(views, piece, _ample(existing, asked)), existing, asked)
    verdict = Verdict.YES if least.admitted else Verdict.NOT_YET if most.admitted else Verdict.NO
    decided = {Verdict.YES: [least], Verdict.NO: [most], Verdict.NOT_YET: []}[verdict]
    return Admission(
        admitted=verdict is Verdict.YES,
        verdict=verdict,
        lines_asked=asked.lines,
        lines_fit=least.lines_fit,
        bits_s_per_line=float(asked.bits_s_per_line),
        ways=tuple(WayCarried(one.path, one.lines) for one in least.ways),
        limiting_links=tuple(link for told in decided for link in told.limiting),
        reasons=(
            *_of_views(qkmp, views),
            *(reason for told in decided for reason in _of_assessment(told)),
            f"{sum(one.lines > 0 for one in existing)} lines and pools take keys already",
        ),
        told_from=_told_from(qkmp, views) if verdict is Verdict.NOT_YET else None,
    )


def _topology(views: Sequence[LinkView], piece: set[PartyId], unshown_bits_s: int) -> Topology:
    return Topology(tuple(sorted(piece)), tuple(view.measured(unshown_bits_s) for view in views))


def _ample(existing: Sequence[Demand], asked: Demand) -> int:
    """Return a rate of which one half alone carries every line there is and every one asked."""
    return 2 * ceil(sum((one.lines * one.bits_s_per_line for one in (*existing, asked)), Fraction(0)))


# --- in sentences ---------------------------------------------------------------------------------------------------


def _of_assessment(told: Assessment) -> list[str]:
    reasons = []
    if (one := told.unplaced) is not None:
        reasons.append(f"what is taken already between {one.origin} and {one.target} is more than the links give")
    if told.limiting:
        reasons.append(f"{', '.join(told.limiting)} let no more than {told.lines_fit} more lines through")
    return reasons + [f"twice the rate of {one.link} would add {one.more_lines} lines" for one in told.upgrades[:3]]


def _of_views(qkmp: Qkmp, views: Sequence[LinkView]) -> list[str]:
    """Say which links do not count, which have not shown their rate, and which rest."""
    down = [f"{one.link} does not count: it is {one.state}" for one in views if one.state is not LinkState.UP]
    up = [one for one in views if one.state is LinkState.UP]
    unshown = [_of_unshown(qkmp, one) for one in up if not one.shown]
    return down + unshown + [_of_resting(one) for one in up if one.shown and _rests(qkmp, one)]


def _of_unshown(qkmp: Qkmp, view: LinkView) -> str:
    seconds, bits = min(_so_far(qkmp, one) for one in view.readings)
    known = f"it was watched for {seconds:.0f} s and made {bits} bits"
    moment = _shows_at(qkmp, view)
    if moment is None:
        return f"the rate of {view.link} cannot be said until it makes keys in sight: {known}"
    when = f"{datetime.fromtimestamp(moment / 1e6, UTC):%H:%M:%S} UTC"
    return f"the rate of {view.link} cannot be said before {when}: {known}"


def _so_far(qkmp: Qkmp, one: LinkReading) -> tuple[float, int]:
    """Return for how many seconds an end was watched, and how many bits it agreed on in that time."""
    first = _points(qkmp, one)[0]
    return (one.at - first.at) / 1e6, one.agreed_bits - first.gained_bits


def _points(qkmp: Qkmp, one: LinkReading) -> tuple[Point, ...]:
    return qkmp.history(one).points or (link_point(one),)


def _rests(qkmp: Qkmp, view: LinkView) -> bool:
    """Say whether a link made nothing in the last two minutes: points of a history may be half a minute apart."""
    told = [qkmp.history(one).recent(2 * WINDOW_US) for one in view.readings]
    return all(seconds and not gained for gained, _, seconds in told)


def _of_resting(view: LinkView) -> str:
    return f"{view.link} made nothing in the last two minutes; it counts by the busiest minute that is remembered of it"


def _shows_at(qkmp: Qkmp, view: LinkView) -> int | None:
    """Return when a link has been watched for long enough, or None if it was, and made nothing."""
    points = [_points(qkmp, one) for one in view.readings]
    short = [told[0].at + WINDOW_US for told in points if told[-1].at - told[0].at < WINDOW_US]
    return max(*short, qkmp.desk.now) if short else None


def _told_from(qkmp: Qkmp, views: Sequence[LinkView]) -> int | None:
    moments = [_shows_at(qkmp, one) for one in views if one.state is LinkState.UP and not one.shown]
    known = [one for one in moments if one is not None]
    return max(known) if len(known) == len(moments) else None


# --- what is carried ------------------------------------------------------------------------------------------------


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
